"""TCP's receiving side: acknowledgements, in-order delivery, duplicates, overlaps and loss detection.

Source: net/ipv4/tcp_input.c for the shape, RFC 9293, RFC 5681 and RFC 6582 (NewReno) for the rules. Note what is *not*
here: an acknowledgement frees the queued packet and nothing else; a clone that still waits below goes out all the same.
"""

from bisect import bisect_left
from functools import lru_cache

from lateack.nodes.facts import Connected, ConnectionReset, DuplicateDropped, FastRetransmitted
from lateack.nodes.stack.packets import ACK, FIN, M32, PSH, RST, SYN, Segment, digest_of
from lateack.nodes.stack.paged import PagedPayload, PagedSegment, Payload
from lateack.nodes.stack.skb import kfree_skb
from lateack.nodes.stack.tcp import (
    CLOSE_WAIT,
    CLOSED,
    CLOSING,
    ESTABLISHED,
    FIN_WAIT_1,
    FIN_WAIT_2,
    HALF,
    LAST_ACK,
    MAY_RECEIVE,
    SYN_RCVD,
    SYN_SENT,
    TIME_WAIT,
    TcpSocket,
)
from lateack.nodes.stack.tcp_output import tcp_retransmit_skb, tcp_write_xmit
from lateack.nodes.stack.tcp_segment import tcp_send_ack, tcp_send_reset
from lateack.nodes.stack.tcp_timer import tcp_ack_probe, tcp_rearm_rto, tcp_rtt_sample, tcp_set_rto

DUPACKS_TO_RETRANSMIT = 3
OUT_OF_ORDER_MAX = 4096
"""Segments kept for later; the receive window keeps honest peers far below it."""
MSS_MIN = 48
"""The smallest segment size that a peer can make us use (`tcp_min_snd_mss`)."""


def tcp_rcv(sk: TcpSocket, segment: Segment | PagedSegment, now: int) -> None:
    """Process one segment for this connection."""
    flags = segment.flags
    if sk.state == ESTABLISHED and flags & ~PSH == ACK and segment.seq == sk.rcv_nxt & M32:
        if segment.payload:
            _predicted(sk, segment, now)
        else:
            _tcp_ack(sk, segment, now)
        return
    if sk.state in (SYN_SENT, SYN_RCVD) and not _handshake(sk, segment, now):
        return
    seq = sk.unwrap_seq(segment.seq)
    if flags & RST:
        _reset(sk, seq, now)
        return
    if flags & SYN:
        tcp_send_ack(sk, now)  # a repeated SYN|ACK: our ACK of it was lost (RFC 9293 3.10.7.4)
        return
    if not flags & ACK or not _tcp_ack(sk, segment, now):
        return
    if segment.payload:
        if sk.state in MAY_RECEIVE or seq + len(segment.payload) <= sk.rcv_nxt:
            _tcp_data_queue(sk, seq, segment.payload, now)
    elif seq < sk.rcv_nxt and not flags & FIN and not sk.rtx_queue:
        sk.ack_wanted = True  # an old, empty segment is a window probe
    if flags & FIN:
        _tcp_fin(sk, seq + len(segment.payload), now)


def _predicted(sk: TcpSocket, segment: Segment | PagedSegment, now: int) -> None:
    """The common case, the next bytes in order on an established connection, without questions (header prediction)."""
    advance = (segment.ack - sk.snd_una) & M32
    if advance <= sk.snd_nxt - sk.snd_una:
        sk.snd_wnd = segment.window << sk.snd_scale
        if advance:
            _new_ack(sk, sk.snd_una + advance, now)
        elif sk.write_queue and not sk.rtx_queue:
            tcp_ack_probe(sk)
    elif advance < HALF:
        return  # it acknowledges what we never sent, see `_tcp_ack`
    payload = segment.payload
    sk.received.append(payload)
    sk.rcv_nxt += len(payload)
    sk.ack_wanted = True
    if sk.out_of_order:
        _drain_out_of_order(sk)


def tcp_flush(sk: TcpSocket, now: int) -> None:
    """End of a burst: send what became possible, and the acknowledgement if nothing carried it."""
    if sk.write_queue or sk.lost_out:
        tcp_write_xmit(sk, now)
    if sk.ack_wanted:
        tcp_send_ack(sk, now)


@lru_cache(maxsize=64)
def parse_syn_options(options: bytes) -> tuple[int | None, int | None]:
    """Return the (MSS, window scale) that a SYN offers, None for what it does not name (RFC 9293 3.2, RFC 7323)."""
    mss: int | None = None
    scale: int | None = None
    at = 0
    while at < len(options) and options[at] != 0:
        if options[at] == 1:
            at += 1
            continue
        if at + 1 >= len(options) or options[at + 1] < 2:
            break
        kind, length = options[at], options[at + 1]
        value = int.from_bytes(options[at + 2 : at + length], "big")
        if kind == 2 and length == 4:
            mss = value
        elif kind == 3 and length == 3:
            scale = min(value, 14)
        at += length
    return mss, scale


def take_syn(sk: TcpSocket, segment: Segment | PagedSegment) -> None:
    """Learn from the peer's SYN where its stream begins and what it can take."""
    mss, scale = parse_syn_options(segment.options)
    sk.mss = max(min(sk.mss, mss or 536), MSS_MIN)
    if scale is None:
        sk.scale_window(0)  # both sides offer it, or windows are plain in both directions (RFC 7323 2.2)
    else:
        sk.snd_scale = scale
    sk.rcv_nxt = segment.seq + 1
    sk.snd_wnd = segment.window


def _handshake(sk: TcpSocket, segment: Segment | PagedSegment, now: int) -> bool:
    """Bring the connection up; return whether the segment has more to say to an established one."""
    flags = segment.flags
    acknowledges = flags & ACK and sk.unwrap_ack(segment.ack) == sk.snd_nxt
    if flags & RST:
        if acknowledges if sk.state == SYN_SENT else sk.unwrap_seq(segment.seq) == sk.rcv_nxt:
            _die(sk, "the peer refused the connection")
        return False
    if flags & ACK and not acknowledges:
        tcp_send_reset(sk, now, segment.ack)  # of an older connection: let it go (RFC 9293 3.10.7.3 and 3.10.7.4)
        return False
    if sk.state == SYN_SENT:
        if not (flags & SYN and acknowledges):
            return False
        take_syn(sk, segment)
        _established(sk, now)
        sk.ack_wanted = True
        return False
    if flags & SYN:
        tcp_retransmit_skb(sk, 0, 1, now)  # the SYN again: our answer was lost
        return False
    if not flags & ACK:
        return False
    sk.snd_wnd = segment.window << sk.snd_scale
    _established(sk, now)
    return True


def _established(sk: TcpSocket, now: int) -> None:
    sk.state = ESTABLISHED
    sk.cwnd = sk.parameters.initial_window_segments * sk.mss
    sk.retries = 0
    _clean_rtx_queue(sk, sk.snd_nxt, now)
    if not sk.srtt:
        tcp_set_rto(sk)
    tcp_rearm_rto(sk, now)
    sk.stack.effects.append(Connected(sk.flow))


def _tcp_ack(sk: TcpSocket, segment: Segment | PagedSegment, now: int) -> bool:
    """Take an acknowledgement; return whether the rest of the segment may be believed."""
    una = sk.snd_una
    ack = una + ((segment.ack - una + HALF) & M32) - HALF
    if ack > sk.snd_nxt:
        # What we never sent: dropped without a word, as Linux does (`tcp_ack`). RFC 9293 3.10.7.4 wants an ACK back,
        # which a peer that took too many bytes answers as an old segment, and so on without end.
        return False
    window = segment.window << sk.snd_scale
    if ack > una:
        sk.snd_wnd = window
        _new_ack(sk, ack, now)
    elif ack == una:
        if sk.rtx_queue and not segment.payload and window == sk.snd_wnd and not segment.flags & FIN:
            _duplicate_ack(sk, now)
        sk.snd_wnd = window
        if sk.write_queue and not sk.rtx_queue:
            tcp_ack_probe(sk)
    return True


def _new_ack(sk: TcpSocket, ack: int, now: int) -> None:
    acked = ack - sk.snd_una
    _clean_rtx_queue(sk, ack, now)
    sk.retries = 0
    if sk.recovering:
        _recover(sk, ack, acked, now)
    else:
        sk.dupacks = 0
        # Slow start below ssthresh, then one segment a window (RFC 5681, counted in bytes).
        sk.cwnd += acked if sk.cwnd < sk.ssthresh else max(1, sk.mss * acked // sk.cwnd)
    sk.deadline = now + sk.rto if sk.rtx_queue else None  # RFC 6298 5.2 and 5.3
    if sk.write_queue or sk.lost_out:
        tcp_write_xmit(sk, now)
    if ack == sk.snd_nxt:
        _fin_acked(sk)


def _clean_rtx_queue(sk: TcpSocket, ack: int, now: int) -> None:
    """Free every queued packet that is acknowledged in full; each may have a clone below that lives on.

    The oldest gives one round-trip sample, unless anything acknowledged here was sent twice (Karn): whatever lies
    behind a repaired hole was acknowledged late because of the hole (FLAG_RETRANS_DATA_ACKED).
    """
    queue = sk.rtx_queue
    sent_at, sent_twice = -1, False
    una, sk.snd_una = sk.snd_una, ack
    while queue:
        skb = queue[0]
        if skb.end_seq > ack:
            if skb.lost and skb.seq < ack:
                sk.lost_out -= ack - max(skb.seq, una)
            break
        queue.popleft()
        if skb.lost:
            sk.lost_out -= skb.end_seq - max(skb.seq, una)
        if skb.transmissions != 1:
            sent_twice = True
        elif sent_at < 0:
            sent_at = skb.sent_at
        kfree_skb(skb)
    if sent_at >= 0 and not sent_twice:
        tcp_rtt_sample(sk, now - sent_at)


def _duplicate_ack(sk: TcpSocket, now: int) -> None:
    sk.dupacks += 1
    if sk.recovering:
        sk.cwnd += sk.mss
        tcp_write_xmit(sk, now)
    elif sk.dupacks == DUPACKS_TO_RETRANSMIT:
        _fast_retransmit(sk, now)
    elif sk.dupacks < DUPACKS_TO_RETRANSMIT and sk.write_queue:
        # Limited transmit (RFC 3042): new data beyond the window, so that a small window can still find its loss.
        beyond = sk.dupacks * sk.mss
        sk.cwnd += beyond
        tcp_write_xmit(sk, now)
        sk.cwnd -= beyond


def _fast_retransmit(sk: TcpSocket, now: int) -> None:
    if sk.snd_una <= sk.recover:
        return  # RFC 6582: these duplicates come from an earlier recovery's retransmissions
    flight = min(sk.snd_nxt - sk.snd_una, sk.cwnd)  # without what limited transmit sent beyond it (RFC 5681 3.2)
    sk.ssthresh = max(flight // 2, 2 * sk.mss)
    sk.recover = sk.snd_nxt
    sk.recovering = True
    sk.cwnd = sk.ssthresh + DUPACKS_TO_RETRANSMIT * sk.mss
    sk.stack.effects.append(FastRetransmitted(sk.flow, sk.snd_una & M32))
    tcp_retransmit_skb(sk, 0, 1, now)
    tcp_write_xmit(sk, now)


def _recover(sk: TcpSocket, ack: int, acked: int, now: int) -> None:
    """NewReno: a partial acknowledgement names the next hole; a full one ends the recovery (RFC 6582)."""
    if ack >= sk.recover:
        sk.recovering = False
        sk.dupacks = 0
        sk.cwnd = sk.ssthresh
        return
    tcp_retransmit_skb(sk, 0, 1, now)
    sk.cwnd = max(sk.cwnd - acked + sk.mss, sk.mss)


def _tcp_data_queue(sk: TcpSocket, seq: int, payload: Payload, now: int) -> None:
    """Take the new bytes of a segment, drop the old ones, keep the early ones (`tcp_data_queue`)."""
    end = seq + len(payload)
    if end <= sk.rcv_nxt:
        sk.stack.effects.append(DuplicateDropped(sk.reply_flow, seq & M32, len(payload), digest_of(bytes(payload))))
        tcp_send_ack(sk, now)
        return
    if seq > sk.rcv_nxt:
        _keep_for_later(sk, seq, payload)
        tcp_send_ack(sk, now)
        return
    sk.received.append(payload[sk.rcv_nxt - seq :] if seq < sk.rcv_nxt else payload)
    sk.rcv_nxt = end
    sk.ack_wanted = True
    if sk.out_of_order:
        _drain_out_of_order(sk)


def _keep_for_later(sk: TcpSocket, seq: int, payload: Payload) -> None:
    queue = sk.out_of_order
    if seq + len(payload) > sk.rcv_nxt + sk.parameters.receive_buffer or len(queue) >= OUT_OF_ORDER_MAX:
        return
    at = bisect_left(queue, (seq,))
    if at < len(queue) and queue[at][0] == seq and len(queue[at][1]) >= len(payload):
        sk.stack.effects.append(DuplicateDropped(sk.reply_flow, seq & M32, len(payload), digest_of(bytes(payload))))
        return
    queue.insert(at, (seq, payload))


def _drain_out_of_order(sk: TcpSocket) -> None:
    queue = sk.out_of_order
    taken = 0
    for seq, payload in queue:
        if seq > sk.rcv_nxt:
            break
        taken += 1
        end = seq + len(payload)
        if end > sk.rcv_nxt:
            sk.received.append(payload[sk.rcv_nxt - seq :])
            sk.rcv_nxt = end
        elif isinstance(payload, PagedPayload):
            payload.let_go()
    del queue[:taken]


def _tcp_fin(sk: TcpSocket, fin_seq: int, now: int) -> None:
    if fin_seq != sk.rcv_nxt or sk.fin_received:
        tcp_send_ack(sk, now)  # early, with a hole before it, or repeated
        return
    sk.rcv_nxt += 1
    sk.fin_received = True
    sk.ack_wanted = True
    if sk.state == ESTABLISHED:
        sk.state = CLOSE_WAIT
    elif sk.state == FIN_WAIT_1:
        sk.state = CLOSING
    elif sk.state == FIN_WAIT_2:
        sk.state = TIME_WAIT
        sk.deadline = None


def _fin_acked(sk: TcpSocket) -> None:
    """Everything up to and with our FIN is acknowledged."""
    if not sk.fin_queued or sk.write_queue:
        return
    if sk.state == FIN_WAIT_1:
        sk.state = FIN_WAIT_2
    elif sk.state == CLOSING:
        sk.state = TIME_WAIT
    elif sk.state == LAST_ACK:
        sk.state = CLOSED


def _reset(sk: TcpSocket, seq: int, now: int) -> None:
    """Believe a RST only when it lies exactly at the edge of the window; inside it, ask the peer (RFC 5961 3.2)."""
    if sk.state == TIME_WAIT:
        return
    if seq == sk.rcv_nxt:
        _die(sk, "the peer reset the connection")
    elif sk.rcv_nxt < seq < sk.rcv_nxt + sk.parameters.receive_buffer:
        tcp_send_ack(sk, now)


def _die(sk: TcpSocket, reason: str) -> None:
    sk.state = CLOSED
    sk.purge()
    sk.stack.effects.append(ConnectionReset(sk.flow, reason))
