"""Claims about a host with an RDMA adapter: it copies its file whatever fails under it, and gives everything back."""

import copy

import pytest

from lateack.nodes.facts import (
    AccessRefused,
    CallAborted,
    CallTransmitted,
    Connected,
    CopyFailed,
    CopyFinished,
    DuplicateCall,
    FrameSent,
    GateClosed,
    MemoryInvalidated,
    MemoryRegistered,
    Parked,
    QueuePairFailed,
    Reconnecting,
    SegmentTransmitted,
    WriteCompleted,
    WriteExecuted,
)
from lateack.nodes.nfs import nfs
from lateack.nodes.rules import FrameMatch, Rule, Trigger
from lateack.nodes.strategies import RDMA_STRATEGIES
from lateack.nodes.strategies.rdma import InvalidateFirst, RdmaOnReply, RdmaStrategy
from tests.nodes.one_guest import pattern
from tests.nodes.one_rdma_host import RdmaHand

INLINE, CHUNKS = 4096, 0


@pytest.mark.parametrize("strategy", RDMA_STRATEGIES.values(), ids=list(RDMA_STRATEGIES))
@pytest.mark.parametrize("inline_bytes", [INLINE, CHUNKS], ids=["inline", "chunks"])
@pytest.mark.parametrize("stable", [nfs.UNSTABLE, nfs.FILE_SYNC])
@pytest.mark.parametrize("remote_invalidation", [False, True])
def test_a_file_is_copied(
    strategy: type[RdmaStrategy], inline_bytes: int, stable: int, remote_invalidation: bool
) -> None:
    """On a calm day every scheme leaves the right file, what leaves is what was meant, and nothing is left over."""
    hand = RdmaHand(
        strategy, data=pattern(10001), remote_invalidation=remote_invalidation, inline_bytes=inline_bytes,
        stable=stable, buffers=2,
    )  # fmt: skip

    hand.boot()

    assert hand.of(CopyFinished)
    assert hand.file() == hand.data
    meant = {(fact.flow, fact.seq, fact.length): fact.digests for fact in hand.of(SegmentTransmitted)}
    assert all(meant[fact.flow, fact.seq, fact.length] == fact.digests for fact in hand.of(FrameSent))
    assert hand.left_over() == []


@pytest.mark.parametrize("inline_bytes", [INLINE, CHUNKS], ids=["inline", "chunks"])
def test_only_what_is_not_inline_is_registered(inline_bytes: int) -> None:
    """A short WRITE goes with its call; of a longer one the server is given the right to read it."""
    hand = RdmaHand(inline_bytes=inline_bytes)

    hand.boot()

    assert len(hand.of(MemoryRegistered)) == (0 if inline_bytes else 3)
    assert len(hand.of(MemoryInvalidated)) == len(hand.of(MemoryRegistered))


def test_a_reply_takes_a_key_back_where_the_server_does_so() -> None:
    """Remote invalidation comes with the reply, so that not even the bug leaves a key behind."""
    hand = RdmaHand(RdmaOnReply, remote_invalidation=True, inline_bytes=CHUNKS)

    hand.boot()

    order = [fact for fact in hand.facts if isinstance(fact, MemoryInvalidated | WriteCompleted)]
    assert [type(fact).__name__ for fact in order] == ["MemoryInvalidated", "WriteCompleted"] * 3


def test_a_lost_connection_is_made_anew_and_unanswered_calls_are_posted_again() -> None:
    """Nothing gets through until the queue pair fails; the request cache sees the same call and answers from memory."""
    hand = RdmaHand(inline_bytes=INLINE)
    hand.passes = lambda frame: not (frame.source == "server" and frame.kind in ("reply", "ack"))
    hand.boot()

    while not hand.of(Reconnecting):
        hand.fire("guest1")
    hand.held.clear()
    hand.release()
    while not hand.of(CopyFinished):
        hand.fire()

    assert hand.file() == hand.data
    assert {fact.outcome for fact in hand.of(DuplicateCall)} == {"replied"}
    assert len(hand.of(Connected)) > 1
    assert hand.left_over() == []


def test_a_server_that_never_answers_ends_the_copy() -> None:
    """After all the tries of the connection manager."""
    hand = RdmaHand()
    hand.passes = lambda frame: False
    hand.boot()

    for _ in range(20):
        if hand.timers:
            hand.fire()

    assert [fact.reason for fact in hand.of(CopyFailed)] == ["the server does not answer"]


def late_read(strategy: type[RdmaStrategy]) -> RdmaHand:
    """Give up on the first write while the server's READ of it is on its way, and let that arrive then."""
    hand = RdmaHand(strategy, inline_bytes=CHUNKS, abort=True)
    hand.passes = lambda frame: frame.rpc != "RDMA-READ-REQUEST"
    hand.boot()
    while not hand.of(CallAborted):
        hand.fire("guest1")
    hand.release()
    return hand


def test_a_late_read_finds_the_next_bytes() -> None:
    """The key is good still: the server executes the old call with the bytes of the new one."""
    hand = late_read(RdmaOnReply)

    assert hand.of(WriteExecuted)[0].offset == 0
    assert hand.file()[:4096] == hand.data[4096:8192]
    assert not hand.of(AccessRefused)


def test_a_late_read_is_refused_if_the_right_was_taken_back() -> None:
    """It costs both queue pairs; the calls that are still wanted go on over new ones."""
    hand = late_read(InvalidateFirst)

    assert len(hand.of(AccessRefused)) == 1
    assert {fact.place for fact in hand.of(QueuePairFailed)} == {"guest1.nic", "server.nic"}
    assert [fact.offset for fact in hand.of(WriteExecuted)] == [4096, 8192]
    assert hand.of(CopyFinished)
    assert hand.left_over() == []


def test_a_call_that_is_not_answered_costs_the_connection() -> None:
    """Where the application does not give up, an RPC timeout tears the queue pair, and the call is posted again."""
    hand = RdmaHand(inline_bytes=INLINE)
    hand.passes = lambda frame: frame.kind != "reply"
    hand.boot()

    while not hand.of(Reconnecting):
        hand.fire("guest1")
    hand.held.clear()
    hand.release()
    while not hand.of(CopyFinished):
        hand.fire()

    assert hand.of(Reconnecting)[0].reason == "a call was not answered in time"
    assert max(fact.transmission for fact in hand.of(CallTransmitted)) > 1
    assert hand.file() == hand.data


def test_a_gate_keeps_packets_in_front_of_the_dma() -> None:
    """It closes behind the packet that a rule waits for."""
    since = Trigger(frames=(FrameMatch(source="guest1", rpc="SEND-LAST"),))
    hand = RdmaHand(rules=(Rule("egress", "gate", "guest1.nic", since=since),), inline_bytes=INLINE)

    hand.boot()
    hand.fire("guest1")

    assert len(hand.of(GateClosed)) == 1
    assert not any(fact.again for fact in hand.of(Parked))
    assert not hand.of(CopyFinished)


def test_the_machines_can_be_copied_in_the_middle() -> None:
    """A copy goes on as the original does, and neither touches the other."""
    hand = RdmaHand(inline_bytes=CHUNKS)
    hand.passes = lambda frame: frame.rpc != "RDMA-READ-REQUEST"
    hand.boot()

    other = copy.deepcopy(hand)
    hand.release()
    other.release()

    assert other.facts == hand.facts
    assert other.file() == hand.file() == hand.data
