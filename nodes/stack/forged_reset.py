"""The RST with which a machine on the way refuses a segment of a connection that it does not know (or has forgotten).

Source: RFC 9293 section 3.10.7.1, the answer of a closed port; nf_send_reset (net/ipv4/netfilter/nf_reject_ipv4.c).
"""

from lateack.nodes.stack.packets import (
    ACK,
    ETH_HLEN,
    FIN,
    IP_HLEN,
    IPPROTO_TCP,
    RST,
    SYN,
    TCP_FRAME,
    Malformed,
    Segment,
    checksum_of,
    ip_checksum,
    ones_sum,
    parse,
    pseudo_sum,
)

RESET_BYTES = 40
"""An IPv4 and a TCP header without options."""


def reset_for(frame: bytes) -> bytes | None:
    """Return the RST that the sender of a TCP segment will believe, or None if it is no segment or a RST itself.

    It lies exactly at the edge of the sender's window (RFC 5961 3.2): where the segment says that it expects the next
    byte; a SYN, which expects nothing yet, has its own number acknowledged.
    """
    try:
        segment = parse(frame)
    except Malformed:
        return None
    if segment.protocol != IPPROTO_TCP or segment.flags & RST:
        return None
    return _answer(frame, segment)


def _answer(frame: bytes, segment: Segment) -> bytes:
    flags, seq, ack = RST, segment.ack, 0
    if not segment.flags & ACK:
        length = len(segment.payload) + bool(segment.flags & SYN) + bool(segment.flags & FIN)
        flags, seq, ack = RST | ACK, 0, (segment.seq + length) & 0xFFFF_FFFF
    source, target = segment.target, segment.source
    fields = [
        frame[6:12], frame[:6], 0x0800, 0x45, 0, RESET_BYTES, 0, 0x4000, 64, IPPROTO_TCP,
        ip_checksum(RESET_BYTES, 0, 0x4000, IPPROTO_TCP, source, target),
        source, target, segment.dport, segment.sport, seq, ack, 0x5000 | flags, 0,
    ]  # fmt: skip
    bare = TCP_FRAME.pack(*fields, 0, 0)
    check = checksum_of(
        pseudo_sum(source, target, IPPROTO_TCP, RESET_BYTES - 20) + ones_sum(bare[ETH_HLEN + IP_HLEN :])
    )
    return TCP_FRAME.pack(*fields, check, 0)
