"""The moment of the reading tells why nothing happened, or shows what did as well as the trace allows."""

from lateack.cluster.narrative import moments
from lateack.nodes import facts
from tests.cluster.late_write import (
    FINISHED,
    LATE,
    NEW,
    OLD,
    OPEN,
    REFILL,
    Story,
    in_order,
    left,
    sentences,
    trace_of,
    write,
)


def test_a_private_copy_is_why_nothing_happened() -> None:
    """The packet's pages are not the application's frames: somebody copied, and the counters say who."""
    copied: Story = [
        (502, "guest1", facts.Counted("copied_bytes", 4096)),
        (502, "backend", facts.Counted("copied_bytes", 0)),
    ]
    sent = left(OLD, True, pages=((1, 99, 0, 4096),))

    told = moments(trace_of(write(261), LATE, REFILL, OPEN, [(400, "backend", sent)], FINISHED, copied))

    assert in_order(sentences(told), "a private copy had frozen them", "guest1 copied 4096 bytes in this run")
    assert "backend copied" not in sentences(told)


def test_a_read_before_the_refill_is_why_nothing_happened() -> None:
    """The buffer was free to be refilled, and had not been."""
    sent: Story = [(255, "backend", left(OLD, True))]

    told = moments(trace_of(write(252), LATE, sent, REFILL, FINISHED))

    assert "the application had not refilled the frames yet" in sentences(told)


def test_without_the_bytes_the_digests_must_do() -> None:
    """A frame that is stale at its first departure has no kept bytes to show."""
    trace = trace_of(write(261)[:3], [(300, "backend", left(NEW, False))])

    assert "the bytes of a first reading are not kept; by their digests 1 of 3 pieces differ" in sentences(
        moments(trace)
    )
