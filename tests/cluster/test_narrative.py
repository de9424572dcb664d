"""The narrative tells the decisive moments of a run from its trace alone, in order, and few of them."""

import pytest

from lateack.cluster.narrative import MOMENTS_MAX, moments
from lateack.cluster.trace import Trace
from lateack.nodes import facts
from tests.cluster.late_write import (
    DROPPED,
    FINISHED,
    FLOW,
    HEADER,
    LATE,
    MS,
    NEW,
    OLD,
    OPEN,
    PAGES,
    REFILL,
    Story,
    digests,
    in_order,
    left,
    segment,
    sentences,
    trace_of,
    write,
)


def test_the_late_ack_is_told_from_the_write_to_the_old_data() -> None:
    """Departure, hold, timeout and park, late reply, refill, stale read with both bytes, drop, intact file."""
    trace = trace_of(write(261), LATE, REFILL, OPEN, [(400, "backend", left(NEW, True))], DROPPED, FINISHED)

    told = moments(trace)

    assert len(told) <= MOMENTS_MAX
    assert in_order(
        sentences(told),
        "The application wrote 4096 bytes at offset 0 of input from frame 12: WRITE, xid 0x00000007.",
        "its data begin 54 68 65 20",
        "The gate at backend.nic closed, by rule egress",
        "Rule acks began to hold frames back in the network: 1 without data and 1 with data.",
        "No acknowledgement came within 200.000 ms, the retransmission timeout: TCP queued the same bytes again.",
        "the packet was parked behind the gate at backend.nic, for 189.000 ms",
        "The reply completed the write after 251.000 ms, while a packet with its bytes still waited at backend.nic",
        "rule acks had let what it held go on, 2 in number, at 260.000 ms",
        "The application refilled frame 12, which the waiting packet shows, with the file's bytes from 4096.",
        f"The gate opened, and backend.nic read {len(NEW)} bytes of sequence 1001 once more: they are not the bytes",
        "the first difference is at offset 136 (byte 100 of frame 12, byte 100 of the file); from offset 132:",
        "should be 67 65 20 6f 66 20 74 68 65 20 66 69 6c 65 2e 20 |ge of the file. |",
        "was       67 65 20 6f 53 45 43 4f 4e 44 20 50 41 47 45 20 |ge oSECOND PAGE |",
        "The receiver dropped 1448 bytes as old data",
        "The file is intact; what the wire showed was not.",
    )


def test_a_retransmission_of_a_part_is_told_from_the_first_transmission() -> None:
    """After a timeout the window is one segment: the first transmission was longer, and is still the one meant."""
    part = facts.SegmentTransmitted(FLOW, 1001, 1448, 1448, 2, digests(OLD)[:1], OLD[:1448])
    late: Story = [(at, node, part if fact == segment(2, OLD) else fact) for at, node, fact in LATE]
    sent = left(NEW[:1448], True, pages=((1, 40, 0, len(HEADER)), (1, 12, 0, 1448 - len(HEADER))))

    told = moments(trace_of(write(261), late, REFILL, OPEN, [(400, "backend", sent)]))

    text = sentences(told)
    assert in_order(text, "sent as sequence 1001", "its data begin", "200.000 ms, the retransmission timeout", "SECOND")


def test_moments_are_in_the_order_of_the_trace() -> None:
    """Each names when, who, and which entry it was read from."""
    trace = trace_of(write(261), LATE, REFILL, OPEN, [(400, "backend", left(NEW, True))], DROPPED, FINISHED)

    told = moments(trace)

    assert [moment.entry for moment in told] == sorted(moment.entry for moment in told)
    for moment in told:
        assert (moment.at, moment.who) == (trace[moment.entry][0], trace[moment.entry][2])


def test_a_deferred_completion_is_why_nothing_happened() -> None:
    """The reply was there, the completion waited for the last user of the pages, and the refill came after."""
    deferred: Story = [(261, "guest1", facts.CompletionDeferred(7))]
    refill: Story = [(403, "guest1", REFILL[0][2])]

    told = moments(trace_of(write(402), LATE, deferred, OPEN, [(400, "backend", left(OLD, True))], refill, FINISHED))

    assert in_order(
        sentences(told),
        "The reply came, but the completion was deferred: the stack still used the pages of the write.",
        "and they are still right: the application had not got its buffer back yet.",
        "The last user of the pages let go, 141.000 ms after the reply",
        "The application refilled frame 12, only now, with",
        "nothing went wrong.",
    )


def test_a_repeated_call_that_is_executed_is_told_to_the_corruption() -> None:
    """RPC sends the call again under its xid, the cache misses, and the file ends up wrong."""
    new = facts.SegmentTransmitted(FLOW, 9001, len(OLD), 1448, 1, digests(OLD))
    again = facts.FrameSent("backend.nic", FLOW, 9001, len(NEW), 1448, digests(NEW), False, PAGES)
    story: Story = [
        (60, "guest1", facts.CallTimedOut(7, False)),
        (60, "guest1", facts.CallTransmitted(7, 7, 2)),
        (60, "guest1", new),
        (61, "backend", facts.Parked("backend.nic", FLOW, 9001, len(OLD), False)),
        (400, "backend", again),
        (401, "server", facts.DuplicateCall(7, "guest1", 7, "executed", True)),
        (401, "server", facts.WriteExecuted(7, "guest1", "input", 0, 4096, 0xB)),
        (501, "server", facts.FileAtRest("input", 4096, 4096, (0xB,))),
        (500, "guest1", facts.CopyFinished("input", 4096)),
    ]

    told = moments(trace_of(write(261), REFILL, OPEN, story))

    assert in_order(
        sentences(told),
        "sent as sequence 1001 of",
        "No reply came in time: RPC sent the call again after 50.000 ms, under its old xid.",
        "The reply completed the write after 251.000 ms",
        "refilled frame 12, which the waiting packet shows",
        "they are not the bytes that were handed over",
        "The call reached the server again, and the server took it for a new one and executed it.",
        "its payload differs from the first one's",
        "WRITE xid 0x00000007 of guest1 put 4096 bytes into input at offset 0",
        "The file at the server is not what the application wrote.",
    )


def test_a_calm_run_is_told_in_three_moments() -> None:
    """It was written, it was completed, it was finished."""
    told = moments(trace_of(write(14), FINISHED))

    assert [moment.sentence.split()[1] for moment in told] == ["application", "reply", "copy"]
    assert told[-1].sentence.endswith("Of 1 write nothing had to be sent again, and nothing went wrong.")


def test_faults_leaks_and_stalls_are_told() -> None:
    """What never came back or never happened is told at the end of the run."""
    broken: Story = [
        (30, "backend", facts.AccessFault("backend.nic", 1, 12)),
        (31, "backend", facts.AccessFault("backend.nic", 1, 13)),
        (600, "guest1", facts.LeftOver("grants", 2)),
    ]

    told = moments(trace_of(write(14)[:-1], broken))

    text = sentences(told)
    assert in_order(text, "backend.nic touched frame 12 of domain 1", "and 1 more of the kind", "was never completed")
    assert "2 grants never given back" in text
    assert (told[-1].at, told[-1].who) == (600 * MS, "guest1")


def test_a_lost_frame_and_a_fast_retransmission_are_told() -> None:
    """Three duplicate acknowledgements are another reason to queue the same bytes again."""
    story: Story = [
        (11, "network", facts.FrameLost("to_server", FLOW, 1001, 1448)),
        (20, "guest1", facts.FastRetransmitted(FLOW, 1001)),
        (20, "guest1", segment(2, OLD)),
        (21, "backend", left(OLD, True)),
    ]

    text = sentences(moments(trace_of(write(30), story, FINISHED)))

    assert in_order(text, "The network lost a frame with 1448 bytes of data, by its dice.", "Three duplicate ack")


@pytest.mark.parametrize("keep", range(25))
def test_any_beginning_of_a_run_can_be_told(keep: int) -> None:
    """A run that was cut off anywhere still has its moments, or none."""
    whole = trace_of(write(261), LATE, REFILL, OPEN, [(400, "backend", left(NEW, True))], DROPPED, FINISHED)

    told = moments(Trace(whole.entries[:keep]))

    assert len(told) <= MOMENTS_MAX
    assert bool(told) == (keep >= 2)


def test_a_run_that_wrote_nothing_has_only_its_harms() -> None:
    """Nothing to tell, or what is broken."""
    assert moments(Trace()) == []
    assert len(moments(trace_of([(1, "guest1", facts.LeftOver("grants", 2))]))) == 1
