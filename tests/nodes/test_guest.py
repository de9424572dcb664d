"""The guest in the hand: a backend that answers honestly, a server of frames, and everything that may go wrong."""

import pytest

from lateack.nodes.facts import (
    BufferRefilled,
    CompletionDeferred,
    CopyFinished,
    Counted,
    FrontendBroken,
    SegmentTransmitted,
    WriteCompleted,
    WriteExecuted,
    WriteIssued,
)
from lateack.nodes.guest import Guest
from lateack.nodes.memory.pages import Memory
from lateack.nodes.memory.ring import RSP_PROD
from lateack.nodes.messages import Frames, Notify, Xenbus
from lateack.nodes.node import Boot, Received, S, SetTimer
from lateack.nodes.split.xenbus import CONNECTED, INIT_WAIT, backend_features
from lateack.nodes.stack.skb import SkBuff
from lateack.nodes.strategies.guest import FragDestructors, FullCopy, GuestStrategy, OnReply, Write
from tests.nodes.hand import messages_to
from tests.nodes.one_guest import Bytes, Hand, config_of, pattern


def test_it_waits_for_its_backend() -> None:
    """At boot a guest does nothing; when the backend waits it publishes its keys; when it is connected it calls."""
    guest = Guest(config_of(), Memory(1, 100), OnReply, Bytes(b"x"))

    booted = guest.handle(Boot(), 0)
    offered = guest.handle(Received("backend", Xenbus(INIT_WAIT, backend_features(True))), 0)
    connected = guest.handle(Received("backend", Xenbus(CONNECTED, {})), 5)

    assert booted == []
    (keys,) = messages_to(offered, "backend")
    assert isinstance(keys, Xenbus)
    assert keys.state == CONNECTED
    assert messages_to(connected, "backend") == [Notify(1)]
    assert [effect.at for effect in connected if isinstance(effect, SetTimer)] == [5 + S]
    assert guest.pending() > 0


def test_a_backend_without_gso_gets_short_packets() -> None:
    """Where feature-gso-tcpv4 is missing no packet is longer than the MTU."""
    hand = Hand(pattern(32768), write_size=32768)
    hand.guest.handle(Received("backend", Xenbus(INIT_WAIT, backend_features(False))), 0)

    assert not hand.guest.stack.gso


@pytest.mark.parametrize("strategy", [OnReply, FragDestructors, FullCopy])
@pytest.mark.parametrize("size", [0, 1, 4096, 10_000, 40_000])
def test_it_copies_its_file(strategy: type[GuestStrategy], size: int) -> None:
    """Every byte arrives, every write is completed once, and nothing is left over on either side."""
    hand = Hand(pattern(size), strategy, buffers=3)

    hand.boot()

    assert hand.file() == pattern(size)
    assert hand.of(CopyFinished) == [CopyFinished("input.bin", size)]
    assert [fact.xid for fact in hand.of(WriteIssued)] == [fact.xid for fact in hand.of(WriteCompleted)]
    assert len(hand.of(BufferRefilled)) == max(0, -(-size // 4096) - 3)
    assert hand.guest.pending() == 0
    assert hand.left_over() == []


def test_after_a_failure_no_further_write_is_issued() -> None:
    """One write's failure ends the copy: buffers that come back are not refilled."""
    hand = Hand(pattern(40_960), buffers=2)
    hand.passes = lambda target, frame: target == "server" or len(hand.of(WriteIssued)) < 2
    hand.boot()
    hand.guest.copier.fail("it was told to")

    hand.release()

    assert len(hand.of(WriteCompleted)) == 2
    assert len(hand.of(WriteIssued)) == 2
    assert hand.of(BufferRefilled) == []


def test_a_late_acknowledgement_gives_the_page_away() -> None:
    """The whole story in the hand: while the answer is held the segment is sent again; the reply frees the page."""
    hand = Hand()
    hand.passes = lambda target, frame: target == "server" or not hand.of(WriteIssued)
    hand.boot()
    while not any(fact.transmission == 2 and fact.length > 4096 // 4 for fact in hand.of(SegmentTransmitted)):
        hand.fire()
    before = hand.of(BufferRefilled)

    hand.release()

    assert before == []
    assert len(hand.of(CopyFinished)) == 1
    assert hand.file() == pattern(8192)
    assert hand.left_over() == []


class Watcher(GuestStrategy):
    """Notes when each hook is called, and defers every completion to the end of time."""

    name = "watcher"
    watches_clones = True
    seen: list[str] = []  # noqa: RUF012

    def take(self, write: Write) -> list:  # type: ignore[type-arg]
        """Note it."""
        self.seen.append("take")
        return super().take(write)

    def queued(self, write: Write, skbs: list[SkBuff]) -> None:
        """Note how many packets hold the call."""
        self.seen.append(f"queued {len(skbs)}")

    def skb_shared(self, skb: SkBuff, clone: SkBuff) -> None:
        """Note clones of packets with pages."""
        if skb.shinfo.frags:
            self.seen.append("shared")

    def replied(self, write: Write) -> None:
        """Keep the page for ever."""
        self.seen.append("replied")


def test_a_strategy_of_ones_own_is_asked_at_every_moment() -> None:
    """A subclass's hooks run in the order of a packet's life, and the application waits as long as it likes."""
    Watcher.seen.clear()
    hand = Hand(strategy=Watcher)

    hand.boot()

    assert Watcher.seen == ["take", "queued 1", "shared", "replied"]
    assert len(hand.of(CompletionDeferred)) == 1
    assert hand.of(WriteCompleted) == []
    assert hand.guest.pending() == 1


def test_a_strategy_may_not_complete_twice() -> None:
    """That is a bug of the strategy, and is said so."""
    hand = Hand(strategy=Watcher)
    hand.boot()
    (request,) = hand.of(WriteIssued)
    write = hand.guest.copier.buffers[0]

    class Done:
        """Not a write at all."""

    with pytest.raises(AssertionError):
        hand.guest.complete(Done())  # type: ignore[arg-type]
    assert request.buffer == write.index


def test_full_copy_is_charged_for() -> None:
    """The counters of the audit tell the payload and what was copied of it."""
    hand = Hand(pattern(8192), FullCopy)
    hand.boot()

    hand.left_over()

    counts = {fact.name: fact.amount for fact in hand.of(Counted)}
    assert counts["payload_bytes"] == 8192
    assert next(fact.amount for fact in hand.of(Counted) if fact.name == "copied_bytes") == 8192


def test_a_broken_backend_stops_the_device() -> None:
    """A response that names nothing is recorded, and the guest goes on without its device."""
    hand = Hand()
    hand.passes = lambda target, frame: target == "server" or not hand.of(WriteIssued)
    hand.boot()
    netfront = hand.guest.netfront
    netfront.memory.words[netfront.tx.header + RSP_PROD] += 1000

    hand.handle("guest1", Received("backend", Notify(1)))
    hand.fire()

    assert len(hand.of(FrontendBroken)) == 1
    assert hand.of(CopyFinished) == []


def test_it_has_no_use_for_frames() -> None:
    """A guest is reached through its ring only; anything else is our own bug."""
    guest = Guest(config_of(), Memory(1, 100), OnReply, Bytes(b"x"))

    with pytest.raises(AssertionError):
        guest.handle(Received("network", Frames((b"x",))), 0)


def test_what_the_server_executed_is_what_was_issued() -> None:
    """The two machines agree on xid, place and digest: the join that the oracles make."""
    hand = Hand(pattern(20_000), buffers=2)

    hand.boot()

    issued = {(fact.xid, fact.offset, fact.count, fact.digest) for fact in hand.of(WriteIssued)}
    assert issued == {(fact.xid, fact.offset, fact.count, fact.digest) for fact in hand.of(WriteExecuted)}
