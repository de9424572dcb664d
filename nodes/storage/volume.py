"""Files of a server's store as block and object protocols see them: named once, and durable when they are written."""

from collections.abc import Iterable

from lateack.nodes.facts import FileAtRest
from lateack.nodes.nfs.nfs import NF3REG, NFS3ERR_NOENT, NFS3ERR_NOTDIR, NfsError
from lateack.nodes.node import Time
from lateack.nodes.stack.packets import digest_of
from lateack.nodes.storage.store import Store


class VolumeError(Exception):
    """The store could not do what it was asked: there is no room, or the disk has failed."""


MODE = 0o644
FOLDER_MODE = 0o755


class Volume:
    """One file of a store, made with its folders when it is first opened."""

    __slots__ = ("handle", "name", "store")

    def __init__(self, store: Store, name: str, now: Time) -> None:
        """Open or make the file *name* of *store*; raises VolumeError."""
        self.store = store
        self.name = name
        *folders, last = name.encode().split(b"/")
        directory = store.root
        try:
            for folder in folders:
                directory = _found(store, directory, folder) or store.mkdir(directory, folder, FOLDER_MODE, now)
            self.handle = _found(store, directory, last) or store.create(directory, last, MODE, now)
        except (NfsError, OSError) as error:
            raise VolumeError(f"{name} cannot be opened: {error}") from error

    def write(self, offset: int, data: bytes, now: Time) -> None:
        """Put bytes at *offset*; they have reached the disk when this returns. Raises VolumeError."""
        try:
            self.store.write(self.handle, offset, memoryview(data), now)
            self.store.commit(self.handle)
        except (NfsError, OSError) as error:
            raise VolumeError(f"{self.name} cannot be written: {error}") from error


def files_at_rest(store: Store, names: Iterable[str], chunk: int) -> list[FileAtRest]:
    """Read whole files back, those that still are there, and return what lies in them as digests of *chunk* bytes."""
    found: list[FileAtRest] = []
    for name in names:
        handle: bytes | None = store.root
        for part in name.encode().split(b"/"):
            handle = handle and _found(store, handle, part)
        attributes = None if handle is None else store.getattr(handle)
        if handle is not None and attributes is not None and attributes.kind == NF3REG:
            size = attributes.size
            digests = [digest_of(store.read(handle, at, chunk)) for at in range(0, size, chunk)]
            found.append(FileAtRest(name, size, chunk, tuple(digests)))
    return found


def _found(store: Store, directory: bytes, name: bytes) -> bytes | None:
    """Return the handle of a name in a directory, or None where there is none, or no directory any more."""
    try:
        return store.lookup(directory, name)
    except (FileNotFoundError, NotADirectoryError):  # so a store says it that is a folder of the operating system's
        return None
    except NfsError as error:
        if error.status not in (NFS3ERR_NOENT, NFS3ERR_NOTDIR):
            raise
        return None
