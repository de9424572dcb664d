"""Claims about packets of RoCEv2: they are laid out as the specification says, and a changed bit is seen."""

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.rdma import packets
from lateack.nodes.rdma.packets import decode, encode
from lateack.nodes.stack.packets import Malformed
from tests.nodes.rdma.two_adapters import HERE, THERE

ICRC_POLYNOMIAL = 0xEDB88320


def frame(payload: bytes = b"", **fields: object) -> bytes:
    """Return a frame from here to there."""
    given: dict[str, object] = {"source_port": 0xC012, "opcode": packets.SEND_ONLY, "target_qp": 0x13, "psn": 5}
    return encode(HERE, THERE, payload=payload, **(given | fields))  # type: ignore[arg-type]


def crc_bit_by_bit(data: bytes) -> int:
    """Compute the CRC-32 of Ethernet one bit at a time, as its definition goes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (ICRC_POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_the_headers_lie_where_the_specification_puts_them() -> None:
    """BTH behind UDP port 4791: opcode, pad count, partition, queue pair, acknowledge request, PSN."""
    made = frame(b"abc", psn=0xABCDEF, wants_ack=True)

    assert made[36:38] == (4791).to_bytes(2, "big")
    assert made[42:54] == bytes([0x04, 0x50, 0xFF, 0xFF, 0, 0, 0, 0x13, 0x80, 0xAB, 0xCD, 0xEF])
    assert made[54:58] == b"abc\0"
    assert len(made) == 62


def test_the_icrc_counts_what_routers_change_as_ones() -> None:
    """64 ones for the absent local route header, then the packet with TOS, TTL, checksums and BTH's first flags as
    ones."""
    made = frame(b"payload!")
    masked = bytearray(b"\xff" * 8 + made[14:-4])
    for at in (1, 8, 10, 11, 26, 27, 32):
        masked[8 + at] = 0xFF

    assert int.from_bytes(made[-4:], "little") == crc_bit_by_bit(bytes(masked))


def test_a_router_may_count_down_the_time_to_live() -> None:
    """The ICRC is invariant: what a router does to the IP header leaves it right."""
    made = bytearray(frame(b"payload!"))
    made[22] -= 1
    made[24:26] = b"\x12\x34"

    assert decode(bytes(made)).payload == b"payload!"


@given(st.integers(42, 69), st.integers(0, 7))
def test_any_other_changed_bit_is_seen(at: int, bit: int) -> None:
    """In the transport's headers, the payload or the ICRC itself."""
    made = bytearray(frame(b"payload!" * 2))
    made[at] ^= 1 << bit

    if at == 46:  # FECN, BECN: may change on the way
        decode(bytes(made))
    else:
        with pytest.raises(Malformed):
            decode(bytes(made))


@given(
    st.sampled_from(sorted(packets.OPCODES)), st.integers(0, packets.PSN_MASK), st.binary(max_size=300), st.booleans()
)
def test_what_is_encoded_is_decoded(opcode: int, psn: int, payload: bytes, wants_ack: bool) -> None:
    """Whatever the opcode, and however much padding the payload needs."""
    transport = bytes(range(packets.TRANSPORT_BYTES.get(opcode, 0)))

    seen = decode(frame(payload, opcode=opcode, psn=psn, transport=transport, wants_ack=wants_ack))

    assert (seen.source, seen.opcode, seen.target_qp, seen.psn) == (HERE.ip, opcode, 0x13, psn)
    assert (seen.transport, seen.payload, seen.wants_ack) == (transport, payload, wants_ack)


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    """Noise is malformed, and nothing else happens."""
    with pytest.raises(Malformed):
        decode(data)


def test_a_packet_cut_short_is_refused() -> None:
    """At any length."""
    made = frame(b"payload!")

    for length in range(len(made)):
        with pytest.raises(Malformed):
            decode(made[:length])
