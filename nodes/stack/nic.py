"""A network card: a bounded transmit ring, a gate that a rule may close, and DMA, the moment at which bytes are read.

Until `_dma` a packet is references to pages; after it, frames of fixed bytes. That is the whole subject: whatever the
pages hold at that moment is what leaves, with a checksum that is right for it, because the card sums what it reads.
Only a packet that was summed before (`skb.summed`) leaves with the sum of what its pages held then.

What a host does to a packet on its way to the card is in egress.py.
"""

from collections import deque
from struct import Struct

from lateack.nodes.facts import Fact, FrameDropped, FrameSent, Parked
from lateack.nodes.node import Effect
from lateack.nodes.stack.lifetime import DOMID_INVALID, Frag, frag_view
from lateack.nodes.stack.packets import (
    ETH_IP,
    FIN,
    IPPROTO_TCP,
    M32,
    PSH,
    SYN,
    TCP,
    TCP_FRAME,
    checksum_of,
    datagram_key,
    digest_of,
    flow_name,
    fragment_flow_name,
    ones_sum,
    payload_sums,
    remembered_sum,
)
from lateack.nodes.stack.readers import touched_fault
from lateack.nodes.stack.skb import SkBuff, kfree_skb, read_frags, skb_length, skb_linear

HALF = 1 << 31

GAPS_MAX = 64
"""Ranges of one flow that are remembered as never sent, though what follows them was; the oldest is forgotten."""
TCP_PLACE = Struct("!12sI4xB")
"""From the addresses of an IPv4 header on: addresses and ports, sequence number, data offset."""
CHECKSUM = Struct("!H")

SNIFFED = 128
"""Payload bytes that rules get to see, wherever they lie: a backend may have copied no more than the first 64 bytes."""

Pages = tuple[tuple[int, int, int, int], ...]
"""Where a packet's paged bytes lay when they were read: (domid, frame, offset, size) each."""


def _flow_of(key: bytes) -> str:
    """Name the flow of addresses and ports as they stand in a packet; a fragment has no ports."""
    source, target = int.from_bytes(key[:4], "big"), int.from_bytes(key[4:8], "big")
    if len(key) == 8:
        return fragment_flow_name(source, target)
    return flow_name(source, int.from_bytes(key[8:10], "big"), target, int.from_bytes(key[10:12], "big"))


class Nic:
    """One card; its owner takes the finished frames with `take_frames` at the end of each event."""

    __slots__ = ("closed", "effects", "flows", "frames", "gaps", "highest", "place", "queue", "queue_max", "watch")

    def __init__(self, place: str, effects: list[Effect], *, queue_max: int) -> None:
        self.place = place
        self.effects = effects
        self.queue_max = queue_max
        self.closed = False
        self.watch: NicWatcher | None = None
        self.queue: deque[SkBuff] = deque()
        self.frames: list[bytes] = []
        self.flows: dict[bytes, str] = {}
        self.highest: dict[str, int] = {}
        self.gaps: dict[str, list[tuple[int, int]]] = {}

    def xmit(self, skb: SkBuff, now: int = 0) -> None:
        """Take over a packet; it leaves at once unless the gate is closed. A card does not ask for the time."""
        if not self.closed and not self.queue:
            self._dma(skb)
            return
        if len(self.queue) >= self.queue_max:
            self.effects.append(FrameDropped(self.place, "the transmit queue is full"))
            kfree_skb(skb)
            return
        self.queue.append(skb)
        self.effects.append(self.parked(skb))

    def parked(self, skb: SkBuff, place: str = "") -> Fact:
        """Return the fact that a packet waits at this card, or at another *place* in front of it."""
        linear = skb_linear(skb)
        key, seq, header_length = _place_of(linear)
        flow = self.flows.get(key) or self._name(key)
        length = skb_length(skb) - header_length
        return Parked(place or self.place, flow, seq, length, self.left_before(flow, seq, length))

    def open(self) -> None:
        """Open the gate: everything that waits is read now, in its order."""
        self.closed = False
        while self.queue and not self.closed:
            self._dma(self.queue.popleft())

    def take_frames(self) -> list[bytes]:
        """Return the frames that have left since the last call."""
        frames, self.frames = self.frames, []
        return frames

    def _dma(self, skb: SkBuff) -> None:
        """Read the packet's bytes, put them on the wire as frames, and free the packet (TX completion)."""
        shinfo = skb.shinfo
        linear = shinfo.slab.memory.view[skb.data : skb.tail].tobytes()
        is_tcp = linear[23] == IPPROTO_TCP
        key, seq, header_length = _place_of(linear)
        payload = linear[header_length:]
        pages: Pages = ()
        if shinfo.frags:
            read = _read(payload, shinfo.frags)
            if read is None:
                self._abort(skb)
                return
            payload, pages = read
        length = len(payload)
        if length:
            mss = shinfo.gso_size or length
            digests = self._send(skb, linear[:header_length], payload, mss)
            flow = self.flows.get(key) or self._name(key)
            # A datagram never leaves twice: what repeats a call in UDP is another datagram.
            again = is_tcp and self._leaves(flow, seq, length)
            shown = payload if again else b""
            self.effects.append(FrameSent(self.place, flow, seq, length, mss, digests, again, pages, shown))
        else:
            self.frames.append(_whole_frame(linear, b"", 0) if skb.needs_checksum else linear)
            if is_tcp and linear[47] & SYN:
                flow = self.flows.get(key) or self._name(key)  # perhaps another connection of the same ports
                self.highest[flow] = (seq + 1) & M32
                self.gaps.pop(flow, None)
        kfree_skb(skb)
        watch = self.watch
        if watch is not None and watch.nic_watched:
            seen = linear[:header_length] + payload[:SNIFFED]
            watch.frame_left(seen, length + header_length - len(seen))

    def _abort(self, skb: SkBuff) -> None:
        """A page is not mapped any more: the IOMMU aborts the read, and nothing of the packet leaves."""
        fault = touched_fault(skb, self.place)
        assert fault is not None
        self.effects.append(fault)
        kfree_skb(skb)

    def _send(self, skb: SkBuff, headers: bytes, payload: bytes, mss: int) -> tuple[int, ...]:
        """Put a payload on the wire in pieces of *mss* with all their sums; return the digest of each."""
        if len(payload) > mss:
            return self._cut(headers, payload, mss)
        digest = digest_of(payload)
        if skb.needs_checksum:
            summed = skb.summed
            total = payload_sums.get(digest) or remembered_sum(payload, digest) if summed is None else summed
            self.frames.append(_whole_frame(headers, payload, total))
        else:
            self.frames.append(headers + payload)
        return (digest,)

    def _name(self, key: bytes) -> str:
        flow = self.flows[key] = _flow_of(key)
        return flow

    def _leaves(self, flow: str, seq: int, length: int) -> bool:
        """Take note of a range of a stream that leaves now; return whether its first byte had left before."""
        end = (seq + length) & M32
        highest = self.highest.get(flow)
        if highest is None or seq == highest:
            self.highest[flow] = end
            return False
        if (seq - highest) & M32 < HALF:
            self.gaps[flow] = [*self.gaps.get(flow, ()), (highest, seq)][-GAPS_MAX:]
            self.highest[flow] = end
            return False
        again = self.left_before(flow, seq, length)
        if (end - highest) & M32 < HALF:
            self.highest[flow] = end
        if flow in self.gaps:
            self._fill(flow, seq, end)
        return again

    def left_before(self, flow: str, seq: int, length: int) -> bool:
        """Say whether the first byte of this range has left through this card before, as a sniffer could tell.

        What was dropped on its way here never left, though what was sent behind it did: a gap in what was seen.
        """
        highest = self.highest.get(flow)
        if highest is None or not length or (seq - highest) & M32 < HALF:
            return False
        gaps = self.gaps.get(flow)
        return not gaps or not any((seq - start) & M32 < (end - start) & M32 for start, end in gaps)

    def _fill(self, flow: str, seq: int, end: int) -> None:
        """A range has left: nothing of it is missing any more."""
        left = []
        for start, stop in self.gaps[flow]:
            if (seq - stop) & M32 < HALF or (start - end) & M32 < HALF:
                left.append((start, stop))
                continue
            if (start - seq) & M32 >= HALF:
                left.append((start, seq))
            if (end - stop) & M32 >= HALF:
                left.append((end, stop))
        self.gaps[flow] = left

    def _cut(self, linear: bytes, payload: bytes, mss: int) -> tuple[int, ...]:
        """TCP segmentation offload: cut the payload at *mss* and give each piece headers and sums of its own."""
        target_mac, own_mac, kind, version, tos, _, ident, fragment, ttl, protocol, _, source, target = (
            ETH_IP.unpack_from(linear)
        )
        sport, dport, seq, ack, offset_flags, window, _, urgent = TCP.unpack_from(linear, 34)
        last_flags = offset_flags & (PSH | FIN)
        offset_flags &= ~(PSH | FIN)
        assert offset_flags >> 12 == 5, "data segments carry no TCP options here"
        fixed = (
            (source >> 16) + (source & 0xFFFF) + (target >> 16) + (target & 0xFFFF) + IPPROTO_TCP + sport + dport
            + (ack >> 16) + (ack & 0xFFFF) + window + urgent + 20
        )  # fmt: skip
        ip_sum = (
            0x4500 + fragment + 0x4000 + IPPROTO_TCP
            + (source >> 16) + (source & 0xFFFF) + (target >> 16) + (target & 0xFFFF)
        )  # fmt: skip
        frames, digests = self.frames, []
        length = len(payload)
        for start in range(0, length, mss):
            piece = payload[start : start + mss]
            size = len(piece)
            if start + size == length:
                offset_flags |= last_flags
            digest = digest_of(piece)
            digests.append(digest)
            total = 40 + size
            sums = fixed + size + (seq >> 16) + (seq & 0xFFFF) + offset_flags
            sums += remembered_sum(piece, digest)
            frames.append(
                TCP_FRAME.pack(
                    target_mac, own_mac, kind, version, tos, total, ident, fragment, ttl, protocol,
                    0xFFFF - (ip_sum + total + ident) % 0xFFFF, source, target,
                    sport, dport, seq, ack, offset_flags, window, checksum_of(sums), urgent,
                )
                + piece
            )  # fmt: skip
            seq = (seq + size) & M32
            ident = (ident + 1) & 0xFFFF
        return tuple(digests)


class NicWatcher:
    """Whoever wants to know what passes a card, while `nic_watched` says so: its owner's rules."""

    __slots__ = ("nic_watched",)
    nic_watched: bool

    def frame_left(self, headers: bytes, more: int) -> None:
        """A packet with these first bytes, and *more* behind them, has left."""
        raise NotImplementedError


def _read(linear: bytes, frags: list[Frag]) -> tuple[bytes, Pages] | None:
    """Return *linear* and what the pages hold at this moment, and where they are; None if one is not mapped."""
    parts: list[bytes | memoryview] = [linear]
    pages: list[tuple[int, int, int, int]] = []
    for frag in frags:
        page = frag.page
        parts.append(frag_view(frag))
        domid = page.memory.domid
        if domid == DOMID_INVALID:
            return None
        pages.append((domid, page.frame, frag.offset, frag.size))
    return b"".join(parts), tuple(pages)


def _place_of(linear: bytes) -> tuple[bytes, int, int]:
    """Return (addresses and ports, position, length of headers) of the packet that begins with *linear*."""
    if linear[23] != IPPROTO_TCP:
        return datagram_key(linear)
    key, seq, offset = TCP_PLACE.unpack_from(linear, 26)
    return key, seq, 34 + (offset >> 2 & 0x3C)


def frame_now(skb: SkBuff) -> bytes:
    """Return a packet as one frame with its checksum, as its bytes are at this moment."""
    linear = skb_linear(skb)
    frame = b"".join([linear, *read_frags(skb)])
    if not skb.needs_checksum:
        return frame
    start = _place_of(linear)[2]
    return _whole_frame(frame[:start], frame[start:], ones_sum(frame[start:]))


def _whole_frame(headers: bytes, payload: bytes, payload_sum: int) -> bytes:
    """Finish the checksum that CHECKSUM_PARTIAL left open: the field holds the pseudo header's sum."""
    check = CHECKSUM.pack(0xFFFF - (int.from_bytes(headers[34:]) + payload_sum) % 0xFFFF)
    at = 50 if headers[23] == IPPROTO_TCP else 40
    return b"".join((headers[:at], check, headers[at + 2 :], payload))
