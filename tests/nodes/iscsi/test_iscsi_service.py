"""The target behind its port: sessions end and begin, and what was not finished in the old one is not executed."""

import pytest
from msgspec.structs import replace

from lateack.nodes.facts import CopyFinished, FileAtRest, SessionRecovered, WriteExecuted
from lateack.nodes.iscsi import iscsi
from lateack.nodes.iscsi.iscsi_login import IscsiParameters
from lateack.nodes.iscsi.iscsi_service import IscsiService
from lateack.nodes.node import Boot, TimerFired
from lateack.nodes.server import Server
from lateack.nodes.stack.packets import RST, digest_of
from lateack.nodes.stack.tcp import CLOSED, ESTABLISHED
from lateack.nodes.stack.tcp_output import tcp_sendmsg
from tests.nodes.one_guest import pattern
from tests.nodes.one_iscsi import Hand

FLAGS = 47
"""Where a TCP header's flags lie in a frame."""
SOLICITED = IscsiParameters(immediate_data=False, max_segment=1024)


def service_of(hand: Hand) -> IscsiService:
    """Return the server's target."""
    service = hand.server.service
    assert isinstance(service, IscsiService)
    return service


def test_what_lies_on_the_disk_is_told_at_the_end() -> None:
    """In the chunks of the audit, and as long as the file is to be."""
    hand = Hand(pattern(5000), IscsiParameters())

    hand.boot()

    assert hand.at_rest() == FileAtRest(
        "input.bin", 5000, 4096, (digest_of(hand.data[:4096]), digest_of(hand.data[4096:]))
    )


def stir(hand: Hand) -> None:
    """Let what was done to the host's stack by hand go out, and carry what follows."""
    hand.handle("guest1", TimerFired("rpc"))
    hand.carry()


def test_a_new_session_ends_the_old_one() -> None:
    """Session reinstatement (RFC 7143 section 6.3.5): the old connection is reset, its half of a write forgotten."""
    hand = Hand(pattern(4096), SOLICITED)
    hand.passes = lambda target, frame: target == "guest1" or hand.names().count("DATA-OUT") < 2
    hand.boot()
    connections, sk = service_of(hand).connections, hand.initiator().socket
    (old,) = connections
    waiting = len(connections[old].target.transfers)
    assert sk is not None

    # The initiator gives its connection up, and nothing of that reaches the target.
    hand.passes = lambda target, frame: target == "guest1" or not frame[FLAGS] & RST
    hand.metal.stack.abort(sk, "the cable was pulled", 0)
    hand.initiator().watch(0)
    stir(hand)

    assert waiting == 1
    assert old.state == CLOSED
    assert old not in connections
    assert len(hand.of(WriteExecuted)) == len(hand.of(CopyFinished)) == 1
    assert hand.file() == hand.data


@pytest.mark.parametrize(
    "nonsense", [bytes(48), b"GET / HTTP/1.1\r\n\r\n".ljust(60), b"\x43\x87\0\0\0\xff\xff\xff" + bytes(40)]
)
def test_bytes_that_are_no_login_end_their_connection_and_no_other(nonsense: bytes) -> None:
    """The stream is dropped, and the service goes on."""
    hand = Hand(pattern(4096), IscsiParameters(), unmount=False)
    hand.boot()
    stack = hand.metal.stack
    other = stack.connect(hand.server.config.address.ip, iscsi.PORT, 0)
    stir(hand)

    tcp_sendmsg(other, nonsense, (), b"", nonsense)
    stack.send_queued(other, 0)
    stir(hand)

    assert other.state == CLOSED
    assert [sk.state for sk in service_of(hand).connections] == [ESTABLISHED]
    assert hand.file() == hand.data


def test_a_target_that_died_is_given_again_what_it_had_not_answered() -> None:
    """Another one with the same disk takes the reissued commands; the file is whole, and told of at the end."""
    hand = Hand(pattern(20_000), IscsiParameters(), buffers=2)
    hand.passes = lambda target, frame: target == "server" or len(hand.of(WriteExecuted)) < 3
    hand.boot()
    hand.server = Server(replace(hand.server.config, incarnation=1), hand.store)
    hand.machines["server"] = hand.server
    hand.passes = lambda target, frame: True
    hand.handle("server", Boot())

    while not hand.of(CopyFinished):
        hand.fire()

    assert hand.of(SessionRecovered)[0].commands
    assert hand.file() == hand.data
    assert hand.at_rest().length == 20_000
