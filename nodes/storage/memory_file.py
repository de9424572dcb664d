"""What a store in memory keeps of one file, directory or symbolic link."""

from __future__ import annotations

from typing import Final

LINKS_MAX: Final = 32000
"""The most names that a file may have."""

Place = tuple[bytes, bytes]
"""A directory's handle and a name in it."""


class MemoryFile:
    """A file or, where `names` is a dict, a directory, or, where `target` is given, a symbolic link (an inode)."""

    __slots__ = (
        "atime",
        "content",
        "ctime",
        "fileid",
        "gid",
        "handle",
        "mode",
        "mtime",
        "name",
        "names",
        "other_places",
        "parent",
        "target",
        "uid",
    )

    def __init__(self, fileid: int, handle: bytes, mode: int, now: int) -> None:
        self.fileid = fileid
        self.handle = handle
        self.mode = mode & 0o7777
        self.uid = 0
        self.gid = 0
        self.atime = self.mtime = self.ctime = now
        self.content = bytearray()
        self.names: dict[bytes, MemoryFile] | None = None
        self.parent = b""  # its directory's handle: a reference would make a cycle, which is not freed at once
        self.name = b""
        self.other_places: list[Place] | None = None  # where it has more names than one
        self.target: bytes | None = None

    def replace(self, before: Place, after: Place) -> None:
        """One of the places where this file has a name is now another."""
        if (self.parent, self.name) == before:
            self.parent, self.name = after
        else:
            assert self.other_places is not None, "a place that no file has"
            self.other_places[self.other_places.index(before)] = after
