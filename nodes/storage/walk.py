"""Every file of a store, whoever made it: for the audit of a server that has died, and to bring the files home."""

from collections.abc import Iterator

from lateack.nodes.nfs.nfs import NF3DIR, NF3REG
from lateack.nodes.storage.store import Store


def regular_files(store: Store) -> Iterator[tuple[tuple[bytes, ...], bytes]]:
    """Yield the names that lead to each regular file of a store, and its handle; in the order of the directories."""
    waiting: list[tuple[tuple[bytes, ...], bytes]] = [((), store.root)]
    while waiting:
        path, directory = waiting.pop()
        for name, _ in store.readdir(directory):
            handle = store.lookup(directory, name)
            kind = store.getattr(handle).kind
            if kind == NF3DIR:
                waiting.append(((*path, name), handle))
            elif kind == NF3REG:
                yield (*path, name), handle
