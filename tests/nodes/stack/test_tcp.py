"""Claims about whole connections: two real stacks over a wire in virtual time, in every weather."""

import random

import pytest
from hypothesis import example, given, settings, strategies as st

from lateack.nodes.facts import Connected, ConnectionReset, DuplicateDropped, FrameDropped, RetransmitTimedOut
from lateack.nodes.memory.pages import Memory, PagePool
from lateack.nodes.node import MS, S
from lateack.nodes.stack.packets import FIN, SYN, parse
from lateack.nodes.stack.tcp import CLOSED, ESTABLISHED, TIME_WAIT, TcpParameters, TcpSocket
from tests.nodes.stack.fakes import GUEST, MSS, PORT, SERVER, Bench, Host, Wire, pattern, wire


def at_rest(link: Wire) -> None:
    """Assert that neither end waits for anything and nothing of theirs is anywhere but home."""
    assert link.client.stack.pending() == link.server.stack.pending() == 0
    for host in (link.client, link.server):
        for sk in host.stack.sockets.values():
            assert (sk.wmem_alloc, sk.lost_out, sk.deadline) == (0, 0, None)
        assert host.leaks() == (0, 0)


def test_a_handshake_takes_three_segments() -> None:
    """SYN, SYN|ACK, ACK; both ends are established and say so."""
    link = wire()

    near, far = link.connect()

    assert [(host is link.client, segment.flags) for _, host, segment in link.log] == [
        (True, SYN), (False, SYN | 16), (True, 16)
    ]  # fmt: skip
    assert near.state == far.state == ESTABLISHED
    assert link.client.of(Connected) == [Connected(near.flow)]
    assert link.server.of(Connected) == [Connected(far.flow)]
    assert near.reply_flow == far.flow


@pytest.mark.parametrize("gso", [False, True])
@pytest.mark.parametrize("isn", [(1, 1), (0xFFFFFFFF, 0xFFFF0000)])
def test_bulk_goes_both_ways_at_once(gso: bool, isn: tuple[int, int]) -> None:
    """Half a megabyte each way arrives, cut by the card into segments of the MSS, also across the sequence wrap."""
    link = wire(gso=gso, isn=isn)
    near, far = link.connect()
    there, back = pattern(500_000, 1), pattern(400_001, 2)

    link.client.send(near, there, link.now)
    link.server.send(far, back, link.now)
    link.settle(link.client)
    link.settle(link.server)
    link.run()

    assert bytes(link.server.inbox) == there
    assert bytes(link.client.inbox) == back
    assert max(len(segment.payload) for _, _, segment in link.log) == MSS
    assert not link.client.of(RetransmitTimedOut)
    at_rest(link)


def test_the_smaller_mtu_rules() -> None:
    """A host behind a small MTU offers its MSS, and the other keeps to it."""
    link = Wire(Host(GUEST), Host(SERVER, mtu=576))
    near, far = link.connect()

    link.client.send(near, pattern(5000), link.now)
    link.settle(link.client)
    link.run()

    assert (near.mss, far.mss) == (536, 536)
    assert max(len(segment.payload) for _, _, segment in link.log) == 536
    assert bytes(link.server.inbox) == pattern(5000)


def test_a_lost_syn_is_repeated_after_a_second() -> None:
    """TCP_TIMEOUT_INIT, and the connection opens all the same."""
    link = wire()
    link.meddle = lambda sender, frame: [(0, frame)] if link.now else []

    near, _ = link.connect()

    assert [at for at, _, segment in link.log if segment.flags == SYN] == [0, S]
    assert near.state == ESTABLISHED


def test_a_connection_to_nobody_is_refused() -> None:
    """No listener: the SYN is answered with a RST that acknowledges it, and the opener hears of it at once."""
    link = wire()
    link.server.stack.listeners.clear()

    sk = link.client.stack.connect(SERVER, PORT, 0)
    link.settle(link.client)
    link.run()

    assert sk.state == CLOSED
    assert link.client.of(ConnectionReset) == [ConnectionReset(sk.flow, "the peer refused the connection")]
    at_rest(link)


def test_a_close_is_answered_and_both_come_to_rest() -> None:
    """FINs both ways behind the data; the closer waits in TIME_WAIT, the other is closed."""
    link = wire()
    near, far = link.connect()

    link.client.send(near, b"goodbye", link.now)
    link.client.stack.close(near, link.now)
    link.settle(link.client)
    link.run()

    assert bytes(link.server.inbox) == b"goodbye"
    assert (near.state, far.state) == (TIME_WAIT, CLOSED)
    at_rest(link)


def test_a_simultaneous_close_comes_to_rest() -> None:
    """The FINs cross on the wire; both ends acknowledge and wait."""
    link = wire()
    near, far = link.connect()

    link.client.stack.close(near, link.now)
    link.server.stack.close(far, link.now)
    link.settle(link.client)
    link.settle(link.server)
    link.run()

    assert near.state == far.state == TIME_WAIT
    at_rest(link)


def test_a_crashed_peers_connection_is_replaced() -> None:
    """A rebooted host connects from the same port: the old end challenges, is reset, and the second SYN succeeds."""
    link = wire()
    _, old = link.connect()
    reborn = Host(GUEST, isn=900_000)
    link.client = reborn

    near = reborn.stack.connect(SERVER, PORT, link.now)
    link.settle(reborn)
    link.run()

    assert old.state == CLOSED
    assert near.state == ESTABLISHED


def test_a_delayed_ack_makes_one_spurious_retransmission_that_the_receiver_drops() -> None:
    """The ACK is late by more than the timeout: the segment goes again, the receiver drops it, the stream is right."""
    link = wire()
    near, _ = link.connect()
    held = 300 * MS
    link.meddle = lambda sender, frame: [(held if sender is link.server else 0, frame)]

    link.client.send(near, b"payload", link.now)
    link.settle(link.client)
    link.run()

    assert len(link.client.of(RetransmitTimedOut)) == 1
    assert len(link.server.of(DuplicateDropped)) == 1
    assert bytes(link.server.inbox) == b"payload"
    at_rest(link)


def test_a_long_round_trip_is_learned() -> None:
    """At a round trip of 600 ms nothing is sent twice once the handshake has measured it."""
    link = Wire(Host(GUEST), Host(SERVER), delay=300 * MS)
    near, _ = link.connect()

    link.client.send(near, pattern(100_000), link.now)
    link.settle(link.client)
    link.run()

    assert near.srtt == 600 * MS
    assert not link.client.of(RetransmitTimedOut)
    assert bytes(link.server.inbox) == pattern(100_000)


def test_the_stack_needs_no_more_pages_than_it_sends() -> None:
    """Sending out of one pool over and over never runs it dry: every page comes home with its ACK."""
    link = wire()
    near, _ = link.connect()

    for turn in range(40):
        link.client.send(near, pattern(60_000, turn), link.now)
        link.settle(link.client)
        link.run()

    assert len(link.server.inbox) == 40 * 60_000
    at_rest(link)


def test_a_socket_knows_nothing_of_what_it_was_not_told() -> None:
    """A fresh socket is closed, has no window, and unwraps positions around what it knows."""
    memory = Memory(1, 1)
    assert PagePool(memory, 0, 1).free_count == 1
    sk = TcpSocket(Host(GUEST).stack, 1, SERVER, 2, TcpParameters(), isn=2**32 - 5)

    assert (sk.state, sk.snd_wnd, sk.take_received()) == (CLOSED, 0, [])
    assert sk.unwrap_ack(3) == 2**32 + 3
    assert sk.unwrap_ack(2**32 - 6) == 2**32 - 6
    sk.rcv_nxt = 2**32 + 10
    assert sk.unwrap_seq(5) == 2**32 + 5
    assert sk.unwrap_seq(2**32 - 1) == 2**32 - 1


# --- all weather ------------------------------------------------------------------------------------------------------

FATES = ("pass", "pass", "pass", "pass", "lose", "twice", "late", "later", "bend")


def weather(link: Wire, seed: int, storm: int) -> None:
    """Lose, double, delay and bend frames by the dice, for the first *storm* frames."""
    dice = random.Random(seed)
    seen = 0

    def meddle(sender: Host, frame: bytes) -> list[tuple[int, bytes]]:
        nonlocal seen
        seen += 1
        if seen > storm:
            return [(0, frame)]
        match dice.choice(FATES):
            case "lose":
                return []
            case "twice":
                return [(0, frame), (dice.randrange(5 * MS), frame)]
            case "late":
                return [(dice.randrange(4 * MS), frame)]
            case "later":
                return [(dice.randrange(900 * MS), frame)]
            case "bend":
                bent = bytearray(frame)
                bent[dice.randrange(12, len(frame))] ^= 1 << dice.randrange(8)
                return [(0, bytes(bent))]
            case _:
                return [(0, frame)]

    link.meddle = meddle


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    storm=st.integers(0, 200),
    there=st.lists(st.integers(1, 40_000), max_size=4),
    back=st.lists(st.integers(1, 20_000), max_size=3),
    gso=st.booleans(),
    isn=st.sampled_from(((1, 1), (0xFFFFFF00, 0xFFFFFFF0))),
    closer=st.sampled_from(("client", "server", "both")),
)
@example(seed=0, storm=200, there=[40_000], back=[20_000], gso=True, isn=(1, 1), closer="both")
def test_every_byte_arrives_once_and_both_ends_come_to_rest(
    seed: int, storm: int, there: list[int], back: list[int], gso: bool, isn: tuple[int, int], closer: str
) -> None:
    """Whatever is lost, doubled, reordered or bent: the streams are right, both ends close, nothing leaks."""
    link = wire(gso=gso, isn=isn)
    near = link.client.stack.connect(SERVER, PORT, 0)
    link.settle(link.client)
    link.run()
    far = next(sk for sk in link.server.stack.sockets.values() if sk.state == ESTABLISHED)
    weather(link, seed, storm)

    for sender, sk, sizes in ((link.client, near, there), (link.server, far, back)):
        for salt, size in enumerate(sizes):
            sender.send(sk, pattern(size, salt), link.now)
        link.settle(sender)
    if closer != "server":
        link.client.stack.close(near, link.now)
    if closer != "client":
        link.server.stack.close(far, link.now)
    link.settle(link.client)
    link.settle(link.server)
    link.run()

    assert bytes(link.server.inbox) == b"".join(pattern(size, salt) for salt, size in enumerate(there))
    assert bytes(link.client.inbox) == b"".join(pattern(size, salt) for salt, size in enumerate(back))
    assert near.state in (TIME_WAIT, CLOSED) and far.state in (TIME_WAIT, CLOSED)
    assert not link.client.of(ConnectionReset) and not link.server.of(ConnectionReset)
    at_rest(link)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(0, 6))
def test_a_connection_opens_in_all_weather(seed: int, storm: int) -> None:
    """The handshake survives fewer bad frames than it has SYNs, seven, and data flows afterwards."""
    link = wire()
    weather(link, seed, storm)

    near = link.client.stack.connect(SERVER, PORT, 0)
    link.settle(link.client)
    link.run()
    assert near.state == ESTABLISHED
    link.client.send(near, b"at last", link.now)
    link.settle(link.client)
    link.run()

    assert bytes(link.server.inbox) == b"at last"
    at_rest(link)


@pytest.mark.parametrize("lost", range(12))
def test_any_single_loss_is_repaired(lost: int) -> None:
    """Whichever data segment is lost first, the stream is whole; in the middle of a flight without any timeout."""
    link = wire()
    near, _ = link.connect()
    seen = 0

    def lose(sender: Host, frame: bytes) -> list[tuple[int, bytes]]:
        nonlocal seen
        if sender is link.server or not parse(frame).payload:
            return [(0, frame)]
        seen += 1
        return [] if seen == lost + 1 else [(0, frame)]

    link.meddle = lose
    link.client.send(near, pattern(12 * MSS), link.now)
    link.settle(link.client)
    link.run()

    assert bytes(link.server.inbox) == pattern(12 * MSS)
    assert bool(link.client.of(RetransmitTimedOut)) == (lost >= 9)
    at_rest(link)


def test_a_bent_frame_is_dropped_and_repaired() -> None:
    """A wrong bit costs the frame; the receiver says so, and the sender repairs it."""
    link = wire()
    near, _ = link.connect()
    link.meddle = lambda sender, frame: [(0, frame[:-1] + bytes([frame[-1] ^ 1]))]
    link.client.send(near, b"bent", link.now)
    link.settle(link.client)
    link.step()
    link.meddle = lambda sender, frame: [(0, frame)]
    link.run()

    assert link.server.of(FrameDropped) == [FrameDropped("10.0.0.2", "bad TCP checksum")]
    assert bytes(link.server.inbox) == b"bent"


def test_the_peer_played_by_hand_is_no_easier_than_a_real_one() -> None:
    """The bench of the other tests opens a connection as a real peer does."""
    bench = Bench()

    assert bench.sk.state == ESTABLISHED
    assert bench.sk.snd_una - Bench.ISS == 1
    bench.close()
    assert [flags & FIN for _, _, flags, _ in bench.sent()] == [FIN]
