"""What holds for every store."""

from __future__ import annotations

import pytest

from lateack.nodes.nfs import nfs
from lateack.nodes.nfs.nfs import NfsError
from lateack.nodes.storage.store import Store, make_handle, parse_handle

ESCAPES = [b"..", b".", b"../x", b"/etc/passwd", b"a/b", b"nul\0", b"", b"n" * 256]


def status_of(error: BaseException) -> int:
    """The nfsstat3 of what a store raised."""
    assert isinstance(error, NfsError | OSError)
    return error.status if isinstance(error, NfsError) else nfs.status_of_oserror(error)


@pytest.mark.parametrize("name", ESCAPES)
def test_no_name_leads_out_of_its_directory(store: Store, name: bytes) -> None:
    """Whatever takes a name refuses one that is not a plain component of a path."""
    store.create(store.root, b"file", 0o644, 0)
    attempts = (
        lambda: store.lookup(store.root, name),
        lambda: store.create(store.root, name, 0o644, 0),
        lambda: store.mkdir(store.root, name, 0o755, 0),
        lambda: store.remove(store.root, name, 0),
        lambda: store.rmdir(store.root, name, 0),
        lambda: store.rename(store.root, name, store.root, b"new", 0),
        lambda: store.rename(store.root, b"file", store.root, name, 0),
    )

    for attempt in attempts:
        with pytest.raises(NfsError) as refused:
            attempt()
        assert refused.value.status in (nfs.NFS3ERR_ACCES, nfs.NFS3ERR_INVAL, nfs.NFS3ERR_NAMETOOLONG)
    assert [name for name, _ in store.readdir(store.root)] == [b"file"]


def test_bytes_that_were_written_are_read(store: Store) -> None:
    """With zeros where nothing was written, and nothing after the end."""
    file = store.create(store.root, b"file", 0o644, 0)

    written = store.write(file, 4, memoryview(b"data"), 5)

    assert written == 4
    assert store.read(file, 0, 100) == b"\0\0\0\0data"
    assert store.read(file, 6, 1) == b"t"
    assert store.read(file, 2**63 + 5, 1) == b""
    assert store.getattr(file).size == 8
    assert store.path(file) == "file"


def test_a_removed_file_leaves_a_stale_handle(store: Store) -> None:
    """A handle never means another file."""
    file = store.create(store.root, b"file", 0o644, 0)
    store.remove(store.root, b"file", 0)
    again = store.create(store.root, b"file", 0o644, 0)

    for attempt in (lambda: store.getattr(file), lambda: store.write(file, 0, memoryview(b"x"), 0)):
        if again != file:  # some file systems give the number again and tell no generation
            with pytest.raises((NfsError, OSError)) as refused:
                attempt()
            assert status_of(refused.value) == nfs.NFS3ERR_STALE


def test_a_foreign_handle_is_refused(store: Store) -> None:
    """One of another length is bad, one of another file system is stale."""
    foreign = make_handle(99, 1, 1, 36)

    with pytest.raises(NfsError) as bad:
        store.getattr(b"short")
    with pytest.raises(NfsError) as stale:
        store.getattr(foreign)

    assert (bad.value.status, stale.value.status) == (nfs.NFS3ERR_BADHANDLE, nfs.NFS3ERR_STALE)


def test_directories_hold_files_and_go_when_empty(store: Store) -> None:
    """Names nest, and a full directory stays."""
    inner = store.mkdir(store.root, b"inner", 0o755, 0)
    file = store.create(inner, b"file", 0o644, 0)

    with pytest.raises((NfsError, OSError)) as full:
        store.rmdir(store.root, b"inner", 0)
    path = store.path(file)
    store.remove(inner, b"file", 0)
    store.rmdir(store.root, b"inner", 0)

    assert status_of(full.value) == nfs.NFS3ERR_NOTEMPTY
    assert path == "inner/file"
    assert store.readdir(store.root) == []


def test_a_renamed_file_keeps_its_handle_and_replaces_another(store: Store) -> None:
    """Its bytes go with it, and what bore the name is gone."""
    inner = store.mkdir(store.root, b"inner", 0o755, 0)
    file = store.create(store.root, b"old", 0o644, 0)
    store.create(inner, b"new", 0o644, 0)
    store.write(file, 0, memoryview(b"data"), 0)

    store.rename(store.root, b"old", inner, b"new", 0)

    assert store.lookup(inner, b"new") == file
    assert store.read(file, 0, 10) == b"data"
    assert store.path(file) == "inner/new"
    assert [name for name, _ in store.readdir(store.root)] == [b"inner"]


def test_a_directory_cannot_move_into_itself(store: Store) -> None:
    """That would cut it off from the root."""
    outer = store.mkdir(store.root, b"outer", 0o755, 0)

    with pytest.raises((NfsError, OSError)) as refused:
        store.rename(store.root, b"outer", outer, b"inner", 0)

    assert status_of(refused.value) == nfs.NFS3ERR_INVAL


def test_kinds_are_not_mistaken(store: Store) -> None:
    """A directory cannot be written, a file has no names in it, and neither goes by the other's removal."""
    directory = store.mkdir(store.root, b"directory", 0o755, 0)
    file = store.create(store.root, b"file", 0o644, 0)
    expected = (
        (lambda: store.write(directory, 0, memoryview(b"x"), 0), nfs.NFS3ERR_ISDIR),
        (lambda: store.read(directory, 0, 1), nfs.NFS3ERR_ISDIR),
        (lambda: store.setattr(directory, nfs.SetAttributes(size=0), 0), nfs.NFS3ERR_ISDIR),
        (lambda: store.lookup(file, b"x"), nfs.NFS3ERR_NOTDIR),
        (lambda: store.remove(store.root, b"directory", 0), nfs.NFS3ERR_ISDIR),
        (lambda: store.rmdir(store.root, b"file", 0), nfs.NFS3ERR_NOTDIR),
        (lambda: store.lookup(store.root, b"nothing"), nfs.NFS3ERR_NOENT),
        (lambda: store.create(store.root, b"file", 0, 0), nfs.NFS3ERR_EXIST),
    )

    for attempt, status in expected:
        with pytest.raises((NfsError, OSError)) as refused:
            attempt()
        assert status_of(refused.value) == status


def test_attributes_can_be_set(store: Store) -> None:
    """Mode, size and times; a size cuts or fills with zeros."""
    file = store.create(store.root, b"file", 0o644, 0)
    store.write(file, 0, memoryview(b"data"), 0)
    store.setattr(file, nfs.SetAttributes(mode=0o600, size=2, atime=3 * nfs.SECOND, mtime=nfs.SERVER_TIME), 9)
    store.setattr(file, nfs.SetAttributes(size=3), 9)

    attributes = store.getattr(file)

    assert (attributes.mode, attributes.size, attributes.atime) == (0o600, 3, 3 * nfs.SECOND)
    assert store.read(file, 0, 9) == b"da\0"


def test_a_file_beyond_all_bounds_is_refused(store: Store) -> None:
    """Neither a write nor a size may reach where offsets end."""
    file = store.create(store.root, b"file", 0o644, 0)

    with pytest.raises((NfsError, OSError)) as written:
        store.write(file, 2**64 - 1, memoryview(b"x"), 0)
    with pytest.raises((NfsError, OSError)) as sized:
        store.setattr(file, nfs.SetAttributes(size=2**64 - 1), 0)

    assert status_of(written.value) == status_of(sized.value) == nfs.NFS3ERR_FBIG


def test_a_name_of_any_bytes_is_kept_and_can_be_shown(store: Store) -> None:
    """Names are bytes; their text is for people."""
    file = store.create(store.root, b"\xff\xfe name", 0o644, 0)

    assert store.readdir(store.root) == [(b"\xff\xfe name", store.getattr(file).fileid)]
    assert store.path(file) == "\\xff\\xfe name"


@pytest.mark.parametrize("length", [28, 36, 64])
def test_a_handle_has_the_length_that_was_asked(length: int) -> None:
    """28 to 64 bytes, and what was put in comes out."""
    handle = make_handle(1, 2, 3, length)

    assert len(handle) == length
    assert parse_handle(handle, 1, length) == (2, 3)
