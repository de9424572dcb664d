"""An RDMA adapter (RNIC): queue pairs, the memory that they may read, a transmit ring, and DMA when a packet leaves.

Until `_dma` a packet is references to pages, the first time it is sent and any other time: a reliable connection sends
again from the host's memory. A packet that was acknowledged while it waited is never read; that is what a completion of
the adapter's means, and what one of the protocol's above it does not.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from lateack.nodes.facts import Fact, FrameDropped, FrameSent, Parked
from lateack.nodes.node import Effect, Time
from lateack.nodes.rdma import packets
from lateack.nodes.rdma.memory_region import RegionTable
from lateack.nodes.rdma.packets import MANAGEMENT_KEY, MANAGEMENT_QP, RocePacket, sequence_of, source_port_of
from lateack.nodes.rdma.queue_pair import QueuePair
from lateack.nodes.rdma.work import Outcome, OutgoingPacket, RdmaParameters, Route
from lateack.nodes.stack.host import HostAddress
from lateack.nodes.stack.nic import NicWatcher
from lateack.nodes.stack.packets import Malformed, digest_of

FIRST_QPN: Final = 0x12
"""The number of the first queue pair: 0 and 1 are for management, and a driver keeps some for itself."""
PAIRS_MAX: Final = 4096
"""Queue pairs that an adapter has at once."""
LEFT_MAX: Final = 4096
"""Packets of which it is remembered that they have left, the oldest forgotten first."""


class Adapter:
    """One adapter; its owner gives it frames, takes those that have left, and looks at what has `happened`.

    The owner tells it the time (`now`) at every event.
    """

    __slots__ = (
        "address", "closed", "effects", "frames", "happened", "has_left", "management", "next_qpn", "now", "pairs",
        "parameters", "place", "queue", "queue_max", "regions", "watch",
    )  # fmt: skip

    def __init__(
        self, place: str, address: HostAddress, effects: list[Effect], *, parameters: RdmaParameters, queue_max: int
    ) -> None:
        self.place = place
        self.address = address
        self.effects = effects
        self.parameters = parameters
        self.queue_max = queue_max
        self.now: Time = 0
        self.closed = False
        self.watch: NicWatcher | None = None
        self.regions = RegionTable(effects)
        self.pairs: dict[int, QueuePair] = {}
        self.next_qpn = FIRST_QPN
        self.queue: deque[tuple[Route, OutgoingPacket, QueuePair | None]] = deque()
        self.frames: list[bytes] = []
        self.happened: list[tuple[QueuePair, Outcome]] = []
        self.management: list[tuple[int, bytes]] = []
        self.has_left: dict[tuple[str, int], None] = {}

    # --- queue pairs --------------------------------------------------------------------------------------------------

    def create_pair(self, first_psn: int) -> QueuePair:
        """Make a queue pair, which is to be connected."""
        assert len(self.pairs) < PAIRS_MAX, "nobody destroys queue pairs"
        pair = self.pairs[self.next_qpn] = QueuePair(self, self.next_qpn, first_psn, self.parameters)
        self.next_qpn += 1
        return pair

    def destroy_pair(self, pair: QueuePair) -> None:
        """Forget a queue pair; whatever comes for it is dropped."""
        self.pairs.pop(pair.qpn, None)
        self.forget(pair)

    def route_to(self, pair: QueuePair, peer: HostAddress, target_qp: int) -> Route:
        """Return the way of a queue pair's packets to that of another host."""
        flow = packets.flow_of(self.address.ip, pair.qpn, peer.ip)
        return Route(peer, target_qp, source_port_of(pair.qpn), flow)

    def timer_fired(self, name: str, now: Time) -> None:
        """The timer of a queue pair has fired."""
        pair = self.pairs.get(int(name.removeprefix("ack-")))
        if pair is not None:
            pair.timer_fired(now)

    def pending(self) -> int:
        """Return how many work requests are not over."""
        return sum([pair.pending() for pair in self.pairs.values()])

    # --- what leaves --------------------------------------------------------------------------------------------------

    def send_management(self, peer: HostAddress, datagram: bytes, psn: int) -> None:
        """Send a management datagram (MAD) to another host's queue pair 1."""
        route = Route(peer, MANAGEMENT_QP, source_port_of(MANAGEMENT_QP), "")
        transport = packets.DETH.pack(MANAGEMENT_KEY, MANAGEMENT_QP)
        self.transmit(
            route,
            OutgoingPacket(packets.UD_SEND_ONLY, psn, parts=[datagram], meant=b"", transport=transport),
            None,
        )

    def transmit(self, route: Route, packet: OutgoingPacket, pair: QueuePair | None) -> None:
        """Let a packet leave, now or when the gate opens."""
        if not self.closed and not self.queue:
            self._dma(route, packet, pair)
        elif len(self.queue) >= self.queue_max:
            self.effects.append(FrameDropped(self.place, "the transmit queue is full"))
        else:
            self.queue.append((route, packet, pair))
            self.effects.append(self._parked(route, packet))

    def waits(self, pair: QueuePair) -> bool:
        """Say whether packets of this queue pair have not left yet."""
        return any(owner is pair for _, _, owner in self.queue)

    def forget(self, pair: QueuePair) -> None:
        """Drop what waits of a queue pair, but for its acknowledgements: a refusal has to reach the peer."""
        kept = [entry for entry in self.queue if entry[2] is not pair or entry[1].opcode == packets.ACKNOWLEDGE]
        self.queue = deque(kept)

    def open(self) -> None:
        """Open the gate: everything that waits is read now, in its order."""
        self.closed = False
        while self.queue and not self.closed:
            self._dma(*self.queue.popleft())

    def take_frames(self) -> list[bytes]:
        """Return the frames that have left since the last call."""
        frames, self.frames = self.frames, []
        return frames

    def _parked(self, route: Route, packet: OutgoingPacket) -> Fact:
        sequence, length = sequence_of(packet.psn), len(packet.meant)
        again = bool(length) and (route.flow, sequence) in self.has_left
        return Parked(self.place, route.flow, sequence, length, again)

    def _dma(self, route: Route, packet: OutgoingPacket, pair: QueuePair | None) -> None:
        """Read the packet's bytes where they lie, now, and put them on the wire."""
        if packet.over():
            return
        region = packet.region
        if region is not None and region.rkey not in self.regions.regions:  # taken back while the answer waited
            assert pair is not None
            pair.refuse_read(packet.psn, region.rkey)
            return
        read: list[bytes] = []
        pages = []
        for part in packet.parts:
            if isinstance(part, bytes):
                read.append(part)
                continue
            page, offset, size = part
            read.append(page.memory.read(page.frame, offset, size))
            pages.append((page.memory.domid, page.frame, offset, size))
        payload = b"".join(read)
        frame = packets.encode(
            self.address, route.peer, source_port=route.source_port, opcode=packet.opcode, target_qp=route.target_qp,
            psn=packet.psn, transport=packet.transport, payload=payload, wants_ack=packet.wants_ack,
        )  # fmt: skip
        self.frames.append(frame)
        if pair is not None:
            pair.left(self.now)
            if payload:
                self._record(route.flow, sequence_of(packet.psn), payload, tuple(pages))
        watch = self.watch
        if watch is not None and watch.nic_watched:
            watch.frame_left(frame, 0)

    def _record(self, flow: str, sequence: int, payload: bytes, pages: tuple[tuple[int, int, int, int], ...]) -> None:
        length = len(payload)
        key = (flow, sequence)
        again = key in self.has_left
        if not again:
            if len(self.has_left) >= LEFT_MAX:
                del self.has_left[next(iter(self.has_left))]
            self.has_left[key] = None
        shown = payload if again else b""
        self.effects.append(
            FrameSent(self.place, flow, sequence, length, length, (digest_of(payload),), again, pages, shown)
        )

    # --- what comes ---------------------------------------------------------------------------------------------------

    def receive(self, frames: Sequence[bytes], now: Time) -> None:
        """Take a burst of frames; what it led to lies in `happened` and `management` then."""
        for frame in frames:
            try:
                packet = packets.decode(frame)
            except Malformed as reason:
                self.effects.append(FrameDropped(self.place, str(reason)))
                continue
            self._dispatch(packet, now)

    def _dispatch(self, packet: RocePacket, now: Time) -> None:
        if packet.target_qp == MANAGEMENT_QP:
            if packet.opcode == packets.UD_SEND_ONLY:
                self.management.append((packet.source, packet.payload))
            return
        pair = self.pairs.get(packet.target_qp)
        # A queue pair of a reliable connection has one peer; anything else for it is dropped without a word (9.6.1).
        if pair is not None and pair.state == "ready" and pair.route.peer.ip == packet.source:
            pair.receive(packet, now)
