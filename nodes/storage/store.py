"""The disk behind the NFS server: what the server asks of it, and what all disks share."""

from __future__ import annotations

import struct
from typing import Final, Protocol

from lateack.nodes.nfs.nfs import (
    HANDLE_BYTES_MAX,
    NAME_BYTES_MAX,
    NFS3ERR_ACCES,
    NFS3ERR_BADHANDLE,
    NFS3ERR_INVAL,
    NFS3ERR_NAMETOOLONG,
    NFS3ERR_STALE,
    Attributes,
    Capacity,
    NfsError,
    SetAttributes,
)

HANDLE_BYTES_DEFAULT: Final = 36
HANDLE_BYTES_MIN: Final = 28

_HANDLE = struct.Struct(">QQI")


class Store(Protocol):
    """A tree of files known by opaque handles.

    Handles are stable: the same store gives the same file the same handle after a restart. `now` is nanoseconds; a
    store with times of its own may ignore it. What is made, named, changed or removed has reached the disk when a
    method returns (RFC 1813 section 4.8); bytes that were written have when `commit` returns. Symbolic links are kept
    and never followed. Every method may raise NfsError, or OSError, which the server tells as an nfsstat3.
    """

    root: bytes
    file_bytes_max: int
    read_only: bool
    """Whether whatever would change something is refused."""

    def getattr(self, file: bytes) -> Attributes:
        """What a file is."""
        ...

    def setattr(self, file: bytes, changes: SetAttributes, now: int) -> None:
        """Change mode, owner, size or times."""
        ...

    def lookup(self, directory: bytes, name: bytes) -> bytes:
        """The handle of a name in a directory."""
        ...

    def parent(self, directory: bytes) -> bytes:
        """The directory above this one; the root is above itself."""
        ...

    def create(self, directory: bytes, name: bytes, mode: int, now: int) -> bytes:
        """Make an empty file that was not there and give its handle."""
        ...

    def mkdir(self, directory: bytes, name: bytes, mode: int, now: int) -> bytes:
        """Make an empty directory and give its handle."""
        ...

    def symlink(self, directory: bytes, name: bytes, target: bytes, now: int) -> bytes:
        """Make a symbolic link that says `target`, and give its handle."""
        ...

    def link(self, file: bytes, directory: bytes, name: bytes, now: int) -> None:
        """Give a file one more name; it keeps its handle and fileid."""
        ...

    def remove(self, directory: bytes, name: bytes, now: int) -> None:
        """Remove a name that is not a directory's."""
        ...

    def rmdir(self, directory: bytes, name: bytes, now: int) -> None:
        """Remove an empty directory."""
        ...

    def rename(self, from_directory: bytes, from_name: bytes, to_directory: bytes, to_name: bytes, now: int) -> None:
        """Give a file another name, replacing what bore it."""
        ...

    def readdir(self, directory: bytes) -> list[tuple[bytes, int]]:
        """The names in a directory and their fileids, in an order that stays."""
        ...

    def readlink(self, file: bytes) -> bytes:
        """What a symbolic link says."""
        ...

    def read(self, file: bytes, offset: int, count: int) -> bytes:
        """At most `count` bytes of a file; fewer only at its end."""
        ...

    def write(self, file: bytes, offset: int, data: memoryview, now: int) -> int:
        """Put bytes into a file (pwrite) and say how many."""
        ...

    def commit(self, file: bytes) -> None:
        """Let everything written to a file survive a crash (fsync)."""
        ...

    def path(self, file: bytes) -> str:
        """A file's path from the root, for people to read."""
        ...

    def capacity(self) -> Capacity:
        """How much there is and how much is left."""
        ...

    def close(self) -> None:
        """Give back what the store holds of the operating system's."""
        ...


def make_handle(fsid: int, fileid: int, generation: int, length: int) -> bytes:
    """A file handle of `length` bytes: file system, file, generation, and zero bytes."""
    return _HANDLE.pack(fsid, fileid, generation).ljust(length, b"\0")


def parse_handle(handle: bytes, fsid: int, length: int) -> tuple[int, int]:
    """The fileid and generation of a handle of ours; raises NFS3ERR_BADHANDLE for any other."""
    if len(handle) != length or any(handle[_HANDLE.size :]):
        raise NfsError(NFS3ERR_BADHANDLE)
    found, fileid, generation = _HANDLE.unpack_from(handle)
    if found != fsid:
        raise NfsError(NFS3ERR_STALE)
    return fileid, generation


def check_handle_bytes(length: int) -> None:
    """Assert that a file handle may have this length."""
    assert HANDLE_BYTES_MIN <= length <= HANDLE_BYTES_MAX, "a file handle has 28 to 64 bytes"


def check_name(name: bytes) -> None:
    """Raise NfsError unless `name` is one component of a path; "." and ".." lead out of the directory and are not."""
    if not name:
        raise NfsError(NFS3ERR_INVAL)
    if len(name) > NAME_BYTES_MAX:
        raise NfsError(NFS3ERR_NAMETOOLONG)
    if name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise NfsError(NFS3ERR_ACCES)


def readable(name: bytes) -> str:
    """A name as text that can be printed and encoded whatever its bytes are."""
    return name.decode("utf-8", "backslashreplace")
