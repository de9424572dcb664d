"""The owner of the pages, as a run is told: the write is done or given up, and its frames are used again."""

from lateack.cluster.narrative_case import (
    Case,
    Moment,
    in_private,
    is_under_way,
    moment_at,
    numbers_of,
    owner_of,
    refilled,
    waits_of,
)
from lateack.cluster.narrative_words import words_of
from lateack.cluster.trace import milliseconds, ranges_text
from lateack.nodes import facts


def frames_text(frames: tuple[int, ...]) -> str:
    """Return "frame 12" or "frames 12-15"."""
    return f"{'frame' if len(frames) == 1 else 'frames'} {ranges_text(frames)}"


def completion(case: Case) -> list[Moment]:
    """The write is done or given up; the application has its buffer back, at once or when the stack is done with it."""
    aborted, deferred = _place_of(case, facts.CallAborted), _place_of(case, facts.CompletionDeferred)
    if aborted >= 0:
        return [_given_up(case, aborted, deferred)]
    told = []
    if deferred >= 0:
        answer = words_of(case.trace).answer
        sentence = f"The {answer} came, but the completion was deferred: the stack still used the pages of the write."
        told.append(moment_at(case.trace, deferred, sentence, *_released(case, deferred)))
    if case.write.completed > case.write.issued:
        told.append(_completed(case, deferred))
    return told


def _given_up(case: Case, aborted: int, deferred: int) -> Moment:
    waited = milliseconds(case.trace[aborted][0] - case.trace[case.write.issued][0])
    words = words_of(case.trace)
    sentence = f"No {words.answer} had come after {waited} ms, and the application gave up on the {words.request}"
    if deferred < 0:
        return moment_at(case.trace, aborted, f"{sentence}{_meanwhile(case, aborted)}: {_handed_back(case)}.")
    place = refilled(case)
    back = [f"it came back at {milliseconds(case.trace[place][0])} ms"] if place >= 0 else []
    return moment_at(case.trace, aborted, f"{sentence}, but its buffer stayed away: the stack still used it.", *back)


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
        return "only now"
    if in_private(case):
        return "of which the packet has a copy"
    return (
        "which the waiting packet shows" if is_under_way(case, place) else "whose old bytes were still to be sent again"
    )


def _contents(fact: facts.BufferRefilled | facts.BufferRewritten) -> tuple[str, str]:
    return f"held  {fact.held:016x}", f"holds {fact.holds:016x}"


def _place_of(case: Case, kind: type[facts.CallAborted | facts.CompletionDeferred | facts.ReplyMatched]) -> int:
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
