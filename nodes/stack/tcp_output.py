"""TCP's sending side: queueing, windows, and what is sent again, and when not (net/ipv4/tcp_output.c).

A queued packet stays here until it is acknowledged; what goes down is a clone of it (`tcp_segment`).
"""

from collections.abc import Sequence

from lateack.nodes.facts import HostQueueHit
from lateack.nodes.stack.lifetime import Frag, frag_ref
from lateack.nodes.stack.packets import ACK, FIN, M32, PSH, SYN
from lateack.nodes.stack.skb import (
    HEADROOM,
    MAX_SKB_FRAGS,
    SkBuff,
    alloc_skb,
    pages_holding,
    skb_header_release,
    skb_put,
)
from lateack.nodes.stack.skb_copy import skb_unclone
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
from lateack.nodes.stack.tcp_segment import SYN_FIN, tcp_transmit_skb

GSO_MAX_SIZE = 65_535 - 40
"""Most payload bytes of one packet below TCP: the 16-bit IPv4 length less the headers."""


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
    # What is not the kernel's own may be rewritten by its owner while we send it (SKBFL_SHARED_FRAG).
    shared = bool(frags) and frags[0].page.pool is not stack.pool
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
    if shared:
        for skb in skbs:
            skb.shinfo.shared_frag = True
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


def tcp_retransmit_skb(sk: TcpSocket, index: int, segments: int, now: int) -> bool:
    """Send the packet at *index* of the retransmission queue again, at most *segments* of it; say whether it went.

    What was acknowledged of it is trimmed, what is too long is cut off (`tcp_fragment`); then it goes out like any
    other: as one more clone (`__tcp_retransmit_skb`). It is refused while more lies below TCP than a quarter beyond
    what is queued (-EAGAIN), or while the packet itself is known to lie there (-EBUSY); the next timer asks again.
    """
    skb = sk.rtx_queue[index]
    if sk.wmem_alloc * 4 > (sk.write_seq - sk.snd_una) * 5:
        return False
    if sk.watches_host_queue and skb_still_in_host_queue(sk, skb):
        sk.stack.effects.append(HostQueueHit(sk.flow, skb.seq & M32, sk.suppresses_host_queue))
        if sk.suppresses_host_queue:
            return False
    if skb.seq < sk.snd_una and not skb.flags & SYN:
        tcp_trim_head(sk, skb, sk.snd_una - skb.seq)
    if skb.end_seq - skb.seq > sk.mss * segments:
        tcp_fragment(sk, sk.rtx_queue, index, sk.mss * segments)
    if skb.lost:
        skb.lost = False
        sk.lost_out -= skb.end_seq - skb.seq
    tcp_transmit_skb(sk, skb, now)
    return True


def skb_still_in_host_queue(sk: TcpSocket, skb: SkBuff) -> bool:
    """Say whether the clone that was made beside a queued packet is still below TCP (1f3279ae0c13, 2014).

    `skb_fclone_busy` knows one clone, the companion, and believes it while it names this very socket: a driver that
    orphans what it takes hides it, and copies (`pskb_copy`) are not seen at all.
    """
    clone = skb.fclone
    return clone is not None and clone.users > 0 and clone.socket is sk


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
    rest.fclone = None
    queue.insert(index + 1, rest)  # type: ignore[attr-defined]


def _xmit_retransmit_queue(sk: TcpSocket, now: int) -> None:
    """After a timeout, send what is marked lost as the window opens again (`tcp_xmit_retransmit_queue`)."""
    index = 0
    while sk.lost_out and index < len(sk.rtx_queue):
        skb = sk.rtx_queue[index]
        if skb.lost:
            if sk.suppresses_host_queue and skb_still_in_host_queue(sk, skb):
                return  # the timer that found it there has said so
            room = (sk.cwnd - (sk.snd_nxt - sk.snd_una - sk.lost_out)) // sk.mss
            if room <= 0 or not tcp_retransmit_skb(sk, index, room, now):
                return
        index += 1


def _queue_control(sk: TcpSocket, flags: int) -> None:
    skb = alloc_skb(sk.stack.slab)
    skb_header_release(skb)
    skb.seq, skb.end_seq = sk.write_seq, sk.write_seq + 1
    skb.flags = flags
    skb.transmissions, skb.sent_at, skb.lost = 0, 0, False
    skb.witness, skb.digests, skb.fclone = b"", None, None
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
    skb.fclone = None
    sk.write_queue.append(skb)
    skbs.append(skb)
    return skb


def _finish_data(sk: TcpSocket, skb: SkBuff, length: int, witness: bytes) -> None:
    skb.seq = sk.write_seq
    skb.end_seq = sk.write_seq = sk.write_seq + length
    skb.witness = witness[:length]
    skb.digests = None
