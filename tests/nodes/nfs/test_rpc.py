"""ONC RPC messages against RFC 5531, byte by byte, and records out of a stream cut anywhere."""

from __future__ import annotations

import contextlib
import copy
import itertools

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.nfs import rpc
from lateack.nodes.nfs.xdr import XdrError

GUEST = rpc.AuthSys(stamp=7, machine=b"guest", uid=1000, gid=100, groups=(4, 24))
GUEST_BYTES = bytes.fromhex(
    "00000001 00000024"  # AUTH_SYS, 36 bytes
    "00000007 00000005 6775657374 000000 000003e8 00000064 00000002 00000004 00000018"
    "00000000 00000000"  # a verifier of AUTH_NONE
)
CALL_BYTES = bytes.fromhex("1234abcd 00000000 00000002 000186a3 00000003 00000007") + GUEST_BYTES


def test_a_call_has_the_bytes_of_the_rfc() -> None:
    """XID, CALL, RPC version 2, program, version, procedure, credential, verifier."""
    credential = rpc.encode_auth_sys(GUEST)

    assert rpc.encode_call(0x1234ABCD, 100003, 3, 7, credential) == CALL_BYTES


def test_a_call_is_read_back() -> None:
    """The header's fields and the place of the arguments come out as they went in."""
    call = rpc.decode_call(CALL_BYTES + b"args")

    assert (call.xid, call.program, call.version, call.procedure) == (0x1234ABCD, 100003, 3, 7)
    assert call.arguments == len(CALL_BYTES)
    assert rpc.decode_auth_sys(call.credential) == GUEST


@pytest.mark.parametrize("size", range(0, len(CALL_BYTES), 4))
def test_a_call_cut_short_cannot_be_answered(size: int) -> None:
    """A header that ends early is no call."""
    with pytest.raises(XdrError):
        rpc.decode_call(CALL_BYTES[:size])


def test_another_rpc_version_is_denied_with_ours() -> None:
    """A call of RPC version 3 is answered by MSG_DENIED, RPC_MISMATCH, 2, 2."""
    record = CALL_BYTES[:8] + bytes.fromhex("00000003") + CALL_BYTES[12:]

    with pytest.raises(rpc.RpcRefused) as refused:
        rpc.decode_call(record)

    assert refused.value.reply == bytes.fromhex("1234abcd 00000001 00000001 00000000 00000002 00000002")
    assert rpc.decode_reply(refused.value.reply) == rpc.Reply(0x1234ABCD, False, rpc.RPC_MISMATCH, 24, 2, 2)


def test_a_credential_beyond_400_bytes_is_denied() -> None:
    """RFC 5531 bounds the body of an opaque_auth."""
    record = CALL_BYTES[:28] + (401).to_bytes(4, "big") + bytes(500)

    with pytest.raises(rpc.RpcRefused) as refused:
        rpc.decode_call(record)

    assert rpc.decode_reply(refused.value.reply) == rpc.Reply(0x1234ABCD, False, rpc.AUTH_ERROR, 20, rpc.AUTH_BADCRED)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("00000005 00000001 00000000 00000000 00000000 00000000", rpc.encode_success(5, b"")),
        ("00000005 00000001 00000000 00000000 00000000 00000001", rpc.encode_refusal(5, rpc.PROG_UNAVAIL)),
        (
            "00000005 00000001 00000000 00000000 00000000 00000002 00000003 00000003",
            rpc.encode_program_mismatch(5, 3, 3),
        ),
        ("00000005 00000001 00000000 00000000 00000000 00000003", rpc.encode_refusal(5, rpc.PROC_UNAVAIL)),
        ("00000005 00000001 00000000 00000000 00000000 00000004", rpc.encode_refusal(5, rpc.GARBAGE_ARGS)),
        ("00000005 00000001 00000000 00000000 00000000 00000005", rpc.encode_refusal(5, rpc.SYSTEM_ERR)),
        ("00000005 00000001 00000001 00000001 00000001", rpc.encode_auth_error(5, rpc.AUTH_BADCRED)),
    ],
)
def test_a_reply_has_the_bytes_of_the_rfc(reply: str, expected: bytes) -> None:
    """Every kind of reply, written by hand."""
    assert expected == bytes.fromhex(reply)
    assert rpc.decode_reply(expected).xid == 5


def test_a_reply_with_a_verifier_is_read() -> None:
    """The results begin after whatever verifier the server sent."""
    record = bytes.fromhex("00000005 00000001 00000000 00000001 00000005 6162636465 000000 00000000") + b"rest"

    reply = rpc.decode_reply(record)

    assert reply.succeeded()
    assert record[reply.results :] == b"rest"


@given(st.binary(max_size=60))
def test_a_reply_of_any_bytes_is_read_or_an_error(record: bytes) -> None:
    """Nothing but XdrError comes out of foreign bytes."""
    with contextlib.suppress(XdrError):
        rpc.decode_reply(record)


def test_a_record_mark_has_its_high_bit_on_the_last_fragment() -> None:
    """RFC 5531 section 11."""
    assert rpc.record_mark(0x1234) == bytes.fromhex("80001234")
    assert rpc.record_mark(0x1234, last=False) == bytes.fromhex("00001234")


records_cut_into_fragments = st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=4), max_size=6)


@given(records_cut_into_fragments, st.lists(st.integers(0, 200), max_size=20), st.booleans())
def test_records_come_out_however_the_stream_was_cut(records: list[list[bytes]], cuts: list[int], views: bool) -> None:
    """Fragments and chunks are two independent ways of cutting, and neither shows in the records."""
    stream = b"".join(
        rpc.record_mark(len(part), index == len(record) - 1) + part
        for record in records
        for index, part in enumerate(record)
    )
    reader = rpc.RecordReader()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[start:end] for start, end in itertools.pairwise(edges)]

    found = [record for chunk in chunks for record in reader.feed(memoryview(chunk) if views else chunk)]

    assert found == [b"".join(record) for record in records]


def test_a_record_beyond_the_bound_ends_the_connection() -> None:
    """The sum of the fragments counts, and a reader that lost its framing stays lost."""
    reader = rpc.RecordReader(record_bytes_max=10)
    reader.feed(rpc.record_mark(8, last=False) + bytes(8))

    with pytest.raises(rpc.RecordTooLong):
        reader.feed(rpc.record_mark(3))
    with pytest.raises(rpc.RecordTooLong):
        reader.feed(b"more")


def test_fragments_without_end_end_the_connection() -> None:
    """Empty fragments cannot make a reader work for ever on one record."""
    reader = rpc.RecordReader()

    with pytest.raises(rpc.RecordTooLong):
        reader.feed(rpc.record_mark(0, last=False) * (rpc.FRAGMENTS_MAX + 1))


def test_a_reader_keeps_its_own_copy_of_a_view() -> None:
    """A frame's memory may be refilled, and the machine copied, before the record is complete."""
    reader = rpc.RecordReader()
    frame = bytearray(rpc.record_mark(8) + b"abcd")
    reader.feed(memoryview(frame))

    frame[:] = bytes(8)
    twin = copy.deepcopy(reader)

    assert reader.feed(b"efgh") == twin.feed(b"efgh") == [b"abcdefgh"]
