"""A store in a real directory, out of which no name and no symbolic link can lead."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from lateack.nodes.nfs.nfs import (
    NF3DIR,
    NFS3ERR_FBIG,
    NFS3ERR_INVAL,
    NFS3ERR_ISDIR,
    NFS3ERR_NOTDIR,
    NFS3ERR_STALE,
    NFS3ERR_XDEV,
    Attributes,
    Capacity,
    NfsError,
    SetAttributes,
)
from lateack.nodes.storage.file_status import attributes_of, set_owner_and_times
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


class DirectoryStore:
    """A store whose files are a directory's; fileids are inode numbers.

    Every step opens one name relative to an open directory with O_NOFOLLOW, so nothing outside the root is reached.
    Other file systems mounted inside are not entered. What changes a directory or an attribute is on the disk when the
    method returns, as Linux's server sees to (commit_metadata in fs/nfsd/vfs.c).
    """

    def __init__(self, root: str | Path, handle_bytes: int = HANDLE_BYTES_DEFAULT) -> None:
        check_handle_bytes(handle_bytes)
        self.handle_bytes = handle_bytes
        self.file_bytes_max = FILE_BYTES_MAX
        self.read_only = False
        files = OpenFiles(root)
        self._files = files
        self._fsid = (files.device << 32 ^ files.root_fileid) & 0xFFFFFFFFFFFFFFFF
        self.root = self._handle(files.root_fileid, files.root.generation)

    def getattr(self, file: bytes) -> Attributes:
        """What a file is."""
        fileid, generation = parse_handle(file, self._fsid, self.handle_bytes)
        if generation == _NEVER_OPENED:
            return attributes_of(self._status(fileid), self._fsid)
        return attributes_of(os.fstat(self._file(file).descriptor), self._fsid)

    def setattr(self, file: bytes, changes: SetAttributes, now: int) -> None:
        """Change mode, owner, size or times; the times are the host's."""
        fileid, generation = parse_handle(file, self._fsid, self.handle_bytes)
        if generation == _NEVER_OPENED:
            self._status(fileid)
            if changes.size is not None:
                raise NfsError(NFS3ERR_INVAL)
            above, name = self._parent_of(fileid)
            set_owner_and_times(name, changes, above)  # Linux keeps no mode for a symbolic link
            os.fsync(above)
            return
        found = self._file(file)
        if changes.size is not None:
            self._check_size(found, changes.size)
            os.ftruncate(found.descriptor, changes.size)
        if changes.mode is not None:
            os.fchmod(found.descriptor, changes.mode & 0o7777)
        set_owner_and_times(found.descriptor, changes)
        os.fsync(found.descriptor)

    def lookup(self, directory: bytes, name: bytes) -> bytes:
        """The handle of a name in a directory."""
        check_name(name)
        parent, _ = parse_handle(directory, self._fsid, self.handle_bytes)
        above = self._directory(directory)
        status = os.stat(name, dir_fd=above.descriptor, follow_symlinks=False)
        self._check_device(status)
        self._files.remember(status.st_ino, Place(parent, name))
        return self._handle_of(status)

    def parent(self, directory: bytes) -> bytes:
        """The directory above this one; the root is above itself."""
        fileid = os.fstat(self._directory(directory).descriptor).st_ino
        if fileid == self._files.root_fileid:
            return self.root
        place = self._files.places.get(fileid) or self._files.search(fileid)
        if place is None:
            raise NfsError(NFS3ERR_STALE)
        return self._handle(place.parent, self._files.get(place.parent).generation)

    def create(self, directory: bytes, name: bytes, mode: int, now: int) -> bytes:
        """Make an empty file that was not there and give its handle."""
        check_name(name)
        above = self._directory(directory)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | OPEN_FLAGS
        os.close(os.open(name, flags, 0o600, dir_fd=above.descriptor))
        return self._made(directory, name, mode)

    def symlink(self, directory: bytes, name: bytes, target: bytes, now: int) -> bytes:
        """Make a symbolic link that says `target`, wherever that may be, and give its handle."""
        check_name(name)
        above = self._directory(directory)
        os.symlink(target, name, dir_fd=above.descriptor)
        os.fsync(above.descriptor)
        return self.lookup(directory, name)

    def link(self, file: bytes, directory: bytes, name: bytes, now: int) -> None:
        """Give a file one more name; it keeps its handle and fileid."""
        check_name(name)
        found = self.getattr(file)
        if found.kind == NF3DIR:
            raise NfsError(NFS3ERR_ISDIR)
        self._status(found.fileid)  # finds its place
        source, before = self._parent_of(found.fileid)
        above = self._directory(directory).descriptor
        os.link(before, name, src_dir_fd=source, dst_dir_fd=above, follow_symlinks=False)
        os.fsync(above)

    def mkdir(self, directory: bytes, name: bytes, mode: int, now: int) -> bytes:
        """Make an empty directory and give its handle."""
        check_name(name)
        os.mkdir(name, 0o700, dir_fd=self._directory(directory).descriptor)
        return self._made(directory, name, mode)

    def remove(self, directory: bytes, name: bytes, now: int) -> None:
        """Remove a name that is not a directory's."""
        gone = self._named(directory, name)
        above = self._directory(directory).descriptor
        os.unlink(name, dir_fd=above)
        os.fsync(above)
        self._files.forget(gone.st_ino, gone.st_nlink - 1)

    def rmdir(self, directory: bytes, name: bytes, now: int) -> None:
        """Remove an empty directory."""
        gone = self._named(directory, name).st_ino
        above = self._directory(directory).descriptor
        os.rmdir(name, dir_fd=above)
        os.fsync(above)
        self._files.forget(gone, 0)

    def rename(self, from_directory: bytes, from_name: bytes, to_directory: bytes, to_name: bytes, now: int) -> None:
        """Give a file another name, replacing what bore it."""
        moved = self._named(from_directory, from_name)
        check_name(to_name)
        try:
            replaced = self._named(to_directory, to_name)
        except FileNotFoundError:
            replaced = moved
        source = self._directory(from_directory).descriptor
        target = self._directory(to_directory).descriptor
        os.rename(from_name, to_name, src_dir_fd=source, dst_dir_fd=target)
        os.fsync(target)  # the new name first: between the two a crash leaves a file with both, never with none
        os.fsync(source)
        if replaced.st_ino != moved.st_ino:
            is_directory = stat.S_ISDIR(replaced.st_mode)
            self._files.forget(replaced.st_ino, 0 if is_directory else replaced.st_nlink - 1)
        self.lookup(to_directory, to_name)

    def readdir(self, directory: bytes) -> list[tuple[bytes, int]]:
        """The names in a directory and their fileids, sorted."""
        with os.scandir(self._directory(directory).descriptor) as entries:
            return sorted((os.fsencode(entry.name), entry.inode()) for entry in entries)

    def readlink(self, file: bytes) -> bytes:
        """What a symbolic link says."""
        fileid, _ = parse_handle(file, self._fsid, self.handle_bytes)
        if not stat.S_ISLNK(self._status(fileid).st_mode):
            raise NfsError(NFS3ERR_INVAL)
        above, name = self._parent_of(fileid)
        return os.readlink(name, dir_fd=above)

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
        """Let everything written to a file survive a crash of the host: FILE_SYNC, and so DATA_SYNC as well."""
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
        descriptor = self._file(made).descriptor
        os.fchmod(descriptor, mode & 0o7777)
        os.fsync(descriptor)
        os.fsync(self._directory(directory).descriptor)
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
        if generation == _NEVER_OPENED:
            raise NfsError(NFS3ERR_INVAL)  # a symbolic link, a device, a pipe: no bytes to read or write
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
        _, generation = parse_handle(handle, self._fsid, self.handle_bytes)
        if generation == _NEVER_OPENED:
            raise NfsError(NFS3ERR_NOTDIR)
        found = self._file(handle)
        if not found.is_directory:
            raise NfsError(NFS3ERR_NOTDIR)
        return found

    # --- what the system says

    def _named(self, directory: bytes, name: bytes) -> os.stat_result:
        """What bears a name in a directory."""
        check_name(name)
        return os.stat(name, dir_fd=self._directory(directory).descriptor, follow_symlinks=False)

    def _status(self, fileid: int) -> os.stat_result:
        """What is known of a file that may be neither file nor directory, by its place alone."""
        for place in (self._files.places.get(fileid), None):
            place = place or self._files.search(fileid)
            if place is None:
                break
            try:
                status = os.stat(place.name, dir_fd=self._files.get(place.parent).descriptor, follow_symlinks=False)
                if status.st_ino == fileid:
                    return status
            except (FileNotFoundError, NfsError):
                pass
            self._files.lost(fileid)  # it is no longer there: search once
        raise NfsError(NFS3ERR_STALE)

    def _parent_of(self, fileid: int) -> tuple[int, bytes]:
        """The directory's descriptor and the name of a file whose status has just been found."""
        place = self._files.places[fileid]
        return self._files.get(place.parent).descriptor, place.name

    def _check_device(self, status: os.stat_result) -> None:
        if status.st_dev != self._files.device:
            raise NfsError(NFS3ERR_XDEV)

    def _check_size(self, file: OpenFile, size: int) -> None:
        if file.is_directory:
            raise NfsError(NFS3ERR_ISDIR)
        if size > FILE_BYTES_MAX:
            raise NfsError(NFS3ERR_FBIG)
