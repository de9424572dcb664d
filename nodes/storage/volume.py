"""Files of a server's store as block and object protocols see them: named once, and durable when they are written."""

from collections.abc import Iterable

from lateack.nodes.facts import FileAtRest
from lateack.nodes.node import Time
from lateack.nodes.stack.packets import digest_of
from lateack.nodes.storage.nfs import NFS3ERR_NOENT, NfsError
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
    """Read whole files back, those that are there, and return what lies in them as digests of *chunk* bytes each."""
    found: list[FileAtRest] = []
    for name in names:
        handle: bytes | None = store.root
        for part in name.encode().split(b"/"):
            handle = handle and _found(store, handle, part)
        if handle is not None:
            size = store.getattr(handle).size
            digests = [digest_of(store.read(handle, at, chunk)) for at in range(0, size, chunk)]
            found.append(FileAtRest(name, size, chunk, tuple(digests)))
    return found


def _found(store: Store, directory: bytes, name: bytes) -> bytes | None:
    """Return the handle of a name in a directory, or None where it is not there."""
    try:
        return store.lookup(directory, name)
    except FileNotFoundError:  # so a store says it that is a folder of the operating system's
        return None
    except NfsError as error:
        if error.status != NFS3ERR_NOENT:
            raise
        return None
