"""What all clients have in common: rules at their own places, a tap on whatever device they have."""

from lateack.nodes.facts import BufferRewritten, CopyFinished, FrameSent, PacketRead, WriteCompleted, WriteIssued
from lateack.nodes.rules import FactMatch, Rule, Trigger
from tests.nodes.one_guest import Hand, pattern

WRITING = Trigger(facts=(FactMatch("WriteIssued", "guest1"),), nth=2)


def test_a_rule_makes_the_application_rewrite_what_is_being_written() -> None:
    """The second write is under way and its buffer changes; the first, whose write is done, is left alone."""
    rule = Rule("scribble", "rewrite", "guest1.buffers", since=WRITING)
    hand = Hand(pattern(8192), rules=(rule,))

    hand.boot()

    (rewritten,) = hand.of(BufferRewritten)
    second = hand.of(WriteIssued)[1]
    assert (rewritten.offset, rewritten.held, rewritten.frames) == (4096, second.digest, second.frames)
    assert len(hand.of(WriteCompleted)) == 2


def test_a_tap_reads_everything_that_goes_down() -> None:
    """Where nobody delays it, the capture is what the card sends a moment later."""
    hand = Hand(pattern(8192), tap=True)

    hand.boot()

    assert [fact.digests for fact in hand.of(PacketRead)] == [
        fact.digests for fact in hand.of(FrameSent) if fact.place == "backend.nic"
    ]
    assert {fact.place for fact in hand.of(PacketRead)} == {"guest1.tap"}
    assert len(hand.of(CopyFinished)) == 1
    assert hand.left_over() == []


def test_a_rule_for_the_tap_needs_no_other_word() -> None:
    """Who gates it has one; what it keeps to the end is told, and is not given back."""
    rule = Rule("reader", "gate", "guest1.tap")
    hand = Hand(pattern(8192), rules=(rule,))

    hand.boot()

    assert hand.of(PacketRead) == []
    assert "socket buffers" in {fact.what for fact in hand.left_over()}
    assert hand.of(PacketRead) != []


def test_without_either_there_is_no_tap() -> None:
    """The stack sits on its device itself."""
    hand = Hand()

    assert hand.guest.tap is None
    assert hand.guest.stack.device is hand.guest.netfront
