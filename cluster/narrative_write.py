"""Which write a packet was to carry, found in the trace alone."""

from collections.abc import Sequence

from lateack.cluster.oracles import Write
from lateack.cluster.trace import Trace
from lateack.cluster.wire_oracle import SEEN, SEQUENCES, Seen
from lateack.nodes import facts
from lateack.nodes.facts import FrameSent, Parked, SegmentTransmitted

# The packet that decided: read by a card or by somebody who had kept it, or as it came to wait where it was touched.
Packet = Seen | Parked


def holds(fact: object, packet: Packet) -> bool:
    """Say whether a segment, or another sight of the same packet, holds its first byte."""
    assert isinstance(fact, SegmentTransmitted | FrameSent | facts.PacketRead | Parked)
    return fact.flow == packet.flow and (packet.seq - fact.seq) & SEQUENCES < fact.length


def first_sent(trace: Trace, packet: Packet) -> int:
    """Return where a packet's first byte was first sent, or -1.

    A segment that begins with that byte is meant if it was sent for the first time: datagrams are numbered one by one,
    so that a look at ranges alone would take one for another.
    """
    sends = [(place, fact) for place, _, _, fact in trace.placed(SegmentTransmitted) if holds(fact, packet)]
    same = [place for place, fact in sends if fact.seq == packet.seq and fact.transmission == 1]
    return (same or [place for place, _ in sends] or [-1])[0]


def write_behind(trace: Trace, sent: int, packet: Packet, writes: Sequence[Write]) -> Write | None:
    """Return the write whose bytes a packet was to carry.

    It is that of a call that RPC had just sent again, or else one of the packet's pages. Several may have been issued
    out of these before the first was sent, so they are told apart by how often the page went by before.
    """
    node = trace[sent][2]
    own = [write for write in writes if write.issued < sent and write.node == node]
    calls = [call for place, _, who, call in trace.placed(facts.CallTransmitted) if who == node and place < sent]
    number = original(trace, node, calls[-1].xid) if calls else 0
    if calls and (calls[-1].transmission > 1 or number != calls[-1].xid):
        return next((write for write in own if write.fact.xid == number), None)
    if not isinstance(packet, SEEN) or not packet.pages:
        issued = {write.fact.xid for write in own}
        return own[-1] if own and (not calls or number in issued) else None
    shown = registered(trace, node)
    pages = {number for _, number, _, _ in packet.pages}
    behind = [write for write in own if pages.intersection((*write.fact.frames, *shown.get(write.fact.xid, ())))] or own
    since = max((place for place, _, _, link in trace.placed(facts.Connected) if link.flow == packet.flow), default=-1)
    behind = [write for write in behind if not write.issued < write.completed < since] or behind
    return behind[min(_times_before(trace, packet), len(behind) - 1)] if behind else None


def _times_before(trace: Trace, packet: Seen) -> int:
    """Count how often the first byte of a packet's pages had its place in the flow before it has it in this packet."""
    domain, number, byte, _ = packet.pages[0]
    here = _number_of(packet, (domain, number), byte)
    numbers = {
        _number_of(fact, (domain, number), byte)
        for kind in SEEN
        for _, _, _, fact in trace.placed(kind)
        if fact.flow == packet.flow and fact.pages
    }
    return sum(at != here and (here - at) & SEQUENCES <= SEQUENCES >> 1 for at in numbers if at >= 0)


def _number_of(fact: Seen, page: tuple[int, int], byte: int) -> int:
    """Return the sequence number under which a packet shows a byte of a page, or -1: payload ends with its windows."""
    at = fact.length - sum(size for _, _, _, size in fact.pages)
    for domain, number, start, size in fact.pages:
        if (domain, number) == page and start <= byte < start + size:
            return (fact.seq + at + byte - start) & SEQUENCES
        at += size
    return -1


def original(trace: Trace, node: str, number: int) -> int:
    """Return the number under which a write was issued that goes by this one now."""
    former = {fact.xid: fact.former for _, _, who, fact in trace.of_type(facts.WriteReissued) if who == node}
    while number in former:
        number = former.pop(number)
    return number


def registered(trace: Trace, node: str) -> dict[int, tuple[int, ...]]:
    """Return the frames that a machine let its adapter read for each of its calls, by xid (RDMA)."""
    return {fact.xid: fact.frames for _, _, who, fact in trace.of_type(facts.MemoryRegistered) if who == node}
