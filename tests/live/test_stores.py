"""A server's files come home from any store."""

from lateack.cluster.live.stores import files_of, read_stored
from lateack.nodes.storage.memory_store import MemoryStore


def test_every_file_comes_home() -> None:
    """Files in folders are found by their path and read to their end; folders alone are not."""
    store = MemoryStore()
    folder = store.mkdir(store.root, b"guest1", 0o755, 0)
    store.mkdir(store.root, b"empty", 0o755, 0)
    for directory, content in ((store.root, b"top"), (folder, b"deep")):
        store.write(store.create(directory, b"input.bin", 0o644, 0), 0, memoryview(content), 0)

    found = {file.path: read_stored(store, file, 0) for file in files_of(store)}

    assert found == {("input.bin",): b"top", ("guest1", "input.bin"): b"deep"}
    assert all(read_stored(store, file, 10) == b"" for file in files_of(store))
