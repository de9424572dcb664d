"""What each procedure does, on every store, as a client sees it."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
import xxhash

from lateack.nodes.nfs import nfs, nfs_calls, nfs_links, nfs_listing, nfs_replies
from lateack.nodes.nfs.nfs_server import NfsServer
from lateack.nodes.nfs.server_events import CommitExecuted, OperationFailed, WriteExecuted
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.storage.store import Store, make_handle
from tests.nodes.nfs.conversation import GUEST, Conversation, write_arguments


@pytest.fixture
def client(store: Store) -> Conversation:
    """A client of a server on each kind of store."""
    return Conversation(NfsServer(store, b"verifier"))


def test_a_written_file_is_read_and_found_again(client: Conversation) -> None:
    """CREATE, WRITE, LOOKUP, READ: the whole way of a file."""
    file = client.made(b"file")
    written = client.write(file, 2, b"some bytes")

    found = client.lookup(b"file")
    read = client.read(file, 4, 100)

    assert written == nfs_replies.WriteResult(0, 10, nfs.FILE_SYNC, b"verifier")
    assert found.file == file
    assert found.attributes is not None
    assert (found.attributes.size, found.attributes.mode) == (12, 0o640)
    assert read == nfs_replies.ReadResult(0, b"me bytes", True)


@pytest.mark.parametrize("stable", [nfs.UNSTABLE, nfs.DATA_SYNC, nfs.FILE_SYNC])
def test_a_write_is_as_stable_as_asked_and_says_what_it_wrote(client: Conversation, stable: int) -> None:
    """The event names the file and digests the bytes."""
    file = client.made(b"file")

    written = client.write(file, 8, b"data", stable)
    committed = client.commit(file)

    assert written.committed == stable
    assert committed == nfs_replies.CommitResult(0, b"verifier")
    assert client.server.drain_events() == [
        WriteExecuted(2, GUEST, "file", 8, 4, stable, xxhash.xxh3_64_intdigest(b"data")),
        CommitExecuted(3, GUEST, "file", 0, 0),
    ]
    assert client.server.events == []


def test_a_write_beyond_the_servers_size_is_short(store: Store) -> None:
    """The count tells how much was taken."""
    client = Conversation(NfsServer(store, b"verifier", transfer_max=8))
    file = client.made(b"file")

    written = client.write(file, 0, b"0123456789ab")

    assert written.count == 8
    assert client.attributes(file).size == 8


def test_creation_has_three_modes(client: Conversation) -> None:
    """UNCHECKED takes what is there, GUARDED refuses it, EXCLUSIVE takes what the same call made."""
    file = client.made(b"file")
    unchecked = client.create(b"file")
    guarded = client.create(b"file", mode=nfs.GUARDED)
    exclusive = client.create(b"new", mode=nfs.EXCLUSIVE, verifier=b"\xff2345678")
    again = client.create(b"new", mode=nfs.EXCLUSIVE, verifier=b"\xff2345678")
    another = client.create(b"new", mode=nfs.EXCLUSIVE, verifier=b"87654321")

    assert unchecked.file == file
    assert (guarded.status, another.status) == (nfs.NFS3ERR_EXIST, nfs.NFS3ERR_EXIST)
    assert exclusive.file is not None
    assert again.file == exclusive.file


def test_attributes_are_set_unless_a_guard_forbids(client: Conversation) -> None:
    """A guard is the ctime that the client last saw."""
    file = client.made(b"file")
    seen = client.attributes(file).ctime

    late = client.status(nfs.SETATTR, nfs_calls.encode_setattr(file, nfs.SetAttributes(size=7), seen + 1))
    timely = client.status(nfs.SETATTR, nfs_calls.encode_setattr(file, nfs.SetAttributes(size=5), seen))

    assert (late, timely) == (nfs.NFS3ERR_NOT_SYNC, nfs.NFS3_OK)
    assert client.attributes(file).size == 5


def test_directories_are_made_listed_and_removed(client: Conversation) -> None:
    """MKDIR, RENAME, READDIR, REMOVE, RMDIR."""
    root = client.server.root_handle
    inner = client.made_directory(b"inner")
    client.made(b"file", inner)
    moved = client.status(nfs.RENAME, nfs_calls.encode_rename(inner, b"file", root, b"moved"))

    listing = nfs_replies.decode_readdir(client.call(nfs.READDIR, nfs_calls.encode_readdir(root, 0, bytes(8), 4096)), 0)
    removed = client.status(nfs.REMOVE, nfs_calls.encode_name(root, b"moved"))
    emptied = client.status(nfs.RMDIR, nfs_calls.encode_name(root, b"inner"))

    assert (moved, removed, emptied) == (0, 0, 0)
    assert [name for _, name, _ in listing.entries[:2]] == [b".", b".."]
    assert {name for _, name, _ in listing.entries[2:]} == {b"inner", b"moved"}
    assert listing.eof


def test_a_long_directory_is_listed_in_parts(client: Conversation) -> None:
    """Each call goes on after the last one's cookie, and a call too small for one entry is told so."""
    names = [b"file-%02d" % number for number in range(20)]
    for name in names:
        client.made(name)
    root = client.server.root_handle
    found: list[bytes] = []
    cookie, eof = 0, False
    while not eof:
        part = nfs_replies.decode_readdir(
            client.call(nfs.READDIR, nfs_calls.encode_readdir(root, cookie, bytes(8), 400)), 0
        )
        found += [name for _, name, _ in part.entries]
        cookie, eof = part.entries[-1][2], part.eof

    assert sorted(found) == sorted([b".", b"..", *names])
    assert client.status(nfs.READDIR, nfs_calls.encode_readdir(root, 0, bytes(8), 100)) == nfs.NFS3ERR_TOOSMALL


def test_a_client_learns_what_it_needs_to_mount(client: Conversation) -> None:
    """FSINFO, FSSTAT, PATHCONF and ACCESS."""
    root = client.server.root_handle
    file = nfs_calls.encode_file(root)

    fsinfo = nfs_replies.decode_fsinfo(client.call(nfs.FSINFO, file), 0)
    fsstat = nfs_replies.decode_fsstat(client.call(nfs.FSSTAT, file), 0)
    pathconf = nfs_replies.decode_pathconf(client.call(nfs.PATHCONF, file), 0)
    access = nfs_replies.decode_access(client.call(nfs.ACCESS, nfs_calls.encode_access(root, 0x3F)), 0)

    assert (fsinfo.read_max, fsinfo.write_max) == (65536, 65536)
    assert fsstat.capacity is not None
    assert fsstat.capacity.total_bytes > 0
    assert pathconf.name_max == 255
    assert access.access == 0x1F
    assert client.attributes(root).kind == nfs.NF3DIR


CALLS: dict[int, Callable[[bytes], bytes]] = {
    nfs.GETATTR: nfs_calls.encode_file,
    nfs.SETATTR: lambda handle: nfs_calls.encode_setattr(handle, nfs.SetAttributes(mode=0o600)),
    nfs.LOOKUP: lambda handle: nfs_calls.encode_name(handle, b"name"),
    nfs.ACCESS: lambda handle: nfs_calls.encode_access(handle, 1),
    nfs.READLINK: nfs_calls.encode_file,
    nfs.READ: lambda handle: nfs_calls.encode_range(handle, 0, 9),
    nfs.WRITE: lambda handle: write_arguments(handle, 0, b"data", nfs.UNSTABLE),
    nfs.CREATE: lambda handle: nfs_calls.encode_create(handle, b"name", nfs.SetAttributes()),
    nfs.MKDIR: lambda handle: nfs_calls.encode_mkdir(handle, b"name", nfs.SetAttributes()),
    nfs.SYMLINK: lambda handle: nfs_links.encode_symlink(handle, b"name", b"target"),
    nfs.MKNOD: lambda handle: nfs_links.encode_mknod(handle, b"name", nfs.NF3FIFO),
    nfs.REMOVE: lambda handle: nfs_calls.encode_name(handle, b"name"),
    nfs.RMDIR: lambda handle: nfs_calls.encode_name(handle, b"name"),
    nfs.RENAME: lambda handle: nfs_calls.encode_rename(handle, b"name", handle, b"other"),
    nfs.LINK: lambda handle: nfs_links.encode_link(handle, handle, b"name"),
    nfs.READDIR: lambda handle: nfs_calls.encode_readdir(handle, 0, bytes(8), 4096),
    nfs.READDIRPLUS: lambda handle: nfs_listing.encode_readdirplus(handle, 0, bytes(8), 4096, count=4096),
    nfs.FSSTAT: nfs_calls.encode_file,
    nfs.FSINFO: nfs_calls.encode_file,
    nfs.PATHCONF: nfs_calls.encode_file,
    nfs.COMMIT: lambda handle: nfs_calls.encode_range(handle, 0, 0),
}


@pytest.mark.parametrize("procedure", CALLS)
def test_a_handle_that_is_none_is_told_from_one_of_a_file_that_is_gone(client: Conversation, procedure: int) -> None:
    """NFS3ERR_BADHANDLE for what never was ours, NFS3ERR_STALE for what no longer is (RFC 1813 section 2.6)."""
    gone = client.made(b"gone")
    client.status(nfs.REMOVE, nfs_calls.encode_name(client.server.root_handle, b"gone"))
    handles = (b"", b"short", gone[:-1], gone + b"\0" * 4, gone[:-1] + b"\1"), (make_handle(99, 1, 1, len(gone)), gone)

    bad, stale = ([client.status(procedure, CALLS[procedure](handle)) for handle in each] for each in handles)

    assert bad == [nfs.NFS3ERR_BADHANDLE] * 5
    assert stale == [nfs.NFS3ERR_STALE] * 2


class FailingStore(MemoryStore):
    """A store whose disk is full, and whose cache cannot be written back."""

    def write(self, file: bytes, offset: int, data: memoryview, now: int) -> int:
        """Fail as a full disk does."""
        if offset:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(file, offset, data, now)

    def commit(self, file: bytes) -> None:
        """Fail as a broken disk does."""
        raise OSError(errno.EIO, "Input/output error")


def test_a_full_disk_is_told() -> None:
    """NFS3ERR_NOSPC, in the reply and as an event, and nothing is said to be written."""
    client = Conversation(NfsServer(FailingStore(), b"verifier"))
    file = client.made(b"file")

    written = client.write(file, 4096, b"data")

    assert written == nfs_replies.WriteResult(nfs.NFS3ERR_NOSPC)
    assert client.server.events == [OperationFailed(2, GUEST, nfs.WRITE, nfs.NFS3ERR_NOSPC)]


def test_a_failed_writeback_changes_the_verifier() -> None:
    """So that every client sends again what it believed written."""
    client = Conversation(NfsServer(FailingStore(), b"\xff\xff\xff\xff\0\0\0\1"))
    file = client.made(b"file")
    before = client.write(file, 0, b"data", nfs.UNSTABLE).verifier

    committed = client.commit(file)

    assert committed.status == nfs.NFS3ERR_IO
    assert before == b"\xff\xff\xff\xff\0\0\0\1"
    assert client.write(file, 0, b"data", nfs.UNSTABLE).verifier == b"\0\0\0\0\0\0\0\1"
