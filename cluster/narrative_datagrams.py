"""Datagrams that guests send besides their copies, as a run is told: sent, kept, read, given up, their pages reused."""

from lateack.cluster.narrative_case import Moment, is_chatter, moment_at
from lateack.cluster.narrative_drivers import befallen
from lateack.cluster.trace import Trace, milliseconds
from lateack.cluster.wire_oracle import stale_on_wire
from lateack.nodes import facts
from lateack.nodes.facts import PacketRead, SegmentTransmitted

READERS = (".rx", ".socket")  # the places where a datagram waits for whoever it is meant for
Sent = tuple[int, str, SegmentTransmitted]


def datagrams(trace: Trace) -> list[Moment]:
    """Return what became of a run's datagrams; nothing where there were none."""
    sent = [(place, node, fact) for place, _, node, fact in trace.placed(SegmentTransmitted) if is_chatter(fact.flow)]
    if not sent:
        return []
    return [*_departures(trace, sent), *_closed(trace), *_reused(trace, sent), *_reads(trace), *befallen(trace, -1)]


def _departures(trace: Trace, sent: list[Sent]) -> list[Moment]:
    """A moment for each sender."""
    told = []
    for flow in dict.fromkeys(fact.flow for _, _, fact in sent):
        mine = [(place, node, fact) for place, node, fact in sent if fact.flow == flow]
        place, node, fact = mine[0]
        count = f"{len(mine)} datagram{'' if len(mine) == 1 else 's'} of {fact.length} bytes"
        sentence = f"{node} sent {count} to {_receiver(trace, flow)}, out of pages that it refills when they come back."
        told.append(moment_at(trace, place, sentence, f"the first of them as number {fact.seq} of {flow}"))
    return told


def _receiver(trace: Trace, flow: str) -> str:
    """Return the guest that has a flow's target address, or the host."""
    target = flow.split(">")[1].rsplit(":", 1)[0]
    sources = {
        fact.flow.split(":")[0]: node for _, _, node, fact in trace.of_type(SegmentTransmitted) if ">" in fact.flow
    }
    return sources.get(target, "a socket of the host")


def _closed(trace: Trace) -> list[Moment]:
    """Whoever they are meant for takes nothing."""
    return [
        moment_at(trace, place, f"The gate at {fact.place} closed, by rule {fact.rule}: nobody takes anything there.")
        for place, _, _, fact in trace.placed(facts.GateClosed)
        if fact.place.endswith(READERS)
    ]


def _reused(trace: Trace, sent: list[Sent]) -> list[Moment]:
    """The first and the last time that a sender had a buffer back, and used it again."""
    first, senders = sent[0][0], {node for _, node, _ in sent}
    meant = {digest for _, _, fact in sent for digest in fact.digests}
    back = [
        (place, at - trace[first][0])
        for place, at, node, fact in trace.placed(facts.BufferRefilled, first)
        if node in senders and (fact.held in meant or len(sent[0][2].digests) > 1)
    ]
    if not back:
        return []
    sentence = "The stack let go of the pages of a datagram after {} ms: they were refilled at once."
    told = [moment_at(trace, place, sentence.format(milliseconds(waited))) for place, waited in (back[0], back[-1])]
    return told[:1] if back[0][1] == back[-1][1] else [told[0], told[1]._replace(sentence=_last(back[-1][1]))]


def _last(waited: int) -> str:
    return f"The last of the pages came back after {milliseconds(waited)} ms."


def _reads(trace: Trace) -> list[Moment]:
    """Each place at which datagrams were read, with the first time that it was done and how many were not right."""
    wrong = {harm.entries[-1] for harm in stale_on_wire(trace)}
    reads = [(place, fact) for place, _, _, fact in trace.placed(PacketRead) if is_chatter(fact.flow)]
    told = []
    for where in dict.fromkeys(fact.place for _, fact in reads):
        mine = [place for place, fact in reads if fact.place == where]
        bad = sum(place in wrong for place in mine)
        outcome = "with the bytes that were meant" if not bad else f"{bad} of them with bytes that were not meant"
        told.append(moment_at(trace, mine[0], f"{where} began to read datagrams, {len(mine)} in all, {outcome}."))
    return told
