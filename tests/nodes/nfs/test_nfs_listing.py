"""Directories as lists: what goes into a reply, and how a client goes on."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.nfs import nfs, nfs_calls, nfs_listing, nfs_replies
from lateack.nodes.nfs.nfs_server import NfsServer
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.storage.store import Store
from tests.nodes.nfs.conversation import Conversation

ATTRIBUTES = nfs.Attributes(nfs.NF3REG, 0o644, 1, 0, 0, 5, 5, 1, 42, 0, 0, 0)
READDIRPLUS = bytes.fromhex("00000004 61626364 0000000000000007 3837363534333231 00000200 00001000")


@pytest.fixture
def client(store: Store) -> Conversation:
    """A client of a server over each kind of store."""
    return Conversation(NfsServer(store, b"verifier"))


def listed(
    client: Conversation, cookie: int = 0, names_max: int = 8192, count: int = 32768, directory: bytes | None = None
) -> nfs_listing.ReaddirplusResult:
    """One READDIRPLUS."""
    arguments = nfs_listing.encode_readdirplus(
        directory or client.server.root_handle, cookie, bytes(8), names_max, count=count
    )
    return nfs_listing.decode_readdirplus_result(client.call(nfs.READDIRPLUS, arguments), 0)


def test_the_call_has_the_bytes_of_the_rfc() -> None:
    """Section 3.3.17: directory, cookie, verifier, dircount, maxcount."""
    encoded = nfs_listing.encode_readdirplus(b"abcd", 7, b"87654321", 512, count=4096)

    assert encoded == READDIRPLUS
    assert nfs_listing.decode_readdirplus(b"....." + encoded, 5) == nfs_listing.ReaddirplusArguments(
        b"abcd", 7, b"87654321", 512, 4096
    )


def test_the_results_are_read_back() -> None:
    """With and without what an entry names; and an entry takes the bytes that it says."""
    with_all = nfs_listing.EntryPlus(nfs_listing.Entry(9, b"file!", 42), ATTRIBUTES, b"handle")
    bare = nfs_listing.EntryPlus(nfs_listing.Entry(10, b"gone", 43), None, None)
    empty = nfs_listing.encode_readdirplus_result(ATTRIBUTES, (), b"verifier", True)

    encoded = nfs_listing.encode_readdirplus_result(ATTRIBUTES, (with_all, bare), b"verifier", False)

    assert nfs_listing.decode_readdirplus_result(encoded, 0) == nfs_listing.ReaddirplusResult(
        0, (with_all, bare), b"verifier", False
    )
    assert len(encoded) - len(empty) == with_all.size() + bare.size()
    assert len(empty) == 4 + nfs_listing.RESULT_BYTES


def test_entries_come_with_what_they_name(client: Conversation) -> None:
    """As LOOKUP and GETATTR would tell it; the directory above the root is the root."""
    inner, root = client.made_directory(b"inner"), client.server.root_handle
    file = client.made(b"file", inner)

    found = {each.entry.name: each for each in listed(client, directory=inner).entries}
    above = {each.entry.name: each for each in listed(client).entries}

    assert found.keys() == {b".", b"..", b"file"}
    assert (found[b"file"].handle, found[b"file"].attributes) == (file, client.attributes(file))
    assert (found[b"."].handle, found[b".."].handle) == (inner, root)
    assert found[b".."].entry.fileid == client.attributes(root).fileid
    assert above[b".."].handle == above[b"."].handle == root
    assert all(each.attributes is not None and each.attributes.fileid == each.entry.fileid for each in found.values())


def test_dot_and_dot_dot_are_looked_up(client: Conversation) -> None:
    """They are names in a directory (section 3.3.3), and nothing lies above the root."""
    root, inner = client.server.root_handle, client.made_directory(b"inner")
    file = client.made(b"file")

    assert client.lookup(b".", inner).file == inner
    assert client.lookup(b"..", inner).file == root
    assert client.lookup(b"..", root).file == root
    assert client.lookup(b".", file).status == client.lookup(b"..", file).status == nfs.NFS3ERR_NOTDIR


@pytest.mark.parametrize("limits", [(8192, 700), (90, 32768)])
def test_a_long_directory_comes_in_parts(client: Conversation, limits: tuple[int, int]) -> None:
    """By the length of the reply or by the names alone, and no reply is longer than was asked."""
    names = {b"name-%03d" % number for number in range(30)}
    for name in names:
        client.made(name)
    found: list[bytes] = []
    cookie, eof = 0, False
    while not eof:
        part = listed(client, cookie, *limits)
        assert sum(each.size() for each in part.entries) + nfs_listing.RESULT_BYTES <= limits[1]
        assert sum(each.entry.size() for each in part.entries) <= limits[0]
        found += [each.entry.name for each in part.entries]
        cookie, eof = part.entries[-1].entry.cookie, part.eof

    assert sorted(found) == sorted({b".", b"..", *names})
    assert listed(client, count=200).status == nfs.NFS3ERR_TOOSMALL


@given(st.sets(st.binary(min_size=1, max_size=8).filter(lambda name: not set(name) & set(b"/\0.")), min_size=4))
def test_who_removes_while_listing_misses_nothing(names: set[bytes]) -> None:
    """As `rm -r` does: an entry's cookie stays what it was, whatever goes or comes."""
    client = Conversation(NfsServer(MemoryStore(), b"verifier"))
    root = client.server.root_handle
    for name in names:
        client.made(name)
    seen: list[bytes] = []
    cookie, eof = 0, False
    while not eof:
        part = nfs_replies.decode_readdir(
            client.call(nfs.READDIR, nfs_calls.encode_readdir(root, cookie, bytes(8), 200)), 0
        )
        for _, name, _ in part.entries:
            if name not in (b".", b".."):
                seen.append(name)
                client.status(nfs.REMOVE, nfs_calls.encode_name(root, name))
        cookie, eof = part.entries[-1][2] if part.entries else cookie, part.eof

    assert sorted(seen) == sorted(names)


def test_what_is_no_directory_has_no_entries(client: Conversation) -> None:
    """READDIRPLUS says so."""
    assert listed(client, directory=client.made(b"file")).status == nfs.NFS3ERR_NOTDIR
    assert listed(client, directory=b"none").status == nfs.NFS3ERR_BADHANDLE
