"""Ethernet, IPv4, TCP and UDP headers as real bytes, and the internet checksum over them (RFC 791, 793, 768, 1071).

Checksums are one's complement sums, which are additive: the sum of a frame is the sum of its parts. That lets a part be
summed once and remembered under the xxh3 digest of its bytes, which the trace wants of every piece anyway.
"""

from functools import lru_cache
from struct import Struct

import msgspec
import xxhash

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
UDP = Struct("!HHHH")
TCP_FRAME = Struct("!6s6sHBBHHHBBHIIHHIIHHHH")

digest_of = xxhash.xxh3_64_intdigest
_sums: dict[int, int] = {}


def ones_sum(data: bytes) -> int:
    """Return the one's complement sum of *data*, odd tail padded with zero, folded to 16 bits (RFC 1071)."""
    if len(data) & 1:
        data += b"\0"
    return int.from_bytes(data, "big") % 0xFFFF


def remembered_sum(data: bytes, digest: int) -> int:
    """Return `ones_sum(data)`, looked up under *digest* (xxh3-64 of *data*) if these bytes were summed before."""
    total = _sums.get(digest)
    if total is None:
        if len(_sums) >= SUMS_MAX:
            _sums.clear()
        total = _sums[digest] = ones_sum(data)
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


class Segment(msgspec.Struct, gc=False):
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

    This is what a NIC with receive checksum offload does; raises `Malformed` on anything that such a NIC would mark bad.
    """
    length = len(frame)
    if length < 42:
        raise Malformed("the frame is shorter than its headers")
    if frame[23] != IPPROTO_TCP:
        return _parse_udp(frame)
    if length < 54:
        raise Malformed("the TCP header is cut short")
    (
        _, _, kind, version, tos, total, ident, fragment, ttl, _, ip_check, source, target,
        sport, dport, seq, ack, offset_flags, window, check, urgent,
    ) = TCP_FRAME.unpack_from(frame)  # fmt: skip
    addresses = (source >> 16) + (source & 0xFFFF) + (target >> 16) + (target & 0xFFFF)
    end = ETH_HLEN + total
    _check_ip(kind, version, end, length, 0x4500 + tos + total + ident + fragment + (ttl << 8) + 6 + ip_check + addresses)
    header_end = 34 + (offset_flags >> 12) * 4
    if header_end < 54 or header_end > end:
        raise Malformed("the TCP header length does not fit the packet")
    options = frame[54:header_end] if header_end > 54 else b""
    payload = frame[header_end:end]
    digest = digest_of(payload)
    sums = (
        addresses + IPPROTO_TCP + end - 34 + sport + dport + (seq >> 16) + (seq & 0xFFFF) + (ack >> 16) + (ack & 0xFFFF)
        + offset_flags + window + check + urgent
    )  # fmt: skip
    if payload:
        sums += remembered_sum(payload, digest)
    if options:
        sums += ones_sum(options)
    if sums % 0xFFFF:
        raise Malformed("bad TCP checksum")
    return Segment(
        IPPROTO_TCP, source, target, sport, dport, seq, ack, offset_flags & 0x3F, window, options, payload, digest
    )


def _check_ip(kind: int, version: int, end: int, length: int, sums: int) -> None:
    """Raise `Malformed` unless the IPv4 header is one of ours and sums up."""
    if kind != ETH_P_IP or version != 0x45:
        raise Malformed("not an IPv4 packet without options")
    if end > length or end < ETH_HLEN + IP_HLEN + UDP_HLEN:
        raise Malformed("the IPv4 length does not fit the frame")
    if sums % 0xFFFF:
        raise Malformed("bad IPv4 header checksum")


def _parse_udp(frame: bytes) -> Segment:
    _, _, kind, version, tos, total, ident, fragment, ttl, protocol, ip_check, source, target = ETH_IP.unpack_from(frame)
    addresses = (source >> 16) + (source & 0xFFFF) + (target >> 16) + (target & 0xFFFF)
    end = ETH_HLEN + total
    sums = 0x4500 + tos + total + ident + fragment + (ttl << 8) + protocol + ip_check + addresses
    _check_ip(kind, version, end, len(frame), sums)
    if protocol != IPPROTO_UDP:
        raise Malformed("neither TCP nor UDP")
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
