"""What the storage tests share: every kind of store, given back when the test ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lateack.nodes.storage.directory_store import DirectoryStore
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.storage.store import Store


@pytest.fixture(params=["memory", "directory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of each kind."""
    made: Store = MemoryStore() if request.param == "memory" else DirectoryStore(tmp_path)
    yield made
    made.close()
