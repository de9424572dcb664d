"""TCP's clock: the round-trip estimator and the retransmission timer (RFC 6298 with Linux's constants, tcp_timer.c).

One timer per connection serves three waits that never overlap: retransmission, and, with nothing in flight, the window
probe. The stack arms it from `deadline` after every event.
"""

from lateack.nodes.facts import ConnectionReset, RetransmitTimedOut
from lateack.nodes.stack.packets import M32
from lateack.nodes.stack.tcp import CLOSED, SYN_RCVD, SYN_SENT, TcpSocket
from lateack.nodes.stack.tcp_output import tcp_retransmit_skb
from lateack.nodes.stack.tcp_segment import tcp_send_probe


def tcp_rtt_sample(sk: TcpSocket, sample: int) -> None:
    """Feed one round-trip time (ns) to the estimator and derive the timeout (RFC 6298 section 2).

    Linux bounds the variance term below by TCP_RTO_MIN instead of the whole: RTO = SRTT + max(200 ms, 4 RTTVAR).
    """
    srtt = sk.srtt
    if not srtt:
        sk.srtt = max(1, sample)
        sk.rtt_variance = sample // 2
    else:
        variance = sk.rtt_variance
        sk.rtt_variance = variance + (abs(srtt - sample) - variance) // 4
        sk.srtt = srtt + (sample - srtt) // 8
    tcp_set_rto(sk)


def tcp_set_rto(sk: TcpSocket) -> None:
    """Derive the timeout from the estimate and forget all backing off (`tcp_set_rto`).

    A handshake that gave no sample leaves three times the initial timeout: TCP_TIMEOUT_FALLBACK (RFC 6298 5.7).
    """
    parameters = sk.parameters
    sk.backoff = 0
    srtt = sk.srtt
    if not srtt:
        sk.rto = min(3 * parameters.rto_init, parameters.rto_max)
        return
    sk.rto = min(srtt + max(4 * sk.rtt_variance, parameters.rto_min), parameters.rto_max)


def tcp_rearm_rto(sk: TcpSocket, now: int) -> None:
    """Start the timer anew while something is in flight, and stop it when nothing is (RFC 6298 5.2 and 5.3)."""
    sk.deadline = now + sk.rto if sk.rtx_queue else None


def tcp_timer_fired(sk: TcpSocket, now: int) -> None:
    """The deadline has come: retransmit, probe, or give up."""
    sk.deadline = None
    if sk.rtx_queue:
        _retransmit_timer(sk, now)
    elif sk.write_queue:
        if sk.retries >= sk.parameters.retries_max:
            _give_up(sk)
            return
        sk.retries += 1
        tcp_send_probe(sk, now)
        _back_off(sk, now)


def tcp_ack_probe(sk: TcpSocket) -> None:
    """The peer answered a window probe: it lives, and once its window opens the probes' backing off is forgotten."""
    sk.retries = 0
    if sk.snd_wnd and sk.backoff:
        tcp_set_rto(sk)
        sk.deadline = None


def _retransmit_timer(sk: TcpSocket, now: int) -> None:
    """Everything in flight counts as lost; the head goes out again at once, alone (`tcp_retransmit_timer`)."""
    connecting = sk.state in (SYN_SENT, SYN_RCVD)
    if sk.retries >= (sk.parameters.syn_retries_max if connecting else sk.parameters.retries_max):
        _give_up(sk)
        return
    sk.retries += 1
    if not connecting:
        _enter_loss(sk)
    sk.stack.effects.append(RetransmitTimedOut(sk.flow, sk.snd_una & M32, sk.rto))
    tcp_retransmit_skb(sk, 0, 1, now)
    _back_off(sk, now)


def _give_up(sk: TcpSocket) -> None:
    sk.state = CLOSED
    sk.purge()
    sk.stack.effects.append(ConnectionReset(sk.flow, "it timed out"))


def _enter_loss(sk: TcpSocket) -> None:
    if not sk.backoff:
        sk.ssthresh = max((sk.snd_nxt - sk.snd_una) // 2, 2 * sk.mss)
    sk.cwnd = sk.mss
    sk.recovering = False
    sk.dupacks = 0
    sk.recover = sk.snd_nxt
    sk.lost_out = 0
    for skb in sk.rtx_queue:
        skb.lost = True
        sk.lost_out += skb.end_seq - max(skb.seq, sk.snd_una)


def _back_off(sk: TcpSocket, now: int) -> None:
    sk.backoff += 1
    sk.rto = min(sk.rto * 2, sk.parameters.rto_max)
    sk.deadline = now + sk.rto
