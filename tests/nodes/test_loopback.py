"""A host that serves itself: who reads the application's page, and when."""

import copy

import pytest

from lateack.nodes.facts import (
    BufferRefilled,
    CopyFinished,
    Counted,
    DuplicateCall,
    FileAtRest,
    FrameSent,
    GateOpened,
    LeftOver,
    PacketRead,
    Parked,
    SegmentTransmitted,
    WriteExecuted,
    WriteIssued,
)
from lateack.nodes.nfs.rpc_client import RpcTimeouts
from lateack.nodes.node import MS, Boot, TimerFired
from lateack.nodes.rules import FactMatch, FrameMatch, Rule, Trigger
from lateack.nodes.strategies import GUEST_STRATEGIES
from tests.nodes.hand import facts_of, nfs_of
from tests.nodes.one_guest import pattern
from tests.nodes.one_loopback import Hand

SINCE_WRITE = Trigger(frames=(FrameMatch("guest1", "guest1", rpc="WRITE"),))
IMPATIENT = (FactMatch("CallTimedOut", "guest1"), FactMatch("BufferRefilled", "guest1"))
NFSD_SLEEPS = Rule("nfsd", "gate", "guest1.reader", since=SINCE_WRITE, until=Trigger(facts=IMPATIENT))


def asleep(strategy: str = "on-reply") -> Hand:
    """Return a host whose nfsd does not run from the first write on."""
    hand = Hand(strategy=GUEST_STRATEGIES[strategy], rules=(NFSD_SLEEPS,), rpc=RpcTimeouts.tcp(timeo=100 * MS))
    hand.boot()
    return hand


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_file_is_copied_to_oneself(transport: str) -> None:
    """No wire and no time: the file is whole, and nothing is left."""
    hand = Hand(transport=transport)

    hand.boot()

    assert hand.file() == pattern(8192)
    assert len(hand.of(CopyFinished)) == 1
    assert hand.left_over() == []
    assert hand.host.pending() == 0
    assert [fact.length for fact in hand.of(FileAtRest)] == [8192]
    assert {(fact.client, fact.file) for fact in hand.of(WriteExecuted)} == {("guest1", "input.bin")}


def test_what_is_completed_on_the_way_is_told_within_the_event() -> None:
    """A destructor that runs as soon as a packet is queued completes a write while the application writes the last."""
    hand = Hand(pattern(40960), GUEST_STRATEGIES["clone-destructor"], buffers=1)
    waiting = []

    hand.handle(Boot())
    while hand.timers and min(hand.timers.values()) <= hand.now:
        del hand.timers[name := min(hand.timers, key=lambda key: hand.timers[key])]
        hand.handle(TimerFired(name))
        waiting.append(len(hand.host.completed))

    assert len(hand.of(WriteIssued)) == 10
    assert not any(waiting)


def test_the_pages_are_read_where_nfsd_reads() -> None:
    """Nothing else on the way looks at them, and what is read is cut as it was meant."""
    hand = Hand()

    hand.boot()

    meant = {(fact.flow, fact.seq): fact.digests for fact in hand.of(SegmentTransmitted)}
    reads = hand.of(PacketRead)
    assert [read.place for read in reads] == ["guest1.reader"] * 2
    assert [meant[read.flow, read.seq] for read in reads] == [read.digests for read in reads]
    assert hand.of(FrameSent) == []


def test_tcp_acknowledges_what_nobody_has_read() -> None:
    """The sender has nothing queued any more, and yet the application's page has a second user: the socket."""
    hand = asleep()

    sk = nfs_of(hand.host).socket

    assert sk is not None
    assert sk.snd_una == sk.snd_nxt
    assert [page.refs for page in hand.host.copier.buffers[0].pages] == [2]
    assert [parked.place for parked in hand.of(Parked)] == ["guest1.reader"]
    assert hand.of(WriteExecuted) == []


def test_who_waits_for_the_reply_waits_for_nfsd() -> None:
    """The client asks again, nfsd wakes up, executes the first call and answers the second from memory."""
    hand = asleep()

    hand.run(until=100 * MS)

    assert hand.file() == pattern(8192)
    assert [(fact.outcome, fact.payload_differs) for fact in hand.of(DuplicateCall)] == [("replied", False)]
    assert [fact.waiting for fact in hand.of(GateOpened)] == [1]  # the second call is on its way
    assert hand.left_over() == []


@pytest.mark.parametrize("strategy", ["skb-destructor", "clone-destructor"])
def test_a_destructor_gives_the_page_away_before_nfsd_has_read_it(strategy: str) -> None:
    """The packet was orphaned or acknowledged, the buffer refilled, and the server stores the next write's bytes."""
    hand = asleep(strategy)

    hand.run(until=100 * MS)

    issued, executed = hand.of(WriteIssued)[0], hand.of(WriteExecuted)[0]
    assert executed.xid == issued.xid
    assert executed.digest != issued.digest
    assert hand.file() == pattern(8192)[4096:] * 2
    assert len(hand.of(BufferRefilled)) == 1


def test_a_counted_owner_is_copied_out_on_the_way() -> None:
    """A socket may keep the pages for ever, so the stack copies them before it queues them, and says so."""
    hand = asleep("msg-zerocopy")
    refs = [page.refs for page in hand.host.copier.buffers[0].pages]

    hand.run(until=100 * MS)

    assert refs == [1]
    assert hand.file() == pattern(8192)
    hand.left_over()
    assert {fact.amount for fact in hand.of(Counted) if fact.name == "copied_bytes"} == {3 * 4096}


def test_the_host_can_be_copied_while_a_socket_holds_pages() -> None:
    """Machines are plain data: both go on from here, and do the same."""
    hand = asleep()
    hand.now = 100 * MS

    ends = []
    for each in (hand, copy.deepcopy(hand)):
        each.run(until=100 * MS)
        ends.append((each.facts, each.file(), facts_of(each.left_over(), LeftOver)))

    assert ends[0] == ends[1]
