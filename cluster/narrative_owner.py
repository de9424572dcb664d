"""The owner of the pages, as a run is told: the write is done or given up, and its frames are used again."""

from lateack.cluster.narrative_case import (
    Case,
    Moment,
    called_again,
    in_private,
    is_reissued,
    is_under_way,
    moment_at,
    numbers_of,
    owner_of,
    refilled,
    waits_of,
)
from lateack.cluster.narrative_rdma import reads_remotely
from lateack.cluster.narrative_words import frames_text, words_of
from lateack.cluster.trace import milliseconds
from lateack.nodes import facts

OfCall = facts.CallAborted | facts.CompletionDeferred | facts.ReplyMatched | facts.MemoryInvalidated


def completion(case: Case) -> list[Moment]:
    """The write is done or given up; the application has its buffer back, at once or when the stack is done with it."""
    aborted, deferred = _place_of(case, facts.CallAborted), _place_of(case, facts.CompletionDeferred)
    if aborted >= 0:
        return [_given_up(case, aborted, deferred)]
    told = []
    if deferred >= 0:
        words = words_of(case.trace)
        sentence = (
            f"The {words.answer} came, but the completion was deferred: {words.user} still used the pages of the write."
        )
        told.append(moment_at(case.trace, deferred, sentence, *_released(case, deferred)))
    if case.write.completed > case.write.issued:
        told.append(_completed(case, deferred))
    return told


def _given_up(case: Case, aborted: int, deferred: int) -> Moment:
    waited = milliseconds(case.trace[aborted][0] - case.trace[case.write.issued][0])
    words = words_of(case.trace)
    sentence = f"No {words.answer} had come after {waited} ms, and the application gave up on the {words.request}"
    if deferred < 0:
        first = ", once the key to it was taken back" if _key_taken_back(case) else ""
        return moment_at(case.trace, aborted, f"{sentence}{_meanwhile(case, aborted)}: {_handed_back(case)}{first}.")
    place = refilled(case)
    back = [f"it came back at {milliseconds(case.trace[place][0])} ms"] if place >= 0 else []
    return moment_at(case.trace, aborted, f"{sentence}, but its buffer stayed away: {words.user} still used it.", *back)


def _key_taken_back(case: Case) -> bool:
    """Say whether the right to read the write's memory was revoked before the application used its frames again."""
    return 0 <= _place_of(case, facts.MemoryInvalidated) < refilled(case)


def _completed(case: Case, deferred: int) -> Moment:
    trace, (issued, done, _, _) = case.trace, case.write
    if deferred >= 0:
        waited = milliseconds(trace[done][0] - trace[deferred][0])
        after = f"{waited} ms after the {words_of(trace).answer}"
        return moment_at(trace, done, f"The last user of the pages let go, {after}: {_handed_back(case)}.")
    took, meanwhile = milliseconds(trace[done][0] - trace[issued][0]), _meanwhile(case, done)
    if 0 <= _place_of(case, facts.ReplyMatched) < done:
        sentence = f"The {words_of(trace).answer} completed the write after {took} ms{meanwhile}: {_handed_back(case)}."
        return moment_at(trace, done, sentence, *_released(case, done))
    sentence = f"The write was completed after {took} ms, before any {words_of(trace).answer} to it had come{meanwhile}"
    return moment_at(trace, done, f"{sentence}: {_handed_back(case)}.")


def _handed_back(case: Case) -> str:
    if owner_of(case) != case.write.node:
        return (
            f"the disk's driver unmapped the page and answered {owner_of(case)}, whose application had its buffer back"
        )
    return "the application had its buffer back"


def _meanwhile(case: Case, place: int) -> str:
    """Say where the packet that decided was at that position, if it was still to be read."""
    if not is_under_way(case, place):
        return ""
    waits = [wait for wait in waits_of(case) if wait < place]
    parked = case.trace[waits[-1]][3] if waits else None
    if isinstance(parked, facts.Parked):
        return f", while a packet with its bytes still waited at {parked.place}"
    return ", while a packet with its bytes was still on its way"


def rewritten(case: Case) -> list[Moment]:
    """The application changes a buffer out of which it is writing."""
    owner, frames, done = owner_of(case), set(case.write.fact.frames), case.write.completed
    told = []
    for place, _, node, fact in case.trace.placed(facts.BufferRewritten, case.write.issued):
        if node == owner and frames.intersection(fact.frames) and (place < done or done < case.write.issued):
            sentence = f"The application rewrote {frames_text(fact.frames)}, although its write was not done."
            told.append(moment_at(case.trace, place, sentence, *_contents(fact)))
    return told[:1]


def refill(case: Case) -> list[Moment]:
    """The application uses the frames of its write again."""
    place = refilled(case) if case.packet else -1
    if place < 0:
        return []
    fact = case.trace[place][3]
    assert isinstance(fact, facts.BufferRefilled)
    what = f"{frames_text(fact.frames)}, {_state(case, place)}, with the file's bytes from {fact.offset}"
    return [moment_at(case.trace, place, f"The application refilled {what}.", *_contents(fact))]


def _state(case: Case, place: int) -> str:
    if place > case.frame:
        return "although its write was to go out again" if _goes_again(case, place) else "only now"
    if in_private(case) and not case.stale:
        return "of which the packet has a copy"
    if is_under_way(case, place):
        return "which the waiting packet shows"
    if reads_remotely(case):
        return "which the server might still read by its key"
    first = place < case.sent and not called_again(case) and not is_reissued(case)
    return f"whose old bytes were still to be sent{'' if first else ' again'}"


def _goes_again(case: Case, place: int) -> bool:
    """Say whether the write's call is sent once more after a position."""
    numbers = numbers_of(case.trace, case.write)
    kinds: tuple[type[facts.CallTransmitted | facts.WriteReissued], ...] = (facts.CallTransmitted, facts.WriteReissued)
    calls = ((node, call) for kind in kinds for _, _, node, call in case.trace.placed(kind, place))
    return any(node == case.write.node and call.xid in numbers for node, call in calls)


def _contents(fact: facts.BufferRefilled | facts.BufferRewritten) -> tuple[str, str]:
    return f"held  {fact.held:016x}", f"holds {fact.holds:016x}"


def _place_of(case: Case, kind: type[OfCall]) -> int:
    """Return where such a fact was recorded first of the call that carried the write, or -1."""
    numbers = numbers_of(case.trace, case.write)
    found = case.trace.placed(kind, case.write.issued)
    return next((place for place, _, node, fact in found if node == case.write.node and fact.xid in numbers), -1)


def _released(case: Case, before: int) -> list[str]:
    """Tell which rule of the network had just let its frames go on."""
    return [
        f"rule {fact.rule} had let what it held go on, {fact.count} in number, at {milliseconds(at)} ms"
        for place, at, _, fact in case.trace.placed(facts.FramesReleased, case.write.issued)
        if place < before
    ][-1:]
