"""The oracles: what went wrong in a run, read from its trace and from nothing else.

Each is a pure function of the trace. They join facts on keys (flow and sequence range, client and xid, file and offset)
and never on the order between two machines, so that they judge a run on many clocks just as one on a single clock.
"""

from collections.abc import Callable
from typing import NamedTuple

from lateack.cluster.trace import Trace, milliseconds
from lateack.cluster.wire_oracle import Harm, find_stale, stale_on_wire
from lateack.nodes.facts import (
    AccessFault,
    CallAborted,
    CallTransmitted,
    CopyFailed,
    CopyFinished,
    FileAtRest,
    ForeignPageFreed,
    FrontendBroken,
    LeftOver,
    WriteCompleted,
    WriteExecuted,
    WriteIssued,
    WriteReissued,
)


class Write(NamedTuple):
    """A write of the application: where in the trace it was issued and completed (-1: never), by whom, and what."""

    issued: int
    completed: int
    node: str
    fact: WriteIssued


# A completed write whose bytes are not at rest, why, and the proof.
Missing = tuple[Write, str, tuple[int, ...]]


# --- corrupt-at-rest --------------------------------------------------------------------------------------------------


def corrupt_at_rest(trace: Trace) -> list[Harm]:
    """The server put bytes into a file that no write had, or a completed write is not there at the end."""
    writes = writes_of(trace)
    issued = {(node, fact.xid): place for place, _, node, fact in writes}
    for _, _, node, again in trace.of_type(WriteReissued):
        if (node, again.former) in issued:
            issued[node, again.xid] = issued[node, again.former]
    executed = [
        _badly_executed(trace, place, fact, issued.get((fact.client, fact.xid), -1))
        for place, fact in _wrongly_executed(trace, writes)
    ]
    return executed + [_absent(trace, *finding) for finding in _wrong_at_rest(trace, writes)]


def writes_of(trace: Trace) -> list[Write]:
    """Return the applications' writes, in the order of the trace."""
    done = {(node, fact.xid): place for place, _, node, fact in trace.placed(WriteCompleted)}
    for _, _, node, fact in reversed(trace.of_type(WriteReissued)):
        if (node, fact.xid) in done:
            done[node, fact.former] = done[node, fact.xid]
    return [
        Write(place, done.get((node, fact.xid), -1), node, fact) for place, _, node, fact in trace.placed(WriteIssued)
    ]


def _wrongly_executed(trace: Trace, writes: list[Write]) -> list[tuple[int, WriteExecuted]]:
    """Every WRITE that the server executes must carry bytes that its client meant under that xid: return the others."""
    meant = {(node, fact.xid, fact.file, fact.offset, fact.count, fact.digest) for _, _, node, fact in writes}
    for _, _, node, again in trace.of_type(WriteReissued):
        meant |= {(node, again.xid, *write[2:]) for write in meant if write[:2] == (node, again.former)}
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
    kept = [
        Harm("leak", f"{node}: {fact.count} {fact.what} never given back by {milliseconds(at)} ms.", (place,))
        for place, at, node, fact in trace.placed(LeftOver)
    ]
    lost = [
        Harm(
            "leak",
            f"{node}: frame {fact.frame} of domain {fact.domid} went to the general allocator of {fact.place} at "
            f"{milliseconds(at)} ms, whose it is not.",
            (place,),
        )
        for place, at, node, fact in trace.placed(ForeignPageFreed)
    ]
    return kept + lost


def stall(trace: Trace) -> list[Harm]:
    """A write was neither completed nor given up, or a copy that was begun was never finished."""
    writes = writes_of(trace)
    waiting = [_waiting(trace, write) for write in _waiting_at_the_end(trace, writes)]
    return waiting + [_unfinished(trace, node, first) for (node, _), first in sorted(_begun(trace, writes).items())]


def _stalls(trace: Trace, writes: list[Write]) -> bool:
    return bool(_waiting_at_the_end(trace, writes) or _begun(trace, writes))


def _begun(trace: Trace, writes: list[Write]) -> dict[tuple[str, str], int]:
    """Return where each copy began that was never finished, by machine and file; no file where none was written to."""
    finished = {(node, fact.file) for _, _, node, fact in trace.of_type(CopyFinished)}
    begun = {
        (write.node, write.fact.file): write.issued
        for write in reversed(writes)
        if (write.node, write.fact.file) not in finished
    }
    nodes = {node for node, _ in (*finished, *begun)}
    for place in trace.places_of(CallTransmitted):
        node = trace.entries[place][2]
        if node not in nodes:
            begun.setdefault((node, ""), place)
    return begun


def _waiting_at_the_end(trace: Trace, writes: list[Write]) -> list[Write]:
    """Return the writes that were never completed, but for those on which the application itself gave up."""
    waiting = [write for write in writes if write.completed < write.issued]
    if not waiting:
        return waiting
    aborted = {(node, fact.xid) for _, _, node, fact in trace.of_type(CallAborted)}
    return [write for write in waiting if (write.node, write.fact.xid) not in aborted]


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
    if trace.places_of(LeftOver) or trace.places_of(ForeignPageFreed):
        names.append("leak")
    if _stalls(trace, writes):
        names.append("stall")
    if find_stale(trace)[0]:
        names.append("stale-on-wire")
    return sorted(names)
