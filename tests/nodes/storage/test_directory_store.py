"""What holds for a store in a real directory: nothing leads out of it, and handles outlive the server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lateack.nodes.nfs import nfs
from lateack.nodes.nfs.nfs import NfsError
from lateack.nodes.storage.directory_store import DirectoryStore


def test_a_handle_outlives_the_server(tmp_path: Path) -> None:
    """A store opened again on the same directory knows the handles of the one before, wherever the file lies."""
    before = DirectoryStore(tmp_path)
    inner = before.mkdir(before.mkdir(before.root, b"a", 0o755, 0), b"b", 0o755, 0)
    file = before.create(inner, b"file", 0o644, 0)
    before.write(file, 0, memoryview(b"data"), 0)
    before.close()

    after = DirectoryStore(tmp_path)
    found = (after.root, after.read(file, 0, 9), after.path(file))
    after.close()

    assert found == (before.root, b"data", "a/b/file")


def test_a_file_moved_behind_the_servers_back_is_found(tmp_path: Path) -> None:
    """Where a file was last seen is a hint and no more."""
    store = DirectoryStore(tmp_path)
    file = store.create(store.root, b"file", 0o644, 0)
    store.close()
    store = DirectoryStore(tmp_path)
    store.getattr(store.lookup(store.root, b"file"))
    (tmp_path / "inner").mkdir()
    (tmp_path / "file").rename(tmp_path / "inner" / "moved")

    attributes = store.getattr(file)
    store.close()

    assert attributes.kind == nfs.NF3REG


def test_a_symbolic_link_is_seen_but_never_followed(tmp_path: Path) -> None:
    """Neither as a file nor as a directory on the way."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").symlink_to(outside / "secret")
    (root / "directory").symlink_to(outside)
    store = DirectoryStore(root)

    for name in (b"file", b"directory"):
        link = store.lookup(store.root, name)
        assert store.getattr(link).kind == nfs.NF3LNK
        for attempt in (
            lambda link=link: store.read(link, 0, 9),
            lambda link=link: store.write(link, 0, memoryview(b"x"), 0),
            lambda link=link: store.lookup(link, b"secret"),
            lambda link=link: store.setattr(link, nfs.SetAttributes(size=0), 0),
        ):
            with pytest.raises(NfsError) as refused:
                attempt()
            assert refused.value.status in (nfs.NFS3ERR_INVAL, nfs.NFS3ERR_NOTDIR)
    store.close()

    assert (outside / "secret").read_bytes() == b"secret"


def test_a_file_swapped_for_a_link_is_not_followed(tmp_path: Path) -> None:
    """The handle then is stale, whatever the link points to."""
    (tmp_path / "secret").write_bytes(b"secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_bytes(b"")
    store = DirectoryStore(root)
    file = store.lookup(store.root, b"file")
    store.close()
    (root / "file").unlink()
    (root / "file").symlink_to(tmp_path / "secret")
    store = DirectoryStore(root)

    with pytest.raises(NfsError) as refused:
        store.read(file, 0, 9)
    store.close()

    assert refused.value.status == nfs.NFS3ERR_STALE


def test_a_named_pipe_is_seen_but_never_opened(tmp_path: Path) -> None:
    """Opening one could block the server for ever."""
    os.mkfifo(tmp_path / "pipe")
    store = DirectoryStore(tmp_path)

    pipe = store.lookup(store.root, b"pipe")
    kind = store.getattr(pipe).kind
    with pytest.raises(NfsError):
        store.read(pipe, 0, 1)
    store.close()

    assert kind == nfs.NF3FIFO


def test_the_mode_is_the_clients_whatever_our_umask(tmp_path: Path) -> None:
    """A server's umask is its own affair."""
    store = DirectoryStore(tmp_path)

    store.create(store.root, b"file", 0o666, 0)
    store.mkdir(store.root, b"directory", 0o777, 0)
    store.close()

    modes = [(tmp_path / name).stat().st_mode & 0o7777 for name in ("file", "directory")]
    assert modes == [0o666, 0o777]
