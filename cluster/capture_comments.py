"""What a capture says beside its frames: which of them carry a harm, whose bytes they show, and since when.

It joins the findings of the oracles with the frames on flow and sequence number, and on the digest of their bytes.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from lateack.cluster.narrative_words import spoken
from lateack.cluster.oracles import corrupt_at_rest
from lateack.cluster.trace import Page, Trace, milliseconds
from lateack.cluster.wire_oracle import Seen, covering, find_stale, last_refill, pieces
from lateack.nodes.facts import (
    BufferRefilled,
    DuplicateDropped,
    FrameCaptured,
    FrameSent,
    SegmentTransmitted,
    WriteExecuted,
    WriteIssued,
)
from lateack.nodes.stack.dissect import Dissection, dissect
from lateack.nodes.stack.packets import digest_of

EXPLAINED_MAX = 100
"""Stale pieces whose bytes are looked up, which takes a search of the trace each; others are only called stale."""

Range = tuple[str, int, int]  # flow, sequence number, bytes


class Captured(NamedTuple):
    """A captured frame: how many entries of the trace lay before it, when it was seen (ns), and the frame."""

    before: int
    at: int
    fact: FrameCaptured


class Views:
    """The captured frames by what a sniffer reads off them."""

    def __init__(self, frames: Sequence[Captured]) -> None:
        self.frames = frames
        self.seen: list[Dissection] = [dissect(frame.fact.frame, {}) for frame in frames]
        self.by_range: defaultdict[Range, list[int]] = defaultdict(list)
        for place, seen in enumerate(self.seen):
            self.by_range[seen.flow, seen.seq, seen.length].append(place)

    def digest(self, place: int) -> int:
        """Return the digest of a frame's payload."""
        frame = self.frames[place].fact.frame
        return digest_of(frame[len(frame) - self.seen[place].length :])

    def last(self, places: list[int], before: int) -> int | None:
        """Return the last of these frames that was seen before an entry of the trace, or None."""
        return max((place for place in places if self.frames[place].before <= before), default=None)


def comments_of(trace: Trace, frames: Sequence[Captured]) -> dict[int, list[str]]:
    """Return what is to be said of frames, by their number, one sentence for each finding."""
    views = Views(frames)
    said: defaultdict[int, list[str]] = defaultdict(list)
    _stale(trace, views, said)
    _corrupting(trace, views, said)
    _dropped(trace, views, said)
    return {place: [spoken(trace, line) for line in dict.fromkeys(lines)] for place, lines in said.items()}


# --- stale bytes ------------------------------------------------------------------------------------------------------


def _stale(trace: Trace, views: Views, said: dict[int, list[str]]) -> None:
    """Mark each frame that left with other bytes than were handed over, and those whose pages were read too late."""
    explained = 0
    for place, wrong in find_stale(trace)[0]:
        fact = trace[place][3]
        assert isinstance(fact, Seen)
        cut = pieces(fact)
        for number in wrong:
            told = _whose(trace, place, number) if explained < EXPLAINED_MAX else ""
            explained += 1
            if isinstance(fact, FrameSent):
                for frame in views.by_range.get((fact.flow, *cut[number]), ()):
                    if views.digest(frame) == fact.digests[number]:
                        said[frame].append(f"stale-on-wire: these are not the bytes that were handed over{told}")
            else:
                read = f"{fact.place} at {milliseconds(trace[place][0])} ms"
                frame_read = views.last(views.by_range.get((fact.flow, fact.seq, fact.length), []), place)
                if frame_read is not None:
                    said[frame_read].append(f"stale-on-wire: read late by {read}, its pages held other bytes{told}")


def _whose(trace: Trace, place: int, number: int) -> str:
    """Tell which pages of a piece were refilled since it was handed over, when, and whose bytes they hold now."""
    fact = trace[place][3]
    assert isinstance(fact, Seen)
    sources = covering(trace, SegmentTransmitted, fact, number * fact.mss)
    handed_over = sources[0] if sources else -1
    changes: dict[int, list[Page]] = {}
    for page in _pages_of(fact, number):
        changes.setdefault(last_refill(trace, page, place), []).append(page)
    changes.pop(-1, None)
    # What waits in a send buffer was handed over long before it was transmitted: then the last change is to blame, too.
    since = {refill: pages for refill, pages in changes.items() if refill > handed_over} or changes
    return "".join(f"; {_refilled(trace, refill, pages)}" for refill, pages in since.items())


def _pages_of(fact: Seen, number: int) -> list[Page]:
    """Return the windows of pages that one piece of a frame shows, as (domain, frame, offset, bytes)."""
    mss = fact.mss or fact.length
    # The windows begin with whatever headers lie in pages, and end with the payload.
    at = fact.length - sum(page[3] for page in fact.pages)
    start, end = number * mss, min((number + 1) * mss, fact.length)
    found: list[Page] = []
    for domain, frame, offset, size in fact.pages:
        first, last = max(at, start), min(at + size, end)
        if first < last:
            found.append((domain, frame, offset + first - at, last - first))
        at += size
    return found


def _refilled(trace: Trace, refill: int, pages: list[Page]) -> str:
    """Tell of a buffer that its owner filled or wrote anew, under pages that a frame shows."""
    at, _, node, fact = trace[refill]
    frames = ", ".join(f"frame {number} of domain {domain} from byte {start}" for domain, number, start, _ in pages)
    since = f"{node} changed {frames} at {milliseconds(at)} ms"
    if not isinstance(fact, BufferRefilled):
        return since
    for _, _, owner, write in trace.placed(WriteIssued, refill):
        if owner == node and write.buffer == fact.buffer and write.digest == fact.holds:
            return f"{since} into the bytes of WRITE xid {write.xid:#010x} at offset {write.offset} of {write.file}"
    return f"{since} into the file's bytes from {fact.offset}"


# --- what the server did with a frame ---------------------------------------------------------------------------------


def _corrupting(trace: Trace, views: Views, said: dict[int, list[str]]) -> None:
    """Mark the call with which bytes came to the server that no write had, where a frame begins with that call."""
    calls: defaultdict[int, list[int]] | None = None
    for harm in corrupt_at_rest(trace):
        executed = harm.entries[-1]
        fact = trace[executed][3]
        if not isinstance(fact, WriteExecuted):
            continue
        if calls is None:
            calls = defaultdict(list)
            for place, seen in enumerate(views.seen):
                if seen.kind == "call":
                    calls[seen.xid].append(place)
        arrived = [place for place in calls[fact.xid] if not views.frames[place].fact.outbound]
        frame = views.last(arrived, executed)
        if frame is not None:
            said[frame].append(f"corrupt-at-rest: {harm.sentence}")


def _dropped(trace: Trace, views: Views, said: dict[int, list[str]]) -> None:
    """Mark each segment that its receiver threw away since it had those bytes already."""
    for place, _, node, fact in trace.placed(DuplicateDropped):
        same = views.by_range.get((fact.flow, fact.seq, fact.length), ())
        arrived = [frame for frame in same if not views.frames[frame].fact.outbound]
        frame = views.last(arrived, place)
        if frame is not None:
            said[frame].append(f"dropped by {node}, which had these {fact.length} bytes already")
