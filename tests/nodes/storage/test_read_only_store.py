"""A read-only store: nothing that it is asked for changes what lies in it."""

from __future__ import annotations

import pytest

from lateack.nodes.nfs import nfs, nfs_calls, nfs_links, nfs_replies
from lateack.nodes.nfs.nfs_server import NfsServer
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.storage.read_only_store import ReadOnlyStore
from tests.nodes.nfs.conversation import Conversation, write_arguments

ROOT_EMPTIED = nfs.SetAttributes(size=0)


class Library:
    """A read-only server over a store with the file `file` and the directory `shelf`."""

    def __init__(self) -> None:
        self.inner = MemoryStore()
        self.file = self.inner.create(self.inner.root, b"file", 0o644, 0)
        self.inner.write(self.file, 0, memoryview(b"text"), 0)
        self.inner.mkdir(self.inner.root, b"shelf", 0o755, 0)
        self.server = NfsServer(ReadOnlyStore(self.inner), b"verifier", write_back=False)
        self.client = Conversation(self.server)
        self.root = self.server.root_handle


CHANGES = {
    nfs.SETATTR: lambda at: nfs_calls.encode_setattr(at.file, ROOT_EMPTIED),
    nfs.WRITE: lambda at: write_arguments(at.file, 0, b"TEXT"),
    nfs.CREATE: lambda at: nfs_calls.encode_create(at.root, b"new", nfs.SetAttributes()),
    nfs.MKDIR: lambda at: nfs_calls.encode_mkdir(at.root, b"new", nfs.SetAttributes()),
    nfs.REMOVE: lambda at: nfs_calls.encode_name(at.root, b"file"),
    nfs.RMDIR: lambda at: nfs_calls.encode_name(at.root, b"shelf"),
    nfs.RENAME: lambda at: nfs_calls.encode_rename(at.root, b"file", at.root, b"new"),
    nfs.SYMLINK: lambda at: nfs_links.encode_symlink(at.root, b"new", b"file"),
    nfs.LINK: lambda at: nfs_links.encode_link(at.file, at.root, b"new"),
}


@pytest.mark.parametrize("procedure", CHANGES)
def test_whatever_changes_something_is_refused(procedure: int) -> None:
    """The answer is NFS3ERR_ROFS, and names and bytes are what they were."""
    library = Library()

    results = library.client.call(procedure, CHANGES[procedure](library))

    assert int.from_bytes(results[:4]) == nfs.NFS3ERR_ROFS
    assert [name for name, _ in library.inner.readdir(library.root)] == [b"file", b"shelf"]
    assert library.inner.read(library.file, 0, 10) == b"text"


def test_truncating_by_an_unchecked_create_is_refused() -> None:
    """CREATE of a file that is there would set its size."""
    library = Library()

    results = library.client.call(nfs.CREATE, nfs_calls.encode_create(library.root, b"file", ROOT_EMPTIED))

    assert int.from_bytes(results[:4]) == nfs.NFS3ERR_ROFS
    assert library.inner.read(library.file, 0, 10) == b"text"


@pytest.mark.parametrize(
    ("name", "granted"),
    [(b"file", nfs.ACCESS_READ | nfs.ACCESS_EXECUTE), (b"shelf", nfs.ACCESS_READ | nfs.ACCESS_LOOKUP)],
)
def test_access_grants_nothing_that_would_be_refused(name: bytes, granted: int) -> None:
    """A client that asks before it writes is told so, not after."""
    library = Library()
    file = library.inner.lookup(library.root, name)

    found = nfs_replies.decode_access(library.client.call(nfs.ACCESS, nfs_calls.encode_access(file, 0x3F)), 0)

    assert (found.status, found.access) == (nfs.NFS3_OK, granted)


def test_reading_goes_on_as_before() -> None:
    """Names, bytes and COMMIT, which changes nothing, are served."""
    library = Library()

    found = nfs_replies.decode_lookup(library.client.call(nfs.LOOKUP, nfs_calls.encode_name(library.root, b"file")), 0)
    read = nfs_replies.decode_read(library.client.call(nfs.READ, nfs_calls.encode_range(library.file, 0, 100)), 0)
    committed = library.client.call(nfs.COMMIT, nfs_calls.encode_range(library.file, 0, 0))

    assert found.file == library.file
    assert bytes(read.data) == b"text"
    assert int.from_bytes(committed[:4]) == nfs.NFS3_OK
