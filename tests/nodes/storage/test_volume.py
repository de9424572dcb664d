"""A file as block protocols see it: made with its folders, durable when written, and looked at in the end."""

from pathlib import Path

import pytest

from lateack.nodes.stack.packets import digest_of
from lateack.nodes.storage.directory_store import DirectoryStore
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.storage.store import Store
from lateack.nodes.storage.volume import Volume, VolumeError, files_at_rest


@pytest.mark.parametrize("kind", ["memory", "directory"])
def test_a_volume_is_made_once_and_found_again(kind: str, tmp_path: Path) -> None:
    """With the folders on its way; what lies there is told in chunks, and of files that are not there nothing is."""
    store: Store = MemoryStore(handle_bytes=36) if kind == "memory" else DirectoryStore(tmp_path)
    Volume(store, "one/two/f", 0).write(4096, b"data", 0)
    Volume(store, "one/two/f", 0).write(0, b"x", 0)

    [rest] = files_at_rest(store, ["one/two/f", "one/g", "three/f"], 4096)

    assert (rest.file, rest.length) == ("one/two/f", 4100)
    assert rest.digests == (digest_of(b"x" + bytes(4095)), digest_of(b"data"))


def test_what_the_disk_refuses_is_told() -> None:
    """No room for the bytes, and a file where a folder should be."""
    store = MemoryStore(handle_bytes=36, capacity_bytes=100)
    volume = Volume(store, "f", 0)

    with pytest.raises(VolumeError, match="f cannot be written"):
        volume.write(0, bytes(200), 0)
    with pytest.raises(VolumeError, match="f/g cannot be opened"):
        Volume(store, "f/g", 0)


@pytest.mark.parametrize("kind", ["memory", "directory"])
def test_of_a_name_that_is_no_file_any_more_nothing_is_told(kind: str, tmp_path: Path) -> None:
    """It was written as one, and then a folder was made in its place, or a file of the folder above it."""
    store: Store = MemoryStore(handle_bytes=36) if kind == "memory" else DirectoryStore(tmp_path)
    store.mkdir(store.root, b"folder", 0o755, 0)
    Volume(store, "f", 0)

    assert files_at_rest(store, ["folder", "f/below"], 4096) == []
