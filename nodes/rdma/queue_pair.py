"""One end of a reliable connection: what it was asked to do and is not acknowledged yet, and what is to come.

It numbers packets, sends the oldest ones again when no acknowledgement comes (go-back-N), completes requests in their
order. What it sends again is read from the host's memory again. Its other half is the `Responder`.

Source: InfiniBand Architecture Specification volume 1, 9.7 (reliable service) and 10.3.1 (states of a queue pair).
Where we differ: a lost part of a READ is asked for anew as a whole when the timer expires.
"""

from collections import deque
from typing import Final, Protocol

from lateack.nodes.facts import (
    QueuePairFailed,
    RetransmitTimedOut,
    SegmentTransmitted,
)
from lateack.nodes.node import Effect, SetTimer, Time
from lateack.nodes.rdma import packets
from lateack.nodes.rdma.memory_region import RegionTable
from lateack.nodes.rdma.packets import PSN_HALF, PSN_MASK, RocePacket, sequence_of
from lateack.nodes.rdma.responder import Responder
from lateack.nodes.rdma.work import (
    Completion,
    Failed,
    Outcome,
    OutgoingPacket,
    Part,
    RdmaParameters,
    Route,
    WorkRequest,
    cut,
)
from lateack.nodes.stack.packets import digest_of

IDLE, READY, ERROR = "idle", "ready", "error"

REQUESTS_MAX: Final = 4096
"""Work requests that may wait in a send queue."""


class Card(Protocol):
    """The adapter of which a queue pair is a part."""

    place: str
    effects: list[Effect]
    regions: RegionTable
    happened: list[tuple["QueuePair", Outcome]]

    def transmit(self, route: Route, packet: OutgoingPacket, pair: "QueuePair | None") -> None:
        """Let a packet leave, now or when the gate opens."""
        ...

    def waits(self, pair: "QueuePair") -> bool:
        """Say whether packets of this queue pair have not left yet."""
        ...

    def forget(self, pair: "QueuePair") -> None:
        """Nothing that still waits of this queue pair's reading and sending is wanted any more."""
        ...


class QueuePair(Responder):
    """The two halves of one end; `next_psn` is the first PSN that it will use itself."""

    __slots__ = (
        "acked_psn", "armed", "card", "deadline", "next_psn", "qpn", "requests", "retries", "route", "state",
    )  # fmt: skip
    route: Route

    def __init__(self, card: Card, qpn: int, first_psn: int, parameters: RdmaParameters) -> None:
        super().__init__(card.place, card.effects, card.regions, parameters)
        self.card = card
        self.qpn = qpn
        self.state = IDLE
        self.next_psn = self.acked_psn = first_psn & PSN_MASK
        self.requests: deque[WorkRequest] = deque()
        self.retries = 0
        self.deadline = 0
        self.armed = False

    def connect(self, route: Route, expected_psn: int, taken_flow: str) -> None:
        """Become ready: packets go by *route*, and those of the flow *taken_flow* come from *expected_psn* on."""
        assert self.state == IDLE
        self.route, self.expected_psn, self.taken_flow = route, expected_psn, taken_flow
        self.state = READY

    def fail(self, reason: str) -> None:
        """Go into the error state: every request is flushed, and what still waits to leave is not wanted any more."""
        if self.state == ERROR:
            return
        card = self.card
        self.state = ERROR
        card.effects.append(QueuePairFailed(card.place, reason))
        card.forget(self)
        while self.requests:
            request = self.requests.popleft()
            request.over = True
            self.tell(Completion(request.context, True, request.last_psn))
        self.tell(Failed(reason))

    # --- the requester ------------------------------------------------------------------------------------------------

    def post_send(self, context: object, parts: list[Part], meant: bytes, now: Time, *, invalidates: int = 0) -> None:
        """Send a message; *meant* are its bytes as they should be, *invalidates* an rkey of the peer to take back."""
        size = self.parameters.path_mtu
        pieces = cut(parts, size)
        last = len(pieces) - 1
        outgoing = []
        for number, piece in enumerate(pieces):
            outgoing.append(
                OutgoingPacket(
                    _send_opcode(number, last, invalidates),
                    self.next_psn + number & PSN_MASK,
                    parts=piece,
                    meant=meant[number * size : (number + 1) * size],
                    transport=packets.IETH.pack(invalidates) if invalidates and number == last else b"",
                    wants_ack=number == last,
                )
            )
        self._start(WorkRequest(context, outgoing, outgoing[-1].psn, 0), now)

    def post_read(self, context: object, address: int, rkey: int, length: int, now: Time) -> None:
        """Read *length* bytes of the peer's memory; each packet of the answer takes up a PSN of this side."""
        assert length > 0
        transport = packets.RETH.pack(address, rkey, length)
        packet = OutgoingPacket(
            packets.READ_REQUEST, self.next_psn, parts=[], meant=b"", transport=transport, wants_ack=True
        )
        count = -(-length // self.parameters.path_mtu)
        self._start(WorkRequest(context, [packet], self.next_psn + count - 1 & PSN_MASK, length), now)

    def pending(self) -> int:
        """Return how many work requests are not over."""
        return len(self.requests)

    def timer_fired(self, now: Time) -> None:
        """Nothing was acknowledged for too long, unless the timer was set before the last that was: send again."""
        self.armed = False
        if not self.requests:
            return
        if now < self.deadline or self.card.waits(self):  # what has not left cannot have been acknowledged
            self._arm(max(self.deadline, now + self.parameters.ack_timeout if now >= self.deadline else 0))
            return
        if self.retries >= self.parameters.retries_max:
            self.fail(f"no acknowledgement came, though it was asked for {self.retries + 1} times")
            return
        self.retries += 1
        self.effects.append(
            RetransmitTimedOut(self.route.flow, sequence_of(self.acked_psn), self.parameters.ack_timeout)
        )
        self._send_again(now)

    def left(self, now: Time) -> None:
        """A packet has left the card: from now on its acknowledgement is awaited."""
        self.deadline = now + self.parameters.ack_timeout

    def _start(self, request: WorkRequest, now: Time) -> None:
        assert self.state == READY, "a work request for a queue pair that is not connected"
        assert len(self.requests) < REQUESTS_MAX, "a send queue overran"
        self.requests.append(request)
        self.next_psn = request.last_psn + 1 & PSN_MASK
        for packet in request.packets:
            self.transmit(packet)
        if not self.armed:
            self.deadline = now + self.parameters.ack_timeout
            self._arm(self.deadline)

    def _arm(self, at: Time) -> None:
        self.armed = True
        self.effects.append(SetTimer(f"ack-{self.qpn}", at))

    def transmit(self, packet: OutgoingPacket) -> None:
        """Let a packet leave, the first time or again, and record what it should hold."""
        packet.transmissions += 1
        meant = packet.meant
        if meant:
            length, again = len(meant), packet.transmissions > 1
            self.effects.append(
                SegmentTransmitted(
                    self.route.flow, sequence_of(packet.psn), length, length, packet.transmissions,
                    (digest_of(meant),), meant if again else b"",
                )
            )  # fmt: skip
        self.send(packet)

    def _send_again(self, now: Time) -> None:
        """Go back to the oldest packet that is not acknowledged and send everything from there on once more."""
        for request in tuple(self.requests):
            request.data.clear()
            for packet in request.packets:
                if (packet.psn - self.acked_psn) & PSN_MASK < PSN_HALF:
                    self.transmit(packet)
        if not self.armed:
            self.deadline = now + self.parameters.ack_timeout
            self._arm(self.deadline)

    def _acknowledged(self, psn: int, now: Time) -> None:
        """Everything up to *psn* has arrived, but for READs whose answer is not here: they end it."""
        requests = self.requests
        while requests:
            request = requests[0]
            if request.length:
                psn = min_psn(psn, request.packets[0].psn - 1 & PSN_MASK)
                break
            if (psn - request.last_psn) & PSN_MASK >= PSN_HALF:
                break
            self._complete(requests.popleft())
        if (psn - self.acked_psn) & PSN_MASK < PSN_HALF:
            self.acked_psn = psn + 1 & PSN_MASK
            self.retries = 0
            self.deadline = now + self.parameters.ack_timeout

    def _complete(self, request: WorkRequest) -> None:
        request.over = True
        self.tell(Completion(request.context, False, request.last_psn, b"".join(request.data)))

    def _answered(self, packet: RocePacket, now: Time) -> None:
        """Take a packet of the answer to a READ: it acknowledges whatever was sent before that READ."""
        self._acknowledged(packet.psn - 1 & PSN_MASK, now)
        request = self.requests[0] if self.requests else None
        if request is None or not request.length:
            return
        first = request.packets[0].psn
        if (packet.psn - first) & PSN_MASK != len(request.data):
            return  # one before it was lost, or it came twice
        request.data.append(packet.payload)
        self.deadline = now + self.parameters.ack_timeout
        if packet.psn == request.last_psn:
            self.requests.popleft()
            self.acked_psn = request.last_psn + 1 & PSN_MASK
            self.retries = 0
            self._complete(request)

    def _acknowledgement(self, packet: RocePacket, now: Time) -> None:
        syndrome = packet.syndrome()
        if syndrome < 0x20:
            self._acknowledged(packet.psn, now)
            return
        self._acknowledged(packet.psn - 1 & PSN_MASK, now)
        if syndrome == packets.NAK_SEQUENCE:
            self._send_again(now)
        elif syndrome == packets.NAK_ACCESS:
            self.fail("the peer refused access to its memory")
        else:
            self.fail(f"the peer refused a request (syndrome {syndrome:#04x})")

    # --- both ---------------------------------------------------------------------------------------------------------

    def receive(self, packet: RocePacket, now: Time) -> None:
        """Take a packet that came for this queue pair; one in the error state takes nothing."""
        if self.state != READY:
            return
        if packet.opcode == packets.ACKNOWLEDGE:
            self._acknowledgement(packet, now)
        elif packet.opcode in packets.READ_RESPONSES:
            self._answered(packet, now)
        else:
            self.take(packet)

    def send(self, packet: OutgoingPacket) -> None:
        """Let a packet leave."""
        self.card.transmit(self.route, packet, self)

    def tell(self, outcome: Outcome) -> None:
        """Tell the owner what has happened."""
        self.card.happened.append((self, outcome))


def min_psn(one: int, other: int) -> int:
    """Return the earlier of two PSNs that are less than half of all apart."""
    return one if (other - one) & PSN_MASK < PSN_HALF else other


def _send_opcode(number: int, last: int, invalidates: int) -> int:
    if not last:
        opcode = packets.SEND_ONLY
    else:
        opcode = packets.SEND_FIRST if not number else packets.SEND_LAST if number == last else packets.SEND_MIDDLE
    return packets.INVALIDATING[opcode] if invalidates and number == last else opcode
