"""The decisive moments of a run, told in plain sentences to somebody who sees it for the first time.

Everything is read from the trace. `narrative_case` finds the one write and the one frame that a run is told around,
and `narrative_reading` shows the bytes of that frame; all that leads there and comes of it is told here.
"""

from collections.abc import Callable, Sequence

from lateack.cluster import oracles
from lateack.cluster.narrative_case import Case, Moment, case_of, moment_at, refilled
from lateack.cluster.narrative_reading import BYTES_SHOWN, dump, kept_bytes, reading
from lateack.cluster.trace import Trace, milliseconds, ranges_text
from lateack.cluster.wire_oracle import SEQUENCES, Harm, Seen, covering
from lateack.nodes import facts
from lateack.nodes.facts import FrameSent, SegmentTransmitted

MOMENTS_MAX = 10
WRITE = 7  # NFSPROC3_WRITE (RFC 1813, section 3.3.7)
OUTCOMES = {
    "replied": "answered it from its duplicate request cache, without executing it",
    "dropped": "dropped it, since the first one was still being executed",
    "executed": "took it for a new one and executed it",
}


def moments(trace: Trace) -> list[Moment]:
    """Return at most ten moments of a run, in the order of the trace; of a run that wrote nothing only its harms."""
    case = case_of(trace)
    told = _found(trace)
    if case is not None:
        told = [moment for teller in TELLERS for moment in teller(case)]
    return sorted(told[:MOMENTS_MAX], key=lambda moment: moment.entry)


# --- the guest --------------------------------------------------------------------------------------------------------


def _departure(case: Case) -> list[Moment]:
    """The write is issued and leaves."""
    trace, fact, detail = case.trace, case.write.fact, []
    sends = trace.placed(SegmentTransmitted, case.write.issued)
    first = next((place for place, _, node, _ in sends if node == case.write.node), -1)
    segment = trace[first if _called_again(case) else case.sent][3] if first >= 0 else None
    if isinstance(segment, SegmentTransmitted):
        detail.append(f"sent as sequence {segment.seq} of {segment.flow}")
        data = _write_data(kept_bytes(trace, segment.flow, segment.seq), fact.count)
        if data:
            detail.append(f"its data begin {dump(data[:BYTES_SHOWN])}")
    what = f"{fact.count} bytes at offset {fact.offset} of {fact.file}"
    sentence = f"The application wrote {what} from {_frames_text(fact.frames)}: WRITE, xid {fact.xid:#010x}."
    return [moment_at(trace, case.write.issued, sentence, *detail)]


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
    repeated = isinstance(packet, FrameSent) and packet.again
    told = (_segment_again(case, packet) if repeated else []) or _call_again(case)
    if not waits:
        return told
    wait = milliseconds(trace[case.frame][0] - trace[waits[-1]][0])
    gate = f"parked behind the gate at {packet.place}, for {wait} ms"
    if not told:
        return [moment_at(trace, waits[0], f"The packet was {gate}.")]
    return [told[0]._replace(detail=(f"the packet was {gate}", *told[0].detail))]


def _segment_again(case: Case, packet: Seen) -> list[Moment]:
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
        moment_at(case.trace, place, f"{why}: TCP queued the same bytes again.") for place, why in sorted(reasons)[:1]
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
        told.append(moment_at(trace, place, sentence, "to the transport its bytes are new ones"))
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
        told.append(moment_at(trace, deferred, sentence, *_released(case, deferred)))
    if done > issued and deferred >= 0:
        waited = milliseconds(trace[done][0] - trace[deferred][0])
        sentence = (
            f"The last user of the pages let go, {waited} ms after the reply: the application had its buffer back."
        )
        told.append(moment_at(trace, done, sentence))
    elif done > issued:
        took = milliseconds(trace[done][0] - trace[issued][0])
        place = case.packet.place if case.packet and case.frame > done else ""
        waiting = f", while a packet with its bytes still waited at {place}" if place else ""
        sentence = f"The reply completed the write after {took} ms{waiting}: the application had its buffer back."
        told.append(moment_at(trace, done, sentence, *_released(case, done)))
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
    place = refilled(case) if case.packet else -1
    if place < 0:
        return []
    fact = case.trace[place][3]
    assert isinstance(fact, facts.BufferRefilled)
    which = "which the waiting packet shows" if place < case.frame else "only now"
    what = f"{_frames_text(fact.frames)}, {which}, with the file's bytes from {fact.offset}"
    sentence = f"The application refilled {what}."
    return [moment_at(case.trace, place, sentence, f"held  {fact.held:016x}", f"holds {fact.holds:016x}")]


# --- the server, the end, and what stood in the way -------------------------------------------------------------------


def _at_server(case: Case) -> list[Moment]:
    """The server meets the bytes or the call again."""
    told: list[Moment] = []
    key = (case.write.node, case.write.fact.xid, WRITE)
    for place, _, _, call in case.trace.placed(facts.DuplicateCall):
        if (call.client, call.xid, call.proc) == key and not told:
            differs = ["its payload differs from the first one's"] if call.payload_differs else []
            sentence = f"The call reached the server again, and the server {OUTCOMES.get(call.outcome, call.outcome)}."
            told.append(moment_at(case.trace, place, sentence, *differs))
    executed = [harm for harm in case.corrupt if isinstance(case.trace[harm.entries[-1]][3], facts.WriteExecuted)]
    return _old_data(case) + told + ([_harmful(case.trace, executed)] if executed else [])


def _old_data(case: Case) -> list[Moment]:
    packet = case.packet
    if packet is None:
        return []
    return [
        moment_at(case.trace, place, f"The receiver dropped {fact.length} bytes as old data: it had them already.")
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
    sentence = f"The copy of {ends[-1][1].file} was finished. {_result(case)}"
    return [moment_at(case.trace, ends[-1][0], sentence, *at_rest[:1])]


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
    return moment_at(trace, harms[0].entries[-1], sentence[0].upper() + sentence[1:], *more)._replace(who=who)


def _obstacles(case: Case) -> list[Moment]:
    """What the scenario's rules and the network's dice put in the way of this write."""
    trace, issued = case.trace, case.write.issued
    segment = trace[case.sent][3] if case.sent >= 0 else None
    flow = segment.flow if isinstance(segment, SegmentTransmitted) else ""
    ways = {flow, ">".join(reversed(flow.split(">")))}
    told = [
        moment_at(trace, at, f"The gate at {gate.place} closed, by rule {gate.rule}: from here on packets wait there.")
        for at, _, _, gate in trace.placed(facts.GateClosed)
        if case.packet and gate.place == case.packet.place and at < case.frame
    ][-1:]
    held = [(place, fact) for place, _, _, fact in trace.placed(facts.FrameHeld, issued) if fact.flow in ways]
    if held:
        data = sum(fact.length > 0 for _, fact in held)
        counts = f"{len(held) - data} without data, {data} with"
        sentence = f"Rule {held[0][1].rule} began to hold frames back in the network: {counts}."
        told.append(moment_at(trace, held[0][0], sentence))
    lost = [(place, fact) for place, _, _, fact in trace.placed(facts.FrameLost, issued) if fact.flow in ways]
    if lost:
        by = f"rule {lost[0][1].rule}" if lost[0][1].rule else "its dice"
        sentence = f"The network lost a frame with {lost[0][1].length} bytes of data, by {by}."
        told.append(moment_at(trace, lost[0][0], sentence))
    return told


# What matters most comes first: where there are too many moments, the last ones are left out.
TELLERS: tuple[Callable[[Case], list[Moment]], ...] = (
    _departure,
    _again,
    _completion,
    _refill,
    reading,
    _at_server,
    _ending,
    _obstacles,
)
