"""The oracle of the wire: what left or was read must be what was handed over for its sequence range.

Like every oracle a pure function of the trace (see `oracles`, where all of them are gathered).
"""

from bisect import bisect_left
from typing import NamedTuple, cast

from lateack.cluster.trace import Page, Trace, milliseconds
from lateack.nodes.facts import (
    BufferRefilled,
    BufferRewritten,
    FrameSent,
    PacketRead,
    Parked,
    SegmentTransmitted,
    VifConnected,
)

SEQUENCES = 0xFFFFFFFF  # sequence numbers wrap (RFC 9293, section 3.4)
EXPLAINED_MAX = 100  # stale frames whose origin is looked up, which takes a search of the trace each

# By flow, and by sequence number and length of a piece: every digest that was ever meant for it.
Meant = dict[str, dict[tuple[int, int], set[int]]]
Seen = FrameSent | PacketRead


class Harm(NamedTuple):
    """One thing that went wrong: its name, a sentence for people, and the positions in the trace that prove it."""

    name: str
    sentence: str
    entries: tuple[int, ...]


def stale_on_wire(trace: Trace) -> list[Harm]:
    """Bytes left on a wire, or were read out of a packet that was kept, and are not those that were handed over."""
    return judge_wire(trace)[0]


def judge_wire(trace: Trace) -> tuple[list[Harm], int]:
    """Return the stale frames, and how many pieces of frames could not be judged since no one vouched for them.

    A flow that no transport vouches for at all is not judged.
    """
    stale, unjudged = find_stale(trace)
    told = [
        _stale(trace, place, wrong, explained=number < EXPLAINED_MAX) for number, (place, wrong) in enumerate(stale)
    ]
    return told, unjudged


SEEN: tuple[type[FrameSent] | type[PacketRead], ...] = (FrameSent, PacketRead)
"""What is judged: bytes that left on a wire, and those that somebody read who had kept a packet."""


def find_stale(trace: Trace) -> tuple[list[tuple[int, list[int]]], int]:
    """Return where stale frames left, each with the numbers of its wrong pieces, and how many were not judged."""
    entries = trace.entries
    segments = trace.of_type(SegmentTransmitted)
    meant = {(fact.flow, fact.seq, fact.length): fact.digests for _, _, _, fact in segments}
    # Nearly always a frame is cut as its segment was and holds what it should: then one look is enough.
    doubtful: list[tuple[int, Seen]] = []
    for kind in SEEN:
        for place in trace.places_of(kind):
            fact = cast("Seen", entries[place][3])
            if meant.get((fact.flow, fact.seq, fact.length)) != fact.digests:
                doubtful.append((place, fact))
    return _judge_pieces(trace, doubtful) if doubtful else ([], 0)


def _judge_pieces(trace: Trace, doubtful: list[tuple[int, Seen]]) -> tuple[list[tuple[int, list[int]]], int]:
    """Judge the doubtful frames, with their positions in the trace, piece by piece; see `find_stale`."""
    doubts = [(place, fact, pieces(fact)) for place, fact in sorted(doubtful, key=_position)]
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


def _position(doubt: tuple[int, Seen]) -> int:
    return doubt[0]


def pieces(fact: SegmentTransmitted | Seen) -> list[tuple[int, int]]:
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
    assert isinstance(frame, Seen)
    offset = wrong[0] * frame.mss
    count = "all of it" if len(wrong) == len(frame.digests) else f"{len(wrong)} of {len(frame.digests)} pieces"
    page = page_at(frame, offset)
    did = "left" if isinstance(frame, FrameSent) else "was read at"
    where = f", in frame {page[1]} of domain {page[0]}" if page else ""
    since, proof = _origin(trace, place, frame, offset) if explained else ("was handed over", (place,))
    sentence = (
        f"{node}: {frame.length} bytes of {frame.flow} from sequence {frame.seq} {did} {frame.place} at "
        f"{milliseconds(at)} ms; {count}, from offset {offset}{where}, is not what {since}."
    )
    return Harm("stale-on-wire", sentence, proof)


def _origin(trace: Trace, place: int, frame: Seen, offset: int) -> tuple[str, tuple[int, ...]]:
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


def covering(trace: Trace, kind: type[SegmentTransmitted] | type[Parked], frame: Seen, offset: int) -> list[int]:
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


def page_at(frame: Seen, offset: int) -> Page | None:
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
    refilled, rewritten = trace.placed(BufferRefilled), trace.placed(BufferRewritten)
    changes = [(place, node, fact.frames) for place, _, node, fact in refilled]
    changes += [(place, node, fact.frames) for place, _, node, fact in rewritten]
    before_it = [
        place
        for place, node, frames in changes
        if place < before and page[1] in frames and (not owners or node in owners)
    ]
    return max(before_it, default=-1)
