"""The results of NFSv3 calls, byte by byte and back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.nfs import nfs, nfs_replies
from lateack.nodes.nfs.xdr import XdrError

FILE = nfs.Attributes(nfs.NF3REG, 0o644, 1, 0, 0, 5, 5, 7, 42, 1, 2, 3)
CAPACITY = nfs.Capacity(1, 2, 3, 4, 5, 6)

DECODERS: tuple[Callable[[bytes, int], object], ...] = (
    nfs_replies.decode_getattr,
    nfs_replies.decode_status,
    nfs_replies.decode_lookup,
    nfs_replies.decode_access,
    nfs_replies.decode_read,
    nfs_replies.decode_write_result,
    nfs_replies.decode_create,
    nfs_replies.decode_commit,
    nfs_replies.decode_readdir,
    nfs_replies.decode_fsinfo,
    nfs_replies.decode_fsstat,
    nfs_replies.decode_pathconf,
)


def test_a_write_is_answered_with_the_bytes_of_the_rfc() -> None:
    """Section 3.3.7: status, wcc_data, count, committed, verifier."""
    results = nfs_replies.encode_write(FILE, FILE, 5, nfs.FILE_SYNC, b"verifier")

    assert results == bytes(4) + nfs.pack_wcc(FILE, FILE) + bytes.fromhex("00000005 00000002") + b"verifier"
    assert nfs_replies.decode_write_result(b"head" + results, 4) == nfs_replies.WriteResult(0, 5, 2, b"verifier")


@pytest.mark.parametrize(("before", "after"), [(None, None), (FILE, None), (None, FILE), (FILE, FILE)])
def test_write_results_are_read_whatever_attributes_come(
    before: nfs.Attributes | None, after: nfs.Attributes | None
) -> None:
    """A server may leave any of them out."""
    results = bytes(4) + nfs.pack_wcc(before, after) + bytes.fromhex("00000005 00000000") + b"verifier"

    assert nfs_replies.decode_write_result(results, 0) == nfs_replies.WriteResult(0, 5, 0, b"verifier")


def test_every_success_is_read_back() -> None:
    """What a server encodes, a client decodes."""
    r = nfs_replies

    assert r.decode_getattr(r.encode_getattr(FILE), 0) == r.GetattrResult(0, FILE)
    assert r.decode_status(r.encode_changed(FILE, FILE), 0) == r.Result(0)
    assert r.decode_status(r.encode_rename(FILE, FILE), 0) == r.Result(0)
    assert r.decode_lookup(r.encode_lookup(b"handle", FILE, FILE), 0) == r.FileResult(0, b"handle", FILE)
    assert r.decode_access(r.encode_access(FILE, 5), 0) == r.AccessResult(0, 5)
    assert r.decode_read(r.encode_read(FILE, b"bytes", True), 0) == r.ReadResult(0, b"bytes", True)
    assert r.decode_create(r.encode_create(b"handle", FILE, FILE), 0) == r.FileResult(0, b"handle", FILE)
    assert r.decode_commit(r.encode_commit(FILE, FILE, b"verifier"), 0) == r.CommitResult(0, b"verifier")
    assert r.decode_fsinfo(r.encode_fsinfo(FILE, 65536, 99), 0) == r.FsinfoResult(0, 65536, 65536, 99, 0x1B)
    assert r.decode_fsstat(r.encode_fsstat(FILE, CAPACITY), 0) == r.FsstatResult(0, CAPACITY)
    assert r.decode_pathconf(r.encode_pathconf(FILE, 10, 255), 0) == r.PathconfResult(0, 10, 255)


def test_a_directory_is_read_back() -> None:
    """Entries, cookies, verifier and the end."""
    entries = [(1, b".", 1), (42, b"file", 2)]

    found = nfs_replies.decode_readdir(nfs_replies.encode_readdir(FILE, entries, b"verifier", True), 0)

    assert found == nfs_replies.ReaddirResult(0, tuple(entries), b"verifier", True)


@given(st.sampled_from(DECODERS), st.binary(max_size=200), st.booleans())
def test_foreign_bytes_are_read_or_an_error(
    decode: Callable[[bytes, int], object], results: bytes, success: bool
) -> None:
    """Nothing but XdrError comes out of them."""
    with contextlib.suppress(XdrError):
        decode(bytes(4) + results if success else results, 0)
