"""Who rewrites buffers that are being written, and who waits, because their pages are stable."""

from lateack.nodes.facts import (
    BufferRefilled,
    BufferRewritten,
    RewriteDeferred,
    WriteCompleted,
    WriteExecuted,
    WriteIssued,
)
from lateack.nodes.iscsi.iscsi_login import IscsiParameters
from lateack.nodes.rules import FactMatch, Rule, Trigger
from tests.nodes.one_guest import pattern
from tests.nodes.one_iscsi import Hand

RULE = Rule("scribble", "rewrite", "guest1.buffers", since=Trigger(facts=(FactMatch("WriteIssued", "guest1"),), nth=2))


def test_stable_pages_are_rewritten_when_their_write_is_done_and_not_before() -> None:
    """The disk has what was handed over; the buffer is rewritten after its write, and before it is refilled."""
    hand = Hand(pattern(12288), IscsiParameters(), rules=(RULE,), stable_pages=True)

    hand.boot()

    second = hand.of(WriteIssued)[1]
    assert hand.of(RewriteDeferred) == [RewriteDeferred(second.xid, 0)]
    assert hand.file() == hand.data
    told = [fact for fact in hand.facts if isinstance(fact, WriteCompleted | BufferRewritten | BufferRefilled)]
    assert [type(fact) for fact in told] == [
        WriteCompleted, BufferRefilled, WriteCompleted, BufferRewritten, BufferRefilled, WriteCompleted,
    ]  # fmt: skip


def test_other_pages_are_rewritten_at_once() -> None:
    """Nobody waits: what was still to be read is what is written."""
    hand = Hand(pattern(12288), IscsiParameters(immediate_data=False), rules=(RULE,))

    hand.boot()

    (rewritten,) = hand.of(BufferRewritten)
    assert hand.of(RewriteDeferred) == []
    assert hand.of(WriteExecuted)[1].digest == rewritten.holds != rewritten.held
