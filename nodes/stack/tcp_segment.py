"""TCP's segments on their way down: the clone, its headers, and segments without data (net/ipv4/tcp_output.c).

Every transmission hands the device a *clone* of the queued packet, because the device consumes what it is given while
TCP must keep the bytes until they are acknowledged. Nothing that TCP learns later calls a clone back: that is the bug.
"""

from struct import Struct

from lateack.nodes.facts import SegmentTransmitted
from lateack.nodes.stack.packets import ACK, FIN, IP_DF, IP_HLEN, IPPROTO_TCP, M32, RST, SYN, digest_of
from lateack.nodes.stack.skb import SkBuff, alloc_skb, skb_push
from lateack.nodes.stack.skb_copy import pskb_copy, skb_clone
from lateack.nodes.stack.tcp import TcpSocket

HEADER_BYTES = 14 + IP_HLEN + 20
HEADER = Struct("!16sHH4sH12sIIHHH2x")
"""A frame's headers; what is the same in all of a connection's is packed once (see TcpSocket)."""
DF_TTL_TCP = Struct("!HBB").pack(IP_DF, 64, IPPROTO_TCP)

SYN_OPTIONS = Struct("!BBHBBBB")

SYN_FIN = SYN | FIN
"""The flags that take a place in the stream though they are no bytes."""


def tcp_transmit_skb(sk: TcpSocket, skb: SkBuff, now: int) -> None:
    """Send one queued packet: clone it, push the headers onto the clone, and hand the clone to the device.

    While an earlier clone is still below us its headers are in the shared head, so a private head is made instead
    (`pskb_copy`), as __tcp_retransmit_skb does.
    """
    stack = sk.stack
    if skb.cloned and skb.shinfo.dataref != 1:
        clone = pskb_copy(skb, stack.pool)
    else:
        clone = skb_clone(skb, stack.pool)
        if sk.watches_host_queue and not skb.no_clone:
            skb.fclone = clone
    seq = clone.seq = skb.seq
    end_seq = clone.end_seq = skb.end_seq
    length = end_seq - seq
    sk.wmem_alloc += length
    flags = skb.flags
    if flags & SYN_FIN:
        length -= 1
    transmission = skb.transmissions = skb.transmissions + 1
    skb.sent_at = now
    clone.socket = sk
    clone.destructor = sk.wfree
    clone.shinfo.gso_size = sk.mss if length > sk.mss else 0
    if flags & SYN:
        skb_push(clone, _syn_options(sk))
        tcp_push_header(sk, clone, flags, length, SYN_OPTIONS.size)
    else:
        tcp_push_header(sk, clone, flags, length, 0)
    if length:
        if skb.digests is None:
            skb.digests = piece_digests(skb.witness, sk.mss)
        intended = skb.witness if transmission > 1 else b""
        stack.effects.append(
            SegmentTransmitted(sk.flow, seq & M32, length, sk.mss, transmission, skb.digests, intended)
        )
    if stack.clone_hook is not None:
        stack.clone_hook.skb_shared(skb, clone)
    sk.ack_wanted = False
    stack.device.xmit(clone, now)


def tcp_send_ack(sk: TcpSocket, now: int) -> None:
    """Send a segment without data that acknowledges `rcv_nxt`."""
    _send_bare(sk, ACK, sk.snd_nxt, now)
    sk.ack_wanted = False


def tcp_send_probe(sk: TcpSocket, now: int) -> None:
    """Ask for the window: an old, empty segment that the peer must answer (`tcp_xmit_probe_skb`)."""
    _send_bare(sk, ACK, sk.snd_una - 1, now)


def tcp_send_reset(sk: TcpSocket, now: int, seq: int | None = None) -> None:
    """Tell the peer that this connection is gone, at the position that it expects (*seq*, or else ours)."""
    _send_bare(sk, RST | ACK, sk.snd_nxt if seq is None else seq, now)


def tcp_push_header(sk: TcpSocket, skb: SkBuff, flags: int, length: int, options: int) -> None:
    """Push the headers of a segment of *length* payload onto *skb*, which begins with *options* bytes of TCP options.

    The TCP checksum field holds the folded pseudo header sum, as CHECKSUM_PARTIAL leaves it for the device to finish.
    What holds for `skb_push` on a clone holds here.
    """
    shinfo = skb.shinfo
    start = skb.data = skb.data - HEADER_BYTES
    assert start >= shinfo.head, "no headroom left"
    stack = sk.stack
    ident = stack.ident
    stack.ident = (ident + 1 + length // sk.mss) & 0xFFFF
    segment_length = 20 + options + length
    total = IP_HLEN + segment_length
    window = sk.rcv_wnd
    if flags & SYN:
        window = min(sk.parameters.receive_buffer, 0xFFFF)  # never scaled (RFC 7323 2.2)
    HEADER.pack_into(
        shinfo.slab.memory.view, start, sk.ethernet, total, ident, DF_TTL_TCP,
        0xFFFF - (sk.ip_sum + total + ident) % 0xFFFF, sk.addresses,
        skb.seq & M32, sk.rcv_nxt & M32, 0x5000 + (options << 10) | flags, window,
        (sk.pseudo_sum + segment_length) % 0xFFFF,
    )  # fmt: skip


def piece_digests(data: bytes, mss: int) -> tuple[int, ...]:
    """Return the digests of *data* cut at *mss*, as a NIC cuts it."""
    if len(data) <= mss:
        return (digest_of(data),)
    return tuple([digest_of(data[start : start + mss]) for start in range(0, len(data), mss)])


def _syn_options(sk: TcpSocket) -> bytes:
    """Return the MSS that we can take, and the window scale unless it is zero or the peer's SYN offered none."""
    mss = sk.stack.mtu - 40
    if not sk.rcv_scale:
        return SYN_OPTIONS.pack(2, 4, mss, 1, 1, 1, 1)
    return SYN_OPTIONS.pack(2, 4, mss, 1, 3, 3, sk.rcv_scale)


def _send_bare(sk: TcpSocket, flags: int, seq: int, now: int) -> None:
    skb = alloc_skb(sk.stack.slab)
    skb.seq = skb.end_seq = seq
    tcp_push_header(sk, skb, flags, 0, 0)
    sk.stack.device.xmit(skb, now)
