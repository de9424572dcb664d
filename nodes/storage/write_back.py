"""A server's page cache: bytes written UNSTABLE stay in memory until they are committed, and die with the server.

RFC 1813 section 3.3.7 lets a server answer such a WRITE before the bytes are on the disk; section 3.3.21, COMMIT, is
the promise that they are. Readers see them at once.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

import msgspec

from lateack.nodes.nfs.nfs import (
    NFS3ERR_FBIG,
    Attributes,
    Capacity,
    NfsError,
    SetAttributes,
    status_of_oserror,
)
from lateack.nodes.storage.store import Store

DIRTY_BYTES_MAX: Final = 16 << 20
"""The uncommitted bytes that a server keeps; beyond it the file that has been dirty longest is written back."""

ERRORS_MAX: Final = 1024
"""For how many files a failed write-back is remembered until somebody asks."""

_NOTHING = memoryview(b"")


class DirtyFile:
    """The bytes of one file that are not on the disk yet, as pieces that neither overlap nor touch, in order."""

    __slots__ = ("now", "pieces", "starts")

    def __init__(self, now: int) -> None:
        self.now = now
        self.starts: list[int] = []
        self.pieces: list[bytearray] = []

    def end(self) -> int:
        """Where the last piece ends."""
        return self.starts[-1] + len(self.pieces[-1]) if self.starts else 0

    def write(self, offset: int, data: memoryview) -> int:
        """Put bytes over what is there, and give by how many the pieces have grown."""
        end = offset + len(data)
        first = max(0, bisect_right(self.starts, offset) - 1)
        if self.starts and self.starts[first] + len(self.pieces[first]) < offset:
            first += 1
        last = bisect_right(self.starts, end)  # pieces [first, last) touch the new bytes
        if last - first == 1 and self.starts[first] <= offset:
            return self._grow(first, offset - self.starts[first], data)
        return self._join(first, last, offset, data)

    def read_over(self, data: bytearray, offset: int) -> None:
        """Put what is dirty over bytes that were read from the disk at `offset`."""
        end = offset + len(data)
        first = max(0, bisect_right(self.starts, offset) - 1)
        for index in range(first, bisect_left(self.starts, end)):
            start, piece = self.starts[index], self.pieces[index]
            lower, upper = max(start, offset), min(start + len(piece), end)
            if lower < upper:
                data[lower - offset : upper - offset] = piece[lower - start : upper - start]

    def _grow(self, index: int, place: int, data: memoryview) -> int:
        piece = self.pieces[index]
        before = len(piece)
        piece[place : place + len(data)] = data
        return len(piece) - before

    def _join(self, first: int, last: int, offset: int, data: memoryview) -> int:
        """Replace the pieces that the new bytes touch with one."""
        starts, pieces = self.starts, self.pieces
        before = sum([len(piece) for piece in pieces[first:last]])
        start, joined = offset, bytearray()
        if first < last and starts[first] < offset:
            start = starts[first]
            joined += pieces[first][: offset - start]
        joined += data
        if first < last:
            joined += pieces[last - 1][max(0, offset + len(data) - starts[last - 1]) :]
        starts[first:last] = [start]
        pieces[first:last] = [joined]
        return len(joined) - before


class WriteBackStore:
    """A store that keeps written bytes in memory until `commit`; `inner` is the disk.

    What a name is and where it lies goes to the disk at once, for RFC 1813 (section 4.8) lets UNSTABLE WRITE alone be
    lost. Nothing here outlives this object: a server that starts again makes a new one over the same disk.
    """

    __slots__ = ("dirty", "dirty_bytes", "dirty_bytes_max", "errors", "file_bytes_max", "inner", "read_only", "root")

    def __init__(self, inner: Store, dirty_bytes_max: int = DIRTY_BYTES_MAX) -> None:
        self.inner = inner
        self.root = inner.root
        self.file_bytes_max = inner.file_bytes_max
        self.read_only = inner.read_only
        self.dirty_bytes_max = dirty_bytes_max
        self.dirty_bytes = 0
        self.dirty: dict[bytes, DirtyFile] = {}  # what has been dirty longest first
        # Failures of write-back that nobody was there to be told of, which the next commit tells (errseq_t in Linux).
        self.errors: dict[bytes, int] = {}

    # --- what is kept back

    def read(self, file: bytes, offset: int, count: int) -> bytes:
        """At most `count` bytes of a file as it was last written."""
        dirty = self.dirty.get(file)
        if dirty is None:
            return self.inner.read(file, offset, count)
        data = bytearray(self.inner.read(file, offset, count))
        missing = min(count, dirty.end() - offset) - len(data)
        if missing > 0:
            data += bytes(missing)
        dirty.read_over(data, offset)
        return bytes(data)

    def write(self, file: bytes, offset: int, data: memoryview, now: int) -> int:
        """Keep bytes in memory and say how many: all.

        A disk that is full is found out when they are written back, as with quotas and file systems on a network.
        """
        self.inner.write(file, 0, _NOTHING, now)  # whether this may be written at all, the disk says at once
        if offset + len(data) > self.file_bytes_max:
            raise NfsError(NFS3ERR_FBIG)
        if not data:
            return 0
        dirty = self.dirty.get(file)
        if dirty is None:
            dirty = self.dirty[file] = DirtyFile(now)
        dirty.now = now
        self.dirty_bytes += dirty.write(offset, data)
        while self.dirty_bytes > self.dirty_bytes_max:
            self._write_back_quietly(next(iter(self.dirty)))
        return len(data)

    def getattr(self, file: bytes) -> Attributes:
        """What a file is, with the size and the times that its last write has given it.

        A disk with times of its own sets them anew when the bytes reach it, so they never go back here.
        """
        attributes = self.inner.getattr(file)
        dirty = self.dirty.get(file)
        if dirty is None:
            return attributes
        return msgspec.structs.replace(
            attributes,
            size=max(attributes.size, dirty.end()),
            used=max(attributes.used, dirty.end()),
            mtime=max(attributes.mtime, dirty.now),
            ctime=max(attributes.ctime, dirty.now),
        )

    def commit(self, file: bytes) -> None:
        """Write a file back and let the disk make it last; raises, too, what went wrong since the last time."""
        status = self.errors.pop(file, None)
        self._write_back(file)
        self.inner.commit(file)
        if status is not None:
            raise NfsError(status)

    def sync(self) -> None:
        """Write everything back, as a server does that ends in good order."""
        for file in list(self.dirty):
            self._write_back_quietly(file)

    def close(self) -> None:
        """Write everything back and give the disk up."""
        self.sync()
        self.inner.close()

    # --- what must come after what was kept back

    def setattr(self, file: bytes, changes: SetAttributes, now: int) -> None:
        """Change mode, owner, size or times, after the writes that came before."""
        self._write_back_quietly(file)
        self.inner.setattr(file, changes, now)

    def remove(self, directory: bytes, name: bytes, now: int) -> None:
        """Remove a name that is not a directory's; with a file's last name go its bytes."""
        file = self.inner.lookup(directory, name)
        self.inner.remove(directory, name, now)
        self._forget_if_gone(file)

    def rename(self, from_directory: bytes, from_name: bytes, to_directory: bytes, to_name: bytes, now: int) -> None:
        """Give a file another name, replacing what bore it."""
        replaced = self._found(to_directory, to_name)
        self.inner.rename(from_directory, from_name, to_directory, to_name, now)
        if replaced is not None:
            self._forget_if_gone(replaced)

    # --- what goes to the disk at once

    def lookup(self, directory: bytes, name: bytes) -> bytes:
        """The handle of a name in a directory."""
        return self.inner.lookup(directory, name)

    def parent(self, directory: bytes) -> bytes:
        """The directory above this one."""
        return self.inner.parent(directory)

    def create(self, directory: bytes, name: bytes, mode: int, now: int) -> bytes:
        """Make an empty file that was not there and give its handle."""
        return self.inner.create(directory, name, mode, now)

    def mkdir(self, directory: bytes, name: bytes, mode: int, now: int) -> bytes:
        """Make an empty directory and give its handle."""
        return self.inner.mkdir(directory, name, mode, now)

    def symlink(self, directory: bytes, name: bytes, target: bytes, now: int) -> bytes:
        """Make a symbolic link and give its handle."""
        return self.inner.symlink(directory, name, target, now)

    def link(self, file: bytes, directory: bytes, name: bytes, now: int) -> None:
        """Give a file one more name."""
        self.inner.link(file, directory, name, now)

    def rmdir(self, directory: bytes, name: bytes, now: int) -> None:
        """Remove an empty directory."""
        self.inner.rmdir(directory, name, now)

    def readdir(self, directory: bytes) -> list[tuple[bytes, int]]:
        """The names in a directory and their fileids."""
        return self.inner.readdir(directory)

    def readlink(self, file: bytes) -> bytes:
        """What a symbolic link says."""
        return self.inner.readlink(file)

    def path(self, file: bytes) -> str:
        """A file's path from the root, for people to read."""
        return self.inner.path(file)

    def capacity(self) -> Capacity:
        """How much there is and how much is left on the disk."""
        return self.inner.capacity()

    # --- inside

    def _write_back(self, file: bytes) -> None:
        """Put a file's bytes on the disk; where that fails they are dropped, as Linux drops such pages."""
        dirty = self.dirty.pop(file, None)
        if dirty is None:
            return
        self.dirty_bytes -= sum([len(piece) for piece in dirty.pieces])
        for start, piece in zip(dirty.starts, dirty.pieces, strict=True):
            view = memoryview(piece)
            while view:  # a write to a real file may be short
                written = self.inner.write(file, start, view, dirty.now)
                start, view = start + written, view[written:]

    def _write_back_quietly(self, file: bytes) -> None:
        """Write a file back when nobody waits for it, and keep what went wrong for who asks."""
        try:
            self._write_back(file)
        except (NfsError, OSError) as error:
            if len(self.errors) >= ERRORS_MAX:
                del self.errors[next(iter(self.errors))]
            self.errors[file] = error.status if isinstance(error, NfsError) else status_of_oserror(error)

    def _found(self, directory: bytes, name: bytes) -> bytes | None:
        try:
            return self.inner.lookup(directory, name)
        except (NfsError, OSError):
            return None

    def _forget_if_gone(self, file: bytes) -> None:
        """Drop the bytes of a file that has no name any more."""
        if file not in self.dirty:
            return
        try:
            self.inner.getattr(file)
        except (NfsError, OSError):
            dirty = self.dirty.pop(file)
            self.dirty_bytes -= sum([len(piece) for piece in dirty.pieces])
