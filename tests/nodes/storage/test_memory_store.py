"""What holds for a store in memory alone."""

from __future__ import annotations

import copy

import pytest

from lateack.nodes.nfs import nfs
from lateack.nodes.nfs.nfs import NfsError
from lateack.nodes.storage.memory_store import FILES_MAX, MemoryStore


def test_a_full_store_takes_no_more() -> None:
    """Until something is removed."""
    store = MemoryStore(capacity_bytes=10)
    first = store.create(store.root, b"first", 0o644, 0)
    second = store.create(store.root, b"second", 0o644, 0)
    store.write(first, 0, memoryview(b"12345678"), 0)

    with pytest.raises(NfsError) as full:
        store.write(second, 0, memoryview(b"123"), 0)
    store.remove(store.root, b"first", 0)

    assert full.value.status == nfs.NFS3ERR_NOSPC
    assert store.write(second, 0, memoryview(b"123"), 0) == 3
    assert store.capacity() == nfs.Capacity(10, 7, 7, FILES_MAX, FILES_MAX - 2, FILES_MAX - 2)


def test_a_copied_store_goes_its_own_way() -> None:
    """Machines are copied in a search, and the copy shares nothing."""
    store = MemoryStore()
    file = store.create(store.root, b"file", 0o644, 0)
    twin = copy.deepcopy(store)

    twin.write(file, 0, memoryview(b"data"), 0)

    assert (store.read(file, 0, 9), twin.read(file, 0, 9)) == (b"", b"data")
