"""The NFS client in its guest: what it calls, when it calls again, and what ends the mount."""

import pytest

from lateack.nodes.client import RPC_TIMER
from lateack.nodes.facts import (
    BufferRefilled,
    CallAborted,
    CallTimedOut,
    CallTransmitted,
    CompletionDeferred,
    Connected,
    CopyFailed,
    CopyFinished,
    ReplyMatched,
    VerifierChanged,
    WriteCompleted,
    WriteExecuted,
    WriteIssued,
    WriteReissued,
)
from lateack.nodes.messages import Frames
from lateack.nodes.nfs import nfs
from lateack.nodes.nfs.nfs_service import NfsService
from lateack.nodes.nfs.rpc_client import RpcTimeouts
from lateack.nodes.node import MS, Received, S, TimerFired
from lateack.nodes.stack.packets import ACK, FIN, RST
from lateack.nodes.stack.skb import SkBuff
from lateack.nodes.stack.tcp import LAST_ACK
from lateack.nodes.strategies.guest import FragDestructors, FullCopy, GuestStrategy, OnReply, Write
from lateack.nodes.strategies.guest_destructors import CloneDestructors
from lateack.nodes.strategies.guest_zerocopy import CopyOnRetransmit, MsgZerocopy, ZerocopyOnReply
from tests.nodes.hand import nfs_of, tcp_frame
from tests.nodes.one_guest import Hand, pattern


@pytest.mark.parametrize("size", [1, 4096, 5001])
def test_it_copies_over_udp(size: int) -> None:
    """Each call is a datagram, cut to the MTU where it must be."""
    hand = Hand(pattern(size), transport="udp", rpc=RpcTimeouts.udp())

    hand.boot()

    assert hand.file() == pattern(size)
    assert hand.of(Connected) == []
    assert hand.left_over() == []


def test_unstable_writes_are_complete_after_the_commit() -> None:
    """The pages must be at hand until the server has committed them: COMMIT stands between reply and completion."""
    hand = Hand(pattern(8192), stable=nfs.UNSTABLE)

    hand.boot()

    assert [fact.proc for fact in hand.of(ReplyMatched)] == [nfs.CREATE] + [nfs.WRITE, nfs.COMMIT] * 2
    order = [type(fact).__name__ for fact in hand.facts if isinstance(fact, ReplyMatched | WriteCompleted)]
    assert order[1:] == ["ReplyMatched", "ReplyMatched", "WriteCompleted"] * 2


def test_a_folder_is_made_where_several_copy() -> None:
    """A file name with a folder makes the folder first."""
    hand = Hand(pattern(100), file="guest1/input.bin")

    hand.boot()

    assert [fact.proc for fact in hand.of(ReplyMatched)][:2] == [nfs.MKDIR, nfs.CREATE]
    assert len(hand.of(CopyFinished)) == 1


def test_a_call_that_times_out_is_sent_again() -> None:
    """Under the same xid, out of the same page, as new bytes of the stream."""
    hand = Hand(rpc=RpcTimeouts.tcp(timeo=50 * MS))
    hand.passes = lambda target, frame: target == "server" or not hand.of(WriteIssued)
    hand.boot()

    hand.fire()
    hand.release()

    (first,) = {fact.xid for fact in hand.of(CallTimedOut)}
    assert [fact.transmission for fact in hand.of(CallTransmitted) if fact.xid == first] == [1, 2]
    assert hand.of(CallTimedOut)[0].major is False
    assert len(hand.of(CopyFinished)) == 1
    assert hand.file() == pattern(8192)


def test_an_aborted_call_is_forgotten_and_the_copy_goes_on() -> None:
    """The application takes the range for lost, uses its buffer again, and finishes; a late reply finds nobody."""
    hand = Hand(rpc=RpcTimeouts.tcp(timeo=50 * MS), abort=True)
    hand.passes = lambda target, frame: target == "server" or not hand.of(WriteIssued)
    hand.boot()

    hand.fire()
    hand.release()

    first, second = [fact.xid for fact in hand.of(WriteIssued)]
    assert [fact.xid for fact in hand.of(CallAborted)] == [first]
    assert [fact.xid for fact in hand.of(WriteCompleted)] == [second]
    assert len(hand.of(CopyFinished)) == 1
    assert nfs_of(hand.guest).rpc.unmatched_replies == 1
    assert hand.left_over() == []


def test_a_write_is_also_given_up_while_it_waits_for_its_commit() -> None:
    """What is aborted is the write, whichever of its calls has timed out: its COMMIT has an xid of its own."""
    hand = Hand(pattern(4096), rpc=RpcTimeouts.tcp(timeo=50 * MS), abort=True, stable=nfs.UNSTABLE)
    hand.passes = lambda target, frame: target == "server" or nfs.COMMIT not in procedures(hand)
    hand.boot()

    hand.fire()
    hand.release()

    assert [fact.xid for fact in hand.of(CallAborted)] == [fact.xid for fact in hand.of(WriteIssued)]
    assert len(hand.of(CopyFinished)) == 1
    assert hand.left_over() == []


def test_an_abort_waits_where_the_strategy_does() -> None:
    """The fragments of an aborted call are still below: the buffer comes back when they are gone."""
    hand = Hand(strategy=FragDestructors, rpc=RpcTimeouts.tcp(timeo=50 * MS), abort=True)
    hand.passes = lambda target, frame: not hand.of(WriteIssued)
    hand.boot()

    hand.fire()
    waiting = len(hand.of(BufferRefilled))
    hand.release()

    (first, _) = [fact.xid for fact in hand.of(WriteIssued)]
    assert [fact.xid for fact in hand.of(CompletionDeferred)] == [first]
    assert waiting == 0 and len(hand.of(BufferRefilled)) == 1
    assert len(hand.of(CopyFinished)) == 1


def test_the_connection_is_closed_only_when_no_call_waits() -> None:
    """A strategy that does not wait for replies is done with every byte before the server has said so."""
    hand = Hand(strategy=CloneDestructors)
    hand.passes = lambda target, frame: target == "server" or not hand.of(WriteIssued)
    hand.boot()
    before = len(hand.of(WriteCompleted)), hand.guest.copier.over

    hand.release()

    assert before == (2, False)
    assert len(hand.of(CopyFinished)) == 1
    assert hand.left_over() == []


@pytest.mark.parametrize("size", [4096, 1000])
def test_a_strategy_is_shown_the_packets_of_a_datagram(size: int) -> None:
    """There is no queue over UDP: what it marks is what goes down, one packet for each fragment."""
    seen: list[int] = []

    class Watching(OnReply):
        def queued(self, write: Write, skbs: list[SkBuff]) -> None:
            """Count packets, and see that none is kept in a queue."""
            seen.append(len(skbs))
            assert not any(skb.nohdr for skb in skbs)

    hand = Hand(pattern(size), strategy=Watching, transport="udp", rpc=RpcTimeouts.udp())

    hand.boot()

    assert seen == [3 if size == 4096 else 1]
    assert hand.file() == pattern(size)


def test_only_the_call_that_had_a_major_timeout_says_so() -> None:
    """Two calls expire in one moment: the one that waits longer has its major timeout, the other has not."""
    hand = Hand(pattern(8192), buffers=2, rpc=RpcTimeouts(50 * MS, 1, 50 * MS, False, S))
    hand.passes = lambda target, frame: target == "server" or not hand.of(WriteIssued)
    hand.boot()
    first, second = sorted(nfs_of(hand.guest).rpc.pending)
    hand.fire()
    nfs_of(hand.guest).rpc.pending[second].major_deadline += S
    nfs_of(hand.guest).rpc.pending[second].deadline = nfs_of(hand.guest).rpc.pending[first].deadline

    while not any(fact.major for fact in hand.of(CallTimedOut)):
        hand.fire()

    assert [fact.xid for fact in hand.of(CallTimedOut)] == [first, second] * 2
    assert [fact.xid for fact in hand.of(CallTimedOut) if fact.major] == [first]


def test_a_soft_mount_gives_up() -> None:
    """The application is told that it failed, and issues nothing more, whatever replies come late."""
    hand = Hand(pattern(40_960), buffers=2, rpc=RpcTimeouts.tcp(timeo=50 * MS, retrans=0, soft=True))
    hand.passes = lambda target, frame: target == "server" or len(hand.of(WriteIssued)) < 2
    hand.boot()

    hand.fire()
    hand.release()

    assert [fact.reason for fact in hand.of(CopyFailed)] == ["a call timed out (soft mount)"]
    assert len(hand.of(WriteIssued)) == 2
    assert hand.of(CopyFinished) == []


def test_a_lost_connection_is_a_failure_and_not_a_crash() -> None:
    """The server resets; the calls that wait have nobody to go to, and their timers fire into the void."""
    hand = Hand(pattern(40_960), buffers=2, rpc=RpcTimeouts.tcp(timeo=50 * MS))
    hand.passes = lambda target, frame: target == "server" or len(hand.of(WriteIssued)) < 2
    hand.boot()
    sk = nfs_of(hand.guest).socket
    assert sk is not None
    reset = tcp_frame(seq=sk.rcv_nxt & 0xFFFFFFFF, ack=1, to_server=False, flags=RST)

    hand.handle("backend", Received("network", Frames((reset,))))
    hand.carry()
    for _ in range(3):
        if ("guest1", RPC_TIMER) in hand.timers:
            hand.now = hand.timers.pop(("guest1", RPC_TIMER))
            hand.handle("guest1", TimerFired(RPC_TIMER))

    assert [fact.reason for fact in hand.of(CopyFailed)] == ["the connection to the server was lost"]
    assert hand.guest.pending() == 0
    assert len(hand.of(CallTransmitted)) == 3


def test_a_server_that_closes_first_has_ended_the_copy() -> None:
    """Its FIN leaves the application without the rest of its file, and the guest closes its own side, too."""
    hand = Hand(pattern(40_960), buffers=2)
    hand.passes = lambda target, frame: target == "server" or len(hand.of(WriteIssued)) < 2
    hand.boot()
    sk = nfs_of(hand.guest).socket
    assert sk is not None
    end = tcp_frame(seq=sk.rcv_nxt & 0xFFFFFFFF, ack=sk.snd_una & 0xFFFFFFFF, to_server=False, flags=FIN | ACK)

    hand.handle("backend", Received("network", Frames((end,))))
    hand.carry()

    assert [fact.reason for fact in hand.of(CopyFailed)] == ["the server closed the connection"]
    assert sk.state == LAST_ACK
    assert hand.of(CopyFinished) == []


def commits_after_a_restart(**settings: object) -> Hand:
    """Return a hand whose server has another verifier when the first COMMIT comes; its WRITE came before."""
    hand = Hand(stable=nfs.UNSTABLE, **settings)  # type: ignore[arg-type]
    hand.passes = lambda target, frame: target != "server" or nfs.COMMIT not in procedures(hand)
    hand.boot()
    service = hand.server.service
    assert isinstance(service, NfsService)
    service.server.procedures.verifier = b"restart2"
    hand.release()
    return hand


@pytest.mark.parametrize("strategy", [OnReply, FragDestructors, MsgZerocopy, ZerocopyOnReply, CopyOnRetransmit])
def test_another_verifier_has_the_bytes_written_again(strategy: type[GuestStrategy]) -> None:
    """As a call of its own, out of pages that belong to the write until a COMMIT says what its WRITE has said."""
    hand = commits_after_a_restart(strategy=strategy)

    (first, _) = [fact.xid for fact in hand.of(WriteIssued)]
    assert [(fact.xid, fact.offset, fact.count) for fact in hand.of(VerifierChanged)] == [(first, 0, 4096)]
    assert hand.of(WriteReissued) == [WriteReissued(first, first + 2)]
    assert [fact.xid for fact in hand.of(WriteCompleted)] == [first + 2, first + 4]
    assert len({fact.digest for fact in hand.of(WriteExecuted) if fact.offset == 0}) == 1
    assert hand.guest.copied_bytes == 0
    assert hand.file() == pattern(8192)
    assert hand.left_over() == []


@pytest.mark.parametrize("strategy", [OnReply, FragDestructors, MsgZerocopy, ZerocopyOnReply, FullCopy])
def test_pages_that_are_let_go_too_early_are_written_again_as_they_are_by_then(strategy: type[GuestStrategy]) -> None:
    """Done at the WRITE's reply, once: what is written again is the file's next bytes, at the place of the first."""
    hand = commits_after_a_restart(strategy=strategy, releases_early=True)

    first = hand.of(WriteIssued)[0].xid
    assert hand.of(WriteCompleted)[0].xid == first
    assert len(hand.of(WriteCompleted)) == 2
    assert len(hand.of(VerifierChanged)) >= 1
    assert hand.file() == pattern(8192)[4096:] * 2
    assert len(hand.of(CopyFinished)) == 1
    assert hand.left_over() == []


@pytest.mark.parametrize(("stable", "calls"), [(nfs.FILE_SYNC, 3), (nfs.UNSTABLE, 4)])
def test_a_short_write_is_gone_on_with(stable: int, calls: int) -> None:
    """The rest of what is stable is written by further calls; what is not, from the start and stably this time."""
    hand = Hand(pattern(4096), stable=stable)
    service = hand.server.service
    assert isinstance(service, NfsService)
    service.server.procedures.transfer_max = 1500

    hand.boot()

    ranges = [(fact.offset, fact.count) for fact in hand.of(WriteExecuted)]
    assert ranges == [(0, 1500)] * (calls - 2) + [(1500, 1500), (3000, 1096)]
    assert [fact.offset for fact in hand.of(WriteIssued)] == [0, 1500, 3000]
    assert [fact.xid for fact in hand.of(WriteCompleted)] == [hand.of(WriteReissued)[-1].xid]
    assert hand.file() == pattern(4096)


def test_a_server_that_writes_nothing_has_failed() -> None:
    """A WRITE that makes no progress would be called for ever."""
    hand = Hand(pattern(4096))
    service = hand.server.service
    assert isinstance(service, NfsService)
    service.server.procedures.transfer_max = 0

    hand.boot()

    assert [fact.reason for fact in hand.of(CopyFailed)] == ["the server wrote 0 of 4096 bytes"]


def test_every_pass_but_the_last_writes_other_bytes() -> None:
    """A pass begins when the one before it is wholly done, out of the same buffers; the last one writes the input."""
    hand = Hand(pattern(8192), passes=3, buffers=2)

    hand.boot()

    order = [type(fact).__name__ for fact in hand.facts if isinstance(fact, WriteIssued | WriteCompleted)]
    assert order == ["WriteIssued", "WriteIssued", "WriteCompleted", "WriteCompleted"] * 3
    first = [fact.digest for fact in hand.of(WriteIssued) if fact.offset == 0]
    assert first[0] == first[1] != first[2]
    assert hand.file() == pattern(8192)
    assert hand.left_over() == []


def procedures(hand: Hand) -> list[int]:
    """Return the procedures that were called, in order."""
    return [fact.proc for fact in hand.of(CallTransmitted)]
