"""Claims about headers, checksums, and what a receiver believes."""

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.stack import packets
from lateack.nodes.stack.packets import (
    ETH_HLEN,
    IP_HLEN,
    IPPROTO_TCP,
    IPPROTO_UDP,
    SUMS_MAX,
    Malformed,
    address_of,
    address_text,
    checksum_of,
    datagram_key,
    digest_of,
    flow_name,
    ip_checksum,
    ones_sum,
    parse,
    pseudo_sum,
    remembered_sum,
)
from tests.nodes.stack.fakes import GUEST, SERVER, slow_checksum, slow_ip, slow_tcp, slow_udp

# A SYN of a Linux client to port 80, 10.0.0.1 > 10.0.0.2, its sums done by hand with a pencil and end-around carry:
# IP      4500+0028+0001+4000+4006+0a00+0001+0a00+0002 = d932, complement 26cd
# TCP     pseudo header 0a00+0001+0a00+0002+0006+0014 = 141d; header 0400+0050+0001+5002+2000 = 7453; 8870, so 778f
HAND_MADE = bytes.fromhex(
    "0200000000020200000000010800"
    "4500002800014000400626cd0a0000010a000002"
    "04000050000000010000000050022000778f0000"
)  # fmt: skip


def test_the_example_of_rfc_1071_sums_to_ddf2() -> None:
    """The bytes 00 01 f2 03 f4 f5 f6 f7 have the one's complement sum ddf2 (RFC 1071 section 3)."""
    assert ones_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2
    assert checksum_of(0xDDF2) == 0x220D


def test_a_segment_summed_by_hand_is_accepted() -> None:
    """A SYN whose two checksums were added up on paper parses, and its fields are where they belong."""
    segment = parse(HAND_MADE)

    assert (segment.protocol, segment.source, segment.target) == (IPPROTO_TCP, GUEST, SERVER)
    assert (segment.sport, segment.dport, segment.seq, segment.flags, segment.window) == (1024, 80, 1, 2, 0x2000)
    assert segment.payload == segment.options == b""


@given(st.binary(max_size=64))
def test_the_fast_sum_agrees_with_the_slow_one(data: bytes) -> None:
    """Folding by the modulus gives the checksum of RFC 1071 for every length; 0000 and ffff are one number there."""
    assert (0xFFFF - ones_sum(data)) % 0xFFFF == slow_checksum(data) % 0xFFFF


@given(st.binary(max_size=48), st.binary(max_size=48))
def test_the_sum_of_a_packet_is_the_sum_of_its_parts(first: bytes, second: bytes) -> None:
    """Sums add up at even boundaries, which is what allows a part to be summed once and remembered."""
    first = first if len(first) % 2 == 0 else first + b"\0"

    assert (ones_sum(first) + ones_sum(second)) % 0xFFFF == ones_sum(first + second) % 0xFFFF


@given(st.integers(21, 1500), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.sampled_from((6, 17)))
def test_the_ip_checksum_agrees_with_a_slow_encoder(total: int, ident: int, fragment: int, protocol: int) -> None:
    """The header sum computed from fields is the one computed from bytes."""
    frame = slow_ip(protocol, bytes(total - 20), source=GUEST, target=SERVER, ident=ident, fragment=fragment)

    assert ip_checksum(total, ident, fragment, protocol, GUEST, SERVER) % 0xFFFF == (
        int.from_bytes(frame[24:26], "big") % 0xFFFF
    )


@given(st.binary(max_size=40))
def test_a_sum_of_zero_is_sent_as_all_ones(data: bytes) -> None:
    """A checksum field is never 0000, which in UDP would mean that there is none (RFC 768)."""
    assert checksum_of(ones_sum(data)) != 0
    assert checksum_of(0xFFFF) == checksum_of(0) == 0xFFFF


@given(st.binary(max_size=120), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF), st.integers(0, 0x3F))
def test_a_tcp_segment_of_another_encoder_is_understood(payload: bytes, seq: int, ack: int, flags: int) -> None:
    """Every field of a segment comes back, odd lengths included, with the digest of the payload."""
    segment = parse(slow_tcp(seq=seq, ack=ack, flags=flags, window=77, payload=payload, options=b"\1\1\1\0"))

    assert (segment.seq, segment.ack, segment.flags, segment.window) == (seq, ack, flags, 77)
    assert (segment.payload, segment.options, segment.digest) == (payload, b"\1\1\1\0", digest_of(payload))


@given(st.binary(max_size=120))
def test_a_datagram_of_another_encoder_is_understood(payload: bytes) -> None:
    """A UDP datagram comes back with ports and payload."""
    segment = parse(slow_udp(payload))

    assert (segment.protocol, segment.sport, segment.dport, segment.payload) == (IPPROTO_UDP, 700, 2049, payload)


def test_a_datagram_without_a_checksum_is_accepted() -> None:
    """A UDP checksum field of zero says that the sender did not compute one (RFC 768)."""
    frame = bytearray(slow_udp(b"unsummed"))
    frame[40:42] = b"\0\0"

    assert parse(bytes(frame)).payload == b"unsummed"


def test_padding_behind_a_packet_is_no_payload() -> None:
    """Ethernet pads short frames to 60 bytes; the IPv4 length says where the packet ends."""
    assert parse(slow_tcp(payload=b"x") + bytes(5)).payload == b"x"
    assert parse(slow_udp(b"y") + bytes(17)).payload == b"y"


@given(st.booleans(), st.binary(max_size=24), st.data())
def test_no_single_bit_flip_is_believed(tcp: bool, payload: bytes, data: st.DataObject) -> None:
    """Every single wrong bit behind the Ethernet addresses is noticed; those are guarded by the frame's own CRC."""
    frame = slow_tcp(seq=9, ack=8, payload=payload) if tcp else slow_udp(payload)
    bit = data.draw(st.integers(12 * 8, len(frame) * 8 - 1))
    bent = bytearray(frame)
    bent[bit // 8] ^= 1 << bit % 8

    with pytest.raises(Malformed):
        parse(bytes(bent))


def test_every_single_bit_of_one_segment_is_guarded() -> None:
    """The same, exhaustively, for one TCP segment and one datagram: type, IPv4 header, transport header, payload."""
    for frame in (slow_tcp(payload=b"late"), slow_udp(b"odd")):
        for bit in range(12 * 8, len(frame) * 8):
            bent = bytearray(frame)
            bent[bit // 8] ^= 1 << bit % 8

            with pytest.raises(Malformed):
                parse(bytes(bent))


@given(st.binary(max_size=80))
def test_noise_is_malformed_and_nothing_worse(noise: bytes) -> None:
    """Arbitrary bytes are refused in good order, even with an Ethernet and IPv4 beginning."""
    for frame in (noise, HAND_MADE[:16] + noise, HAND_MADE[:34] + noise, HAND_MADE[:-1]):
        with pytest.raises(Malformed):
            parse(frame)


def test_other_protocols_are_refused() -> None:
    """ICMP is neither TCP nor UDP, and says so."""
    with pytest.raises(Malformed, match="neither TCP nor UDP"):
        parse(slow_ip(1, bytes(8), source=GUEST, target=SERVER))


def test_a_type_of_service_is_part_of_the_header_sum() -> None:
    """A packet with a TOS is a packet like any other, and a flipped TOS bit is not."""
    frame = bytearray(slow_udp(b"urgent"))
    frame[15] = 0x10
    frame[24:26] = (0xFFFF - (0xFFFF - int.from_bytes(frame[24:26], "big") + 0x10)).to_bytes(2, "big")

    assert parse(bytes(frame)).payload == b"urgent"


def test_the_memory_of_sums_is_bounded_and_right() -> None:
    """Remembered sums equal fresh ones, and the table is emptied when it is full."""
    data = b"remember me"

    assert remembered_sum(data, digest_of(data)) == remembered_sum(data, digest_of(data)) == ones_sum(data)
    for number in range(SUMS_MAX + 1):
        piece = number.to_bytes(4, "big")
        remembered_sum(piece, digest_of(piece))
    assert len(packets.payload_sums) <= SUMS_MAX
    assert remembered_sum(data, digest_of(data)) == ones_sum(data)


def test_the_pseudo_header_is_that_of_rfc_793() -> None:
    """Addresses, protocol and length, as the slow encoder lays them out."""
    pseudo = bytes.fromhex("0a0000010a00000200060014")

    assert pseudo_sum(GUEST, SERVER, IPPROTO_TCP, 20) % 0xFFFF == ones_sum(pseudo)


def test_addresses_have_two_faces() -> None:
    """A dotted address and its number are the same thing, and a flow is named after both ends."""
    assert address_of("10.0.0.1") == GUEST
    assert address_text(SERVER) == "10.0.0.2"
    assert flow_name(GUEST, 700, SERVER, 2049) == "10.0.0.1:700>10.0.0.2:2049"


def test_a_datagram_is_known_by_its_identification() -> None:
    """A whole datagram has a flow with ports; a fragment has none, and stands at its offset."""
    whole = slow_udp(b"")
    middle = slow_ip(17, bytes(8), source=GUEST, target=SERVER, ident=3, fragment=0x2000 | 185)

    assert datagram_key(whole) == (whole[26:38], 7, ETH_HLEN + IP_HLEN + 8)
    assert datagram_key(middle) == (middle[26:34], 3 << 16 | 1480, ETH_HLEN + IP_HLEN)
