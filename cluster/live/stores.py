"""Bringing home what a server on another computer has stored, through the same store that the server writes to."""

from collections.abc import Iterator

import msgspec

from lateack.nodes.storage.nfs import NF3DIR, NF3REG
from lateack.nodes.storage.store import Store

CHUNK_BYTES = 4 * 1024 * 1024


class StoredFile(msgspec.Struct, frozen=True):
    """A file of a store: the names that lead to it, and its handle."""

    path: tuple[str, ...]
    handle: bytes


def files_of(store: Store) -> Iterator[StoredFile]:
    """Yield every regular file of a store."""
    waiting: list[tuple[tuple[str, ...], bytes]] = [((), store.root)]
    while waiting:
        path, directory = waiting.pop()
        for name, _ in store.readdir(directory):
            handle = store.lookup(directory, name)
            kind = store.getattr(handle).kind
            below = (*path, name.decode("utf-8", "surrogateescape"))
            if kind == NF3DIR:
                waiting.append((below, handle))
            elif kind == NF3REG:
                yield StoredFile(below, handle)


def read_stored(store: Store, file: StoredFile, offset: int) -> bytes:
    """Return at most CHUNK_BYTES of a file from `offset` on; empty at its end."""
    return store.read(file.handle, offset, CHUNK_BYTES)
