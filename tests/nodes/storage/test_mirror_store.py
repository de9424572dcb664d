"""A store whose files also lie in a real directory: what is done to the one is done to the other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lateack.nodes.nfs import nfs
from lateack.nodes.nfs.nfs import NfsError
from lateack.nodes.storage.mirror_store import MirrorStore


def test_the_real_directory_follows(tmp_path: Path) -> None:
    """Names, links, sizes and removals; and no descriptor stays behind."""
    store = MirrorStore(tmp_path)
    inner = store.mkdir(store.root, b"inner", 0o755, 0)
    file = store.create(inner, b"file", 0o644, 0)
    store.write(file, 0, memoryview(b"0123456789"), 0)
    store.setattr(file, nfs.SetAttributes(size=4), 0)
    store.link(file, store.root, b"second", 0)
    store.symlink(store.root, b"link", b"nowhere", 0)
    store.rename(inner, b"file", store.root, b"first", 0)
    store.rmdir(store.root, b"inner", 0)

    found = {path.name: path.lstat().st_ino for path in tmp_path.iterdir()}
    store.remove(store.root, b"first", 0)
    left = store.read(file, 0, 9), (tmp_path / "second").read_bytes()
    store.remove(store.root, b"second", 0)
    store.remove(store.root, b"link", 0)

    assert found.keys() == {"first", "second", "link"}
    assert found["first"] == found["second"]
    assert left == (b"0123", b"0123")
    assert store.descriptors == {}
    assert list(tmp_path.iterdir()) == []


def test_the_real_directory_is_read_and_not_the_memory(tmp_path: Path) -> None:
    """What lies in the real files is what counts."""
    store = MirrorStore(tmp_path)
    file = store.create(store.root, b"f", 0o644, 0)
    store.write(file, 0, memoryview(b"data"), 0)

    (tmp_path / "f").write_bytes(b"else")

    assert store.read(file, 0, 9) == b"else"
    store.close()


def test_offsets_beyond_all_files_are_no_fault(tmp_path: Path) -> None:
    """The system's calls take no such numbers; the store answers for them, and the file stays as it was."""
    store = MirrorStore(tmp_path)
    file = store.create(store.root, b"f", 0o644, 0)

    statuses = []
    for attempt in (
        lambda: store.write(file, 2**64 - 1, memoryview(b"x"), 0),
        lambda: store.setattr(file, nfs.SetAttributes(size=2**64 - 1), 0),
    ):
        with pytest.raises(NfsError) as refused:
            attempt()
        statuses.append(refused.value.status)

    assert statuses == [nfs.NFS3ERR_FBIG] * 2
    assert store.read(file, 2**64 - 1, 9) == b""
    assert os.stat(tmp_path / "f").st_size == 0
    store.close()
