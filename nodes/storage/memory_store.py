"""A store in plain memory, for worlds whose machines are copied, hashed and thrown away by the thousand."""

from __future__ import annotations

from typing import Final

from lateack.nodes.nfs.nfs import (
    NF3DIR,
    NF3LNK,
    NF3REG,
    NFS3ERR_EXIST,
    NFS3ERR_FBIG,
    NFS3ERR_INVAL,
    NFS3ERR_ISDIR,
    NFS3ERR_MLINK,
    NFS3ERR_NOENT,
    NFS3ERR_NOSPC,
    NFS3ERR_NOTDIR,
    NFS3ERR_NOTEMPTY,
    NFS3ERR_STALE,
    SERVER_TIME,
    Attributes,
    Capacity,
    NfsError,
    SetAttributes,
)
from lateack.nodes.storage.memory_file import LINKS_MAX, MemoryFile
from lateack.nodes.storage.store import (
    HANDLE_BYTES_DEFAULT,
    check_handle_bytes,
    check_name,
    make_handle,
    parse_handle,
    readable,
)

FILES_MAX: Final = 65536
"""The most files that a store in memory holds."""
CAPACITY_DEFAULT: Final = 64 << 20
"""The bytes that a store in memory holds unless told otherwise."""
FILE_BYTES_MAX: Final = 1 << 40
"""Where a file's offsets end."""


class MemoryStore:
    """A store in plain memory, made to be copied, compared and thrown away."""

    __slots__ = (
        "capacity_bytes",
        "file_bytes_max",
        "files",
        "fsid",
        "handle_bytes",
        "next_fileid",
        "read_only",
        "root",
        "used_bytes",
    )

    def __init__(
        self, handle_bytes: int = HANDLE_BYTES_DEFAULT, capacity_bytes: int = CAPACITY_DEFAULT, fsid: int = 1
    ) -> None:
        check_handle_bytes(handle_bytes)
        self.handle_bytes = handle_bytes
        self.capacity_bytes = capacity_bytes
        self.file_bytes_max = FILE_BYTES_MAX
        self.read_only = False
        self.fsid = fsid
        self.used_bytes = 0
        self.next_fileid = 1
        self.files: dict[bytes, MemoryFile] = {}
        root = self._new_file(0o755, 0)
        root.names = {}
        self.root = root.handle

    def getattr(self, file: bytes) -> Attributes:
        """What a file is."""
        found = self.files.get(file) or self._file(file)
        if found.names is not None:
            kind, links, size = NF3DIR, 2, 4096
        elif found.target is not None:
            kind, links, size = NF3LNK, 1, len(found.target)
        else:
            kind, links, size = NF3REG, 1, len(found.content)
        if found.other_places is not None:
            links += len(found.other_places)
        return Attributes(
            kind,
            found.mode,
            links,
            found.uid,
            found.gid,
            size,
            size,
            self.fsid,
            found.fileid,
            found.atime,
            found.mtime,
            found.ctime,
        )

    def setattr(self, file: bytes, changes: SetAttributes, now: int) -> None:
        """Change mode, owner, size or times."""
        found = self._file(file)
        if changes.size is not None:
            self._resize(self._regular(file), changes.size)
            found.mtime = now
        found.mode = found.mode if changes.mode is None else changes.mode & 0o7777
        found.uid = found.uid if changes.uid is None else changes.uid
        found.gid = found.gid if changes.gid is None else changes.gid
        if changes.atime is not None:
            found.atime = now if changes.atime == SERVER_TIME else changes.atime
        if changes.mtime is not None:
            found.mtime = now if changes.mtime == SERVER_TIME else changes.mtime
        found.ctime = now

    def lookup(self, directory: bytes, name: bytes) -> bytes:
        """The handle of a name in a directory."""
        check_name(name)
        found = self._names(directory).get(name)
        if found is None:
            raise NfsError(NFS3ERR_NOENT)
        return found.handle

    def parent(self, directory: bytes) -> bytes:
        """The directory above this one; the root is above itself."""
        self._names(directory)
        return self.files[directory].parent or self.root

    def create(self, directory: bytes, name: bytes, mode: int, now: int) -> bytes:
        """Make an empty file that was not there and give its handle."""
        return self._enter(directory, name, mode, now).handle

    def mkdir(self, directory: bytes, name: bytes, mode: int, now: int) -> bytes:
        """Make an empty directory and give its handle."""
        made = self._enter(directory, name, mode, now)
        made.names = {}
        return made.handle

    def symlink(self, directory: bytes, name: bytes, target: bytes, now: int) -> bytes:
        """Make a symbolic link that says `target`, and give its handle."""
        made = self._enter(directory, name, 0o777, now)
        made.target = target
        return made.handle

    def link(self, file: bytes, directory: bytes, name: bytes, now: int) -> None:
        """Give a file one more name; it keeps its handle and fileid."""
        found = self._file(file)
        if found.names is not None:
            raise NfsError(NFS3ERR_ISDIR)
        check_name(name)
        names = self._names(directory)
        if name in names:
            raise NfsError(NFS3ERR_EXIST)
        others = found.other_places = found.other_places or []
        if len(others) + 1 >= LINKS_MAX:
            raise NfsError(NFS3ERR_MLINK)
        others.append((directory, name))
        names[name] = found
        parent = self.files[directory]
        parent.mtime = parent.ctime = found.ctime = now

    def remove(self, directory: bytes, name: bytes, now: int) -> None:
        """Remove a name that is not a directory's."""
        found = self._file(self.lookup(directory, name))
        if found.names is not None:
            raise NfsError(NFS3ERR_ISDIR)
        self._drop(directory, name, now)

    def rmdir(self, directory: bytes, name: bytes, now: int) -> None:
        """Remove an empty directory."""
        found = self._file(self.lookup(directory, name))
        if found.names is None:
            raise NfsError(NFS3ERR_NOTDIR)
        if found.names:
            raise NfsError(NFS3ERR_NOTEMPTY)
        self._drop(directory, name, now)

    def rename(self, from_directory: bytes, from_name: bytes, to_directory: bytes, to_name: bytes, now: int) -> None:
        """Give a file another name, replacing what bore it."""
        moved = self._file(self.lookup(from_directory, from_name))
        check_name(to_name)
        target_names = self._names(to_directory)
        target = self._file(to_directory)
        self._check_not_inside(moved, target)
        replaced = target_names.get(to_name)
        if replaced is moved:
            return
        if replaced is not None:
            drop = self.remove if moved.names is None else self.rmdir
            drop(to_directory, to_name, now)
        source = self._file(from_directory)
        del self._names(from_directory)[from_name]
        target_names[to_name] = moved
        moved.replace((from_directory, from_name), (to_directory, to_name))
        source.mtime = source.ctime = target.mtime = target.ctime = moved.ctime = now

    def readdir(self, directory: bytes) -> list[tuple[bytes, int]]:
        """The names in a directory and their fileids, sorted."""
        return sorted((name, file.fileid) for name, file in self._names(directory).items())

    def readlink(self, file: bytes) -> bytes:
        """What a symbolic link says."""
        target = self._file(file).target
        if target is None:
            raise NfsError(NFS3ERR_INVAL)
        return target

    def read(self, file: bytes, offset: int, count: int) -> bytes:
        """At most `count` bytes of a file; fewer only at its end."""
        return bytes(self._regular(file).content[offset : offset + count])

    def write(self, file: bytes, offset: int, data: memoryview, now: int) -> int:
        """Put bytes into a file and say how many: all."""
        found = self._regular(file)
        count = len(data)
        end = offset + count
        content = found.content
        if end > len(content) and count:
            self._check_size(found, end)
            if offset > len(content):
                content.extend(bytes(offset - len(content)))
        content[offset:end] = data
        found.mtime = found.ctime = now
        return count

    def commit(self, file: bytes) -> None:
        """Nothing to do: this memory is the disk, which outlives the server."""
        self._file(file)

    def path(self, file: bytes) -> str:
        """A file's path from the root, for people to read."""
        found = self.files.get(file) or self._file(file)
        path = readable(found.name)
        while found.parent and found.parent != self.root:
            found = self.files[found.parent]
            path = f"{readable(found.name)}/{path}"
        return path

    def capacity(self) -> Capacity:
        """How much there is and how much is left."""
        free = self.capacity_bytes - self.used_bytes
        files = FILES_MAX - len(self.files)
        return Capacity(self.capacity_bytes, free, free, FILES_MAX, files, files)

    def close(self) -> None:
        """Nothing is held."""

    def _file(self, handle: bytes) -> MemoryFile:
        file = self.files.get(handle)
        if file is None:
            parse_handle(handle, self.fsid, self.handle_bytes)  # says if it never was a handle of ours
            raise NfsError(NFS3ERR_STALE)
        return file

    def _regular(self, handle: bytes) -> MemoryFile:
        file = self.files.get(handle) or self._file(handle)
        if file.names is not None:
            raise NfsError(NFS3ERR_ISDIR)
        if file.target is not None:
            raise NfsError(NFS3ERR_INVAL)
        return file

    def _names(self, handle: bytes) -> dict[bytes, MemoryFile]:
        names = (self.files.get(handle) or self._file(handle)).names
        if names is None:
            raise NfsError(NFS3ERR_NOTDIR)
        return names

    def _new_file(self, mode: int, now: int) -> MemoryFile:
        fileid = self.next_fileid
        self.next_fileid += 1
        file = MemoryFile(fileid, make_handle(self.fsid, fileid, 1, self.handle_bytes), mode, now)
        self.files[file.handle] = file
        return file

    def _enter(self, directory: bytes, name: bytes, mode: int, now: int) -> MemoryFile:
        check_name(name)
        names = self._names(directory)
        if name in names:
            raise NfsError(NFS3ERR_EXIST)
        if len(self.files) >= FILES_MAX:
            raise NfsError(NFS3ERR_NOSPC)
        parent = self.files[directory]
        file = self._new_file(mode, now)
        file.parent, file.name = directory, name
        names[name] = file
        parent.mtime = parent.ctime = now
        return file

    def _drop(self, directory: bytes, name: bytes, now: int) -> None:
        """Remove a name, and with its last one the file."""
        parent = self.files[directory]
        file = self._names(directory).pop(name)
        parent.mtime = parent.ctime = now
        if file.other_places:
            file.ctime = now
            file.replace((directory, name), file.other_places[-1])
            file.other_places.pop()
            return
        del self.files[file.handle]
        self.used_bytes -= len(file.content)

    def _check_not_inside(self, moved: MemoryFile, target: MemoryFile) -> None:
        """A directory must not be moved into itself."""
        above: MemoryFile | None = target
        while above is not None:
            if above is moved:
                raise NfsError(NFS3ERR_INVAL)
            above = self.files.get(above.parent)

    def _resize(self, file: MemoryFile, size: int) -> None:
        growth = self._check_size(file, size)
        if growth > 0:
            file.content.extend(bytes(growth))
        else:
            del file.content[size:]

    def _check_size(self, file: MemoryFile, size: int) -> int:
        """Charge the store for a file's new size and give its growth; raises NfsError where it is too much."""
        growth = size - len(file.content)
        if size > self.file_bytes_max:
            raise NfsError(NFS3ERR_FBIG)
        used = self.used_bytes + growth
        if used > self.capacity_bytes:
            raise NfsError(NFS3ERR_NOSPC)
        self.used_bytes = used
        return growth
