"""What befell drivers and readers while a run went on: they come, go, give up and lose patience."""

from collections.abc import Callable

from lateack.cluster.narrative_case import Case, Moment, moment_at
from lateack.cluster.trace import Trace, milliseconds
from lateack.nodes import facts


def drivers(case: Case) -> list[Moment]:
    """The first of each kind of thing that befell a driver or a reader since the write was issued."""
    return befallen(case.trace, case.write.issued)


def befallen(trace: Trace, after: int) -> list[Moment]:
    """Return the first moment of each kind after a position of the trace."""
    told = [moment for teller in TELLERS for moment in teller(trace, after)[:1]]
    return sorted(told, key=lambda moment: moment.entry)


def _died(trace: Trace, after: int) -> list[Moment]:
    told = []
    for place, _, _, fact in trace.placed(facts.NetbackDied, after):
        mapped = f"{_count(fact.in_flight, 'packet')} of mapped pages" if fact.in_flight else "no mapped page"
        sentence = f"netback died with {mapped} in the host's stack: what it had mapped was taken from it."
        told.append(moment_at(trace, place, sentence))
    return told


def _restarted(trace: Trace, after: int) -> list[Moment]:
    told = "netback was back, knew nothing of before, and its frontends connected anew."
    return [moment_at(trace, place, told) for place, _, _, _ in trace.placed(facts.NetbackRestarted, after)]


def _detached(trace: Trace, after: int) -> list[Moment]:
    """Only where it is connected again: at the end of a run every disk is closed."""
    connected = {fact.guest for _, _, _, fact in trace.placed(facts.VifConnected, after)}
    return [
        moment_at(
            trace,
            place,
            f"The frontend of {fact.guest} was detached, with {_count(fact.unanswered, 'request')} not answered.",
        )
        for place, _, _, fact in trace.placed(facts.FrontendClosing, after)
        if fact.guest in connected or fact.unanswered
    ]


def _let_go(trace: Trace, after: int) -> list[Moment]:
    return [
        moment_at(trace, place, f"Nothing of {fact.guest} was in flight any more: the backend let its interface go.")
        for place, _, _, fact in trace.placed(facts.VifDisconnected, after)
    ]


def _shut(trace: Trace, after: int) -> list[Moment]:
    shut = [(place, fact.guest, fact.reason) for place, _, _, fact in trace.placed(facts.VifDisabled, after)]
    shut += [(place, fact.guest, fact.reason) for place, _, _, fact in trace.placed(facts.VbdDisabled, after)]
    told = "The backend shut what {} had connected: {}."
    return [moment_at(trace, place, told.format(guest, reason)) for place, guest, reason in shut]


def _switched_off(trace: Trace, after: int) -> list[Moment]:
    return [
        moment_at(
            trace, place, f"{fact.guest} had taken nothing for {milliseconds(fact.waited)} ms: its carrier went off."
        )
        for place, _, _, fact in trace.placed(facts.CarrierLost, after)
    ]


def _given_up(trace: Trace, after: int) -> list[Moment]:
    return [
        moment_at(trace, place, f"{fact.place} gave up {_count(fact.count, 'packet')}: {fact.reason}.")
        for place, _, _, fact in trace.placed(facts.PacketsDropped, after)
    ]


def _copied(trace: Trace, after: int) -> list[Moment]:
    """Pages that lingered are copied many at a time."""
    found = list(trace.placed(facts.LingeringCopied, after))
    if not found:
        return []
    first, _, _, fact = found[0]
    held = sum(fact.busy for _, _, _, fact in found)
    waited = f"the stack had kept the first of them for {milliseconds(fact.waited)} ms"
    told = f"The backend copied {_count(len(found), 'page')} of guests and released them: {waited}."
    return [moment_at(trace, first, told, *([f"of which a card had mapped {held}"] if held else []))]


def _hit(trace: Trace, after: int) -> list[Moment]:
    return [
        moment_at(
            trace,
            place,
            f"TCP found an earlier clone of the segment still below it, and {'waited' if fact.suppressed else 'sent'}"
            f"{'.' if fact.suppressed else ' another all the same.'}",
        )
        for place, _, _, fact in trace.placed(facts.HostQueueHit, after)
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


TELLERS: tuple[Callable[[Trace, int], list[Moment]], ...] = (
    _died,
    _restarted,
    _detached,
    _let_go,
    _shut,
    _switched_off,
    _given_up,
    _copied,
    _hit,
)
