"""What an adapter might read of a write, when it no longer might, and what came of it, as a run is told (RDMA)."""

from lateack.cluster.narrative_case import Case, Moment, moment_at, numbers_of
from lateack.cluster.narrative_words import frames_text
from lateack.cluster.narrative_write import registered
from lateack.nodes import facts


def memory(case: Case) -> list[Moment]:
    """The write's memory is registered, then taken back; who asks for it later is refused."""
    known = _registered(case)
    return [*known, *(_sent(case) if known else ()), *_invalidated(case), *_refused(case), *_failed(case)]


def _registered(case: Case) -> list[Moment]:
    numbers = numbers_of(case.trace, case.write)
    return [
        moment_at(
            case.trace,
            place,
            f"The client {_what(case, fact.frames)} under key {fact.rkey:#010x}: by it the server's adapter reads "
            "there when it likes.",
        )
        for place, _, node, fact in case.trace.placed(facts.MemoryRegistered, case.write.issued)
        if node == case.write.node and fact.xid in numbers
    ][:1]


def _what(case: Case, frames: tuple[int, ...]) -> str:
    if set(frames) & set(case.write.fact.frames):
        return f"registered {frames_text(frames)}"
    return f"copied the bytes into {frames_text(frames)}, and registered that,"


def _sent(case: Case) -> list[Moment]:
    """The call has arrived; that says nothing of the memory that it only names."""
    numbers = numbers_of(case.trace, case.write)
    sentence = "The adapter was through with the call itself, and not the server with the memory that it names."
    return [
        moment_at(case.trace, place, sentence)
        for place, _, node, fact in case.trace.placed(facts.WorkCompleted, case.write.issued)
        if node == case.write.node and fact.xid in numbers
    ][:1]


def _invalidated(case: Case) -> list[Moment]:
    numbers = numbers_of(case.trace, case.write)
    return [
        moment_at(case.trace, place, f"Key {fact.rkey:#010x} was invalidated: from here on nobody reads by it.")
        for place, _, node, fact in case.trace.placed(facts.MemoryInvalidated, case.write.issued)
        if node == case.write.node and fact.xid in numbers
    ][:1]


def _refused(case: Case) -> list[Moment]:
    return [
        moment_at(
            case.trace, place, f"A remote read came with key {fact.rkey:#010x}, which was not valid any more: refused."
        )
        for place, _, _, fact in case.trace.placed(facts.AccessRefused, case.write.issued)
    ][:1]


def _failed(case: Case) -> list[Moment]:
    return [
        moment_at(case.trace, place, f"The queue pair failed, and with it all that was under way: {fact.reason}.")
        for place, _, _, fact in case.trace.placed(facts.QueuePairFailed, case.write.issued)
    ][:1]


def reads_remotely(case: Case) -> bool:
    """Say whether the packet that decided answers a remote read of memory that was registered for the write."""
    numbers = numbers_of(case.trace, case.write)
    known = registered(case.trace, case.write.node)
    frames = {number for xid in numbers for number in known.get(xid, ())}
    pages = () if case.packet is None or isinstance(case.packet, facts.Parked) else case.packet.pages
    return any(number in frames for _, number, _, _ in pages)
