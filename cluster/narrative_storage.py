"""What befell connections, servers and protocols on the way of a write: cuts, crashes, new logins, failed digests."""

from collections.abc import Iterator

from lateack.cluster.narrative_case import Case, Moment, moment_at, numbers_of
from lateack.cluster.narrative_words import words_of
from lateack.cluster.trace import Trace, milliseconds
from lateack.nodes import facts

Told = Iterator[tuple[int, str]]


def storage(case: Case) -> list[Moment]:
    """The first of each kind of thing that befell the write's storage since it was issued."""
    trace, over = case.trace, _executed_over(case)
    after = min([case.write.issued, *[_issued(case, moment) for moment in over]])
    told = [moment for teller in TELLERS for moment in _first(trace, list(teller(trace, after)))]
    told += [moment for mine in over for moment in _older_story(case, mine)]
    return sorted([*told, *_reissued(case), *over], key=lambda moment: moment.entry)


def _first(trace: Trace, found: list[tuple[int, str]]) -> list[Moment]:
    """Return the first of what was found, which says how many more there were."""
    more = [f"and {len(found) - 1} more of the kind"] if len(found) > 1 else []
    return [moment_at(trace, place, sentence, *more) for place, sentence in found[:1]]


def _cut(trace: Trace, after: int) -> Told:
    for place, _, _, fact in trace.placed(facts.ConnectionCut, after):
        yield place, f"Rule {fact.rule}, a firewall that has forgotten {fact.flow}, told its sender that it was gone."


def _crashed(trace: Trace, after: int) -> Told:
    for place, _, _, _ in trace.placed(facts.ServerCrashed, after):
        yield place, "The server died: its connections, its caches and what it had not made stable were gone."


def _restarted(trace: Trace, after: int) -> Told:
    for place, _, _, fact in trace.placed(facts.ServerRestarted, after):
        yield place, f"The server was back, over the same disk, with write verifier {fact.verifier.hex()}."


def _reconnecting(trace: Trace, after: int) -> Told:
    for place, _, _, fact in trace.placed(facts.Reconnecting, after):
        yield place, f"The client connected anew, from port {fact.port}: {fact.reason.rstrip('.')}."


def _verifier(trace: Trace, after: int) -> Told:
    for place, _, _, fact in trace.placed(facts.VerifierChanged, after):
        lost = f"the {fact.count} bytes at offset {fact.offset} may be lost"
        yield place, f"The write verifier was another than before: {lost}, and had to be sent again."


def _digest(trace: Trace, after: int) -> Told:
    for place, _, _, fact in trace.placed(facts.DigestFailed, after):
        bytes_meant = f"{fact.count} bytes for offset {fact.offset}"
        yield place, f"The digest over {bytes_meant} did not fit them: {fact.action.rstrip('.')}."


def _recovered(trace: Trace, after: int) -> Told:
    for place, _, _, fact in trace.placed(facts.SessionRecovered, after):
        count = fact.commands
        again = f"{count} {'write' if count == 1 else 'writes'} that nobody had answered went out once more"
        if fact.protocol == "drbd":  # which sends what is out of sync, and not what an application had asked for
            blocks = f"{count} {'block' if count == 1 else 'blocks'} that may differ"
            again = f"{blocks} went out once more, as the node's own disk has them"
        yield place, f"The session was set up anew, and {again}."


TELLERS = (
    _cut, _crashed, _restarted, _reconnecting, _verifier, _digest, _recovered,
)  # fmt: skip


def _reissued(case: Case) -> list[Moment]:
    """The write goes on under another number."""
    words = words_of(case.trace)
    mine = numbers_of(case.trace, case.write)
    return [
        moment_at(
            case.trace, place, f"The write went out again as a new {words.request}, {words.number} {fact.xid:#010x}."
        )
        for place, _, node, fact in case.trace.placed(facts.WriteReissued, case.write.issued)
        if node == case.write.node and fact.xid in mine
    ][:1]


def _executed_over(case: Case) -> list[Moment]:
    """An older write of the same range was executed after this one: its bytes lie on top."""
    trace, fact = case.trace, case.write.fact
    mine = numbers_of(trace, case.write)
    done = 0
    for place, at, _, executed in trace.placed(facts.WriteExecuted, case.write.issued):
        if executed.client != case.write.node or (executed.file, executed.offset) != (fact.file, fact.offset):
            continue
        if executed.xid in mine:
            done = at
        elif done and executed.xid in _older(trace, case):
            older = f"the older write {executed.xid:#010x} of the same range"
            sentence = f"The server executed {older}, {milliseconds(at - done)} ms after this one."
            twice = any(
                call.xid == executed.xid and call.outcome == "executed" and before < place
                for before, _, _, call in trace.placed(facts.DuplicateCall, case.write.issued)
            )
            why = ["it had executed that before, and its duplicate request cache did not know the call"]
            return [moment_at(trace, place, sentence, *(why if twice else ()))]
    return []


def _older(trace: Trace, case: Case) -> dict[int, int]:
    """Return the numbers of the writes that the same client had issued before, with their places in the trace."""
    before = trace.placed(facts.WriteIssued)
    return {fact.xid: place for place, _, node, fact in before if node == case.write.node and place < case.write.issued}


def _issued(case: Case, over: Moment) -> int:
    """Return where the older write was issued that was executed over this one: its story begins there."""
    executed = case.trace[over.entry][3]
    assert isinstance(executed, facts.WriteExecuted)
    return _older(case.trace, case)[executed.xid]


def _older_story(case: Case, over: Moment) -> list[Moment]:
    """The older write is issued, its first copy is held back, and its call is sent again."""
    trace, issued = case.trace, _issued(case, over)
    fact = trace[issued][3]
    assert isinstance(fact, facts.WriteIssued)
    words = words_of(trace)
    number = f"{words.write}, {words.number} {fact.xid:#010x}"
    told = [moment_at(trace, issued, f"The application wrote other bytes to the same place before: {number}.")]
    for place, _, _, held in trace.placed(facts.FrameHeld, issued):
        if held.length and place < case.write.issued:
            told.append(moment_at(trace, place, f"Rule {held.rule} held a frame with its bytes back in the network."))
            break
    for place, _, node, call in trace.placed(facts.CallTransmitted, issued):
        if node == case.write.node and call.xid == fact.xid and call.transmission > 1:
            again = f"{words.caller} sent the older {words.request} again, under its old {words.number}."
            told.append(moment_at(trace, place, again))
            break
    return told
