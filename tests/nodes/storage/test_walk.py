"""Whoever made the files of a store, the walk comes to all of them."""

from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.storage.walk import regular_files


def test_every_file_is_found_below_whatever_folders() -> None:
    """Folders and symbolic links are no files; what lies in the folders is."""
    store = MemoryStore()
    above = store.mkdir(store.root, b"above", 0o755, 0)
    below = store.mkdir(above, b"below", 0o755, 0)
    made = {
        (b"one",): store.create(store.root, b"one", 0o644, 0),
        (b"above", b"two"): store.create(above, b"two", 0o644, 0),
        (b"above", b"below", b"\xff"): store.create(below, b"\xff", 0o644, 0),
    }
    store.symlink(store.root, b"link", b"one", 0)

    assert dict(regular_files(store)) == made


def test_an_empty_store_has_no_files() -> None:
    """The root alone is a folder."""
    assert list(regular_files(MemoryStore())) == []
