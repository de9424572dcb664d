"""The files that a directory store has open, and where the others were last seen."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lateack.nodes.nfs.nfs import NFS3ERR_STALE, NfsError
from lateack.nodes.records import LightRecord

OPEN_FILES_MAX: Final = 64
"""How many descriptors a store keeps open."""
DEPTH_MAX: Final = 32
"""How deep directories may be nested: less than OPEN_FILES_MAX, so that a parent is open while its child is opened."""
PLACES_MAX: Final = 65536
"""For how many files the store remembers where they are; others are searched for."""
ABSENT_MAX: Final = 65536
"""How many files the store remembers not to have found; the others are searched for again."""
OPEN_FLAGS: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

_FS_IOC_GETVERSION = 0x80087601


class OpenFile(LightRecord):
    """A descriptor of a file or directory and what it was opened on."""

    descriptor: int
    generation: int
    is_directory: bool


class Place(LightRecord):
    """Where a file was last seen: a name in a directory."""

    parent: int
    name: bytes


class OpenFiles:
    """A bounded cache of descriptors below a root, by fileid (inode number).

    Anybody can make up handles, so a walk that finds nothing must not be had for each of them: once the whole tree has
    been seen and nothing `forgotten` since, what has no place is not there, and of a tree that is too large for that it
    is noted which files are `absent`. What somebody else moves into the tree is found as soon as it is looked up.
    """

    def __init__(self, root: str | Path, *, places_max: int = PLACES_MAX) -> None:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        self.device = status.st_dev
        self.root_fileid = status.st_ino
        self.root = OpenFile(descriptor, _generation(descriptor), True)
        self.places: dict[int, Place] = {}
        self.absent: dict[int, None] = {}
        self.places_max = places_max
        self.walks = 0
        self.forgotten = 0
        self.forgotten_when_seen: int | None = None  # at the last walk that went through the whole tree
        self._open: dict[int, OpenFile] = {}  # the least recently used first

    def close(self) -> None:
        """Close every descriptor."""
        for file in (*self._open.values(), self.root):
            os.close(file.descriptor)
        self._open.clear()

    def get(self, fileid: int, depth: int = 0) -> OpenFile:
        """The open file of a fileid, from the cache or opened anew."""
        if fileid == self.root_fileid:
            return self.root
        found = self._open.pop(fileid, None)
        if found is None:
            found = self._reopen(fileid, depth)
        self._open[fileid] = found
        while len(self._open) > OPEN_FILES_MAX:
            os.close(self._open.pop(next(iter(self._open))).descriptor)
        return found

    def _reopen(self, fileid: int, depth: int) -> OpenFile:
        """Open a file where it was last seen; where it is no longer there, search for it once."""
        for place in (self.places.get(fileid), None):
            place = place or self.search(fileid)
            if place is None or depth >= DEPTH_MAX:
                break
            try:
                found = self._open_at(self.get(place.parent, depth + 1).descriptor, place.name, fileid)
            except NfsError:
                if depth:
                    raise
                found = None  # its directory is gone, but it may have been moved before
            if found is not None:
                return found
            self.lost(fileid)
        raise NfsError(NFS3ERR_STALE)

    def _open_at(self, parent: int, name: bytes, fileid: int) -> OpenFile | None:
        """Open a name if it still is that file; only files and directories, for opening a device could do something."""
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return None
        is_directory = stat.S_ISDIR(status.st_mode)
        if status.st_ino != fileid or not (is_directory or stat.S_ISREG(status.st_mode)):
            return None
        descriptor = _open_descriptor(parent, name, is_directory)
        status = os.fstat(descriptor)
        if status.st_ino != fileid or status.st_dev != self.device:
            os.close(descriptor)
            return None
        return OpenFile(descriptor, _generation(descriptor), is_directory)

    def search(self, fileid: int) -> Place | None:
        """Walk the tree for a file that a handle from before a restart names, unless it is known not to be there."""
        forgotten = self.forgotten
        if self.forgotten_when_seen == forgotten or fileid in self.absent:
            return None
        self.walks += 1
        for parent, name, status in self._walk():
            self.remember(status.st_ino, Place(parent, name))
            if status.st_ino == fileid:
                return self.places[fileid]
        self.forgotten_when_seen = forgotten
        if len(self.absent) >= ABSENT_MAX:
            del self.absent[next(iter(self.absent))]
        self.absent[fileid] = None
        return None

    def _walk(self) -> Iterator[tuple[int, bytes, os.stat_result]]:
        """Yield every name of the tree with the directory that it stands in; what goes meanwhile is left out."""
        for _, directories, files, descriptor in os.fwalk(".", dir_fd=self.root.descriptor):
            parent = os.fstat(descriptor).st_ino
            for name in (*directories, *files):
                try:
                    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if status.st_dev == self.device:
                    yield parent, os.fsencode(name), status
                elif name in directories:
                    directories.remove(name)  # another file system: not ours to walk

    def remember(self, fileid: int, place: Place) -> None:
        """Note where a file was seen."""
        if len(self.places) >= self.places_max and fileid not in self.places:
            del self.places[next(iter(self.places))]
            self.forgotten += 1
        self.places[fileid] = place
        self.absent.pop(fileid, None)

    def lost(self, fileid: int) -> None:
        """A file is no longer where it was; if it still is anywhere, only a walk can tell."""
        if self.places.pop(fileid, None) is not None:
            self.forgotten += 1

    def forget(self, fileid: int, names: int) -> None:
        """A name of this file is gone and *names* are left: close it, so that it is found stale or found elsewhere."""
        if names:
            self.lost(fileid)
        else:
            self.places.pop(fileid, None)
        found = self._open.pop(fileid, None)
        if found is not None:
            os.close(found.descriptor)


def _open_descriptor(parent: int, name: bytes, is_directory: bool) -> int:
    """Open for reading and writing, or for reading alone where writing is not allowed."""
    if is_directory:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | OPEN_FLAGS, dir_fd=parent)
    try:
        return os.open(name, os.O_RDWR | OPEN_FLAGS, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS, errno.ETXTBSY):
            raise
        return os.open(name, os.O_RDONLY | OPEN_FLAGS, dir_fd=parent)


def _generation(descriptor: int) -> int:
    """What tells a file from an earlier one with the same inode number; 0 on file systems that do not say."""
    version = array.array("L", [0])
    try:
        fcntl.ioctl(descriptor, _FS_IOC_GETVERSION, version)
    except OSError:
        return 0
    return version[0] & 0x7FFFFFFF
