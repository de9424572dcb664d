"""The live path without a protocol: the floor that requests per second are measured against.

The same processes, rings, event channels and streams as in a run, and machines that do next to nothing: a sender
fills page buffers and puts them on a ring, a relay copies them out of the granted pages and cuts them into frames, a
switch hands the frames on, a sink stores them and answers each request with one small frame, which goes the same way
back. There is no TCP, no RPC, no NFS, no socket buffer, and nobody keeps account of pages.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from struct import Struct

import msgspec

from lateack.cluster.live.plan import Part
from lateack.cluster.topology import BACKEND, NETWORK, SERVER
from lateack.nodes.facts import Connected, CopyFinished
from lateack.nodes.memory.grants import GrantTable
from lateack.nodes.memory.hypervisor import GNTST_okay, Hypervisor
from lateack.nodes.memory.netif import (
    NETIF_RSP_OKAY,
    NETTXF_more_data,
    RxBackRing,
    RxFrontRing,
    TxBackRing,
    TxFrontRing,
)
from lateack.nodes.memory.pages import PAGE_SHIFT, PAGE_SIZE, Memory
from lateack.nodes.memory.ring import init_shared_ring
from lateack.nodes.messages import Frames, Notify, Xenbus
from lateack.nodes.node import Effect, Event, Node, Received, Send, Time
from lateack.nodes.split.xenbus import (
    CONNECTED,
    DOMAIN_0,
    EVENT_CHANNEL,
    FIRST_FREE_FRAME,
    GRANT_FRAME,
    RX_RING_FRAME,
    TX_RING_FRAME,
)
from lateack.nodes.storage.store import Store

GUEST = "guest1"
HEADER = Struct("<HI48x")  # buffer, offset in it; as long as the headers of Ethernet, IP and TCP
REPLY_BYTES = 200  # about what an NFS server answers to a WRITE
RX_BUFFERS = 64


class Shape(msgspec.Struct, frozen=True):
    """What is sent: `requests` of `size` bytes, `window` at a time, in frames of `payload` bytes and a header."""

    size: int
    window: int
    requests: int
    payload: int

    @property
    def frames(self) -> int:
        """How many frames of memory the sender needs."""
        return FIRST_FREE_FRAME + self.window * self.size // PAGE_SIZE + RX_BUFFERS


class Sender:
    """The guest: fills a buffer, sends it, and fills it again when its reply has come."""

    def __init__(self, memory: Memory, shape: Shape) -> None:
        """Lay out rings and buffers, and grant all of it once and for all."""
        assert shape.size % PAGE_SIZE == 0 and shape.window <= RX_BUFFERS
        self.memory = memory
        self.shape = shape
        self.data = bytes(range(256)) * (shape.size // 256)
        self.issued = self.done = 0
        grants = GrantTable(memory, GRANT_FRAME)
        for ring in (TX_RING_FRAME, RX_RING_FRAME):
            init_shared_ring(memory, ring)
        self.tx = TxFrontRing(memory, TX_RING_FRAME)
        self.rx = RxFrontRing(memory, RX_RING_FRAME)
        pages = shape.size // PAGE_SIZE
        self.buffers = [FIRST_FREE_FRAME + number * pages for number in range(shape.window)]
        self.buffer_refs = [
            [grants.grant_access(DOMAIN_0, first + page, True) for page in range(pages)] for first in self.buffers
        ]
        self.rx_frames = [FIRST_FREE_FRAME + shape.window * pages + number for number in range(RX_BUFFERS)]
        self.rx_refs = [grants.grant_access(DOMAIN_0, frame, False) for frame in self.rx_frames]

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Connect first, then send for as long as there is something to send; see `Node`."""
        if not isinstance(event, Received):
            return () if self.issued or self.done else self._offer_buffers()
        if isinstance(event.message, Xenbus):
            for buffer in range(min(self.shape.window, self.shape.requests)):
                self._issue(buffer)
            return [Connected("floor"), *self._publish()]
        return self._interrupt()

    def pending(self) -> int:
        """Return how many requests are left."""
        return self.shape.requests - self.done

    def close(self) -> None:
        """Let go of memory."""
        self.memory.close()

    def _offer_buffers(self) -> list[Effect]:
        for request_id, ref in enumerate(self.rx_refs):
            self.rx.put_request(request_id, ref)
        self.rx.push_requests()
        return [Send(BACKEND, Xenbus(CONNECTED, {}))]

    def _issue(self, buffer: int) -> None:
        self.issued += 1
        start = self.buffers[buffer] << PAGE_SHIFT
        self.memory.view[start : start + self.shape.size] = self.data
        left = self.shape.size
        for ref in self.buffer_refs[buffer]:
            left -= PAGE_SIZE
            self.tx.put_request(ref, 0, NETTXF_more_data if left else 0, buffer, PAGE_SIZE)

    def _publish(self) -> list[Effect]:
        return [Send(BACKEND, Notify(EVENT_CHANNEL))] if self.tx.push_requests() else []

    def _interrupt(self) -> list[Effect]:
        # Nobody waits for the answers on the transmit ring: they are there before the reply is.
        for _ in range(self.tx.unconsumed_responses()):
            self.tx.get_response()
        finished = self.done
        rx = self.rx
        waiting = rx.unconsumed_responses()
        while waiting:
            for _ in range(waiting):
                self._take_reply(*rx.get_response())
            waiting = rx.final_check_for_responses()
        rx.push_requests()
        effects = self._publish()
        if finished < self.done == self.shape.requests:
            effects.append(CopyFinished("floor", self.done * self.shape.size))
        return effects

    def _take_reply(self, request_id: int, offset: int, flags: int, status: int) -> None:
        assert status == REPLY_BYTES, "a reply came back in another length"
        buffer, _ = HEADER.unpack_from(self.memory.read(self.rx_frames[request_id], offset, status))
        self.rx.put_request(request_id, self.rx_refs[request_id])
        self.done += 1
        if self.issued < self.shape.requests:
            self._issue(buffer)


class Relay:
    """The backend: grant copies, cuts into frames, and copies replies into the guest's buffers."""

    def __init__(self, memory: Memory, shape: Shape) -> None:
        """See the guest's memory; its rings are found when it has connected."""
        self.memory = memory
        self.shape = shape
        self.hypervisor = Hypervisor()
        self.hypervisor.add_domain(memory, GRANT_FRAME)
        self.tx: TxBackRing | None = None
        self.rx: RxBackRing | None = None

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Answer the guest's kicks and the network's frames; see `Node`."""
        if not isinstance(event, Received):
            return ()
        match event.message:
            case Xenbus():
                self.tx = TxBackRing(self.memory, TX_RING_FRAME)
                self.rx = RxBackRing(self.memory, RX_RING_FRAME)
                self.tx.final_check_for_requests()
                return [Send(GUEST, Xenbus(CONNECTED, {}))]
            case Frames(frames):
                return self._receive(frames)
            case _:
                return self._transmit()

    def pending(self) -> int:
        """Return nothing: the sender knows what is left."""
        return 0

    def close(self) -> None:
        """The memory is the guest's."""

    def _transmit(self) -> list[Effect]:
        tx = self.tx
        assert tx is not None
        frames: list[bytes] = []
        parts: list[bytes] = []
        waiting = tx.unconsumed_requests()
        while waiting:
            for _ in range(waiting):
                ref, offset, flags, request_id, size = tx.get_request()
                status, data = self.hypervisor.copy_from_grant(DOMAIN_0, self.memory.domid, ref, offset, size)
                assert status == GNTST_okay
                parts.append(data)
                tx.put_response(request_id, NETIF_RSP_OKAY)
                if not flags & NETTXF_more_data:
                    self._cut(request_id, b"".join(parts), frames)
                    parts = []
            waiting = tx.final_check_for_requests()
        effects: list[Effect] = [Send(NETWORK, Frames(tuple(frames)))] if frames else []
        if tx.push_responses():
            effects.append(Send(GUEST, Notify(EVENT_CHANNEL)))
        return effects

    def _cut(self, buffer: int, data: bytes, frames: list[bytes]) -> None:
        payload = self.shape.payload
        frames += [HEADER.pack(buffer, at) + data[at : at + payload] for at in range(0, len(data), payload)]

    def _receive(self, frames: tuple[bytes, ...]) -> list[Effect]:
        rx = self.rx
        assert rx is not None
        for frame in frames:
            request_id, ref = rx.get_request()
            self.hypervisor.copy_to_grant(DOMAIN_0, self.memory.domid, ref, 0, frame)
            rx.put_response(request_id, 0, 0, len(frame))
        return [Send(GUEST, Notify(EVENT_CHANNEL))] if rx.push_responses() else []


class Switch:
    """The network: what comes from one side goes to the other."""

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Pass frames on; see `Node`."""
        if not isinstance(event, Received):
            return ()
        return [Send(BACKEND if event.source == SERVER else SERVER, event.message)]

    def pending(self) -> int:
        """Return nothing: no frame stays here."""
        return 0

    def close(self) -> None:
        """There is nothing to let go of."""


class Sink:
    """The server: stores what comes, and answers a request when its last byte has come."""

    def __init__(self, shape: Shape) -> None:
        """Make room for as many requests as come at a time."""
        self.shape = shape
        self.stored = memoryview(bytearray(shape.window * shape.size))

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Store frames and answer; see `Node`."""
        if not isinstance(event, Received):
            return ()
        assert isinstance(event.message, Frames)
        size = self.shape.size
        replies: list[bytes] = []
        for frame in event.message.frames:
            buffer, offset = HEADER.unpack_from(frame)
            end = offset + len(frame) - HEADER.size
            self.stored[buffer * size + offset : buffer * size + end] = memoryview(frame)[HEADER.size :]
            if end == size:
                replies.append(HEADER.pack(buffer, end).ljust(REPLY_BYTES, b"\0"))
        return [Send(NETWORK, Frames(tuple(replies)))] if replies else ()

    def pending(self) -> int:
        """Return nothing: the sender knows what is left."""
        return 0

    def close(self) -> None:
        """There is nothing to let go of."""


class FloorPlan:
    """The bare machines in the places of the real ones."""

    hub = NETWORK
    awaited: Mapping[str, tuple[str, ...]] = {}
    input: Path | None = None

    def __init__(self, shape: Shape) -> None:
        """Plan to send `shape`."""
        self.shape = shape
        self.parts = (
            Part(GUEST, "host1", domid=1, frames=shape.frames, shares_with=BACKEND),
            *(Part(name, host) for name, host in ((BACKEND, "host1"), (SERVER, SERVER), (NETWORK, NETWORK))),
        )

    def store(self, name: str, directory: Path | None) -> Store | None:
        """Return nothing: nobody serves files."""
        return None

    def build(
        self,
        name: str,
        *,
        memories: dict[str, Memory],
        store: Store | None,
        root: bytes,
        input: Path | None,
        incarnation: int,
    ) -> Node:
        """Return a fresh machine."""
        if name == GUEST:
            return Sender(memories[GUEST], self.shape)
        if name == BACKEND:
            return Relay(memories[GUEST], self.shape)
        return Switch() if name == NETWORK else Sink(self.shape)
