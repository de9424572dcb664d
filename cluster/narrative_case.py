"""What a run is told around: one write, and the one frame that decided about it.

The frame is the first that left with the wrong bytes or else, where none did, the first that was sent again; the write
is the one whose bytes it was to carry. Both are found in the trace alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

from lateack.cluster import oracles
from lateack.cluster.oracles import Write
from lateack.cluster.trace import Trace
from lateack.cluster.wire_oracle import SEEN, Harm, Seen, covering, stale_on_wire
from lateack.nodes import facts
from lateack.nodes.facts import FrameSent, SegmentTransmitted


class Moment(NamedTuple):
    """Something decisive: when (ns), at which machine, a sentence with detail lines, and its position in the trace."""

    at: int
    who: str
    sentence: str
    detail: tuple[str, ...]
    entry: int


class Case(NamedTuple):
    """What a run is told around: a write, its first segment, and the packet that decided (positions; -1 for none)."""

    trace: Trace
    corrupt: list[Harm]
    write: Write
    sent: int = -1
    frame: int = -1
    packet: Seen | None = None
    stale: bool = False


def moment_at(trace: Trace, entry: int, sentence: str, *detail: str) -> Moment:
    """Return the moment of one entry of the trace: its time and its machine."""
    at, _, node, _ = trace[entry]
    return Moment(at, node, sentence, detail, entry)


def case_of(trace: Trace) -> Case | None:
    """Find what a run is told around; None where nothing was written."""
    writes = oracles.writes_of(trace)
    if not writes:
        return None
    corrupt = oracles.corrupt_at_rest(trace)
    proof = {place for harm in corrupt for place in harm.entries}
    suspects = [write for write in writes if write.issued in proof]
    stale = [harm.entries[-1] for harm in stale_on_wire(trace)]
    for frame in stale or _sent_again(trace):
        packet = trace[frame][3]
        assert isinstance(packet, SEEN)
        sent = covering(trace, SegmentTransmitted, packet, 0)
        write = _write_behind(trace, sent[0], packet, writes) if sent else None
        if write and (not suspects or write in suspects):
            return Case(trace, corrupt, write, sent[0], frame, packet, bool(stale))
    waiting = [write for write in writes if write.completed < write.issued]
    write = (suspects or waiting or writes)[0]
    sends = (place for place, _, node, _ in trace.placed(SegmentTransmitted, write.issued) if node == write.node)
    return Case(trace, corrupt, write, next(sends, -1))


def refilled(case: Case) -> int:
    """Return where the application first refilled frames of the write, or -1."""
    frames = set(case.write.fact.frames)
    refills = case.trace.placed(facts.BufferRefilled, case.write.issued)
    return next((p for p, _, node, fact in refills if node == case.write.node and frames.intersection(fact.frames)), -1)


def _sent_again(trace: Trace) -> list[int]:
    """Return the frames that a NIC sent again, first those that had waited behind a gate."""
    parked = {(fact.flow, fact.seq) for _, _, _, fact in trace.placed(facts.Parked) if fact.again}
    again = [(place, fact) for place, _, _, fact in trace.placed(FrameSent) if fact.again and fact.length]
    waited = [place for place, fact in again if (fact.flow, fact.seq) in parked]
    return waited + [place for place, fact in again if (fact.flow, fact.seq) not in parked]


def _write_behind(trace: Trace, sent: int, packet: Seen, writes: Sequence[Write]) -> Write | None:
    """Return the write whose bytes a packet was to carry: the last one of its pages, before they were first sent."""
    own = [write for write in writes if write.issued < sent and write.node == trace[sent][2]]
    pages = {number for _, number, _, _ in packet.pages}
    in_pages = [write for write in own if pages.intersection(write.fact.frames)]
    behind = in_pages or own
    return behind[-1] if behind else None
