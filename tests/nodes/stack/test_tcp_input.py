"""Claims about TCP's receiving side: what is accepted, dropped and answered, and how losses are noticed."""

import pytest

from lateack.nodes.facts import Connected, ConnectionReset, DuplicateDropped, FastRetransmitted
from lateack.nodes.node import MS
from lateack.nodes.stack.packets import ACK, FIN, PSH, RST, SYN, digest_of
from lateack.nodes.stack.tcp import (
    CLOSE_WAIT,
    CLOSED,
    CLOSING,
    ESTABLISHED,
    FIN_WAIT_2,
    LAST_ACK,
    SYN_SENT,
    TIME_WAIT,
    TcpParameters,
)
from lateack.nodes.stack.tcp_input import MSS_MIN, parse_syn_options
from tests.nodes.stack.fakes import MSS, Bench, pattern

OPEN = 0xFFFFFFFF  # position -1, as `sent` shows it


# --- in order, out of order, again ------------------------------------------------------------------------------------


def test_data_in_order_is_delivered_and_acknowledged_once_a_burst() -> None:
    """Two segments of one burst are one ACK, as under GRO."""
    bench = Bench()

    bench.peer_burst([(0, 0, ACK, b"one "), (4, 0, ACK | PSH, b"burst")])

    assert bytes(bench.host.inbox) == b"one burst"
    assert bench.sent() == [(0, 9, ACK, 0)]


def test_an_old_segment_is_dropped_and_answered() -> None:
    """TCP_OLD_DATA: all of it was received before; the fact names position and digest, and an ACK goes at once."""
    bench = Bench()
    bench.peer(payload=b"first")
    bench.sent()

    bench.peer(payload=b"FIRST")

    (dropped,) = bench.host.of(DuplicateDropped)
    assert (dropped.seq, dropped.length, dropped.digest) == (Bench.IRS + 1, 5, digest_of(b"FIRST"))
    assert bytes(bench.host.inbox) == b"first"
    assert bench.sent() == [(0, 5, ACK, 0)]


def test_only_the_new_tail_of_an_overlap_is_taken() -> None:
    """seq < rcv_nxt < end: what was received stays as it was, the rest is appended."""
    bench = Bench()
    bench.peer(payload=b"abcd")

    bench.peer(seq=2, payload=b"XXef")

    assert bytes(bench.host.inbox) == b"abcdef"


def test_early_segments_wait_and_are_delivered_in_order() -> None:
    """What lies behind a hole is kept and answered with duplicate ACKs; all comes at once when it is filled."""
    bench = Bench()

    bench.peer(seq=8, payload=b"ijkl")
    bench.peer(seq=4, payload=b"efgh")
    duplicates = bench.sent()
    bench.peer(payload=b"abcd")

    assert duplicates == [(0, 0, ACK, 0)] * 2
    assert bytes(bench.host.inbox) == b"abcdefghijkl"
    assert bench.sent() == [(0, 12, ACK, 0)]
    assert not bench.sk.out_of_order


def test_early_segments_may_overlap() -> None:
    """Pieces of any cut are merged at delivery; each byte is delivered once."""
    bench = Bench()

    for seq, payload in ((6, b"ghij"), (2, b"cdefg"), (6, b"gh"), (6, b"ghijkl"), (9, b"jklm")):
        bench.peer(seq=seq, payload=payload)
    bench.peer(payload=b"abc")

    assert bytes(bench.host.inbox) == b"abcdefghijklm"


def test_what_lies_beyond_the_window_is_not_kept() -> None:
    """The receive buffer bounds what may wait behind a hole."""
    bench = Bench(parameters=TcpParameters(receive_buffer=1000, window_scale=0))

    bench.peer(seq=990, payload=b"a" * 11)
    beyond = len(bench.sk.out_of_order)
    bench.peer(seq=990, payload=b"a" * 10)

    assert (beyond, len(bench.sk.out_of_order)) == (0, 1)


def test_a_segment_that_acknowledges_the_future_is_dropped_whole() -> None:
    """The segment's data is not believed, and nobody is told: two who disagree would answer each other for ever.

    RFC 9293 3.10.7.4 wants an ACK back; Linux drops it (`tcp_ack`).
    """
    for payload in (b"", b"from another connection"):
        bench = Bench()

        bench.peer(ack=1, payload=payload)
        bench.peer(ack=1, seq=4, payload=payload)

        assert (bytes(bench.host.inbox), bench.sk.rcv_nxt - Bench.IRS - 1) == (b"", 0)
        assert bench.sent() == []


def test_a_segment_without_an_ack_is_dropped() -> None:
    """RFC 9293 3.10.7.4: if the ACK bit is off, drop the segment."""
    bench = Bench()

    bench.peer(ack=None, flags=PSH, payload=b"blind")

    assert bytes(bench.host.inbox) == b""
    assert bench.sent() == []


def test_a_window_probe_is_answered() -> None:
    """An old, empty segment asks for the window."""
    bench = Bench()

    bench.peer(seq=-1)

    assert bench.sent() == [(0, 0, ACK, 0)]


def test_a_plain_ack_is_not_answered() -> None:
    """ACKs are not acknowledged, or two hosts would never rest."""
    bench = Bench()
    bench.send(b"x")
    bench.sent()

    bench.peer(ack=1)
    bench.peer(ack=1)
    bench.peer(ack=0)

    assert bench.sent() == []


# --- losses -----------------------------------------------------------------------------------------------------------


def test_three_duplicate_acks_repeat_the_head() -> None:
    """RFC 5681 3.2: two prove nothing, the third brings the segment back, and half the flight becomes the threshold."""
    bench = Bench()
    bench.send(pattern(10 * MSS))
    bench.sent()

    bench.peer(ack=0)
    bench.peer(ack=0)
    before = bench.sent_data()
    bench.peer(ack=0)

    assert before == []
    assert bench.sent_data() == [(0, MSS)]
    assert (bench.sk.ssthresh, bench.sk.cwnd) == (5 * MSS, 8 * MSS)
    assert bench.host.of(FastRetransmitted) == [FastRetransmitted(bench.sk.flow, Bench.ISS + 1)]


def test_the_first_two_duplicates_let_new_data_out() -> None:
    """Limited transmit (RFC 3042): one new segment for each, so that a small window can still see three duplicates."""
    bench = Bench(parameters=TcpParameters(initial_window_segments=2))
    bench.send(pattern(10 * MSS))
    bench.sent()

    bench.peer(ack=0)
    first = bench.sent_data()
    bench.peer(ack=0)
    second = bench.sent_data()

    assert (first, second) == ([(2 * MSS, MSS)], [(3 * MSS, MSS)])
    assert bench.sk.cwnd == 2 * MSS


@pytest.mark.parametrize(
    ("payload", "window", "flags"), [(b"x", 0xFFFF, ACK), (b"", 0xFFFE, ACK), (b"", 0xFFFF, ACK | FIN)]
)
def test_what_carries_news_is_no_duplicate(payload: bytes, window: int, flags: int) -> None:
    """RFC 5681 section 2: data, a FIN or another window make an ACK more than a duplicate."""
    bench = Bench()
    bench.send(pattern(5 * MSS))

    bench.peer(ack=0, payload=payload, window=window, flags=flags)

    assert bench.sk.dupacks == 0


def test_a_partial_ack_names_the_next_hole() -> None:
    """NewReno (RFC 6582): during recovery an ACK short of its end repeats the next segment at once."""
    bench = Bench()
    bench.send(pattern(10 * MSS))
    for _ in range(3):
        bench.peer(ack=0)
    bench.sent()

    bench.peer(ack=4 * MSS)
    partial = bench.sent_data()
    still = bench.sk.recovering
    bench.peer(ack=10 * MSS)

    assert partial == [(4 * MSS, MSS)]
    assert (still, bench.sk.recovering, bench.sk.cwnd) == (True, False, 5 * MSS)


def test_duplicates_during_recovery_let_new_data_out() -> None:
    """Each further duplicate says that a segment has left the network (RFC 5681 3.2 step 4)."""
    bench = Bench()
    bench.send(pattern(20 * MSS))
    for _ in range(3):
        bench.peer(ack=0)
    bench.sent()

    for _ in range(6):
        bench.peer(ack=0)

    assert bench.sent_data() == [(12 * MSS, MSS), (13 * MSS, MSS)]


def test_duplicates_of_a_go_back_do_not_start_a_fast_retransmit() -> None:
    """RFC 6582 3.2: until more than `recover` is acknowledged, duplicates come from our own retransmissions."""
    bench = Bench()
    bench.send(pattern(4 * MSS))
    bench.fire()
    bench.peer(ack=4 * MSS)
    bench.send(pattern(4 * MSS, 1))
    bench.sent()

    for _ in range(3):
        bench.peer(ack=4 * MSS)

    assert bench.sent_data() == []
    assert not bench.host.of(FastRetransmitted)


# --- opening ----------------------------------------------------------------------------------------------------------


def test_the_options_of_a_syn_are_read_or_survived() -> None:
    """MSS and window scale are found among others; what is cut short or absurd is not believed."""
    assert parse_syn_options(bytes.fromhex("020405b4040201030307")) == (1460, 7)
    assert parse_syn_options(bytes.fromhex("0303ff")) == (None, 14)
    for broken in ("", "00", "02", "0200", "020305", "0101", "030407", "02040a"):
        mss, scale = parse_syn_options(bytes.fromhex(broken))
        assert (mss, scale) in ((None, None), (0x0A, None))


def test_the_handshake_takes_the_peers_terms() -> None:
    """MSS is the smaller of both, the first window is unscaled, later ones are shifted."""
    bench = Bench(connected=False)
    bench.flush()
    bench.sent()

    bench.peer(seq=-1, ack=0, flags=SYN | ACK, window=9, options=bytes.fromhex("0204040001030302"))
    first = bench.sk.snd_wnd
    bench.peer(window=9)

    assert (bench.sk.state, bench.sk.mss, first, bench.sk.snd_wnd) == (ESTABLISHED, 1024, 9, 36)
    assert bench.sent() == [(0, 0, ACK, 0)]
    assert bench.host.of(Connected) == [Connected(bench.sk.flow)]


def test_a_peer_cannot_make_us_send_crumbs() -> None:
    """A SYN with an MSS of one is met with the smallest that Linux accepts (tcp_min_snd_mss)."""
    assert Bench(mss=1).sk.mss == MSS_MIN


def test_a_repeated_syn_ack_is_acknowledged_again() -> None:
    """Our ACK of it was lost."""
    bench = Bench()

    bench.peer(seq=-1, ack=0, flags=SYN | ACK)

    assert bench.sent() == [(0, 0, ACK, 0)]


def test_an_ack_of_an_older_connection_is_reset_while_opening() -> None:
    """RFC 9293 3.10.7.3: a peer that still believes in an old connection is told, at the position it expects."""
    bench = Bench(connected=False)
    bench.flush()
    bench.sent()

    bench.peer(seq=70, ack=12345, flags=ACK)

    assert bench.sk.state == SYN_SENT
    assert [(seq, flags) for seq, _, flags, _ in bench.sent()] == [(12345, RST | ACK)]


def test_a_refusal_must_acknowledge_our_syn() -> None:
    """A RST while opening counts only with the right ACK."""
    bench = Bench(connected=False)
    bench.flush()

    bench.peer(seq=-1, ack=40, flags=RST | ACK)
    survived = bench.sk.state
    bench.peer(seq=-1, ack=0, flags=RST | ACK)

    assert (survived, bench.sk.state) == (SYN_SENT, CLOSED)
    assert bench.host.leaks() == (0, 0)


# --- closing ----------------------------------------------------------------------------------------------------------


def test_we_close_first() -> None:
    """FIN, its ACK, the peer's FIN, our ACK: TIME_WAIT, in which a repeated FIN is answered again."""
    bench = Bench()
    bench.close()
    bench.sent()

    bench.peer(ack=1)
    state = bench.sk.state
    bench.peer(ack=1, flags=FIN | ACK)
    bench.peer(ack=1, flags=FIN | ACK)

    assert (state, bench.sk.state) == (FIN_WAIT_2, TIME_WAIT)
    assert bench.sent() == [(1, 1, ACK, 0)] * 2


def test_a_fin_that_acknowledges_ours_closes_in_one_step() -> None:
    """FIN|ACK of the peer covers our FIN, too."""
    bench = Bench()
    bench.close()

    bench.peer(ack=1, flags=FIN | ACK)

    assert bench.sk.state == TIME_WAIT


def test_both_close_at_once() -> None:
    """The FINs cross: CLOSING until ours is acknowledged, then TIME_WAIT."""
    bench = Bench()
    bench.close()

    bench.peer(ack=0, flags=FIN | ACK)
    state = bench.sk.state
    bench.peer(seq=1, ack=1)

    assert (state, bench.sk.state) == (CLOSING, TIME_WAIT)
    assert bench.sk.deadline is None


def test_the_peer_closes_first() -> None:
    """CLOSE_WAIT, in which we still may send; LAST_ACK; CLOSED."""
    bench = Bench()
    bench.host.closes_back = False
    bench.peer(flags=FIN | ACK)
    state = bench.sk.state
    bench.send(b"last words")
    bench.close()

    closing = bench.sk.state
    bench.peer(seq=1, ack=11)

    assert (state, closing, bench.sk.state) == (CLOSE_WAIT, LAST_ACK, CLOSED)
    assert bench.host.leaks() == (0, 0)


def test_a_fin_behind_a_hole_waits_for_it() -> None:
    """A FIN that comes early is not taken; the peer repeats it."""
    bench = Bench()

    bench.peer(seq=5, flags=FIN | ACK)
    early = bench.sk.state
    bench.peer(payload=b"12345")
    bench.peer(seq=5, flags=FIN | ACK)

    assert (early, bench.sk.fin_received) == (ESTABLISHED, True)


def test_a_fin_may_come_with_data() -> None:
    """Data first, then the end of the stream."""
    bench = Bench()

    bench.peer(payload=b"all of it", flags=FIN | ACK | PSH)

    assert bytes(bench.host.inbox) == b"all of it"
    assert bench.sent()[-1][1] == 10


@pytest.mark.parametrize("we_close", [False, True])
def test_old_data_is_answered_after_the_peers_fin(we_close: bool) -> None:
    """All our ACKs were lost and the peer goes back to its data: unanswered, it would repeat it until it gives up."""
    bench = Bench()
    bench.host.closes_back = we_close
    bench.peer(payload=b"data")
    bench.peer(seq=4, flags=FIN | ACK)
    bench.sent()

    bench.peer(payload=b"data")

    assert bench.sent()[-1][1:] == (5, ACK, 0)
    assert len(bench.host.of(DuplicateDropped)) == 1


def test_data_behind_a_fin_is_not_taken() -> None:
    """The stream has ended where it ended."""
    bench = Bench()
    bench.host.closes_back = False
    bench.peer(flags=FIN | ACK)

    bench.peer(seq=1, payload=b"ghost")

    assert bytes(bench.host.inbox) == b""


# --- resets -----------------------------------------------------------------------------------------------------------


def test_a_reset_exactly_at_the_edge_ends_the_connection() -> None:
    """RFC 5961 3.2: seq == rcv_nxt; everything queued is let go."""
    bench = Bench(window=10)
    bench.send(pattern(3 * MSS))

    bench.peer(flags=RST)

    assert bench.sk.state == CLOSED
    assert bench.sk.deadline is None
    assert bench.host.of(ConnectionReset)
    assert bench.host.leaks() == (0, 0)


def test_a_reset_elsewhere_in_the_window_is_challenged_and_outside_ignored() -> None:
    """RFC 5961 3.2: a guess inside the window is answered with an ACK, so that a true peer can say it exactly."""
    bench = Bench()

    bench.peer(seq=1, flags=RST)
    challenged = bench.sent()
    bench.peer(seq=-1, flags=RST)
    bench.peer(seq=1 << 21, flags=RST)

    assert challenged == [(0, 0, ACK, 0)]
    assert bench.sent() == []
    assert bench.sk.state == ESTABLISHED


def test_a_parked_clone_outlives_a_reset() -> None:
    """A reset lets go of the queue and calls no clone back: what waits below leaves when the gate opens."""
    bench = Bench()
    bench.host.nic.closed = True
    bench.send(b"secret")

    bench.peer(flags=RST)
    bench.host.nic.open()

    assert bench.sent_data() == [(0, 6)]
    assert bench.host.leaks() == (0, 0)


def test_an_acknowledged_round_trip_feeds_the_estimator() -> None:
    """The handshake and every clean ACK are samples."""
    bench = Bench()
    assert bench.sk.srtt == 1

    bench.send(b"x")
    bench.now += 8 * MS + 1
    bench.peer(ack=1)

    assert bench.sk.srtt == 1 + MS
    assert OPEN == 2**32 - 1
