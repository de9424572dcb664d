"""A store in a real directory whose handles, attributes and times are as reproducible as a store's in memory.

A directory's own inode numbers and times would go out in every reply, and two runs of one seed would differ. So here
the bytes lie in real files, are read back from them, and everything else is told by the store in memory. The disk that
is modelled is that memory, which outlives the server; when the host's own file system makes the files last is nothing
to the run, so `commit` does nothing here, either.
"""

import os
from pathlib import Path

from lateack.nodes.nfs.nfs import NFS3ERR_FBIG, NfsError, SetAttributes
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.storage.store import HANDLE_BYTES_DEFAULT, readable

CAPACITY = 1 << 50
"""The real file system says when it is full."""


class MirrorStore(MemoryStore):
    """A store whose files also lie in *root*, an empty directory that nobody else changes."""

    __slots__ = ("descriptors", "directory")

    def __init__(self, root: Path, handle_bytes: int = HANDLE_BYTES_DEFAULT) -> None:
        super().__init__(handle_bytes, CAPACITY)
        self.directory = root
        self.descriptors: dict[bytes, int] = {}

    def setattr(self, file: bytes, changes: SetAttributes, now: int) -> None:
        """Change mode, owner, size or times; only the size reaches the real file."""
        super().setattr(file, changes, now)
        if changes.size is not None:
            os.ftruncate(self.descriptors[file], changes.size)

    def create(self, directory: bytes, name: bytes, mode: int, now: int) -> bytes:
        """Make an empty file that was not there and give its handle."""
        handle = super().create(directory, name, mode, now)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.descriptors[handle] = os.open(self._place(handle), flags, 0o644)
        return handle

    def mkdir(self, directory: bytes, name: bytes, mode: int, now: int) -> bytes:
        """Make an empty directory and give its handle."""
        handle = super().mkdir(directory, name, mode, now)
        self._place(handle).mkdir()
        return handle

    def symlink(self, directory: bytes, name: bytes, target: bytes, now: int) -> bytes:
        """Make a symbolic link that says `target`, and give its handle."""
        handle = super().symlink(directory, name, target, now)
        os.symlink(target, os.fsencode(self._at(directory, name)))
        return handle

    def link(self, file: bytes, directory: bytes, name: bytes, now: int) -> None:
        """Give a file one more name; it keeps its handle and fileid."""
        before = self._place(file)
        super().link(file, directory, name, now)
        os.link(before, self._at(directory, name), follow_symlinks=False)

    def remove(self, directory: bytes, name: bytes, now: int) -> None:
        """Remove a name that is not a directory's."""
        handle = self.lookup(directory, name)
        super().remove(directory, name, now)
        self._close_if_gone(handle)
        self._at(directory, name).unlink()

    def rmdir(self, directory: bytes, name: bytes, now: int) -> None:
        """Remove an empty directory."""
        super().rmdir(directory, name, now)
        self._at(directory, name).rmdir()

    def rename(self, from_directory: bytes, from_name: bytes, to_directory: bytes, to_name: bytes, now: int) -> None:
        """Give a file another name, replacing what bore it."""
        before, after = self._at(from_directory, from_name), self._at(to_directory, to_name)
        super().rename(from_directory, from_name, to_directory, to_name, now)
        before.rename(after)

    def read(self, file: bytes, offset: int, count: int) -> bytes:
        """At most `count` bytes of the real file; fewer only at its end."""
        descriptor = self._descriptor(file)
        return os.pread(descriptor, count, offset) if offset <= self.file_bytes_max else b""

    def write(self, file: bytes, offset: int, data: memoryview, now: int) -> int:
        """Put bytes into the real file and say how many: all. OSError when they do not fit."""
        if offset + len(data) > self.file_bytes_max:
            raise NfsError(NFS3ERR_FBIG)
        written = 0
        descriptor = self._descriptor(file)
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], offset + written)
        return super().write(file, offset, data, now)

    def close(self) -> None:
        """Close the real files."""
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        self.descriptors.clear()

    def _close_if_gone(self, handle: bytes) -> None:
        """Close the real file of one that has lost its last name."""
        if handle not in self.files and handle in self.descriptors:
            os.close(self.descriptors.pop(handle))

    def _descriptor(self, handle: bytes) -> int:
        self._regular(handle)
        return self.descriptors[handle]

    def _place(self, handle: bytes) -> Path:
        return self.directory / self.path(handle)

    def _at(self, directory: bytes, name: bytes) -> Path:
        """Where a name lies in the real directory; the root's path is empty."""
        return self.directory / self.path(directory) / readable(name)
