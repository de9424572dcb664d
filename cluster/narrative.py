"""The decisive moments of a run, told in plain sentences to somebody who sees it for the first time.

Everything is read from the trace. A run is told around one write and the one frame that decided about it: the first
that left with the wrong bytes or else, where none did, the first that was sent again.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lateack.cluster import oracles
from lateack.cluster.oracles import SEQUENCES, Harm, Write, covering
from lateack.cluster.trace import Trace, milliseconds, ranges_text
from lateack.nodes import facts
from lateack.nodes.facts import FrameSent, SegmentTransmitted

MOMENTS_MAX = 10
BYTES_SHOWN = 16
PAGE_SIZE = 4096
WRITE = 7  # NFSPROC3_WRITE (RFC 1813, section 3.3.7)
OUTCOMES = {
    "replied": "answered it from its duplicate request cache, without executing it",
    "dropped": "dropped it, since the first one was still being executed",
    "executed": "took it for a new one and executed it",
}


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
    packet: FrameSent | None = None
    stale: bool = False


def moments(trace: Trace) -> list[Moment]:
    """Return at most ten moments of a run, in the order of the trace; of a run that wrote nothing only its harms."""
    case = _case(trace)
    told = _found(trace)
    if case is not None:
        told = [moment for teller in TELLERS for moment in teller(case)]
    return sorted(told[:MOMENTS_MAX], key=lambda moment: moment.entry)


def _moment(trace: Trace, entry: int, sentence: str, *detail: str) -> Moment:
    at, _, node, _ = trace[entry]
    return Moment(at, node, sentence, detail, entry)


# --- which write, which frame -----------------------------------------------------------------------------------------


def _case(trace: Trace) -> Case | None:
    writes = oracles.writes_of(trace)
    if not writes:
        return None
    corrupt = oracles.corrupt_at_rest(trace)
    proof = {place for harm in corrupt for place in harm.entries}
    suspects = [write for write in writes if write.issued in proof]
    stale = [harm.entries[-1] for harm in oracles.stale_on_wire(trace)]
    for frame in stale or _sent_again(trace):
        packet = trace[frame][3]
        assert isinstance(packet, FrameSent)
        sent = covering(trace, SegmentTransmitted, packet, 0)
        write = _write_behind(trace, sent[0], packet, writes) if sent else None
        if write and (not suspects or write in suspects):
            return Case(trace, corrupt, write, sent[0], frame, packet, bool(stale))
    waiting = [write for write in writes if write.completed < write.issued]
    write = (suspects or waiting or writes)[0]
    sends = (place for place, _, node, _ in trace.placed(SegmentTransmitted, write.issued) if node == write.node)
    return Case(trace, corrupt, write, next(sends, -1))


def _sent_again(trace: Trace) -> list[int]:
    """Return the frames that a NIC sent again, first those that had waited behind a gate."""
    parked = {(fact.flow, fact.seq) for _, _, _, fact in trace.placed(facts.Parked) if fact.again}
    again = [(place, fact) for place, _, _, fact in trace.placed(FrameSent) if fact.again and fact.length]
    waited = [place for place, fact in again if (fact.flow, fact.seq) in parked]
    return waited + [place for place, fact in again if (fact.flow, fact.seq) not in parked]


def _write_behind(trace: Trace, sent: int, packet: FrameSent, writes: Sequence[Write]) -> Write | None:
    """Return the write whose bytes a packet was to carry: the last one of its pages, before they were first sent."""
    own = [write for write in writes if write.issued < sent and write.node == trace[sent][2]]
    pages = {number for _, number, _, _ in packet.pages}
    in_pages = [write for write in own if pages.intersection(write.fact.frames)]
    behind = in_pages or own
    return behind[-1] if behind else None


# --- the guest --------------------------------------------------------------------------------------------------------


def _departure(case: Case) -> list[Moment]:
    """The write is issued and leaves."""
    trace, fact, detail = case.trace, case.write.fact, []
    sends = trace.placed(SegmentTransmitted, case.write.issued)
    first = next((place for place, _, node, _ in sends if node == case.write.node), -1)
    segment = trace[first if _called_again(case) else case.sent][3] if first >= 0 else None
    if isinstance(segment, SegmentTransmitted):
        detail.append(f"sent as sequence {segment.seq} of {segment.flow}")
        data = _write_data(_kept(trace, segment.flow, segment.seq), fact.count)
        if data:
            detail.append(f"its data begin {_dump(data[:BYTES_SHOWN])}")
    what = f"{fact.count} bytes at offset {fact.offset} of {fact.file}"
    sentence = f"The application wrote {what} from {_frames_text(fact.frames)}: WRITE, xid {fact.xid:#010x}."
    return [_moment(trace, case.write.issued, sentence, *detail)]


def _write_data(call: bytes, count: int) -> bytes:
    """Return the data of a WRITE call: they follow count, stable, and their own length, which is count once more.

    WRITE3args, RFC 1813 section 3.3.7.
    """
    number = count.to_bytes(4, "big")
    starts = [call.find(number + stable.to_bytes(4, "big") + number) for stable in range(3)]
    return call[max(starts) + 12 :] if max(starts) >= 0 else b""


def _frames_text(frames: tuple[int, ...]) -> str:
    return f"{'frame' if len(frames) == 1 else 'frames'} {ranges_text(frames)}"


def _again(case: Case) -> list[Moment]:
    """The same bytes are queued again, by TCP or by RPC, and wait."""
    trace, packet = case.trace, case.packet
    if packet is None:
        return _call_again(case)
    waits = [place for place in covering(trace, facts.Parked, packet, 0) if case.sent < place < case.frame]
    told = (_segment_again(case, packet) if packet.again else []) or _call_again(case)
    if not waits:
        return told
    wait = milliseconds(trace[case.frame][0] - trace[waits[-1]][0])
    gate = f"parked behind the gate at {packet.place}, for {wait} ms"
    if not told:
        return [_moment(trace, waits[0], f"The packet was {gate}.")]
    return [told[0]._replace(detail=(f"the packet was {gate}", *told[0].detail))]


def _segment_again(case: Case, packet: FrameSent) -> list[Moment]:
    """The transport repeats a segment, after a timeout or three duplicate acknowledgements."""
    reasons = [
        (place, f"No acknowledgement came within {milliseconds(fact.rto)} ms, the retransmission timeout")
        for place, _, _, fact in case.trace.placed(facts.RetransmitTimedOut, case.sent)
        if fact.flow == packet.flow and place < case.frame
    ]
    reasons += [
        (place, "Three duplicate acknowledgements came")
        for place, _, _, fact in case.trace.placed(facts.FastRetransmitted, case.sent)
        if fact.flow == packet.flow and place < case.frame
    ]
    return [
        _moment(case.trace, place, f"{why}: TCP queued the same bytes again.") for place, why in sorted(reasons)[:1]
    ]


def _call_again(case: Case) -> list[Moment]:
    """RPC gives up waiting and sends the call again."""
    trace, write = case.trace, case.write
    key = (write.node, write.fact.xid)
    late = any((node, fact.xid) == key for _, _, node, fact in trace.placed(facts.CallTimedOut))
    why = "No reply came in time" if late else "The connection was lost"
    told = []
    for place in _called_again(case)[:1]:
        waited = milliseconds(trace[place][0] - trace[write.issued][0])
        sentence = f"{why}: RPC sent the call again after {waited} ms, under its old xid."
        told.append(_moment(trace, place, sentence, "to the transport its bytes are new ones"))
    return told


def _called_again(case: Case) -> list[int]:
    """Return where RPC sent the write's call again, up to the packet that decided."""
    key, end = (case.write.node, case.write.fact.xid), case.frame if case.frame >= 0 else len(case.trace)
    calls = case.trace.placed(facts.CallTransmitted, case.write.issued)
    return [
        place for place, _, node, call in calls if (node, call.xid) == key and call.transmission > 1 and place < end
    ]


def _completion(case: Case) -> list[Moment]:
    """The reply comes; the application gets its buffer back, at once or when the stack is done with it."""
    trace, (issued, done, node, write) = case.trace, case.write
    deferrals = trace.placed(facts.CompletionDeferred, issued)
    deferred = next((place for place, _, who, fact in deferrals if (who, fact.xid) == (node, write.xid)), -1)
    told = []
    if deferred >= 0:
        sentence = "The reply came, but the completion was deferred: the stack still used the pages of the write."
        told.append(_moment(trace, deferred, sentence, *_released(case, deferred)))
    if done > issued and deferred >= 0:
        waited = milliseconds(trace[done][0] - trace[deferred][0])
        sentence = (
            f"The last user of the pages let go, {waited} ms after the reply: the application had its buffer back."
        )
        told.append(_moment(trace, done, sentence))
    elif done > issued:
        took = milliseconds(trace[done][0] - trace[issued][0])
        place = case.packet.place if case.packet and case.frame > done else ""
        waiting = f", while a packet with its bytes still waited at {place}" if place else ""
        sentence = f"The reply completed the write after {took} ms{waiting}: the application had its buffer back."
        told.append(_moment(trace, done, sentence, *_released(case, done)))
    return told


def _released(case: Case, before: int) -> list[str]:
    """Tell which rule of the network had just let its frames go on."""
    return [
        f"rule {fact.rule} had let what it held go on, {fact.count} in number, at {milliseconds(at)} ms"
        for place, at, _, fact in case.trace.placed(facts.FramesReleased, case.write.issued)
        if place < before
    ][-1:]


def _refill(case: Case) -> list[Moment]:
    """The application uses the frames of its write again."""
    place = _refilled(case) if case.packet else -1
    if place < 0:
        return []
    fact = case.trace[place][3]
    assert isinstance(fact, facts.BufferRefilled)
    which = "which the waiting packet shows" if place < case.frame else "only now"
    what = f"{_frames_text(fact.frames)}, {which}, with the file's bytes from {fact.offset}"
    sentence = f"The application refilled {what}."
    return [_moment(case.trace, place, sentence, f"held  {fact.held:016x}", f"holds {fact.holds:016x}")]


def _refilled(case: Case) -> int:
    """Return where the application first refilled frames of the write, or -1."""
    frames = set(case.write.fact.frames)
    refills = case.trace.placed(facts.BufferRefilled, case.write.issued)
    return next((p for p, _, node, fact in refills if node == case.write.node and frames.intersection(fact.frames)), -1)


# --- the wire ---------------------------------------------------------------------------------------------------------


def _reading(case: Case) -> list[Moment]:
    """The NIC reads the packet's bytes and sends them."""
    trace, packet = case.trace, case.packet
    if packet is None:
        return []
    gates = trace.placed(facts.GateOpened, case.sent)
    opened = any(fact.place == packet.place and place < case.frame for place, _, _, fact in gates)
    what = (
        f"{'The gate opened, and ' if opened else ''}{packet.place} read {packet.length} bytes of sequence {packet.seq}"
    )
    what += " once more" if packet.again else ""
    if case.stale:
        sentence = f"{what}: they are not the bytes that were handed over."
        return [_moment(trace, case.frame, sentence, *_difference(case, packet))]
    return [_moment(trace, case.frame, f"{what}, and they are still right: {_safety(case, packet)}.", *_copies(trace))]


def _safety(case: Case, packet: FrameSent) -> str:
    """Say why a late read did no harm."""
    domains = {fact.domid for _, _, _, fact in case.trace.placed(facts.VifConnected) if fact.guest == case.write.node}
    own = {number for domain, number, _, _ in packet.pages if domain in domains or not domains}
    if packet.pages and not own.intersection(case.write.fact.frames):
        return "a private copy had frozen them, and the application's own frames were not read"
    if not case.write.issued < case.write.completed < case.frame:
        return "the application had not got its buffer back yet"
    if not 0 <= _refilled(case) < case.frame:
        return "the application had not refilled the frames yet"
    return "they had been frozen before the application refilled the frames"


def _copies(trace: Trace) -> list[str]:
    counts = [(node, fact.amount) for _, _, node, fact in trace.placed(facts.Counted) if fact.name == "copied_bytes"]
    return [f"{node} copied {amount} bytes in this run" for node, amount in counts if amount]


def _difference(case: Case, packet: FrameSent) -> list[str]:
    """Show the first bytes that differ; without the bytes themselves say at least that they do."""
    meant = _kept(case.trace, packet.flow, packet.seq)
    pairs = enumerate(zip(meant, packet.payload, strict=False))
    offset = next((i for i, (should, was) in pairs if should != was), -1)
    if offset < 0:
        return ["the bytes themselves were not kept; their digests differ"]
    start = max(0, offset - BYTES_SHOWN // 4)
    shown = slice(start, start + BYTES_SHOWN)
    return [
        f"the first difference is at offset {offset}{_place_in_file(case, packet, offset)}; from offset {start}:",
        f"should be {_dump(meant[shown])}",
        f"was       {_dump(packet.payload[shown])}",
    ]


def _place_in_file(case: Case, packet: FrameSent, offset: int) -> str:
    page, fact = oracles.page_at(packet, offset), case.write.fact
    if page is None or page[1] not in fact.frames:
        return ""
    place = fact.offset + fact.frames.index(page[1]) * PAGE_SIZE + page[2]
    return f" (byte {page[2]} of frame {page[1]}, byte {place} of the file)"


def _kept(trace: Trace, flow: str, seq: int) -> bytes:
    """Return the bytes that a transport meant from a sequence number on, as many as any segment kept together."""
    kept = (
        fact.intended[(seq - fact.seq) & SEQUENCES :]
        for _, _, _, fact in trace.placed(SegmentTransmitted)
        if fact.flow == flow and fact.intended
    )
    return max(kept, key=len, default=b"")


def _dump(data: bytes) -> str:
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
    return f"{data.hex(' ')} |{text}|"


# --- the server, the end, and what stood in the way -------------------------------------------------------------------


def _at_server(case: Case) -> list[Moment]:
    """The server meets the bytes or the call again."""
    told: list[Moment] = []
    key = (case.write.node, case.write.fact.xid, WRITE)
    for place, _, _, call in case.trace.placed(facts.DuplicateCall):
        if (call.client, call.xid, call.proc) == key and not told:
            differs = ["its payload differs from the first one's"] if call.payload_differs else []
            sentence = f"The call reached the server again, and the server {OUTCOMES.get(call.outcome, call.outcome)}."
            told.append(_moment(case.trace, place, sentence, *differs))
    executed = [harm for harm in case.corrupt if isinstance(case.trace[harm.entries[-1]][3], facts.WriteExecuted)]
    return _old_data(case) + told + ([_harmful(case.trace, executed)] if executed else [])


def _old_data(case: Case) -> list[Moment]:
    packet = case.packet
    if packet is None:
        return []
    return [
        _moment(case.trace, place, f"The receiver dropped {fact.length} bytes as old data: it had them already.")
        for place, _, _, fact in case.trace.placed(facts.DuplicateDropped, case.frame)
        if fact.flow == packet.flow and fact.length and (fact.seq - packet.seq) & SEQUENCES < packet.length
    ][:1]


def _ending(case: Case) -> list[Moment]:
    """How it ended: what is broken, or that nothing is."""
    found = _found(case.trace)
    finished = case.trace.placed(facts.CopyFinished)
    ends = [(place, fact) for place, _, node, fact in finished if node == case.write.node]
    if found or not ends:
        return found
    rests = set(case.trace.places_of(facts.FileAtRest))
    at_rest = [harm.sentence for harm in case.corrupt if harm.entries[-1] in rests]
    return [
        _moment(case.trace, ends[-1][0], f"The copy of {ends[-1][1].file} was finished. {_result(case)}", *at_rest[:1])
    ]


def _result(case: Case) -> str:
    if case.corrupt:
        return "The file at the server is not what the application wrote."
    if case.stale:
        return "The file is intact; what the wire showed was not."
    calm = "" if case.packet else "nothing had to wait to be sent again, and "
    return f"Of {len(case.trace.places_of(facts.WriteIssued))} writes {calm}nothing went wrong."


def _found(trace: Trace) -> list[Moment]:
    """The first of each kind of harm that is not about bytes."""
    told = [_harmful(trace, harms) for harms in (oracles.fault(trace), oracles.leak(trace)) if harms]
    stalled = oracles.stall(trace)
    if stalled:
        end = len(trace) - 1  # what never happened is known at the end
        told.append(_harmful(trace, stalled)._replace(at=trace[end][0], entry=end))
    return told


def _harmful(trace: Trace, harms: Sequence[Harm]) -> Moment:
    who, sentence = harms[0].sentence.split(": ", 1)
    more = [f"and {len(harms) - 1} more of the kind"] if len(harms) > 1 else []
    return _moment(trace, harms[0].entries[-1], sentence[0].upper() + sentence[1:], *more)._replace(who=who)


def _obstacles(case: Case) -> list[Moment]:
    """What the scenario's rules and the network's dice put in the way of this write."""
    trace, issued = case.trace, case.write.issued
    segment = trace[case.sent][3] if case.sent >= 0 else None
    flow = segment.flow if isinstance(segment, SegmentTransmitted) else ""
    ways = {flow, ">".join(reversed(flow.split(">")))}
    told = [
        _moment(trace, at, f"The gate at {gate.place} closed, by rule {gate.rule}: from here on packets wait there.")
        for at, _, _, gate in trace.placed(facts.GateClosed)
        if case.packet and gate.place == case.packet.place and at < case.frame
    ][-1:]
    held = [(place, fact) for place, _, _, fact in trace.placed(facts.FrameHeld, issued) if fact.flow in ways]
    if held:
        data = sum(fact.length > 0 for _, fact in held)
        counts = f"{len(held) - data} without data, {data} with"
        sentence = f"Rule {held[0][1].rule} began to hold frames back in the network: {counts}."
        told.append(_moment(trace, held[0][0], sentence))
    lost = [(place, fact) for place, _, _, fact in trace.placed(facts.FrameLost, issued) if fact.flow in ways]
    if lost:
        by = f"rule {lost[0][1].rule}" if lost[0][1].rule else "its dice"
        sentence = f"The network lost a frame with {lost[0][1].length} bytes of data, by {by}."
        told.append(_moment(trace, lost[0][0], sentence))
    return told


# What matters most comes first: where there are too many moments, the last ones are left out.
TELLERS: tuple[Callable[[Case], list[Moment]], ...] = (
    _departure,
    _again,
    _completion,
    _refill,
    _reading,
    _at_server,
    _ending,
    _obstacles,
)
