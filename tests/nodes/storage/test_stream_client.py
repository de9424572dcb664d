"""What clients of one connection have in common: it is opened anew from the next port whenever it is lost."""

import pytest

from lateack.nodes.facts import Connected, ConnectionReset, CopyFinished, Reconnecting, WriteExecuted
from lateack.nodes.messages import Frames
from lateack.nodes.node import Received, S, TimerFired
from lateack.nodes.stack.packets import parse
from lateack.nodes.stack.tcp import CLOSED
from lateack.nodes.storage.stream_client import ByteStream
from tests.nodes.one_guest import pattern
from tests.nodes.replication.replicated import Pair

PROTOCOLS = ("drbd", "ceph", "iscsi")


def test_a_stream_gives_what_is_whole() -> None:
    """Bytes come in any pieces; fewer than wanted stay."""
    stream = ByteStream()
    stream.feed(b"ab")

    assert stream.take(3) is None
    stream.feed(b"cd")
    assert (stream.take(3), stream.take(1), stream.take(1)) == (b"abc", b"d", None)


@pytest.mark.parametrize("protocol", ["drbd", "ceph"])
def test_a_server_that_says_goodbye_too_early_is_called_again(protocol: str) -> None:
    """A FIN in the middle is a connection lost, like a reset."""
    client = Pair(protocol, pattern(20000))
    client.passes = lambda target, frame: target == "server" or len(client.of(Connected)) < 2
    client.boot()

    for sk in list(client.server.stack.sockets.values()):
        client.server.stack.close(sk, client.now)
    client.passes = lambda target, frame: True
    client.handle("server", Received("network", Frames(())))
    client.run()

    assert [fact.port for fact in client.of(Reconnecting)] == [701]
    assert client.file() == client.data
    assert client.of(CopyFinished)


@pytest.mark.parametrize("protocol", ["drbd", "ceph"])
def test_a_client_that_never_unmounts_is_through_without_goodbye(protocol: str) -> None:
    """The copy is over when the last write is confirmed, and the connection stays."""
    client = Pair(protocol, pattern(20000), unmount=False)

    client.boot()
    client.run()

    assert client.of(CopyFinished)
    assert client.file() == client.data
    assert client.left_over() == []


@pytest.mark.parametrize(("protocol", "kept"), [("drbd", "sessions"), ("ceph", "sessions"), ("iscsi", "connections")])
def test_a_server_keeps_nothing_of_a_connection_that_was_reset(protocol: str, kept: str) -> None:
    """However often a client comes back, the server knows of one connection."""
    pair = Pair(protocol, pattern(200_000))
    pair.passes = lambda target, frame: target == "guest1" or len(frame) < 400
    pair.boot()
    known = []

    for _ in range(5):
        (sk,) = [sk for sk in pair.metal.stack.sockets.values() if sk.state != CLOSED]
        pair.metal.stack.abort(sk, "the cable was pulled", pair.now)
        pair.handle("guest1", TimerFired("rpc"))
        pair.metal.remote.watch(pair.now)
        pair.handle("guest1", TimerFired("rpc"))
        pair.carry()
        known.append(len(getattr(pair.server.service, kept)))

    assert known == [1] * 5


def fired_until(pair: Pair, end: int) -> None:
    """Let timers fire until *end* (ns)."""
    for _ in range(500):
        if not pair.timers or min(pair.timers.values()) > end:
            return
        pair.fire()
    raise AssertionError("timers fire without end")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_does_not_greet_is_called_again(protocol: str) -> None:
    """TCP is satisfied, for our greeting was acknowledged: the client itself loses patience."""
    pair = Pair(protocol, pattern(20000))
    pair.passes = lambda target, frame: target == "server" or not parse(frame).payload
    pair.boot()

    fired_until(pair, 9 * S)
    patient = pair.of(Reconnecting)
    fired_until(pair, 11 * S)
    pair.passes = lambda target, frame: True
    pair.run()

    assert patient == []
    assert "the server does not greet" in [fact.reason for fact in pair.of(ConnectionReset)]
    assert pair.of(CopyFinished)
    assert pair.file() == pair.data


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_waits_in_silence_asks_for_a_sign_of_life(protocol: str) -> None:
    """Once in five seconds, where TCP has nothing to ask for; and the connection goes on if there is an answer."""
    pair = Pair(protocol, pattern(20000))
    said: list[tuple[int, int]] = []

    def passes(target: str, frame: bytes) -> bool:
        segment = parse(frame)
        if target == "server" and segment.payload:
            said.append((segment.seq, pair.now))
        return target == "server" or not (segment.payload and pair.of(WriteExecuted))

    pair.passes = passes
    pair.boot()
    fired_until(pair, 4 * S)
    before = {sequence for sequence, _ in said}
    fired_until(pair, 6 * S)
    asked = {sequence for sequence, _ in said} - before
    pair.passes = lambda target, frame: True
    pair.run()

    assert before
    assert len(asked) == 1
    assert pair.of(CopyFinished)
    assert pair.of(Reconnecting) == []
    assert pair.file() == pair.data
