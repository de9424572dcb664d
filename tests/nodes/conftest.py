"""What the storage tests share: every kind of store, given back when the test ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lateack.nodes.storage.directory_store import DirectoryStore
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.storage.mirror_store import MirrorStore
from lateack.nodes.storage.store import Store
from lateack.nodes.storage.write_back import WriteBackStore


@pytest.fixture(params=["memory", "directory", "mirror", "memory-written-back", "directory-written-back"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of each kind."""
    kind, _, written_back = str(request.param).partition("-")
    made: Store
    if kind == "mirror":
        made = MirrorStore(tmp_path)
    else:
        made = MemoryStore() if kind == "memory" else DirectoryStore(tmp_path)
    made = WriteBackStore(made) if written_back else made
    yield made
    made.close()
