"""The facts of one write of which every moment can be told, in parts that a test puts together."""

from typing import Any

import xxhash

from lateack.cluster.narrative_case import Moment
from lateack.cluster.trace import Trace
from lateack.nodes import facts
from lateack.nodes.facts import Fact

FLOW, BACK = "10.0.0.1:700>10.0.0.9:2049", "10.0.0.9:2049>10.0.0.1:700"
MS = 1_000_000
HEADER = b"\x80\x00\x10\x28" + b"h" * 20 + (4096).to_bytes(4, "big") + b"\x00\x00\x00\x02" + (4096).to_bytes(4, "big")
FIRST = b"The first page of the file. " * 147
OLD = HEADER + FIRST[:4096]
NEW = HEADER + FIRST[:100] + b"SECOND PAGE" + FIRST[111:4096]
PAGES = ((1, 40, 0, len(HEADER)), (1, 12, 0, 4096))
Story = list[tuple[int, str, Fact]]


def trace_of(*parts: Story) -> Trace:
    """A trace of stories, each fact with its time in ms, told one after the other by time."""
    return Trace(sorted(((at * MS, 0, node, fact) for part in parts for at, node, fact in part), key=lambda e: e[0]))


def digests(data: bytes) -> tuple[int, ...]:
    """The digests of data in pieces of 1448."""
    return tuple(xxhash.xxh3_64_intdigest(data[start : start + 1448]) for start in range(0, len(data), 1448))


def segment(nth: int, intended: bytes = b"") -> Fact:
    """The transport sends the write, for the nth time."""
    return facts.SegmentTransmitted(FLOW, 1001, len(OLD), 1448, nth, digests(OLD), intended)


def left(data: bytes, again: bool, **more: Any) -> Fact:
    """The NIC reads and sends the write."""
    known = {"pages": PAGES, "payload": data if again else b""} | more
    return facts.FrameSent("backend.nic", FLOW, 1001, len(data), 1448, digests(data), again, **known)


def write(done: int) -> Story:
    """A write of one page that is done after so many ms."""
    return [
        (0, "backend", facts.VifConnected("guest1", 1)),
        (10, "guest1", facts.WriteIssued(7, "input", 0, 4096, 0xA, 0, (12,))),
        (10, "guest1", segment(1)),
        (11, "backend", left(OLD, False)),
        (12, "server", facts.WriteExecuted(7, "guest1", "input", 0, 4096, 0xA)),
        (done, "guest1", facts.ReplyMatched(7, 7)),
        (done, "guest1", facts.WriteCompleted(7, "input", 0, 4096, (done - 10) * MS)),
    ]


LATE: Story = [
    (11, "backend", facts.GateClosed("egress", "backend.nic")),
    (13, "network", facts.FrameHeld("acks", BACK, 1, 5000, 0)),
    (13, "network", facts.FrameHeld("acks", BACK, 1, 5000, 164)),
    (210, "guest1", facts.RetransmitTimedOut(FLOW, 1001, 200 * MS)),
    (210, "guest1", segment(2, OLD)),
    (211, "backend", facts.Parked("backend.nic", FLOW, 1001, len(OLD), True)),
    (260, "network", facts.FramesReleased("acks", 2)),
]
REFILL: Story = [(262, "guest1", facts.BufferRefilled(0, (12,), 4096, 0xA, 0xB))]
OPEN: Story = [(400, "backend", facts.GateOpened("egress", "backend.nic", 1))]
DROPPED: Story = [(402, "server", facts.DuplicateDropped(FLOW, 1001, 1448, 1))]
FINISHED: Story = [
    (500, "guest1", facts.CopyFinished("input", 4096)),
    (501, "server", facts.FileAtRest("input", 4096, 4096, (0xA,))),
]


def sentences(told: list[Moment]) -> str:
    """All sentences and details, one a line."""
    return "\n".join(line for moment in told for line in (moment.sentence, *moment.detail))


def in_order(text: str, *phrases: str) -> bool:
    """Whether the phrases occur in this order."""
    places = [text.find(phrase) for phrase in phrases]
    assert -1 not in places, (phrases[places.index(-1)], text)
    return places == sorted(places)
