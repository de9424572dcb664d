"""TCP's sending side: queueing, windows, segments, and retransmission by cloning (net/ipv4/tcp_output.c).

Every transmission hands the device a *clone* of the queued packet, because the device consumes what it is given while
TCP must keep the bytes until they are acknowledged. Nothing that TCP learns later calls a clone back: that is the bug.
"""

from collections.abc import Sequence
from struct import Struct

from lateack.nodes.facts import SegmentTransmitted
from lateack.nodes.stack.lifetime import Frag, frag_ref
from lateack.nodes.stack.packets import (
    ACK,
    FIN,
    IP_DF,
    IP_HLEN,
    IPPROTO_TCP,
    M32,
    PSH,
    RST,
    SYN,
    digest_of,
)
from lateack.nodes.stack.skb import (
    HEADROOM,
    MAX_SKB_FRAGS,
    SkBuff,
    alloc_skb,
    pages_holding,
    skb_header_release,
    skb_push,
    skb_put,
)
from lateack.nodes.stack.skb_copy import pskb_copy, skb_clone, skb_unclone
from lateack.nodes.stack.skb_cut import skb_pull_front, skb_split
from lateack.nodes.stack.tcp import (
    ESTABLISHED,
    FIN_WAIT_1,
    LAST_ACK,
    MAY_SEND,
    SYN_RCVD,
    SYN_SENT,
    TcpSocket,
)

GSO_MAX_SIZE = 65_535 - 40
"""Most payload bytes of one packet below TCP: the 16-bit IPv4 length less the headers."""

HEADER_BYTES = 14 + IP_HLEN + 20
HEADER = Struct("!16sHH4sH12sIIHHH2x")
"""A frame's headers; what is the same in all of a connection's is packed once (see TcpSocket)."""
DF_TTL_TCP = Struct("!HBB").pack(IP_DF, 64, IPPROTO_TCP)

SYN_OPTIONS = Struct("!BBHBBBB")


SYN_FIN = SYN | FIN
"""The flags that take a place in the stream though they are no bytes."""


def tcp_connect(sk: TcpSocket, now: int) -> None:
    """Open the connection actively: queue and send the SYN."""
    sk.state = SYN_SENT
    _queue_control(sk, SYN)
    tcp_write_xmit(sk, now)


def tcp_accept_syn(sk: TcpSocket, now: int) -> None:
    """Answer a SYN that a listener has taken: queue and send the SYN|ACK."""
    sk.state = SYN_RCVD
    _queue_control(sk, SYN | ACK)
    tcp_write_xmit(sk, now)


def tcp_close(sk: TcpSocket, now: int) -> None:
    """Send a FIN behind everything that is queued."""
    if sk.fin_queued or sk.state not in MAY_SEND:
        return
    sk.fin_queued = True
    sk.state = FIN_WAIT_1 if sk.state == ESTABLISHED else LAST_ACK
    _queue_control(sk, FIN | ACK)
    tcp_write_xmit(sk, now)


def tcp_sendmsg(sk: TcpSocket, head: bytes, frags: Sequence[Frag], tail: bytes, witness: bytes) -> list[SkBuff]:
    """Queue one record: *head* is copied into the linear area, *frags* are taken over by reference, *tail* is copied.

    *witness* is what the whole record holds at this moment; it goes into the trace as what was meant, and nothing of
    the model reads it. Returns the packets that were queued; `tcp_write_xmit` sends them. What of *head* the linear
    area cannot hold goes into pages.
    """
    assert sk.state in MAY_SEND, "the connection cannot send"
    if not (head or frags or tail):
        return []
    stack, mss = sk.stack, sk.mss
    goal = GSO_MAX_SIZE // mss * mss if stack.gso else mss
    skbs: list[SkBuff] = []
    skb = _queue_data(sk, skbs)
    length = len(head)
    room = stack.slab.size - HEADROOM
    if room > goal:
        room = goal
    if length > room:
        frags = [*pages_holding(head[room:], stack.pool), *frags]
        head = head[:room]
        length = room
    skb_put(skb, head)
    if tail:
        frags = [*frags, *pages_holding(tail, stack.pool)]
    for frag in frags:
        while length + frag.size > goal or len(skb.shinfo.frags) == MAX_SKB_FRAGS:
            room = goal - length
            if room and len(skb.shinfo.frags) < MAX_SKB_FRAGS:
                frag_ref(frag)
                skb.shinfo.frags.append(Frag(frag.page, frag.offset, room, frag.destructor))
                frag = Frag(frag.page, frag.offset + room, frag.size - room, frag.destructor)
                length += room
            _finish_data(sk, skb, length, witness)
            witness = witness[length:]
            skb = _queue_data(sk, skbs)
            length = 0
        skb.shinfo.frags.append(frag)
        length += frag.size
    _finish_data(sk, skb, length, witness)
    skb.flags |= PSH
    return skbs


def tcp_write_xmit(sk: TcpSocket, now: int) -> None:
    """Send what the congestion window and the receiver's window allow: lost packets first, then new ones."""
    if sk.lost_out:
        _xmit_retransmit_queue(sk, now)
    queue = sk.write_queue
    while queue:
        skb = queue[0]
        length = skb.end_seq - skb.seq
        una = sk.snd_una
        room = sk.cwnd - (sk.snd_nxt - una - sk.lost_out)
        window = una + sk.snd_wnd - skb.seq
        if window < room:
            room = window
        if room < length and not skb.flags & SYN_FIN:
            room = room // sk.mss * sk.mss
            if room <= 0:
                if sk.rtx_queue or window <= 0:
                    break
                room = min(window, length)  # a window smaller than a segment, and nothing else that could open it
            tcp_fragment(sk, queue, 0, room)
        queue.popleft()
        sk.rtx_queue.append(skb)
        sk.snd_nxt = skb.end_seq
        tcp_transmit_skb(sk, skb, now)
    if sk.deadline is None and (sk.rtx_queue or queue):
        # With nothing in flight and a window of zero this same timer sends the window probes.
        sk.deadline = now + sk.rto


def tcp_transmit_skb(sk: TcpSocket, skb: SkBuff, now: int) -> None:
    """Send one queued packet: clone it, push the headers onto the clone, and hand the clone to the device.

    While an earlier clone is still below us its headers are in the shared head, so a private head is made instead
    (`pskb_copy`), as __tcp_retransmit_skb does.
    """
    stack = sk.stack
    clone = pskb_copy(skb, stack.pool) if skb.cloned and skb.shinfo.dataref != 1 else skb_clone(skb, stack.pool)
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


def tcp_retransmit_skb(sk: TcpSocket, index: int, segments: int, now: int) -> None:
    """Send the packet at *index* of the retransmission queue again, at most *segments* of it.

    What was acknowledged of it is trimmed, what is too long is cut off (`tcp_fragment`); then it goes out like any
    other: as one more clone (`__tcp_retransmit_skb`).
    """
    skb = sk.rtx_queue[index]
    if skb.seq < sk.snd_una and not skb.flags & SYN:
        tcp_trim_head(sk, skb, sk.snd_una - skb.seq)
    if skb.end_seq - skb.seq > sk.mss * segments:
        tcp_fragment(sk, sk.rtx_queue, index, sk.mss * segments)
    if skb.lost:
        skb.lost = False
        sk.lost_out -= skb.end_seq - skb.seq
    tcp_transmit_skb(sk, skb, now)


def tcp_trim_head(sk: TcpSocket, skb: SkBuff, count: int) -> None:
    """Drop *count* acknowledged bytes from a queued packet."""
    skb_unclone(skb, sk.stack.pool)
    skb_pull_front(skb, count)
    skb.seq += count
    skb.witness = skb.witness[count:]
    skb.digests = None


def tcp_fragment(sk: TcpSocket, queue: "Sequence[SkBuff]", index: int, length: int) -> None:
    """Cut the queued packet at *index* after *length* bytes; the rest follows it in the queue (`tcp_fragment`)."""
    skb = queue[index]
    skb_unclone(skb, sk.stack.pool)
    rest = alloc_skb(sk.stack.slab)
    skb_split(skb, rest, length)
    skb_header_release(rest)
    rest.seq, rest.end_seq = skb.seq + length, skb.end_seq
    rest.flags = skb.flags
    skb.end_seq = rest.seq
    skb.flags &= ~(PSH | FIN)
    rest.transmissions, rest.sent_at, rest.lost = skb.transmissions, skb.sent_at, skb.lost
    rest.witness = skb.witness[length:]
    skb.witness = skb.witness[:length]
    skb.digests = rest.digests = None
    queue.insert(index + 1, rest)  # type: ignore[attr-defined]


def piece_digests(data: bytes, mss: int) -> tuple[int, ...]:
    """Return the digests of *data* cut at *mss*, as a NIC cuts it."""
    if len(data) <= mss:
        return (digest_of(data),)
    return tuple([digest_of(data[start : start + mss]) for start in range(0, len(data), mss)])


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


def _syn_options(sk: TcpSocket) -> bytes:
    """Return the MSS that we can take, and the window scale unless it is zero or the peer's SYN offered none."""
    mss = sk.stack.mtu - 40
    if not sk.rcv_scale:
        return SYN_OPTIONS.pack(2, 4, mss, 1, 1, 1, 1)
    return SYN_OPTIONS.pack(2, 4, mss, 1, 3, 3, sk.rcv_scale)


def _xmit_retransmit_queue(sk: TcpSocket, now: int) -> None:
    """After a timeout, send what is marked lost as the window opens again (`tcp_xmit_retransmit_queue`)."""
    index = 0
    while sk.lost_out and index < len(sk.rtx_queue):
        if sk.rtx_queue[index].lost:
            room = (sk.cwnd - (sk.snd_nxt - sk.snd_una - sk.lost_out)) // sk.mss
            if room <= 0:
                return
            tcp_retransmit_skb(sk, index, room, now)
        index += 1


def _queue_control(sk: TcpSocket, flags: int) -> None:
    skb = alloc_skb(sk.stack.slab)
    skb_header_release(skb)
    skb.seq, skb.end_seq = sk.write_seq, sk.write_seq + 1
    skb.flags = flags
    skb.transmissions, skb.sent_at, skb.lost = 0, 0, False
    skb.witness, skb.digests = b"", None
    sk.write_seq += 1
    sk.write_queue.append(skb)
    if flags & SYN:
        sk.cwnd = max(sk.cwnd, sk.parameters.initial_window_segments * sk.mss)
        sk.snd_wnd = max(sk.snd_wnd, 1)


def _queue_data(sk: TcpSocket, skbs: list[SkBuff]) -> SkBuff:
    skb = alloc_skb(sk.stack.slab)
    skb_header_release(skb)
    skb.flags = ACK
    skb.transmissions, skb.sent_at, skb.lost = 0, 0, False
    sk.write_queue.append(skb)
    skbs.append(skb)
    return skb


def _finish_data(sk: TcpSocket, skb: SkBuff, length: int, witness: bytes) -> None:
    skb.seq = sk.write_seq
    skb.end_seq = sk.write_seq = sk.write_seq + length
    skb.witness = witness[:length]
    skb.digests = None


def _send_bare(sk: TcpSocket, flags: int, seq: int, now: int) -> None:
    skb = alloc_skb(sk.stack.slab)
    skb.seq = skb.end_seq = seq
    tcp_push_header(sk, skb, flags, 0, 0)
    sk.stack.device.xmit(skb, now)
