"""The decisive moments of a run, told in plain sentences to somebody who sees it for the first time.

Everything is read from the trace. `narrative_case` finds the one write and the one packet that a run is told around;
here its way is told from the application to the end. The other files tell a part each: `narrative_owner` when the pages
are given back and used again, `narrative_reading` what was read, with the bytes, `narrative_rdma` what an adapter might
read, `narrative_storage` what became of connections, servers and sessions, `narrative_drivers` who came and went, and
`narrative_datagrams` what guests sent besides. `narrative_words` knows what each protocol calls its things.
"""

from collections.abc import Callable, Iterable, Sequence

from lateack.cluster import oracles
from lateack.cluster.narrative_case import (
    Case,
    Moment,
    called_again,
    case_of,
    is_reissued,
    moment_at,
    owner_of,
    waits_of,
)
from lateack.cluster.narrative_datagrams import datagrams
from lateack.cluster.narrative_drivers import drivers
from lateack.cluster.narrative_owner import completion, refill, rewritten
from lateack.cluster.narrative_rdma import memory, reads_remotely
from lateack.cluster.narrative_reading import BYTES_SHOWN, dump, kept_bytes, reading
from lateack.cluster.narrative_storage import storage
from lateack.cluster.narrative_words import frames_text, spoken, words_of
from lateack.cluster.trace import Trace, milliseconds
from lateack.cluster.wire_oracle import SEQUENCES, Harm
from lateack.nodes import facts
from lateack.nodes.facts import FrameSent, SegmentTransmitted

MOMENTS_MAX = 12
WRITE = 7  # NFSPROC3_WRITE (RFC 1813, section 3.3.7)
OUTCOMES = {
    "replied": "answered it from its duplicate request cache, without executing it",
    "dropped": "dropped it, since the first one was still being executed",
    "executed": "took it for a new one and executed it",
}


def moments(trace: Trace) -> list[Moment]:
    """Return at most twelve moments of a run, in the order of the trace; of a run that wrote nothing only its harms."""
    case = case_of(trace)
    sent = datagrams(trace)
    if case is None:
        told = [*sent, *_found(trace)]
    elif sent and not (case.stale or case.touched):
        told = [*sent, *_ending(case)]
    else:
        told = [moment for teller in TELLERS for moment in teller(case)]
    return sorted(dict.fromkeys(told[:MOMENTS_MAX]), key=lambda moment: moment.entry)


# --- the way down -----------------------------------------------------------------------------------------------------


def _departure(case: Case) -> list[Moment]:
    """The write is issued and leaves."""
    trace, fact, detail = case.trace, case.write.fact, []
    sends = trace.placed(SegmentTransmitted, case.write.issued)
    first = next((place for place, _, node, _ in sends if node == case.write.node), -1)
    later = called_again(case) or is_reissued(case) or reads_remotely(case)
    segment = trace[first if later else case.sent][3] if first >= 0 else None
    if isinstance(segment, SegmentTransmitted):
        detail.append(f"sent as sequence {segment.seq} of {segment.flow}")
        data = _write_data(kept_bytes(trace, segment.flow, segment.seq), fact.count)
        if data:
            detail.append(f"its data begin {dump(data[:BYTES_SHOWN])}")
    owner = owner_of(case)
    place, pages = f"at offset {fact.offset} of {fact.file}", frames_text(fact.frames)
    words = words_of(trace)
    called = f"{words.write}, {words.number} {fact.xid:#010x}"
    sentence = f"The application wrote {fact.count} bytes {place} from {pages}: {called}."
    if owner != case.write.node:
        wrote = f"For the disk of {owner}, the backend wrote {fact.count} bytes"
        sentence = f"{wrote} {place} from the guest's {pages}: {called}."
    return [moment_at(trace, case.write.issued, sentence, *detail)]


def _write_data(call: bytes, count: int) -> bytes:
    """Return the data of a WRITE call: they follow count, stable, and their own length, which is count once more.

    WRITE3args, RFC 1813 section 3.3.7.
    """
    number = count.to_bytes(4, "big")
    starts = [call.find(number + stable.to_bytes(4, "big") + number) for stable in range(3)]
    return call[max(starts) + 12 :] if max(starts) >= 0 else b""


def _again(case: Case) -> list[Moment]:
    """The same bytes are queued again, by TCP or by RPC, and wait; or a packet waits that was not sent before."""
    trace, packet, calls = case.trace, case.packet, _call_again(case)
    if packet is None:
        return calls
    repeated = calls if calls and calls[0].entry < case.sent else []
    if not isinstance(packet, facts.PacketRead) and packet.again:
        repeated = _segment_again(case) or repeated
    waits = waits_of(case)
    if not waits:
        return repeated or calls
    parked = trace[waits[-1]][3]
    assert isinstance(parked, facts.Parked)
    wait = milliseconds(trace[case.frame][0] - trace[waits[-1]][0])
    gate = f"parked behind the gate at {parked.place}, for {wait} ms"
    if not repeated:
        return [moment_at(trace, waits[-1], f"The packet was {gate}."), *calls]
    timed_out = trace[repeated[0].entry][3]
    if isinstance(timed_out, facts.RetransmitTimedOut | facts.FastRetransmitted) and timed_out.seq != packet.seq:
        return [repeated[0], moment_at(trace, waits[-1], f"A packet with more of the write was {gate}.")]
    return [repeated[0]._replace(detail=(f"the packet was {gate}", *repeated[0].detail))]


def _segment_again(case: Case) -> list[Moment]:
    """The transport repeats a segment, after a timeout or three duplicate acknowledgements."""
    packet, sent = case.packet, case.sent
    late = (
        (place, fact.flow, f"No acknowledgement came within {milliseconds(fact.rto)} ms, the retransmission timeout")
        for place, _, _, fact in case.trace.placed(facts.RetransmitTimedOut, sent)
    )
    fast = (
        (place, fact.flow, "Three duplicate acknowledgements came")
        for place, _, _, fact in case.trace.placed(facts.FastRetransmitted, sent)
    )
    reasons = [each for each in (*late, *fast) if packet and each[1] == packet.flow and each[0] < case.frame]
    return [
        moment_at(case.trace, place, f"{why}: {words_of(case.trace).transport} queued the same bytes again.")
        for place, _, why in sorted(reasons)[:1]
    ]


def _call_again(case: Case) -> list[Moment]:
    """RPC gives up waiting and sends the call again."""
    trace, write = case.trace, case.write
    key = (write.node, write.fact.xid)
    late = any((node, fact.xid) == key for _, _, node, fact in trace.placed(facts.CallTimedOut))
    why = "No reply came in time" if late else "The connection was lost"
    told = []
    for place in called_again(case)[:1]:
        waited = milliseconds(trace[place][0] - trace[write.issued][0])
        words = words_of(trace)
        old = f"under its old {words.number}"
        sentence = f"{why}: {words.caller} sent the {words.request} again after {waited} ms, {old}."
        told.append(moment_at(trace, place, sentence, "to the transport its bytes are new ones"))
    return told


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
    return _old_data(case) + told + ([_wrongly_executed(case, executed)] if executed else [])


def _wrongly_executed(case: Case, executed: list[Harm]) -> Moment:
    """Wrong bytes come to the file; where a digest had failed over them before, it does no more."""
    moment = _harmful(case.trace, executed)
    failed = [fact.offset for place, _, _, fact in case.trace.placed(facts.DigestFailed) if place < moment.entry]
    if case.write.fact.offset not in failed:
        return moment
    return moment._replace(detail=("their digest fits: it was taken anew as they went out again", *moment.detail))


def _old_data(case: Case) -> list[Moment]:
    packet = case.packet
    if not isinstance(packet, FrameSent):
        return []
    return [
        moment_at(case.trace, place, f"The receiver dropped {fact.length} bytes as old data: it had them already.")
        for place, _, _, fact in case.trace.placed(facts.DuplicateDropped, case.frame)
        if fact.flow == packet.flow and fact.length and (fact.seq - packet.seq) & SEQUENCES < packet.length
    ][:1]


def _ending(case: Case) -> list[Moment]:
    """How it ended: what is broken, or that nothing is."""
    found = [] if case.touched else _faults(case.trace)
    found += _left(case.trace)
    finished = case.trace.placed(facts.CopyFinished)
    ends = [(place, fact) for place, _, node, fact in finished if node == owner_of(case)]
    if found or not ends:
        return found
    rests = set(case.trace.places_of(facts.FileAtRest))
    at_rest = [spoken(case.trace, harm.sentence) for harm in case.corrupt if harm.entries[-1] in rests]
    sentence = f"The copy of {ends[-1][1].file} was finished. {_result(case)}"
    return [moment_at(case.trace, ends[-1][0], sentence, *at_rest[:1])]


def _result(case: Case) -> str:
    if case.corrupt:
        return "The file at the server is not what the application wrote."
    if case.touched:
        return "The file is intact; the host would have gone down over that packet."
    if case.stale:
        where = "the wire showed" if isinstance(case.packet, FrameSent) else f"{case.packet and case.packet.place} read"
        return f"The file is intact; what {where} was not."
    writes = len(case.trace.places_of(facts.WriteIssued))
    calm = "" if _sent_again(case.trace) else "nothing had to be sent again, and "
    return f"Of {writes} write{'' if writes == 1 else 's'} {calm}nothing went wrong."


def _sent_again(trace: Trace) -> bool:
    kinds: Iterable[type[SegmentTransmitted | facts.CallTransmitted]] = (SegmentTransmitted, facts.CallTransmitted)
    return any(fact.transmission > 1 for kind in kinds for _, _, _, fact in trace.of_type(kind))


def _found(trace: Trace) -> list[Moment]:
    """The first of each kind of harm that is not about bytes."""
    return [*_faults(trace), *_left(trace)]


def _faults(trace: Trace) -> list[Moment]:
    faults = oracles.fault(trace)
    return [_harmful(trace, faults)] if faults else []


def _left(trace: Trace) -> list[Moment]:
    """What was never given back, and what never happened, which is known at the end."""
    leaks, stalled, end = oracles.leak(trace), oracles.stall(trace), len(trace) - 1
    told = [_harmful(trace, leaks)] if leaks else []
    return told + ([_harmful(trace, stalled)._replace(at=trace[end][0], entry=end)] if stalled else [])


def _harmful(trace: Trace, harms: Sequence[Harm]) -> Moment:
    who, sentence = spoken(trace, harms[0].sentence).split(": ", 1)
    more = [f"and {len(harms) - 1} more of the kind"] if len(harms) > 1 else []
    place = sentence.split(" ", 1)[0]  # of a machine, backend.nic, which is a name
    sentence = sentence if "." in place else sentence[0].upper() + sentence[1:]
    return moment_at(trace, harms[0].entries[-1], sentence, *more)._replace(who=who)


def _obstacles(case: Case) -> list[Moment]:
    """What the scenario's rules and the network's dice put in the way of this write."""
    trace, issued = case.trace, case.write.issued
    segment = trace[case.sent][3] if case.sent >= 0 else None
    flow = segment.flow if isinstance(segment, SegmentTransmitted) else ""
    ways = {flow, ">".join(reversed(flow.split(">"))), _answers(flow)}
    told = _closed(case)
    held = [(place, fact) for place, _, _, fact in trace.placed(facts.FrameHeld, issued) if fact.flow in ways]
    for rule in dict.fromkeys(fact.rule for _, fact in held):
        mine = [(place, fact) for place, fact in held if fact.rule == rule]
        data = sum(fact.length > 0 for _, fact in mine)
        counts = " and ".join(
            f"{count} {what} data" for count, what in ((len(mine) - data, "without"), (data, "with")) if count
        )
        # A RoCE packet has no payload to TCP's mind: its length here is that of all that follows the UDP header.
        counts = f"{len(mine)} in number" if words_of(trace).user != "the stack" else counts
        told.append(moment_at(trace, mine[0][0], f"Rule {rule} began to hold frames back in the network: {counts}."))
    lost = [(place, fact) for place, _, _, fact in trace.placed(facts.FrameLost, issued) if fact.flow in ways]
    if lost:
        by = f"rule {lost[0][1].rule}" if lost[0][1].rule else "its dice"
        sentence = f"The network lost a frame with {lost[0][1].length} bytes of data, by {by}."
        told.append(moment_at(trace, lost[0][0], sentence))
    return told


def _answers(flow: str) -> str:
    """Return the flow in which a RoCE adapter answers: both ends send to one port, and the source port stays."""
    ends = [end.rpartition(":") for end in flow.split(">")]
    return ">".join(f"{address}:{port}" for (address, _, _), (_, _, port) in zip(reversed(ends), ends, strict=True))


def _closed(case: Case) -> list[Moment]:
    """The gate closed behind which the packet came to wait."""
    waits = waits_of(case)
    parked = case.trace[waits[-1]][3] if waits else None
    if not isinstance(parked, facts.Parked):
        return []
    return [
        moment_at(
            case.trace,
            at,
            f"The gate at {gate.place} closed, by rule {gate.rule}: from here on packets wait there.",
        )
        for at, _, _, gate in case.trace.placed(facts.GateClosed)
        if gate.place == parked.place and at < waits[-1]
    ][-1:]


# What matters most comes first: where there are too many moments, the last ones are left out.
TELLERS: tuple[Callable[[Case], list[Moment]], ...] = (
    _departure,
    _again,
    completion,
    rewritten,
    refill,
    reading,
    _at_server,
    _ending,
    memory,
    storage,
    drivers,
    _obstacles,
)
