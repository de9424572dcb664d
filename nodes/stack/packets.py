"""Ethernet, IPv4, TCP and UDP headers as real bytes, and the internet checksum over them (RFC 791, 793, 768, 1071).

Checksums are one's complement sums, which are additive: the sum of a frame is the sum of its parts. That lets a part be
summed once and remembered under the xxh3 digest of its bytes, which the trace wants of every piece anyway.
"""

from functools import lru_cache
from struct import Struct

import xxhash

from lateack.nodes.records import LightState

ETH_HLEN = 14
ETH_P_IP = 0x0800
IP_HLEN = 20
TCP_HLEN = 20
UDP_HLEN = 8
IPPROTO_TCP = 6
IPPROTO_UDP = 17

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
IP_MF = 0x2000
IP_DF = 0x4000
M32 = 0xFFFFFFFF

SUMS_MAX = 1 << 16
"""How many payload sums are remembered before the memory is emptied; each is a digest and a 16-bit sum."""

ETH_IP = Struct("!6s6sHBBHHHBBHII")
TCP = Struct("!HHIIHHHH")
TCP_SEQ = Struct("!I")
TCP_PACKET = Struct("!12x3sxH8xIIHHIIHH")
"""What a receiver reads of an Ethernet, IPv4 and TCP header: its plainness, its length, and addresses to window."""
TCP_PACKET_BYTES = 54
ADDRESSES = Struct("!II")
IPV4_PLAIN = b"\x08\x00\x45"
"""The Ethernet type and the first bytes of an IPv4 header without options or type of service."""

UDP = Struct("!HHHH")
TCP_FRAME = Struct("!6s6sHBBHHHBBHIIHHIIHHHH")

FOLD_ABOVE = 1024
"""Bytes above which a sum is folded before it is divided."""

digest_of = xxhash.xxh3_64_intdigest
payload_sums: dict[int, int] = {}
"""What `remembered_sum` remembers: one's complement sums by the digest of what was summed."""


def ones_sum(data: bytes) -> int:
    """Return the one's complement sum of *data*, odd tail padded with zero, folded to 16 bits (RFC 1071)."""
    length = len(data)
    if length & 1:
        data += b"\0"
    total = int.from_bytes(data)
    while length > FOLD_ABOVE:
        # Adding the halves is far cheaper than dividing the whole, and changes nothing modulo 0xffff.
        half = length >> 2 << 4
        total = (total >> half) + (total & (1 << half) - 1)
        length -= half >> 3
    return total % 0xFFFF


def remembered_sum(data: bytes, digest: int) -> int:
    """Return `ones_sum(data)`, looked up under *digest* (xxh3-64 of *data*) if these bytes were summed before."""
    total = payload_sums.get(digest)
    if total is None:
        if len(payload_sums) >= SUMS_MAX:
            payload_sums.clear()
        total = payload_sums[digest] = ones_sum(data)
    return total


def checksum_of(total: int) -> int:
    """Return the checksum field for a one's complement *total*: its complement, with 0xffff for an all-zero sum.

    RFC 768 sends a computed zero as all ones; TCP may, too, and one rule for both is simpler.
    """
    return (0xFFFF - total % 0xFFFF) or 0xFFFF


def ip_checksum(total_length: int, ident: int, fragment: int, protocol: int, source: int, target: int) -> int:
    """Return the checksum of a 20-byte IPv4 header with TTL 64 and no TOS."""
    total = (
        0x4500 + total_length + ident + fragment + 0x4000 + protocol
        + (source >> 16) + (source & 0xFFFF) + (target >> 16) + (target & 0xFFFF)
    )  # fmt: skip
    return 0xFFFF - total % 0xFFFF


def address_sum(source: int, target: int) -> int:
    """Return the part of every header's sum that two IPv4 addresses make."""
    return (source >> 16) + (source & 0xFFFF) + (target >> 16) + (target & 0xFFFF)


def pseudo_sum(source: int, target: int, protocol: int, length: int) -> int:
    """Return the sum of the TCP/UDP pseudo header; *length* counts the transport header and its payload."""
    return address_sum(source, target) + protocol + length


class Segment(LightState):
    """One received TCP segment or UDP datagram: its headers decoded, its payload still bytes."""

    protocol: int
    source: int
    target: int
    sport: int
    dport: int
    seq: int
    ack: int
    flags: int
    window: int
    options: bytes
    payload: bytes
    digest: int


class Malformed(ValueError):
    """A frame's bytes are not what its headers claim."""


def parse(frame: bytes) -> Segment:
    """Decode an Ethernet frame that holds a whole (unfragmented) TCP segment or UDP datagram, verifying checksums.

    This is what a NIC with receive checksum offload does; raises `Malformed` on what such a NIC would mark bad.
    """
    length = len(frame)
    if length < TCP_PACKET_BYTES or frame[23] != IPPROTO_TCP:
        return _parse_udp(frame)
    plain, total, source, target, sport, dport, seq, ack, offset_flags, window = TCP_PACKET.unpack_from(frame)
    header_end = 34 + (offset_flags >> 10 & 0x3C)
    end = ETH_HLEN + total
    if plain != IPV4_PLAIN or end > length or int.from_bytes(frame[14:34]) % 0xFFFF:
        _check_ip(frame, length)
    if header_end < TCP_PACKET_BYTES or header_end > end:
        _check_ip(frame, length)
        raise Malformed("the TCP header length does not fit the packet")
    payload = frame[header_end:end]
    digest = digest_of(payload)
    # Addresses, ports and all of the TCP header in one go, then what else the pseudo header has.
    sums = int.from_bytes(frame[26:header_end]) + IPPROTO_TCP + end - 34
    if payload:
        sums += payload_sums.get(digest) or remembered_sum(payload, digest)
    if sums % 0xFFFF:
        raise Malformed("bad TCP checksum")
    flags, options = offset_flags & 0x3F, frame[54:header_end]
    return Segment(IPPROTO_TCP, source, target, sport, dport, seq, ack, flags, window, options, payload, digest)


def _check_ip(frame: bytes, length: int) -> int:
    """Return where the IPv4 packet ends in *frame*; raise `Malformed` unless its header is one of ours and sums up."""
    if frame[12:15] != IPV4_PLAIN:
        raise Malformed("not an IPv4 packet without options")
    if int.from_bytes(frame[14:34]) % 0xFFFF:
        raise Malformed("bad IPv4 header checksum")
    end = ETH_HLEN + (frame[16] << 8 | frame[17])
    if end > length or end < ETH_HLEN + IP_HLEN + UDP_HLEN:
        raise Malformed("the IPv4 length does not fit the frame")
    return end


def _parse_udp(frame: bytes) -> Segment:
    """Decode what is not a TCP segment with whole headers: a datagram, or nothing of ours."""
    length = len(frame)
    if length < ETH_HLEN + IP_HLEN + UDP_HLEN:
        raise Malformed("the frame is shorter than its headers")
    if frame[23] == IPPROTO_TCP:
        raise Malformed("the TCP header is cut short")
    end = _check_ip(frame, length)
    if frame[23] != IPPROTO_UDP:
        raise Malformed("neither TCP nor UDP")
    source, target = ADDRESSES.unpack_from(frame, 26)
    addresses = address_sum(source, target)
    sport, dport, length, check = UDP.unpack_from(frame, 34)
    if length < UDP_HLEN or 34 + length > end:
        raise Malformed("the UDP length does not fit the packet")
    payload = frame[42 : 34 + length]
    digest = digest_of(payload)
    total = addresses + IPPROTO_UDP + length + sport + dport + length + check + remembered_sum(payload, digest)
    if check and total % 0xFFFF:
        raise Malformed("bad UDP checksum")
    return Segment(IPPROTO_UDP, source, target, sport, dport, 0, 0, 0, 0, b"", payload, digest)


def address_text(address: int) -> str:
    """Return an IPv4 address in dotted form."""
    return f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}"


def address_of(text: str) -> int:
    """Return the 32-bit number of a dotted IPv4 address."""
    first, second, third, fourth = (int(part) for part in text.split("."))
    return first << 24 | second << 16 | third << 8 | fourth


def fragment_flow_name(source: int, target: int) -> str:
    """Return the name under which fragments of datagrams between two hosts are known: only the first has ports."""
    return f"{address_text(source)}>{address_text(target)}"


def datagram_key(linear: bytes) -> tuple[bytes, int, int]:
    """Return (addresses and ports, position, length of headers) of a UDP packet that begins with *linear*.

    A datagram is known by its IPv4 identification, a fragment by that and its offset, where TCP has sequence numbers.
    """
    ident, fragment = int.from_bytes(linear[18:20], "big"), int.from_bytes(linear[20:22], "big")
    if fragment & 0x3FFF:
        return linear[26:34], ident << 16 | (fragment & 0x1FFF) << 3, ETH_HLEN + IP_HLEN
    return linear[26:38], ident, ETH_HLEN + IP_HLEN + UDP_HLEN


@lru_cache(maxsize=4096)
def flow_name(source: int, sport: int, target: int, dport: int) -> str:
    """Return the name of one direction of a connection, as facts and tables show it."""
    return f"{address_text(source)}:{sport}>{address_text(target)}:{dport}"
