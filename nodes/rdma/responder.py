"""The half of a queue pair that answers: it takes packets in their order, and lets the peer read what its keys allow.

Source: InfiniBand Architecture Specification volume 1, 9.7.4 and 9.7.5.1. Where we differ: there are receive buffers
for everything, so nobody is told to wait for one (RNR NAK).
"""

from typing import Final

from lateack.nodes.facts import AccessRefused, DuplicateDropped
from lateack.nodes.node import Effect
from lateack.nodes.rdma import packets
from lateack.nodes.rdma.memory_region import RegionTable
from lateack.nodes.rdma.packets import PSN_HALF, PSN_MASK, RocePacket, sequence_of
from lateack.nodes.rdma.work import Incoming, Outcome, OutgoingPacket, RdmaParameters
from lateack.nodes.stack.packets import digest_of

MESSAGE_MAX: Final = (1 << 20) + 4096
"""Bytes of the longest message that is taken: a payload of 1 MiB and room for headers."""


class Responder:
    """What a queue pair expects to come; the whole of it (`QueuePair`) says how packets leave, and who is told."""

    __slots__ = (
        "assembled", "effects", "expected_psn", "msn", "nak_sent", "parameters", "place", "regions", "taken_flow",
    )  # fmt: skip

    def __init__(self, place: str, effects: list[Effect], regions: RegionTable, parameters: RdmaParameters) -> None:
        self.place = place
        self.effects = effects
        self.regions = regions
        self.parameters = parameters
        self.expected_psn = 0
        self.msn = 0
        self.nak_sent = False
        self.assembled: list[bytes] = []
        self.taken_flow = ""

    def send(self, packet: OutgoingPacket) -> None:
        """Let a packet leave."""
        raise NotImplementedError

    def transmit(self, packet: OutgoingPacket) -> None:
        """Let a packet with a payload leave, and record what it should hold."""
        raise NotImplementedError

    def tell(self, outcome: Outcome) -> None:
        """Tell the owner what has happened."""
        raise NotImplementedError

    def fail(self, reason: str) -> None:
        """Go into the error state."""
        raise NotImplementedError

    def take(self, packet: RocePacket) -> None:
        """Take a packet of the peer's requests."""
        ahead = (packet.psn - self.expected_psn) & PSN_MASK
        if ahead >= PSN_HALF:
            self._duplicate(packet)
        elif ahead:
            self._gap()
        else:
            self._next(packet)

    def _next(self, packet: RocePacket) -> None:
        """Take the packet that was expected."""
        self.nak_sent = False
        if packet.opcode == packets.READ_REQUEST:
            self._read(packet, again=False)
            return
        if (packet.opcode in packets.BEGINS_SEND) == bool(self.assembled) or packet.opcode not in packets.SENDS:
            self._refuse(packet.psn, packets.NAK_INVALID, "the peer's packets make no message")
            return
        self.expected_psn = packet.psn + 1 & PSN_MASK
        self.assembled.append(packet.payload)
        if sum([len(piece) for piece in self.assembled]) > MESSAGE_MAX:
            self._refuse(packet.psn, packets.NAK_INVALID, "the peer's message is longer than any buffer")
        elif packet.opcode in packets.ENDS_SEND:
            self._message(packet)

    def _message(self, packet: RocePacket) -> None:
        """A message is whole: acknowledge it and hand it over."""
        message = b"".join(self.assembled)
        self.assembled.clear()
        self.msn += 1
        if packet.wants_ack:
            self._acknowledge(packet.psn, packets.ACK)
        self.tell(Incoming(message, packet.invalidated() if packet.transport else 0))

    def _duplicate(self, packet: RocePacket) -> None:
        """What came before comes again: a READ is answered again, anything else acknowledged again (9.7.5.1.2)."""
        if packet.opcode == packets.READ_REQUEST:
            self._read(packet, again=True)
            return
        if packet.payload:
            digest = digest_of(packet.payload)
            self.effects.append(DuplicateDropped(self.taken_flow, sequence_of(packet.psn), len(packet.payload), digest))
        if packet.wants_ack:
            self._acknowledge(self.expected_psn - 1 & PSN_MASK, packets.ACK)

    def _gap(self) -> None:
        """A packet is missing: say so, once, until it comes."""
        if not self.nak_sent:
            self.nak_sent = True
            self._acknowledge(self.expected_psn, packets.NAK_SEQUENCE)

    def _read(self, packet: RocePacket, *, again: bool) -> None:
        """Let the peer read, if its key allows; the bytes are read when the answer leaves."""
        address, rkey, length = packet.remote_range()
        region = self.regions.find(rkey, address, length)
        if region is None or not 0 < length <= MESSAGE_MAX:
            self.refuse_read(packet.psn, rkey)
            return
        size = self.parameters.path_mtu
        last = -(-length // size) - 1
        if not again:
            self.msn += 1
            self.expected_psn = packet.psn + last + 1 & PSN_MASK
        for number in range(last + 1):
            start = address - region.address + number * size
            taken = min(size, length - number * size)
            opcode = _response_opcode(number, last)
            transport = packets.acknowledgement(packets.ACK, self.msn) if number in (0, last) else b""
            answer = OutgoingPacket(
                opcode, packet.psn + number & PSN_MASK, parts=[*region.part(start, taken)],
                meant=region.meant[start : start + taken], transport=transport,
            )  # fmt: skip
            answer.region = region
            self.transmit(answer)

    def refuse_read(self, psn: int, rkey: int) -> None:
        """The peer asked for memory by a key that is not, or no longer, good: refuse it, also in mid-answer."""
        self.effects.append(AccessRefused(self.place, rkey))
        self._refuse(psn, packets.NAK_ACCESS, "the peer asked for memory that it may not read")

    def _acknowledge(self, psn: int, syndrome: int) -> None:
        aeth = packets.acknowledgement(syndrome, self.msn)
        self.send(OutgoingPacket(packets.ACKNOWLEDGE, psn, parts=[], meant=b"", transport=aeth))

    def _refuse(self, psn: int, syndrome: int, reason: str) -> None:
        """Refuse a request; both ends go into the error state over it (9.7.4.1.5)."""
        self._acknowledge(psn, syndrome)
        self.fail(reason)


def _response_opcode(number: int, last: int) -> int:
    if not last:
        return packets.READ_RESPONSE_ONLY
    if not number:
        return packets.READ_RESPONSE_FIRST
    return packets.READ_RESPONSE_LAST if number == last else packets.READ_RESPONSE_MIDDLE
