"""What clients of one connection have in common: it is opened anew from the next port whenever it is lost."""

import pytest

from lateack.nodes.facts import Connected, CopyFinished, Reconnecting
from lateack.nodes.messages import Frames
from lateack.nodes.node import Received
from lateack.nodes.storage.stream_client import ByteStream
from tests.nodes.one_guest import pattern
from tests.nodes.storage.replicated import Pair


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
