"""What a queue pair is asked to do, and the packets that it makes of it: references to memory until DMA reads them."""

from typing import Any

from lateack.nodes.memory.pages import Window
from lateack.nodes.rdma.memory_region import MemoryRegion
from lateack.nodes.records import Record
from lateack.nodes.stack.host import HostAddress

Part = bytes | Window
"""A piece of a message: bytes of the adapter's own, or a window on a page, which is read when the packet leaves."""


class RdmaParameters(Record):
    """How a queue pair is made: payload bytes of a packet, ns until it sends again, and how often it does."""

    path_mtu: int = 1024
    ack_timeout: int = 100_000_000
    retries_max: int = 7


class Completion(Record):
    """A work request is over: acknowledged, or flushed since its queue pair failed; the adapter needs nothing of it."""

    context: Any  # its owner's; mypyc does not find `object` here
    flushed: bool
    psn: int
    data: bytes = b""


class Incoming(Record):
    """A message has come whole; `invalidated` is the rkey that the sender took back with it, or 0."""

    message: bytes
    invalidated: int = 0


class Failed(Record):
    """The queue pair is of no use any more."""

    reason: str


Outcome = Completion | Incoming | Failed


class Route(Record):
    """Where a queue pair's packets go: the other host, its queue pair, and what names them on the way."""

    peer: HostAddress
    target_qp: int
    source_port: int
    flow: str


class OutgoingPacket:
    """One packet that is to leave: `meant` is what its payload should be, `parts` is where DMA will find it.

    `request` is what it belongs to on the requester's side; a responder's packets have none. Those that answer a READ
    have the `region` by whose key the peer reads.
    """

    __slots__ = ("meant", "opcode", "parts", "psn", "region", "request", "transmissions", "transport", "wants_ack")

    def __init__(
        self, opcode: int, psn: int, *, parts: list[Part], meant: bytes, transport: bytes = b"", wants_ack: bool = False
    ) -> None:
        self.opcode = opcode
        self.psn = psn
        self.parts = parts
        self.meant = meant
        self.transport = transport
        self.wants_ack = wants_ack
        self.request: WorkRequest | None = None
        self.region: MemoryRegion | None = None
        self.transmissions = 0

    def over(self) -> bool:
        """Say whether nobody wants the packet any more: it was acknowledged while it waited to leave."""
        return self.request is not None and self.request.over


class WorkRequest:
    """A Send or an RDMA Read until it is over; `context` is its owner's."""

    __slots__ = ("context", "data", "last_psn", "length", "over", "packets")

    def __init__(self, context: object, packets: list[OutgoingPacket], last_psn: int, length: int) -> None:
        self.context = context
        self.packets = packets
        self.last_psn = last_psn
        self.length = length
        self.data: list[bytes] = []
        self.over = False
        for packet in packets:
            packet.request = self


def cut(parts: list[Part], size: int) -> list[list[Part]]:
    """Cut the pieces of a message into lists of *size* bytes, the last of which may be shorter."""
    lists: list[list[Part]] = [[]]
    room = size
    for part in parts:
        start, left = 0, len(part) if isinstance(part, bytes) else part[2]
        while left:
            if not room:
                lists.append([])
                room = size
            taken = min(left, room)
            lists[-1].append(_piece(part, start, taken))
            start, left, room = start + taken, left - taken, room - taken
    return lists


def _piece(part: Part, start: int, size: int) -> Part:
    if isinstance(part, bytes):
        return part[start : start + size]
    page, offset, _ = part
    return page, offset + start, size
