"""The cache of descriptors behind a directory store."""

from __future__ import annotations

import os
from pathlib import Path

from lateack.nodes.storage.directory_store import DirectoryStore
from lateack.nodes.storage.open_files import OPEN_FILES_MAX


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def test_a_store_holds_a_bounded_number_of_descriptors_and_gives_them_back(tmp_path: Path) -> None:
    """However many files are used, all remain usable and none stays open after the store."""
    before = open_descriptors()
    store = DirectoryStore(tmp_path)
    inner = store.mkdir(store.root, b"inner", 0o755, 0)
    files = [store.create(inner, b"%d" % number, 0o644, 0) for number in range(OPEN_FILES_MAX + 20)]

    for number, file in enumerate(files):
        store.write(file, 0, memoryview(b"%d" % number), 0)
    during = open_descriptors()
    contents = [store.read(file, 0, 9) for file in files]
    store.close()

    assert contents == [b"%d" % number for number in range(len(files))]
    assert during - before <= OPEN_FILES_MAX + 1
    assert open_descriptors() == before
