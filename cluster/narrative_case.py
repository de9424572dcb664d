"""What a run is told around: one write, and the one packet that decided about it.

The packet is the first that was read with the wrong bytes or else, where there is none, the first whose pages were no
longer mapped, or the first that had to wait or was sent again; the write is the one whose bytes it was to carry. Both
are found in the trace alone.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lateack.cluster import oracles
from lateack.cluster.narrative_write import Packet, first_sent, holds, registered, write_behind
from lateack.cluster.oracles import Write
from lateack.cluster.trace import Trace
from lateack.cluster.wire_oracle import SEEN, Harm, Seen, stale_on_wire
from lateack.nodes import facts
from lateack.nodes.chatter import DISCARD_PORT
from lateack.nodes.facts import FrameSent, Parked, SegmentTransmitted


class Moment(NamedTuple):
    """Something decisive: when (ns), at which machine, a sentence with detail lines, and its position in the trace."""

    at: int
    who: str
    sentence: str
    detail: tuple[str, ...]
    entry: int


class Case(NamedTuple):
    """What a run is told around: a write, its first segment, and the packet that decided (positions; -1 for none).

    `frame` is where the packet was read, or touched when its pages were no longer mapped.
    """

    trace: Trace
    corrupt: list[Harm]
    write: Write
    sent: int = -1
    frame: int = -1
    packet: Packet | None = None
    stale: bool = False
    touched: bool = False


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
    stale = [
        place
        for harm in stale_on_wire(trace)
        for place in harm.entries[-1:]
        if not is_chatter(_seen(trace, place).flow)
    ]
    for frame, packet in _candidates(trace, stale):
        sent = first_sent(trace, packet)
        write = write_behind(trace, sent, packet, writes) if sent >= 0 else None
        if write and (not suspects or write in suspects):
            touched = isinstance(trace[frame][3], facts.AccessFault)
            return Case(trace, corrupt, write, sent, frame, packet, frame in stale, touched)
    waiting = [write for write in writes if write.completed < write.issued]
    write = (suspects or waiting or writes)[0]
    sends = (place for place, _, node, _ in trace.placed(SegmentTransmitted, write.issued) if node == write.node)
    return Case(trace, corrupt, write, next(sends, -1))


def is_chatter(flow: str) -> bool:
    """Say whether a flow is of datagrams that a guest sends besides its copy."""
    return flow.endswith(f":{DISCARD_PORT}")


def owner_of(case: Case) -> str:
    """Return the machine whose frames a write shows: the one that issued it, or the guest whose disk it is for."""
    disks = [fact.guest for _, _, node, fact in case.trace.of_type(facts.VbdConnected) if node == case.write.node]
    named = [guest for guest in disks if case.write.fact.file.startswith(f"{guest}/")]
    return (named or disks or [case.write.node])[0]


def numbers_of(trace: Trace, write: Write) -> set[int]:
    """Return the numbers under which a write went: its own, and those under which it was issued again."""
    numbers = {write.fact.xid}
    for _, _, node, again in trace.of_type(facts.WriteReissued):
        if node == write.node and again.former in numbers:
            numbers.add(again.xid)
    return numbers


def is_reissued(case: Case) -> bool:
    """Say whether the write went on under another number."""
    return len(numbers_of(case.trace, case.write)) > 1


def refilled(case: Case) -> int:
    """Return where the application first refilled frames of the write, or -1."""
    frames, owner = set(case.write.fact.frames), owner_of(case)
    refills = case.trace.placed(facts.BufferRefilled, case.write.issued)
    return next((p for p, _, node, fact in refills if node == owner and frames.intersection(fact.frames)), -1)


def in_private(case: Case) -> bool:
    """Say whether the packet that decided showed a copy, and none of the application's own frames."""
    pages = case.packet.pages if isinstance(case.packet, SEEN) else ()
    owner = owner_of(case)
    domains = {fact.domid for _, _, _, fact in case.trace.of_type(facts.VifConnected) if fact.guest == owner}
    domains |= {fact.domid for _, _, _, fact in case.trace.of_type(facts.VbdConnected) if fact.guest == owner}
    own = {number for domain, number, _, _ in pages if domain in domains or not domains}
    return bool(pages) and not own.intersection(case.write.fact.frames)


def waits_of(case: Case) -> list[int]:
    """Return where the packet that decided came to wait, behind any gate, before it was read."""
    packet = case.packet
    if packet is None:
        return []
    if isinstance(packet, Parked):
        return [place for place, _, _, fact in case.trace.placed(Parked) if fact is packet]
    parks = [(place, fact) for place, _, _, fact in case.trace.placed(Parked, case.sent) if place < case.frame]
    return [place for place, fact in parks if holds(fact, packet) and _on_the_way(fact.place, packet.place)]


def is_under_way(case: Case, place: int) -> bool:
    """Say whether at a position of the trace the packet that decided had been sent, and not been read yet."""
    packet = case.packet
    if packet is None:
        return False
    sends = (entry for entry, _, _, fact in case.trace.placed(SegmentTransmitted, case.sent - 1))
    last = [entry for entry in sends if entry < case.frame and holds(case.trace[entry][3], packet)]
    return bool(last) and last[-1] < place < case.frame


def called_again(case: Case) -> list[int]:
    """Return where RPC sent the write's call again, up to the packet that decided."""
    end = case.frame if case.frame >= 0 else len(case.trace)
    numbers = numbers_of(case.trace, case.write)
    return [
        place
        for place, _, node, call in case.trace.placed(facts.CallTransmitted, case.write.issued)
        if node == case.write.node and call.xid in numbers and call.transmission > 1 and place < end
    ]


# --- which packet -----------------------------------------------------------------------------------------------------


def _candidates(trace: Trace, stale: list[int]) -> Iterator[tuple[int, Packet]]:
    """Yield where a packet decided, and the packet; what matters most comes first."""
    for place in stale:
        yield place, _seen(trace, place)
    if not stale:
        yield from _touched(trace)
        for place in [*_waited_or_again(trace), *_read_for_nobody(trace)]:
            yield place, _seen(trace, place)


def _seen(trace: Trace, place: int) -> Seen:
    fact = trace[place][3]
    assert isinstance(fact, SEEN)
    return fact


def _touched(trace: Trace) -> Iterator[tuple[int, Packet]]:
    """Yield the first fault with each packet that had waited at its place and was not read from there."""
    for fault, _, _, touched in list(trace.placed(facts.AccessFault))[:1]:
        for park, _, _, packet in trace.placed(Parked):
            mine = park < fault and packet.place == touched.place and not is_chatter(packet.flow)
            if mine and not _was_read(trace, park, packet):
                yield fault, packet


def _was_read(trace: Trace, park: int, packet: Parked) -> bool:
    """Say whether a packet that waited was read, before its bytes were sent once more."""
    resent = (place for place, _, _, fact in trace.placed(SegmentTransmitted, park) if holds(fact, packet))
    end = next(resent, len(trace))
    reads = (
        (place, fact)
        for kind in SEEN
        for place, _, _, fact in trace.placed(kind, park)
        if place < end and fact.place == packet.place
    )
    return any(holds(fact, packet) for _, fact in reads)


def _waited_or_again(trace: Trace) -> list[int]:
    """Return the packets with data that had waited behind a gate, first those that were sent again, then all of those.

    What a guest has kept and read for itself comes last: a sniffer sees all that a card does.
    """
    parked = {(fact.place, fact.flow, fact.seq) for _, _, _, fact in trace.placed(Parked)}
    parked |= {("", flow, seq) for place, flow, seq in parked if place.endswith((".ring", ".queue"))}
    seen = [(place, fact) for kind in SEEN for place, _, _, fact in trace.placed(kind)]
    read = [(place, fact) for place, fact in seen if fact.length and not is_chatter(fact.flow)]
    repeated = [(place, fact) for place, fact in read if isinstance(fact, FrameSent) and fact.again]
    both = [_waited(repeated, parked), _waited(read, parked), [place for place, _ in repeated]]
    return list(dict.fromkeys(place for places in both for place in places))


def _read_for_nobody(trace: Trace) -> list[int]:
    """Return where an adapter first showed registered memory of a call that its caller had given up (RDMA)."""
    told = []
    for aborted, _, node, call in trace.placed(facts.CallAborted):
        frames = registered(trace, node).get(call.xid, ())
        reads = [place for place, _, _, fact in trace.placed(FrameSent, aborted) if _shows(fact, frames)]
        revoked = [
            place
            for place, _, who, fact in trace.placed(facts.MemoryInvalidated, aborted)
            if (who, fact.xid) == (node, call.xid)
        ]
        told += [place for place in reads[:1] if trace[place][2] == node and place < (*revoked, len(trace))[0]]
    return told


def _shows(fact: FrameSent, frames: tuple[int, ...]) -> bool:
    return any(number in frames for _, number, _, _ in fact.pages)


def _waited(read: Sequence[tuple[int, Seen]], parked: set[tuple[str, str, int]]) -> list[int]:
    return [place for place, fact in read if {(fact.place, fact.flow, fact.seq), ("", fact.flow, fact.seq)} & parked]


def _on_the_way(place: str, end: str) -> bool:
    """Say whether who waits at *place* waits for *end*: a ring and a queue lie before every card and every reader."""
    return place == end or place.endswith((".ring", ".queue"))
