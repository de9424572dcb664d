"""A run is told around the frame that decided, and around the write that this frame was to carry."""

from lateack.cluster.narrative_case import case_of, refilled
from lateack.nodes import facts
from tests.cluster.late_write import FINISHED, LATE, MS, NEW, OLD, REFILL, Story, left, trace_of, write


def test_the_first_wrong_frame_decides() -> None:
    """A frame that was sent again with the right bytes is passed over for one that left with the wrong ones."""
    right: Story = [(300, "backend", left(OLD, True))]
    trace = trace_of(write(261), LATE, REFILL, right, [(400, "backend", left(NEW, True))])

    case = case_of(trace)

    assert case is not None
    assert case.stale
    assert trace[case.frame][0] == 400 * MS
    assert (case.write.fact.xid, trace[case.sent][0]) == (7, 10 * MS)


def test_where_none_is_wrong_the_first_that_was_sent_again_decides() -> None:
    """It is the one that could have been."""
    trace = trace_of(write(261), LATE, [(400, "backend", left(OLD, True))], REFILL)

    case = case_of(trace)

    assert case is not None
    assert not case.stale
    assert trace[case.frame][0] == 400 * MS


def test_a_calm_run_has_a_write_and_no_frame() -> None:
    """What is known of the write is still known: where it was sent, and that its frames were never refilled."""
    trace = trace_of(write(14), FINISHED)

    case = case_of(trace)

    assert case is not None
    assert (case.frame, case.packet) == (-1, None)
    assert trace[case.sent][0] == 10 * MS
    assert refilled(case) == -1


def test_without_a_write_there_is_no_case() -> None:
    """Whatever else was recorded."""
    assert case_of(trace_of([(1, "guest1", facts.LeftOver("grants", 2))])) is None
