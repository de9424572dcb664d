"""A store in a real directory, out of which no name and no symbolic link can lead."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from lateack.nodes.storage.nfs import (
    NF3BLK,
    NF3CHR,
    NF3DIR,
    NF3FIFO,
    NF3LNK,
    NF3REG,
    NF3SOCK,
    NFS3ERR_FBIG,
    NFS3ERR_ISDIR,
    NFS3ERR_NOTDIR,
    NFS3ERR_STALE,
    NFS3ERR_XDEV,
    SERVER_TIME,
    Attributes,
    Capacity,
    NfsError,
    SetAttributes,
)
from lateack.nodes.storage.open_files import DEPTH_MAX, OPEN_FLAGS, OpenFile, OpenFiles, Place
from lateack.nodes.storage.store import (
    HANDLE_BYTES_DEFAULT,
    check_handle_bytes,
    check_name,
    make_handle,
    parse_handle,
    readable,
)

FILE_BYTES_MAX: Final = (1 << 63) - 1

_NEVER_OPENED = 0xFFFFFFFF  # the generation of what is neither file nor directory
_KINDS = {
    stat.S_IFREG: NF3REG,
    stat.S_IFDIR: NF3DIR,
    stat.S_IFBLK: NF3BLK,
    stat.S_IFCHR: NF3CHR,
    stat.S_IFLNK: NF3LNK,
    stat.S_IFSOCK: NF3SOCK,
    stat.S_IFIFO: NF3FIFO,
}


class DirectoryStore:
    """A store whose files are a directory's; fileids are inode numbers.

    Every step opens one name relative to an open directory with O_NOFOLLOW, so nothing outside the root is reached.
    Other file systems mounted inside are not entered.
    """

    def __init__(self, root: str | Path, handle_bytes: int = HANDLE_BYTES_DEFAULT) -> None:
        check_handle_bytes(handle_bytes)
        self.handle_bytes = handle_bytes
        self.file_bytes_max = FILE_BYTES_MAX
        files = OpenFiles(root)
        self._files = files
        self._fsid = (files.device << 32 ^ files.root_fileid) & 0xFFFFFFFFFFFFFFFF
        self.root = self._handle(files.root_fileid, files.root.generation)

    def getattr(self, file: bytes) -> Attributes:
        """What a file is."""
        fileid, generation = parse_handle(file, self._fsid, self.handle_bytes)
        if generation == _NEVER_OPENED:
            return self._attributes(self._status(fileid))
        return self._attributes(os.fstat(self._file(file).descriptor))

    def setattr(self, file: bytes, changes: SetAttributes, now: int) -> None:
        """Change mode, owner, size or times; the times are the host's."""
        found = self._file(file)
        if changes.size is not None:
            self._check_size(found, changes.size)
            os.ftruncate(found.descriptor, changes.size)
        if changes.mode is not None:
            os.fchmod(found.descriptor, changes.mode & 0o7777)
        if changes.uid is not None or changes.gid is not None:
            uid = -1 if changes.uid is None else changes.uid
            os.fchown(found.descriptor, uid, -1 if changes.gid is None else changes.gid)
        if changes.atime is not None or changes.mtime is not None:
            _set_times(found.descriptor, changes)

    def lookup(self, directory: bytes, name: bytes) -> bytes:
        """The handle of a name in a directory."""
        check_name(name)
        parent, _ = parse_handle(directory, self._fsid, self.handle_bytes)
        above = self._directory(directory)
        status = os.stat(name, dir_fd=above.descriptor, follow_symlinks=False)
        self._check_device(status)
        self._files.remember(status.st_ino, Place(parent, name))
        return self._handle_of(status)

    def create(self, directory: bytes, name: bytes, mode: int, now: int) -> bytes:
        """Make an empty file that was not there and give its handle."""
        check_name(name)
        above = self._directory(directory)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | OPEN_FLAGS
        os.close(os.open(name, flags, 0o600, dir_fd=above.descriptor))
        return self._made(directory, name, mode)

    def mkdir(self, directory: bytes, name: bytes, mode: int, now: int) -> bytes:
        """Make an empty directory and give its handle."""
        check_name(name)
        os.mkdir(name, 0o700, dir_fd=self._directory(directory).descriptor)
        return self._made(directory, name, mode)

    def remove(self, directory: bytes, name: bytes, now: int) -> None:
        """Remove a name that is not a directory's."""
        gone = self._fileid(directory, name)
        os.unlink(name, dir_fd=self._directory(directory).descriptor)
        self._files.forget(gone)

    def rmdir(self, directory: bytes, name: bytes, now: int) -> None:
        """Remove an empty directory."""
        gone = self._fileid(directory, name)
        os.rmdir(name, dir_fd=self._directory(directory).descriptor)
        self._files.forget(gone)

    def rename(self, from_directory: bytes, from_name: bytes, to_directory: bytes, to_name: bytes, now: int) -> None:
        """Give a file another name, replacing what bore it."""
        moved = self._fileid(from_directory, from_name)
        check_name(to_name)
        try:
            replaced = self._fileid(to_directory, to_name)
        except FileNotFoundError:
            replaced = moved
        source = self._directory(from_directory).descriptor
        target = self._directory(to_directory).descriptor
        os.rename(from_name, to_name, src_dir_fd=source, dst_dir_fd=target)
        if replaced != moved:
            self._files.forget(replaced)
        self.lookup(to_directory, to_name)

    def readdir(self, directory: bytes) -> list[tuple[bytes, int]]:
        """The names in a directory and their fileids, sorted."""
        with os.scandir(self._directory(directory).descriptor) as entries:
            return sorted((os.fsencode(entry.name), entry.inode()) for entry in entries)

    def read(self, file: bytes, offset: int, count: int) -> bytes:
        """At most `count` bytes of a file; fewer only at its end."""
        found = self._regular(file)
        return os.pread(found.descriptor, count, offset) if offset <= FILE_BYTES_MAX else b""

    def write(self, file: bytes, offset: int, data: memoryview, now: int) -> int:
        """Put bytes into a file and say how many."""
        found = self._regular(file)
        self._check_size(found, offset + len(data))
        return os.pwrite(found.descriptor, data, offset)

    def commit(self, file: bytes) -> None:
        """Let everything written to a file survive a crash of the host."""
        os.fsync(self._file(file).descriptor)

    def path(self, file: bytes) -> str:
        """A file's path from the root as it was last seen, for people to read."""
        fileid, _ = parse_handle(file, self._fsid, self.handle_bytes)
        parts: list[str] = []
        while (place := self._files.places.get(fileid)) is not None and len(parts) < DEPTH_MAX:
            parts.append(readable(place.name))
            fileid = place.parent
        return "/".join(reversed(parts))

    def capacity(self) -> Capacity:
        """How much there is and how much is left on the file system."""
        status = os.fstatvfs(self._files.root.descriptor)
        size = status.f_frsize
        blocks = (status.f_blocks * size, status.f_bfree * size, status.f_bavail * size)
        return Capacity(*blocks, status.f_files, status.f_ffree, status.f_favail)

    def close(self) -> None:
        """Close every descriptor; the store cannot be used any more."""
        self._files.close()

    # --- handles and descriptors

    def _made(self, directory: bytes, name: bytes, mode: int) -> bytes:
        """The handle of a file just made, whose mode is the client's to choose and not our umask's."""
        made = self.lookup(directory, name)
        os.fchmod(self._file(made).descriptor, mode & 0o7777)
        return made

    def _handle(self, fileid: int, generation: int) -> bytes:
        return make_handle(self._fsid, fileid, generation, self.handle_bytes)

    def _handle_of(self, status: os.stat_result) -> bytes:
        """The handle of a file just seen."""
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            return self._handle(status.st_ino, _NEVER_OPENED)
        return self._handle(status.st_ino, self._files.get(status.st_ino).generation)

    def _file(self, handle: bytes) -> OpenFile:
        fileid, generation = parse_handle(handle, self._fsid, self.handle_bytes)
        found = self._files.get(fileid)
        if found.generation != generation:
            raise NfsError(NFS3ERR_STALE)
        return found

    def _regular(self, handle: bytes) -> OpenFile:
        found = self._file(handle)
        if found.is_directory:
            raise NfsError(NFS3ERR_ISDIR)
        return found

    def _directory(self, handle: bytes) -> OpenFile:
        found = self._file(handle)
        if not found.is_directory:
            raise NfsError(NFS3ERR_NOTDIR)
        return found

    # --- what the system says

    def _fileid(self, directory: bytes, name: bytes) -> int:
        check_name(name)
        return os.stat(name, dir_fd=self._directory(directory).descriptor, follow_symlinks=False).st_ino

    def _status(self, fileid: int) -> os.stat_result:
        """What is known of a file that may be neither file nor directory, by its place alone."""
        place = self._files.places.get(fileid) or self._files.search(fileid)
        if place is None:
            raise NfsError(NFS3ERR_STALE)
        try:
            status = os.stat(place.name, dir_fd=self._files.get(place.parent).descriptor, follow_symlinks=False)
        except FileNotFoundError:
            raise NfsError(NFS3ERR_STALE) from None
        if status.st_ino != fileid:
            raise NfsError(NFS3ERR_STALE)
        return status

    def _attributes(self, status: os.stat_result) -> Attributes:
        if status.st_nlink == 0:
            raise NfsError(NFS3ERR_STALE)
        return Attributes(
            _KINDS[stat.S_IFMT(status.st_mode)],
            stat.S_IMODE(status.st_mode),
            status.st_nlink,
            status.st_uid,
            status.st_gid,
            status.st_size,
            status.st_blocks * 512,
            self._fsid,
            status.st_ino,
            status.st_atime_ns,
            status.st_mtime_ns,
            status.st_ctime_ns,
            (os.major(status.st_rdev), os.minor(status.st_rdev)),
        )

    def _check_device(self, status: os.stat_result) -> None:
        if status.st_dev != self._files.device:
            raise NfsError(NFS3ERR_XDEV)

    def _check_size(self, file: OpenFile, size: int) -> None:
        if file.is_directory:
            raise NfsError(NFS3ERR_ISDIR)
        if size > FILE_BYTES_MAX:
            raise NfsError(NFS3ERR_FBIG)


def _set_times(descriptor: int, changes: SetAttributes) -> None:
    """Set times as SETATTR asks; the server's time is the one that the kernel gives, for we read no clock."""
    before = os.fstat(descriptor)
    os.utime(descriptor)
    clock = os.fstat(descriptor).st_mtime_ns
    atime = before.st_atime_ns if changes.atime is None else changes.atime
    mtime = before.st_mtime_ns if changes.mtime is None else changes.mtime
    times = (clock if atime == SERVER_TIME else atime, clock if mtime == SERVER_TIME else mtime)
    os.utime(descriptor, ns=times)
