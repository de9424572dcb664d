"""Bringing home what a server on another computer has stored, through the same store that the server writes to."""

from collections.abc import Iterator

import msgspec

from lateack.nodes.storage.store import Store
from lateack.nodes.storage.walk import regular_files

CHUNK_BYTES = 4 * 1024 * 1024


class StoredFile(msgspec.Struct, frozen=True):
    """A file of a store: the names that lead to it, and its handle."""

    path: tuple[str, ...]
    handle: bytes


def files_of(store: Store) -> Iterator[StoredFile]:
    """Yield every regular file of a store."""
    for path, handle in regular_files(store):
        yield StoredFile(tuple(name.decode("utf-8", "surrogateescape") for name in path), handle)


def read_stored(store: Store, file: StoredFile, offset: int) -> bytes:
    """Return at most CHUNK_BYTES of a file from `offset` on; empty at its end."""
    return store.read(file.handle, offset, CHUNK_BYTES)
