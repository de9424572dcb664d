"""Claims about a host's stack: who gets a frame, who is refused, and when it asks to be woken."""

import pytest

from lateack.nodes.facts import ConnectionReset, FrameDropped
from lateack.nodes.node import MS, S, SetTimer
from lateack.nodes.stack.host import EPHEMERAL_FIRST, EPHEMERAL_LAST, ISN_GAP
from lateack.nodes.stack.packets import ACK, FIN, M32, PSH, RST, SYN, parse
from lateack.nodes.stack.tcp import CLOSED, ESTABLISHED, SYN_RCVD, SYN_SENT, TIME_WAIT, TcpParameters
from tests.nodes.stack.fakes import GUEST, MSS, PORT, SERVER, Bench, Host, pattern, slow_tcp, slow_udp


def asked(host: Host) -> list[SetTimer]:
    """Return the wake-ups that the stack has asked for, and forget them."""
    timers = [effect for effect in host.effects if isinstance(effect, SetTimer)]
    host.effects.clear()
    return timers


def arriving(**fields: int) -> bytes:
    """Return a segment of the guest to the server."""
    return slow_tcp(source=GUEST, target=SERVER, sport=700, dport=PORT, **fields)  # type: ignore[arg-type]


# --- who gets a frame -------------------------------------------------------------------------------------------------


def test_a_syn_for_a_listener_opens_a_connection() -> None:
    """SYN|ACK in answer; the third segment makes it established."""
    host = Host(SERVER, isn=500)
    host.stack.listen(PORT)

    host.stack.receive(arriving(seq=99, flags=SYN), 0)
    (sk,) = host.stack.sockets.values()
    half = sk.state
    host.stack.receive(arriving(seq=100, ack=501), 0)
    host.stack.flush(0)

    (answer,) = [parse(frame) for frame in host.nic.take_frames()]
    assert (answer.flags, answer.seq, answer.ack) == (SYN | ACK, 500, 100)
    assert (half, sk.state) == (SYN_RCVD, ESTABLISHED)


def test_a_repeated_syn_gets_the_same_answer() -> None:
    """Our SYN|ACK was lost: it goes again, for the same connection."""
    host = Host(SERVER, isn=500)
    host.stack.listen(PORT)

    host.stack.receive(arriving(seq=99, flags=SYN), 0)
    host.stack.receive(arriving(seq=99, flags=SYN), 0)

    answers = [parse(frame) for frame in host.nic.take_frames()]
    assert [(answer.flags, answer.seq) for answer in answers] == [(SYN | ACK, 500)] * 2
    assert len(host.stack.sockets) == 1


def test_a_reset_ends_a_half_open_connection_only_at_the_edge() -> None:
    """RFC 5961 holds in SYN_RCVD, too: a guessed number does not open the door."""
    host = Host(SERVER)
    host.stack.listen(PORT)
    host.stack.receive(arriving(seq=99, flags=SYN), 0)
    (sk,) = host.stack.sockets.values()

    host.stack.receive(arriving(seq=5000, flags=RST), 0)
    guessed = sk.state
    host.stack.receive(arriving(seq=100, flags=RST), 0)

    assert (guessed, sk.state) == (SYN_RCVD, CLOSED)
    assert host.leaks() == (0, 0)


def test_a_segment_for_nobody_is_reset() -> None:
    """RFC 9293 3.10.7.1: the RST stands where the sender expects it and acknowledges all of it, FIN included."""
    host = Host(SERVER)

    host.stack.receive(arriving(seq=99, flags=SYN), 0)
    host.stack.receive(arriving(seq=100, ack=77, flags=ACK | PSH), 0)
    host.stack.receive(arriving(seq=100, ack=77, flags=ACK | FIN), 0)

    answers = [parse(frame) for frame in host.nic.take_frames()]
    assert [(a.flags, a.seq, a.ack) for a in answers] == [
        (RST | ACK, 0, 100), (RST | ACK, 77, 100), (RST | ACK, 77, 101)
    ]  # fmt: skip
    assert host.leaks() == (0, 0)


def test_a_reset_is_never_answered() -> None:
    """Or two hosts would reset each other for ever."""
    host = Host(SERVER)

    host.stack.receive(arriving(seq=99, ack=1, flags=RST | ACK), 0)

    assert host.nic.take_frames() == []


def test_frames_for_another_address_are_ignored() -> None:
    """The bridge floods; what is not ours is not answered and not even counted."""
    host = Host(SERVER)

    host.stack.receive(slow_tcp(source=GUEST, target=0x0A000063, flags=SYN), 0)
    host.stack.receive(slow_udp(b"x", target=0x0A000063), 0)

    assert (host.nic.take_frames(), host.effects) == ([], [])


def test_a_stranger_is_not_answered() -> None:
    """There is no ARP: nobody knows the way to an address that is not of this topology, forged ones included."""
    host = Host(SERVER)
    host.stack.listen(PORT)

    host.stack.receive(slow_tcp(source=0x0A000063, target=SERVER, sport=1, dport=PORT, flags=SYN), 0)
    host.stack.receive(slow_tcp(source=0x0A000063, target=SERVER, sport=1, dport=9, flags=ACK), 0)

    assert (host.nic.take_frames(), host.stack.sockets) == ([], {})


def test_a_bad_frame_is_dropped_and_said_so() -> None:
    """The fact gives the host's address and the reason."""
    host = Host(SERVER)
    frame = arriving(seq=1)

    host.stack.receive(frame[:-1] + bytes([frame[-1] ^ 1]), 0)

    assert host.effects == [FrameDropped("10.0.0.2", "bad TCP checksum")]


def test_a_datagram_reaches_its_socket() -> None:
    """Bound ports get what is for them, with the sender's address and port."""
    host = Host(SERVER)
    bound, free = host.stack.bind_udp(PORT), host.stack.bind_udp()

    host.stack.receive(slow_udp(b"x"), 0)

    assert bound.take_received() == [(GUEST, 700, b"x")]
    assert bound.take_received() == free.take_received() == []
    assert free.local_port == EPHEMERAL_FIRST


def test_connections_get_ports_and_numbers_of_their_own() -> None:
    """Two connections of one host differ in port and initial sequence number."""
    host = Host(GUEST)

    first, second = host.stack.connect(SERVER, PORT, 0), host.stack.connect(SERVER, PORT, 0)

    assert first.local_port != second.local_port
    assert first.snd_una != second.snd_una
    assert host.stack.pending() == 2


def test_a_port_can_be_used_again_for_the_same_peer() -> None:
    """The connection that was between these ports is dead; the new one's numbers lie behind all that it had queued."""
    host = Host(GUEST, isn=M32 - 10)
    first = host.stack.connect(SERVER, PORT, 0)
    host.stack.abort(first, "lost", 0)

    second = host.stack.connect(SERVER, PORT, 0, local_port=first.local_port)
    third = host.stack.connect(SERVER, PORT, 0)

    assert list(host.stack.sockets.values()) == [second, third]
    assert second.snd_una == (first.write_seq + ISN_GAP) & M32
    assert (second.local_port, third.local_port) == (EPHEMERAL_FIRST, EPHEMERAL_FIRST + 1)
    assert second.state == third.state == SYN_SENT


@pytest.mark.parametrize(("seq", "answer"), [(5000, SYN | ACK), (50, ACK)])
def test_a_syn_in_time_wait_opens_the_next_connection_if_it_is_a_new_one(seq: int, answer: int) -> None:
    """Numbers behind those of the old connection can only be new (RFC 9293 3.10.7.4); any other SYN is challenged."""
    host = Host(SERVER, isn=500)
    host.stack.listen(PORT)
    for fields in ({"seq": 99, "flags": SYN}, {"seq": 100, "ack": 501}):
        host.stack.receive(arriving(**fields), 0)
    (old,) = host.stack.sockets.values()
    host.stack.close(old, 0)
    host.stack.receive(arriving(seq=100, ack=502, flags=FIN | ACK), 0)
    waiting = old.state
    host.stack.flush(0)
    host.nic.take_frames()

    host.stack.receive(arriving(seq=seq, flags=SYN), 0)

    (reply,) = [parse(frame) for frame in host.nic.take_frames()]
    assert (waiting, reply.flags) == (TIME_WAIT, answer)
    assert len(host.stack.sockets) == 1


# --- bursts -----------------------------------------------------------------------------------------------------------


def test_a_burst_of_segments_in_a_row_is_one_segment() -> None:
    """GRO: what continues itself is merged before TCP sees it; one ACK answers all."""
    bench = Bench()
    frames = [
        slow_tcp(seq=bench.irs + 1 + start, ack=bench.iss + 1, payload=pattern(3 * MSS)[start : start + MSS], dport=700)
        for start in range(0, 3 * MSS, MSS)
    ]

    bench.host.stack.receive_burst(frames, bench.now)
    pieces = len(bench.sk.received)
    bench.flush()

    assert pieces == 1
    assert bytes(bench.host.inbox) == pattern(3 * MSS)
    assert bench.sent() == [(0, 3 * MSS, ACK, 0)]


def test_a_burst_with_holes_and_strangers_is_not_mixed_up() -> None:
    """Merging stops at a gap, at another flow, at a control segment; order and content stay as they came."""
    bench = Bench()

    def at(seq: int, payload: bytes, **fields: int) -> bytes:
        return slow_tcp(seq=bench.irs + 1 + seq, ack=bench.iss + 1, payload=payload, dport=700, **fields)  # type: ignore[arg-type]

    frames = [
        at(0, b"ab"), at(4, b"ef"), at(6, b"gh"), at(2, b"XX", sport=99), at(2, b"cd"), at(8, b"i", flags=ACK | FIN)
    ]  # fmt: skip
    bench.host.closes_back = False
    bench.host.stack.receive_burst(frames, bench.now)
    bench.flush()

    assert bytes(bench.host.inbox) == b"abcdefghi"
    assert bench.sk.fin_received


# --- timers -----------------------------------------------------------------------------------------------------------


def test_a_deadline_that_moves_back_is_asked_for_lazily() -> None:
    """ACKs push the deadline on; no order is made for that, and the early wake-up asks again."""
    bench = Bench(parameters=TcpParameters())
    host = bench.host
    name = bench.sk.timer
    asked(host)
    host.send(bench.sk, pattern(5 * MSS), bench.now)
    host.stack.flush(bench.now)
    (first,) = asked(host)

    for turn in (1, 2, 3):
        bench.now += MS
        host.stack.receive(slow_tcp(seq=bench.irs + 1, ack=bench.iss + 1 + turn * MSS, dport=700), bench.now)
        host.stack.flush(bench.now)
    quiet = asked(host)
    mine = host.stack.timer_fired(name, first.at)
    host.stack.flush(first.at)

    assert first.name == name
    assert quiet == []
    assert mine
    assert asked(host) == [SetTimer(name, bench.sk.deadline or 0)]
    assert (bench.sk.deadline or 0) > first.at
    assert bench.sk.retries == 0


def test_an_earlier_deadline_is_asked_for_at_once() -> None:
    """The order replaces the later one of the same name."""
    bench = Bench()
    host = bench.host
    host.send(bench.sk, b"x", bench.now)
    host.stack.flush(bench.now)
    asked(host)

    bench.sk.deadline = bench.now + MS
    host.stack.touched.append(bench.sk)
    host.stack.flush(bench.now)

    assert asked(host) == [SetTimer(bench.sk.timer, bench.now + MS)]


def test_a_wake_up_without_a_deadline_asks_for_nothing() -> None:
    """Everything was acknowledged meanwhile."""
    bench = Bench()
    host = bench.host
    host.send(bench.sk, b"x", bench.now)
    bench.flush()
    bench.peer(ack=1)
    asked(host)

    assert host.stack.timer_fired(bench.sk.timer, bench.now + S)
    host.stack.flush(bench.now + S)
    assert asked(host) == []


def test_a_timer_of_somebody_else_is_left_to_them() -> None:
    """The owner has timers, too."""
    assert not Host(GUEST).stack.timer_fired("rpc", 0)


def test_an_abort_resets_the_peer_and_lets_everything_go() -> None:
    """RST at once, the queues are freed, and the fact gives the reason."""
    bench = Bench(window=MSS)
    bench.send(pattern(3 * MSS))
    bench.sent()

    bench.host.stack.abort(bench.sk, "enough", bench.now)
    flags = [flags for _, _, flags, _ in bench.sent()]
    bench.flush()

    assert flags == [RST | ACK]
    assert bench.host.of(ConnectionReset) == [ConnectionReset(bench.sk.flow, "enough")]
    assert (bench.sk.state, bench.sk.deadline, bench.host.leaks()) == (CLOSED, None, (0, 0))


def test_a_host_that_connects_a_thousand_times_uses_its_ports_again() -> None:
    """Reserved ports are few: behind the last comes the first that nobody uses, and no table grows."""
    host = Host(GUEST)
    kept = host.stack.connect(SERVER, PORT, 0)
    datagrams = host.stack.bind_udp()
    ports = []

    for _ in range(1000):
        sk = host.stack.connect(SERVER, PORT, 0)
        ports.append(sk.local_port)
        host.stack.abort(sk, "again", 0)

    last = EPHEMERAL_LAST - EPHEMERAL_FIRST - 2
    assert (kept.local_port, datagrams.local_port) == (EPHEMERAL_FIRST, EPHEMERAL_FIRST + 1)
    assert ports[last : last + 2] == [EPHEMERAL_LAST, EPHEMERAL_FIRST + 2]
    assert len(host.stack.sockets) == len(host.stack.timers) == EPHEMERAL_LAST - EPHEMERAL_FIRST
