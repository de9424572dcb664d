"""The oracles: what went wrong in a run, read from its trace and from nothing else.

Each is a pure function of the trace. They join facts on keys (flow and sequence range, client and xid, file and offset)
and never on the order between two machines, so that they judge a run on many clocks just as one on a single clock.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple

from lateack.cluster.trace import Page, Trace, milliseconds
from lateack.nodes.facts import (
    AccessFault,
    BufferRefilled,
    CopyFailed,
    CopyFinished,
    FileAtRest,
    FrameSent,
    FrontendBroken,
    LeftOver,
    Parked,
    SegmentTransmitted,
    VifConnected,
    WriteCompleted,
    WriteExecuted,
    WriteIssued,
)

SEQUENCES = 0xFFFFFFFF  # sequence numbers wrap (RFC 9293, section 3.4)
EXPLAINED_MAX = 100  # stale frames whose origin is looked up, which takes a search of the trace each

# By flow, and by sequence number and length of a piece: every digest that was ever meant for it.
Meant = dict[str, dict[tuple[int, int], set[int]]]


class Harm(NamedTuple):
    """One thing that went wrong: its name, a sentence for people, and the positions in the trace that prove it."""

    name: str
    sentence: str
    entries: tuple[int, ...]


class Write(NamedTuple):
    """A write of the application: where in the trace it was issued and completed (-1: never), by whom, and what."""

    issued: int
    completed: int
    node: str
    fact: WriteIssued


# A completed write whose bytes are not at rest, why, and the proof.
Missing = tuple[Write, str, tuple[int, ...]]


# --- stale-on-wire ----------------------------------------------------------------------------------------------------


def stale_on_wire(trace: Trace) -> list[Harm]:
    """A frame left whose bytes are not those that were handed over for its sequence range."""
    return judge_wire(trace)[0]


def judge_wire(trace: Trace) -> tuple[list[Harm], int]:
    """Return the stale frames, and how many pieces of frames could not be judged since no one vouched for them.

    A flow that no transport vouches for at all is not judged.
    """
    stale, unjudged = _find_stale(trace)
    told = [
        _stale(trace, place, wrong, explained=number < EXPLAINED_MAX) for number, (place, wrong) in enumerate(stale)
    ]
    return told, unjudged


def _find_stale(trace: Trace) -> tuple[list[tuple[int, list[int]]], int]:
    """Return where stale frames left, each with the numbers of its wrong pieces, and how many were not judged."""
    segments = trace.of_type(SegmentTransmitted)
    meant = {(fact.flow, fact.seq, fact.length): fact.digests for _, _, _, fact in segments}
    # Nearly always a frame is cut as its segment was and holds what it should: then one look is enough.
    doubtful = [
        number
        for number, (_, _, _, fact) in enumerate(trace.of_type(FrameSent))
        if meant.get((fact.flow, fact.seq, fact.length)) != fact.digests
    ]
    return _judge_pieces(trace, doubtful) if doubtful else ([], 0)


def _judge_pieces(trace: Trace, doubtful: list[int]) -> tuple[list[tuple[int, list[int]]], int]:
    """Judge the doubtful frames (positions among all `FrameSent`) piece by piece; see `_find_stale`."""
    places, frames = trace.places_of(FrameSent), trace.of_type(FrameSent)
    doubts = [(places[number], frames[number][3], pieces(frames[number][3])) for number in doubtful]
    meant: Meant = {}
    for _, frame, cut in doubts:
        asked = meant.setdefault(frame.flow, {})
        for piece in cut:
            asked[piece] = set()
    vouched = _gather_meant(trace, meant)
    stale: list[tuple[int, list[int]]] = []
    unjudged = 0
    for place, frame, cut in doubts:
        if frame.flow in vouched:
            asked = meant[frame.flow]
            known = [asked[piece] for piece in cut]
            unjudged += known.count(set())
            wrong = [i for i, digests in enumerate(known) if digests and frame.digests[i] not in digests]
            if wrong:
                stale.append((place, wrong))
    return stale, unjudged


def pieces(fact: SegmentTransmitted | FrameSent) -> list[tuple[int, int]]:
    """Return the sequence number and length of each piece that a segment or frame is digested in."""
    length, mss = fact.length, fact.mss or fact.length
    return [((fact.seq + offset) & SEQUENCES, min(mss, length - offset)) for offset in range(0, length, mss or 1)]


def _gather_meant(trace: Trace, meant: Meant) -> set[str]:
    """Put every digest that was ever meant for the pieces in *meant* there; return the flows that are vouched for."""
    starts = {flow: sorted({seq for seq, _ in known}) for flow, known in meant.items()}
    vouched = set()
    for _, _, _, fact in trace.of_type(SegmentTransmitted):
        flow, length = fact.flow, fact.length
        if flow not in starts:
            continue
        vouched.add(flow)
        if not length:
            continue
        asked, mss, end = starts[flow], fact.mss or length, fact.seq + length
        inside = asked[bisect_left(asked, fact.seq) : bisect_left(asked, end)]
        if end > SEQUENCES:
            inside += asked[: bisect_left(asked, end - SEQUENCES - 1)]
        for start in inside:
            number, within = divmod((start - fact.seq) & SEQUENCES, mss)
            piece = (start, min(mss, length - number * mss))
            if within == 0 and piece in meant[flow]:
                meant[flow][piece].add(fact.digests[number])
    return vouched


def _stale(trace: Trace, place: int, wrong: list[int], *, explained: bool) -> Harm:
    at, _, node, frame = trace[place]
    assert isinstance(frame, FrameSent)
    offset = wrong[0] * frame.mss
    count = "all of it" if len(wrong) == len(frame.digests) else f"{len(wrong)} of {len(frame.digests)} pieces"
    page = page_at(frame, offset)
    where = f", in frame {page[1]} of domain {page[0]}" if page else ""
    since, proof = _origin(trace, place, frame, offset) if explained else ("was handed over", (place,))
    sentence = (
        f"{node}: {frame.length} bytes of {frame.flow} from sequence {frame.seq} left {frame.place} at "
        f"{milliseconds(at)} ms; {count}, from offset {offset}{where}, is not what {since}."
    )
    return Harm("stale-on-wire", sentence, proof)


def _origin(trace: Trace, place: int, frame: FrameSent, offset: int) -> tuple[str, tuple[int, ...]]:
    """Tell who handed over the bytes that a frame should have, and since when its page holds others, with the proof."""
    sources = covering(trace, SegmentTransmitted, frame, offset)
    at, _, node, _ = trace[sources[0]]
    told = f"{node} handed over at {milliseconds(at)} ms"
    page = page_at(frame, offset)
    refill = last_refill(trace, page, place) if page else -1
    if refill < 0:
        return told, (*sources, place)
    told += f"; the application refilled that frame at {milliseconds(trace[refill][0])} ms"
    return told, (*sources, refill, place)


def covering(trace: Trace, kind: type[SegmentTransmitted] | type[Parked], frame: FrameSent, offset: int) -> list[int]:
    """Return where in the trace byte *offset* of a sent frame was recorded as transmitted or parked, earliest first.

    Ranges that begin where the frame begins are meant, or else any that hold the byte: datagrams are numbered one by
    one, so that a look at ranges alone would take one for another.
    """
    same: list[int] = []
    holding: list[int] = []
    for place, _, _, fact in trace.placed(kind):
        if fact.flow == frame.flow and (frame.seq + offset - fact.seq) & SEQUENCES < fact.length:
            (same if fact.seq == frame.seq else holding).append(place)
    return same or holding


def page_at(frame: FrameSent, offset: int) -> Page | None:
    """Return the page that holds payload byte *offset* of a sent frame as (domain, frame, offset, bytes left)."""
    # The windows begin with whatever headers lie in pages, and end with the payload.
    left = sum(page[3] for page in frame.pages) - frame.length + offset
    for domain, number, start, length in frame.pages:
        if 0 <= left < length:
            return domain, number, start + left, length - left
        left -= length
    return None


def last_refill(trace: Trace, page: Page, before: int) -> int:
    """Return where a page was last refilled by its owner before a position, or -1; for people, not for judging."""
    owners = {fact.guest for _, _, _, fact in trace.of_type(VifConnected) if fact.domid == page[0]}
    found = -1
    for place, _, node, fact in trace.placed(BufferRefilled):
        if place < before and page[1] in fact.frames and (not owners or node in owners):
            found = place
    return found


# --- corrupt-at-rest --------------------------------------------------------------------------------------------------


def corrupt_at_rest(trace: Trace) -> list[Harm]:
    """The server put bytes into a file that no write had, or a completed write is not there at the end."""
    writes = writes_of(trace)
    issued = {(node, fact.xid): place for place, _, node, fact in writes}
    executed = [
        _badly_executed(trace, place, fact, issued.get((fact.client, fact.xid), -1))
        for place, fact in _wrongly_executed(trace, writes)
    ]
    return executed + [_absent(trace, *finding) for finding in _wrong_at_rest(trace, writes)]


def writes_of(trace: Trace) -> list[Write]:
    """Return the applications' writes, in the order of the trace."""
    done = {(node, fact.xid): place for place, _, node, fact in trace.placed(WriteCompleted)}
    return [
        Write(place, done.get((node, fact.xid), -1), node, fact) for place, _, node, fact in trace.placed(WriteIssued)
    ]


def _wrongly_executed(trace: Trace, writes: list[Write]) -> list[tuple[int, WriteExecuted]]:
    """Every WRITE that the server executes must carry bytes that its client meant under that xid: return the others."""
    meant = {(node, fact.xid, fact.file, fact.offset, fact.count, fact.digest) for _, _, node, fact in writes}
    return [
        (place, fact)
        for place, _, _, fact in trace.placed(WriteExecuted)
        if (fact.client, fact.xid, fact.file, fact.offset, fact.count, fact.digest) not in meant
    ]


def _badly_executed(trace: Trace, place: int, fact: WriteExecuted, issued: int) -> Harm:
    at, _, node, _ = trace[place]
    told = (
        f"not the bytes that {fact.client} issued under that xid at {milliseconds(trace[issued][0])} ms"
        if issued >= 0
        else f"and {fact.client} never issued a write under that xid"
    )
    sentence = (
        f"{node}: WRITE xid {fact.xid:#010x} of {fact.client} put {fact.count} bytes into {fact.file} at offset "
        f"{fact.offset} at {milliseconds(at)} ms, {told}."
    )
    return Harm("corrupt-at-rest", sentence, (issued, place) if issued >= 0 else (place,))


def _wrong_at_rest(trace: Trace, writes: list[Write]) -> list[Missing]:
    """Every range that was completed must hold the bytes of a write that may have come last: return the others."""
    rests = {fact.file: place for place, _, _, fact in trace.placed(FileAtRest)}
    if not rests:
        return []  # nobody looked
    ranges: dict[tuple[str, int], list[Write]] = {}
    for write in writes:
        ranges.setdefault((write.fact.file, write.fact.offset), []).append(write)
    missing = [_judge_range(trace, rests.get(file, -1), group) for (file, _), group in ranges.items()]
    return [finding for finding in missing if finding]


def _judge_range(trace: Trace, rest: int, group: list[Write]) -> Missing | None:
    """Judge all writes of one range against the file at rest (position *rest*, -1: there is no such file)."""
    completed = [write for write in group if write.completed > write.issued]
    if not completed:
        return None  # whatever lay there before may lie there still
    last, offset, count = completed[-1], group[0].fact.offset, group[-1].fact.count
    if rest < 0:
        return last, "the server has no such file at the end", (last.issued, last.completed)
    fact = trace[rest][3]
    assert isinstance(fact, FileAtRest)
    proof = (last.issued, last.completed, rest)
    if fact.length < offset + last.fact.count:
        return last, f"the file ends at {fact.length}", proof
    alone = len(group) == 1 or all(write.fact.count == count for write in group)
    if offset % fact.chunk or not alone or count != min(fact.chunk, fact.length - offset):
        return None  # not on the grid that the file was digested in: the executed writes were judged one by one
    digest = fact.digests[offset // fact.chunk]
    if last.fact.digest == digest:
        return None  # the last to be issued of those that were completed is superseded by none
    if any(write.fact.digest == digest for write in group if not _is_superseded(write, completed)):
        return None
    older = next((write for write in group if write.fact.digest == digest), None)
    why = f"the older write xid {older.fact.xid:#010x} lies over it" if older else "other bytes lie there"
    return last, why, proof


def _is_superseded(write: Write, completed: list[Write]) -> bool:
    """Say whether a later write of the same range began after this one was done, and was itself completed.

    Only the order within one machine counts: writes of two machines are taken as concurrent.
    """
    return write.completed > write.issued and any(
        other.issued > write.completed and other.node == write.node for other in completed
    )


def _absent(trace: Trace, write: Write, why: str, proof: tuple[int, ...]) -> Harm:
    fact = write.fact
    sentence = (
        f"{write.node}: the {fact.count} bytes at offset {fact.offset} of {fact.file}, WRITE xid {fact.xid:#010x}, "
        f"completed at {milliseconds(trace[write.completed][0])} ms, are not at rest: {why}."
    )
    return Harm("corrupt-at-rest", sentence, proof)


# --- fault, leak, stall -----------------------------------------------------------------------------------------------


def fault(trace: Trace) -> list[Harm]:
    """Something touched a page that was no longer mapped, or a frontend found its page still mapped and gave up."""
    touched = [
        Harm(
            "fault",
            f"{node}: {fact.place} touched frame {fact.frame} of domain {fact.domid} at {milliseconds(at)} ms, when it "
            "was no longer mapped.",
            (place,),
        )
        for place, at, node, fact in trace.placed(AccessFault)
    ]
    broken = [
        Harm("fault", f"{node}: the frontend of {fact.guest} broke at {milliseconds(at)} ms: {fact.reason}.", (place,))
        for place, at, node, fact in trace.placed(FrontendBroken)
    ]
    return touched + broken


def leak(trace: Trace) -> list[Harm]:
    """Something was never given back."""
    return [
        Harm("leak", f"{node}: {fact.count} {fact.what} never given back by {milliseconds(at)} ms.", (place,))
        for place, at, node, fact in trace.placed(LeftOver)
    ]


def stall(trace: Trace) -> list[Harm]:
    """A write was never completed, or a guest never finished its copy."""
    writes = writes_of(trace)
    finished = _finished(trace)
    harms = [_waiting(trace, write) for write in writes if write.completed < write.issued]
    unfinished = {write.node: write.issued for write in reversed(writes) if write.node not in finished}
    return harms + [_unfinished(trace, node, first) for node, first in sorted(unfinished.items())]


def _finished(trace: Trace) -> set[str]:
    return {node for _, _, node, _ in trace.of_type(CopyFinished)}


def _stalls(trace: Trace, writes: list[Write]) -> bool:
    finished = _finished(trace)
    return any(write.completed < write.issued or write.node not in finished for write in writes)


def _waiting(trace: Trace, write: Write) -> Harm:
    fact = write.fact
    sentence = (
        f"{write.node}: WRITE xid {fact.xid:#010x}, {fact.count} bytes at offset {fact.offset} of {fact.file}, issued "
        f"at {milliseconds(trace[write.issued][0])} ms, was never completed."
    )
    return Harm("stall", sentence, (write.issued,))


def _unfinished(trace: Trace, node: str, first: int) -> Harm:
    since = f"{node}: the copy begun at {milliseconds(trace[first][0])} ms was never finished"
    for place, at, failed, fact in trace.placed(CopyFailed):
        if failed == node:
            told = f"{since}: the application gave up at {milliseconds(at)} ms: {fact.reason.rstrip('.')}."
            return Harm("stall", told, (first, place))
    return Harm("stall", f"{since}.", (first,))


ORACLES: tuple[Callable[[Trace], list[Harm]], ...] = (stale_on_wire, corrupt_at_rest, fault, leak, stall)


def harms(trace: Trace) -> list[str]:
    """Return the names of all harms in a trace, sorted and each once; empty is safe.

    A search asks this of every run, so nothing is told in sentences: the names are those that the oracles would give.
    """
    writes = writes_of(trace)
    names = []
    if _wrongly_executed(trace, writes) or _wrong_at_rest(trace, writes):
        names.append("corrupt-at-rest")
    if trace.places_of(AccessFault) or trace.places_of(FrontendBroken):
        names.append("fault")
    if trace.places_of(LeftOver):
        names.append("leak")
    if _stalls(trace, writes):
        names.append("stall")
    if _find_stale(trace)[0]:
        names.append("stale-on-wire")
    return sorted(names)
