"""A store that lets nobody change what lies in it."""

from __future__ import annotations

from lateack.nodes.nfs.nfs import NFS3ERR_ROFS, Attributes, Capacity, NfsError, SetAttributes
from lateack.nodes.storage.store import Store


class ReadOnlyStore:
    """Another store, of which whatever changes something raises NFS3ERR_ROFS, as a server does for an export `ro`."""

    __slots__ = ("file_bytes_max", "inner", "read_only", "root")

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.root = inner.root
        self.file_bytes_max = inner.file_bytes_max
        self.read_only = True

    # --- what is refused

    def setattr(self, file: bytes, changes: SetAttributes, now: int) -> None:
        """Refuse to change mode, owner, size or times."""
        raise NfsError(NFS3ERR_ROFS)

    def create(self, directory: bytes, name: bytes, mode: int, now: int) -> bytes:
        """Refuse to make a file."""
        raise NfsError(NFS3ERR_ROFS)

    def mkdir(self, directory: bytes, name: bytes, mode: int, now: int) -> bytes:
        """Refuse to make a directory."""
        raise NfsError(NFS3ERR_ROFS)

    def symlink(self, directory: bytes, name: bytes, target: bytes, now: int) -> bytes:
        """Refuse to make a symbolic link."""
        raise NfsError(NFS3ERR_ROFS)

    def link(self, file: bytes, directory: bytes, name: bytes, now: int) -> None:
        """Refuse to give a file one more name."""
        raise NfsError(NFS3ERR_ROFS)

    def remove(self, directory: bytes, name: bytes, now: int) -> None:
        """Refuse to remove a name."""
        raise NfsError(NFS3ERR_ROFS)

    def rmdir(self, directory: bytes, name: bytes, now: int) -> None:
        """Refuse to remove a directory."""
        raise NfsError(NFS3ERR_ROFS)

    def rename(self, from_directory: bytes, from_name: bytes, to_directory: bytes, to_name: bytes, now: int) -> None:
        """Refuse to give a file another name."""
        raise NfsError(NFS3ERR_ROFS)

    def write(self, file: bytes, offset: int, data: memoryview, now: int) -> int:
        """Refuse to put bytes into a file."""
        raise NfsError(NFS3ERR_ROFS)

    # --- what is passed on

    def getattr(self, file: bytes) -> Attributes:
        """What a file is."""
        return self.inner.getattr(file)

    def lookup(self, directory: bytes, name: bytes) -> bytes:
        """The handle of a name in a directory."""
        return self.inner.lookup(directory, name)

    def parent(self, directory: bytes) -> bytes:
        """The directory above this one."""
        return self.inner.parent(directory)

    def readdir(self, directory: bytes) -> list[tuple[bytes, int]]:
        """The names in a directory and their fileids."""
        return self.inner.readdir(directory)

    def readlink(self, file: bytes) -> bytes:
        """What a symbolic link says."""
        return self.inner.readlink(file)

    def read(self, file: bytes, offset: int, count: int) -> bytes:
        """At most `count` bytes of a file."""
        return self.inner.read(file, offset, count)

    def commit(self, file: bytes) -> None:
        """Let everything written to a file survive a crash."""
        self.inner.commit(file)

    def path(self, file: bytes) -> str:
        """A file's path from the root, for people to read."""
        return self.inner.path(file)

    def capacity(self) -> Capacity:
        """How much there is and how much is left."""
        return self.inner.capacity()

    def close(self) -> None:
        """Give back what the store holds."""
        self.inner.close()
