"""Claims about TCP's clock: the estimator, the retransmission timer, and the window probe, with Linux's constants."""

from lateack.nodes.facts import ConnectionReset, RetransmitTimedOut
from lateack.nodes.node import MS, S
from lateack.nodes.stack.packets import ACK, SYN
from lateack.nodes.stack.tcp import CLOSED, ESTABLISHED, TcpParameters
from lateack.nodes.stack.tcp_timer import tcp_rtt_sample
from tests.nodes.stack.fakes import MSS, Bench, pattern


def test_the_first_sample_sets_the_estimator() -> None:
    """RFC 6298 2.2: SRTT = R, RTTVAR = R/2; the timeout is SRTT + max(200 ms, 4 RTTVAR)."""
    sk = Bench(connected=False).sk

    tcp_rtt_sample(sk, 300 * MS)

    assert (sk.srtt, sk.rtt_variance, sk.rto) == (300 * MS, 150 * MS, 900 * MS)


def test_later_samples_are_smoothed() -> None:
    """RFC 6298 2.3: RTTVAR = 3/4 RTTVAR + 1/4 |SRTT - R|, then SRTT = 7/8 SRTT + 1/8 R."""
    sk = Bench(connected=False).sk
    tcp_rtt_sample(sk, 800 * MS)

    tcp_rtt_sample(sk, 400 * MS)

    assert (sk.srtt, sk.rtt_variance, sk.rto) == (750 * MS, 400 * MS, 2350 * MS)


def test_the_variance_term_never_falls_below_200_ms() -> None:
    """Linux bounds the variance and not the whole: a steady round trip of 1 ms gives 201 ms."""
    sk = Bench(connected=False).sk

    for _ in range(50):
        tcp_rtt_sample(sk, MS)

    assert sk.rto == 201 * MS


def test_the_timeout_is_capped_at_120_s() -> None:
    """TCP_RTO_MAX bounds what a wild sample would make of it."""
    sk = Bench(connected=False).sk

    tcp_rtt_sample(sk, 100 * S)

    assert sk.rto == 120 * S


def test_a_syn_is_repeated_after_one_second_and_given_up_after_127() -> None:
    """TCP_TIMEOUT_INIT doubles six times (tcp_syn_retries), and then the connection is told that it timed out."""
    bench = Bench(connected=False)
    bench.flush()

    waits = [bench.fire() for _ in range(7)]

    assert waits == [1 * S, 2 * S, 4 * S, 8 * S, 16 * S, 32 * S, 64 * S]
    assert [flags for _, _, flags, _ in bench.sent()] == [SYN] * 7
    assert bench.sk.state == CLOSED
    assert bench.host.of(ConnectionReset)
    assert bench.host.leaks() == (0, 0)


def test_a_connection_that_needed_a_second_syn_starts_counting_afresh() -> None:
    """The handshake's retransmissions are not held against the data, and give no sample (Karn)."""
    bench = Bench(connected=False)
    bench.flush()
    bench.fire()

    bench.peer(seq=-1, ack=0, flags=SYN | ACK)

    assert (bench.sk.state, bench.sk.retries, bench.sk.srtt) == (ESTABLISHED, 0, 0)


def test_the_timeout_doubles_up_to_its_cap_and_gives_up_after_fifteen() -> None:
    """tcp_retries2: 15 retransmissions, each wait twice the last, never more than 120 s; then the connection dies."""
    bench = Bench()
    bench.send(b"unheard")

    waits = [bench.fire() for _ in range(16)]

    first = 200 * MS + 1
    assert waits == [min(first << turn, 120 * S) for turn in range(16)]
    assert bench.sent_data() == [(0, 7)] * 16
    assert len(bench.host.of(RetransmitTimedOut)) == 15
    assert bench.sk.state == CLOSED
    assert bench.host.leaks() == (0, 0)


def test_the_timer_runs_from_the_last_acknowledgement() -> None:
    """RFC 6298 5.3: an ACK of new data starts the timer anew while something is in flight; 5.2 stops it at the end."""
    bench = Bench()
    bench.send(pattern(2 * MSS))
    bench.now += 50 * MS

    bench.peer(ack=MSS)
    restarted, rto = bench.sk.deadline, bench.sk.rto
    bench.peer(ack=2 * MSS)

    assert restarted == bench.now + rto
    assert bench.sk.deadline is None


def test_what_was_sent_twice_gives_no_sample() -> None:
    """Karn: the ACK of a retransmitted segment changes neither the estimate nor the backed-off timeout."""
    bench = Bench()
    bench.send(b"late")
    before = bench.sk.srtt
    bench.fire()

    bench.now += 100 * MS
    bench.peer(ack=4)

    assert bench.sk.srtt == before
    assert bench.sk.rto == 2 * (200 * MS + 1)


def test_an_ack_that_covers_a_retransmission_gives_no_sample_at_all() -> None:
    """Segments behind a repaired hole were acknowledged late because of the hole: their age is no round-trip time.

    Linux takes no sample from an ACK that covers retransmitted data (FLAG_RETRANS_DATA_ACKED in tcp_clean_rtx_queue).
    """
    bench = Bench()
    bench.send(pattern(3 * MSS))
    before = bench.sk.srtt
    bench.fire()

    bench.now += 100 * MS
    bench.peer(ack=3 * MSS)

    assert bench.sk.srtt == before


def test_one_ack_gives_one_sample_of_its_oldest_segment() -> None:
    """An ACK for three segments is one measurement, not three."""
    bench = Bench(parameters=TcpParameters())
    bench.send(pattern(3 * MSS))
    bench.now += 80 * MS

    bench.peer(ack=3 * MSS)

    assert bench.sk.srtt == 1 + (80 * MS - 1) // 8


def test_after_a_timeout_everything_in_flight_counts_as_lost() -> None:
    """Go-back: the head goes out alone, and the rest follows as the window opens again, before anything new."""
    bench = Bench()
    bench.send(pattern(5 * MSS))
    bench.sent()

    bench.fire()
    assert bench.sent_data() == [(0, MSS)]
    assert bench.sk.cwnd == MSS

    bench.peer(ack=MSS)
    assert bench.sent_data() == [(MSS, MSS), (2 * MSS, MSS)]
    bench.peer(ack=3 * MSS)
    assert bench.sent_data() == [(3 * MSS, MSS), (4 * MSS, MSS)]
    bench.peer(ack=5 * MSS)
    assert (bench.sk.lost_out, bench.sk.deadline, bench.host.slab.outstanding) == (0, None, 0)


def test_an_early_ack_ends_the_go_back() -> None:
    """The timeout was spurious: an ACK for everything finds nothing left to send."""
    bench = Bench()
    bench.send(pattern(5 * MSS))
    bench.fire()
    bench.sent()

    bench.peer(ack=5 * MSS)

    assert bench.sent_data() == []
    assert (bench.sk.lost_out, bench.host.leaks()) == (0, (0, 0))


def test_a_closed_window_is_probed_at_growing_intervals() -> None:
    """With nothing in flight and a window of zero, an old empty segment goes out, at twice the interval each time."""
    bench = Bench(window=0)
    bench.send(b"waiting")
    assert bench.sent_data() == []

    waits = []
    for _ in range(4):
        waits.append(bench.fire())
        bench.peer(window=0)

    assert waits == [(200 * MS + 1) << turn for turn in range(4)]
    assert bench.sent() == [(0xFFFFFFFF, 0, ACK, 0)] * 4


def test_probes_do_not_slow_the_connection_down_once_the_window_opens() -> None:
    """The backing off of probes is forgotten with the first open window (tcp_ack_probe): a loss is repaired in time."""
    bench = Bench(window=0)
    bench.send(b"waiting")
    for _ in range(8):
        bench.fire()
        bench.peer(window=0)
    bench.sent()

    bench.peer(window=1000)

    assert bench.sent_data() == [(0, 7)]
    assert bench.fire() == 200 * MS + 1


def test_a_peer_that_never_answers_probes_is_given_up() -> None:
    """Probes are answered or counted: after fifteen in silence the connection dies (tcp_probe_timer)."""
    bench = Bench(window=0)
    bench.send(b"waiting")

    for _ in range(16):
        bench.fire()

    assert bench.sk.state == CLOSED
    assert bench.host.of(ConnectionReset)
    assert bench.host.leaks() == (0, 0)
