"""Claims about the header of RPC over RDMA: what a client names a server finds, and what is of no use is refused."""

import contextlib

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.nfs.xdr import XdrError
from lateack.nodes.rdma.rpc_rdma import ReadChunk, decode_header, encode_header

CHUNK = ReadChunk(148, 0x300, 4096, 63 << 12)


def test_a_message_without_chunks_begins_behind_seven_words() -> None:
    """Xid, version, credits, RDMA_MSG, and three empty lists (RFC 8166, 4.2)."""
    header = encode_header(9, 32)

    assert header == bytes.fromhex("00000009 00000001 00000020 00000000 00000000 00000000 00000000")
    assert decode_header(header + b"message").message == 28


def test_a_read_chunk_says_where_the_rest_of_the_message_is() -> None:
    """Position, key, length and address."""
    seen = decode_header(encode_header(9, 32, CHUNK))

    assert (seen.xid, seen.credits, seen.chunks, seen.message) == (9, 32, (CHUNK,), 52)


@pytest.mark.parametrize(
    "header",
    [
        bytes.fromhex("00000009 00000002 00000020 00000000 00000000 00000000 00000000"),
        bytes.fromhex("00000009 00000001 00000020 00000001 00000000 00000000 00000000"),
        bytes.fromhex("00000009 00000001 00000020 00000000 00000000 00000001 00000000"),
        encode_header(9, 32, CHUNK)[:40] + encode_header(9, 32, CHUNK)[16:],
        encode_header(9, 32, CHUNK)[:-1],
    ],
    ids=["version 2", "RDMA_NOMSG", "a write chunk", "two chunks", "cut short"],
)
def test_what_nobody_has_a_use_for_is_refused(header: bytes) -> None:
    """With an error that names no more than its reason."""
    with pytest.raises(XdrError):
        decode_header(header)


@given(st.binary(max_size=120))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """A peer may send what it likes."""
    with contextlib.suppress(XdrError):
        assert decode_header(data).message <= len(data)
