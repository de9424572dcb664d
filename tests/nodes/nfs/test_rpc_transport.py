"""A mount whose connection is lost: when it connects anew, from where, and what it sends again."""

from itertools import pairwise

import pytest

from lateack.nodes.facts import (
    CallTransmitted,
    CopyFailed,
    CopyFinished,
    DuplicateCall,
    DuplicateDropped,
    Reconnecting,
    WriteCompleted,
    WriteExecuted,
    WriteIssued,
)
from lateack.nodes.messages import Frames
from lateack.nodes.nfs import nfs
from lateack.nodes.nfs.rpc_client import RpcTimeouts
from lateack.nodes.node import MS, Received, S
from lateack.nodes.stack.forged_reset import reset_for
from lateack.nodes.stack.packets import ACK, FIN
from lateack.nodes.stack.tcp import CLOSED, TcpParameters
from lateack.nodes.stack.tcp_output import tcp_sendmsg
from lateack.nodes.strategies.guest import FragDestructors, FullCopy, GuestStrategy, OnReply
from lateack.nodes.strategies.guest_zerocopy import CopyOnRetransmit, MsgZerocopy
from tests.nodes.hand import nfs_of, tcp_frame
from tests.nodes.one_guest import Hand, pattern


def loses_its_first_write(**settings: object) -> Hand:
    """Return a hand whose guest has issued its first WRITE, which the network keeps, with all that the guest sends."""
    hand = Hand(**settings)  # type: ignore[arg-type]
    hand.passes = lambda target, frame: target != "server" or not hand.of(WriteIssued)
    hand.boot()
    assert len(hand.of(WriteIssued)) == 1
    return hand


def refuse(hand: Hand) -> None:
    """Answer the last frame that the network keeps with a RST, and let all that comes later pass."""
    answer = reset_for(hand.held[-1][1])
    assert answer is not None
    hand.passes = lambda target, frame: True
    hand.handle("backend", Received("network", Frames((answer,))))
    hand.carry()


def wait(hand: Hand) -> None:
    """Let time pass until the copy is over."""
    for _ in range(40):
        if hand.guest.copier.over:
            return
        hand.fire()
    raise AssertionError("the copy is not over")


@pytest.mark.parametrize("strategy", [OnReply, FragDestructors, MsgZerocopy, CopyOnRetransmit, FullCopy])
@pytest.mark.parametrize(("policy", "port"), [("same-port", 700), ("new-port", 701)])
def test_every_call_without_a_reply_is_sent_again(policy: str, port: int, strategy: type[GuestStrategy]) -> None:
    """Under its xid, on the new connection, out of the pages as the strategy hands them out; nothing is left over."""
    hand = loses_its_first_write(reconnect=policy, strategy=strategy)
    (first,) = hand.of(WriteIssued)

    refuse(hand)
    wait(hand)

    assert [fact.port for fact in hand.of(Reconnecting)] == [port]
    assert [fact.transmission for fact in hand.of(CallTransmitted) if fact.xid == first.xid] == [1, 2]
    while hand.server.pending():  # what it repeats on the old connection is answered with a RST
        hand.fire()
    assert hand.file() == pattern(8192)
    assert hand.left_over() == []


def test_the_former_port_ends_the_servers_connection() -> None:
    """The SYN is answered by a challenge, this by a RST, and the SYN after it finds the server ready; a second late.

    RFC 9293 section 3.10.7.4 and RFC 5961 section 4.2. What was under way on the old connection is old data then.
    """
    hand = loses_its_first_write(reconnect="same-port")
    sk = next(iter(hand.server.stack.sockets.values()))

    refuse(hand)
    before = hand.now, sk.state, len(hand.of(CopyFinished))
    wait(hand)
    stray = [frame for way, frame in hand.held if way == "server"]
    hand.handle("server", Received("network", Frames(tuple(stray))))

    assert before == (0, CLOSED, 0) and hand.now == S
    assert len(hand.server.stack.sockets) == 1
    assert {fact.length for fact in hand.of(DuplicateDropped)} <= {1460, 1308}
    assert len(hand.of(WriteExecuted)) == 2


def test_another_port_leaves_the_servers_connection_alive() -> None:
    """What was under way on it is executed when it comes: the request cache knows a client by its port, too."""
    hand = loses_its_first_write(reconnect="new-port")
    first = hand.of(WriteIssued)[0].xid

    refuse(hand)
    wait(hand)
    hand.release()

    assert [fact.xid for fact in hand.of(WriteExecuted)] == [first, first + 1, first]
    assert [fact.outcome for fact in hand.of(DuplicateCall)] == ["executed"]


def test_a_reply_on_the_lost_connection_finds_nobody() -> None:
    """It finds no socket; the call is completed by the reply on the new one."""
    hand = Hand(pattern(4096), reconnect="new-port")
    hand.passes = lambda target, frame: target == "server" or not hand.of(WriteExecuted)
    hand.boot()
    sk = nfs_of(hand.guest).socket
    assert sk is not None
    hand.held, late = [("server", tcp_frame(seq=0, ack=sk.rcv_nxt & 0xFFFFFFFF))], hand.held

    refuse(hand)
    wait(hand)
    for way, frame in late:
        hand.handle(way, Received("network", Frames((frame,))))
    hand.carry()

    assert [fact.port for fact in hand.of(Reconnecting)] == [701]
    assert len(hand.of(WriteCompleted)) == 1
    assert nfs_of(hand.guest).rpc.unmatched_replies == 0


def test_a_server_that_closes_is_come_back_to_after_three_seconds() -> None:
    """Both ends of the old connection are closed first (xs_tcp_state_change, TCP_CLOSE_WAIT)."""
    hand = loses_its_first_write(reconnect="same-port")
    sk = nfs_of(hand.guest).socket
    assert sk is not None
    end = tcp_frame(seq=sk.rcv_nxt & 0xFFFFFFFF, ack=sk.snd_una & 0xFFFFFFFF, to_server=False, flags=FIN | ACK)

    hand.handle("backend", Received("network", Frames((end,))))
    hand.carry()
    refuse(hand)
    waiting = hand.of(Reconnecting)
    wait(hand)

    assert waiting == []
    assert hand.now >= 3 * S
    assert hand.file() == pattern(8192)


def test_a_server_that_takes_no_connection_is_asked_again_later() -> None:
    """A SYN that is refused: the next goes 3 s after it, and the next 6 s after that; then the copy goes on."""
    hand = loses_its_first_write(reconnect="new-port")
    hand.passes = lambda target, frame: target != "server"
    attempts: list[int] = []

    lost = reset_for(hand.held[-1][1])
    while lost is not None and len(attempts) < 3:
        hand.handle("backend", Received("network", Frames((lost,))))
        hand.carry()
        known = len(attempts)
        while len(hand.of(Reconnecting)) == known:
            hand.fire()
        attempts.append(hand.now)
        lost = reset_for(hand.held[-1][1])
    hand.release()
    wait(hand)

    assert [late - soon for soon, late in pairwise(attempts)] == [3 * S, 6 * S]
    assert [fact.port for fact in hand.of(Reconnecting)] == [701, 702, 703]
    assert hand.file() == pattern(8192)


def test_a_connection_that_tcp_gives_up_is_opened_anew() -> None:
    """Nobody said that it is gone: the retransmissions ran out (tcp_retries2)."""
    hand = loses_its_first_write(reconnect="same-port", tcp=TcpParameters(retries_max=2))

    while not hand.of(Reconnecting):
        hand.fire()
    hand.passes = lambda target, frame: True
    wait(hand)

    assert [fact.reason for fact in hand.of(Reconnecting)] == ["the connection to the server was lost"]
    assert hand.file() == pattern(8192)


def test_half_a_reply_is_forgotten_with_its_connection() -> None:
    """The new stream begins with a record of its own, whatever the old one broke off in."""
    hand = loses_its_first_write(reconnect="new-port")
    sk = nfs_of(hand.guest).socket
    assert sk is not None
    half = tcp_frame(b"\x80\0\0\x40half", seq=sk.rcv_nxt & 0xFFFFFFFF, ack=sk.snd_una & 0xFFFFFFFF, to_server=False)
    hand.handle("backend", Received("network", Frames((half,))))
    hand.carry()

    refuse(hand)
    wait(hand)

    assert hand.file() == pattern(8192)


def test_a_call_that_times_out_without_a_connection_waits_for_one() -> None:
    """Its timer runs, a hard mount says that the server does not respond, and nothing is sent before there is a way."""
    hand = loses_its_first_write(reconnect="same-port", rpc=RpcTimeouts.tcp(timeo=50 * MS))
    lost = reset_for(hand.held[-1][1])
    assert lost is not None
    hand.handle("backend", Received("network", Frames((lost,))))
    hand.carry()

    while hand.now < 500 * MS:
        hand.fire()
    before = [fact.proc for fact in hand.of(CallTransmitted)]
    hand.release()
    wait(hand)

    assert before == [nfs.CREATE, nfs.WRITE]
    assert hand.of(CopyFailed) == []
    assert hand.file() == pattern(8192)


@pytest.mark.parametrize("policy", ["never", "same-port"])
def test_a_stream_that_makes_no_sense_is_a_connection_lost(policy: str) -> None:
    """A record longer than any: a mount that connects anew does so, and any other gives up."""
    hand = loses_its_first_write(reconnect=policy)
    (sk,) = hand.server.stack.sockets.values()
    nonsense = b"\xff\xff\xff\xff" + bytes(60)

    tcp_sendmsg(sk, nonsense, (), b"", nonsense)
    hand.server.stack.send_queued(sk, hand.now)
    hand.passes = lambda target, frame: True
    hand.handle("server", Received("network", Frames(())))
    hand.carry()
    wait(hand)

    assert len(hand.of(CopyFailed)) == (policy == "never")
    assert len(hand.of(Reconnecting)) == len(hand.of(CopyFinished)) == (policy == "same-port")
