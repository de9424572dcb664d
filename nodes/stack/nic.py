"""A network card: a bounded transmit queue, a gate that a rule may close, and DMA, the moment at which bytes are read.

Until `_dma` a packet is references to pages; after it, frames of fixed bytes. That is the whole subject: whatever the
pages hold at that moment is what leaves, with a checksum that is right for it, because the card sums what it reads.

The gated queue stands for both the qdisc and the driver's ring. With `software_checksum` the packet is summed when it
enters, and since its pages belong to somebody who may rewrite them (SKBFL_SHARED_FRAG) they are copied first, as
skb_checksum_help does.
"""

from collections import deque

from lateack.nodes.facts import AccessFault, Fact, FrameDropped, FrameSent, Parked
from lateack.nodes.memory.pages import PagePool
from lateack.nodes.node import Effect
from lateack.nodes.stack.lifetime import Frag, frag_view, unmapped
from lateack.nodes.stack.packets import (
    ETH_IP,
    FIN,
    IPPROTO_TCP,
    M32,
    PSH,
    SYN,
    TCP,
    TCP_FRAME,
    TCP_SEQ,
    checksum_of,
    datagram_key,
    digest_of,
    flow_name,
    fragment_flow_name,
    remembered_sum,
)
from lateack.nodes.stack.skb import SkBuff, kfree_skb, skb_copy_ubufs, skb_linear

HALF = 1 << 31


class PacketHead:
    """What a card reads off the headers of a packet in its queue."""

    __slots__ = ("flow", "header_length", "linear", "payload_length", "protocol", "seq")

    def __init__(self, skb: SkBuff, flows: dict[bytes, str]) -> None:
        linear = self.linear = skb_linear(skb)
        self.protocol = linear[23]
        if self.protocol == IPPROTO_TCP:
            key = linear[26:38]
            _, _, self.seq, _, offset_flags, _, _, _ = TCP.unpack_from(linear, 34)
            self.header_length = 34 + (offset_flags >> 12) * 4
        else:
            key, self.seq, self.header_length = datagram_key(linear)
        flow = flows.get(key)
        if flow is None:
            flow = flows[key] = _flow_of(key)
        self.flow = flow
        length = len(linear) - self.header_length
        for frag in skb.shinfo.frags:
            length += frag.size
        self.payload_length = length


def _flow_of(key: bytes) -> str:
    """Name the flow of addresses and ports as they stand in a packet; a fragment has no ports."""
    source, target = int.from_bytes(key[:4], "big"), int.from_bytes(key[4:8], "big")
    if len(key) == 8:
        return fragment_flow_name(source, target)
    return flow_name(source, int.from_bytes(key[8:10], "big"), target, int.from_bytes(key[10:12], "big"))


class Nic:
    """One card; its owner takes the finished frames with `take_frames` at the end of each event."""

    __slots__ = (
        "closed", "copied_bytes", "effects", "flows", "frames", "highest", "place", "pool", "queue", "queue_max",
        "software_checksum", "watch",
    )  # fmt: skip

    def __init__(
        self, place: str, effects: list[Effect], *, pool: PagePool, queue_max: int, software_checksum: bool = False
    ) -> None:
        self.place = place
        self.effects = effects
        self.pool = pool
        self.queue_max = queue_max
        self.software_checksum = software_checksum
        self.closed = False
        self.watch: NicWatcher | None = None
        self.queue: deque[SkBuff] = deque()
        self.frames: list[bytes] = []
        self.flows: dict[bytes, str] = {}
        self.highest: dict[str, int] = {}
        self.copied_bytes = 0

    def xmit(self, skb: SkBuff, now: int) -> None:
        """Take over a packet; it leaves at once unless the gate is closed."""
        if self.software_checksum:
            self._sum_in_software(skb)
        if not self.closed:
            self._dma(skb)
            return
        if len(self.queue) >= self.queue_max:
            self.effects.append(FrameDropped(self.place, "the transmit queue is full"))
            kfree_skb(skb)
            return
        self.queue.append(skb)
        self.effects.append(self.parked(skb))

    def parked(self, skb: SkBuff) -> Fact:
        """Return the fact that a packet waits at this card."""
        head = PacketHead(skb, self.flows)
        return Parked(self.place, head.flow, head.seq, head.payload_length, self.left_before(head.flow, head.seq, head.payload_length))

    def open(self) -> None:
        """Open the gate: everything that waits is read now, in its order."""
        self.closed = False
        while self.queue and not self.closed:
            self._dma(self.queue.popleft())

    def take_frames(self) -> list[bytes]:
        """Return the frames that have left since the last call."""
        frames = self.frames
        if frames:
            self.frames = []
        return frames

    def _dma(self, skb: SkBuff) -> None:
        """Read the packet's bytes, put them on the wire as frames, and free the packet (TX completion)."""
        shinfo = skb.shinfo
        linear = shinfo.slab.memory.view[skb.data : skb.tail].tobytes()
        if linear[23] == IPPROTO_TCP:
            key, seq, header_length = linear[26:38], TCP_SEQ.unpack_from(linear, 38)[0], 34 + (linear[46] >> 4) * 4
        else:
            key, seq, header_length = datagram_key(linear)
        frags = shinfo.frags
        payload = linear[header_length:]
        if frags:
            payload = b"".join([payload, *[frag_view(frag) for frag in frags]])
        mss = shinfo.gso_size or len(payload)
        if len(payload) > mss:
            digests = self._cut(linear, payload, mss)
        else:
            digest = digest_of(payload)
            digests = (digest,)
            self.frames.append(_whole_frame(skb, linear, header_length, payload, digest))
        if payload:
            flow = self.flows.get(key) or self._name(key)
            # A datagram never leaves twice: what repeats a call in UDP is another datagram.
            again = linear[23] == IPPROTO_TCP and self._leaves(flow, seq, len(payload))
            self._record(frags, flow, seq, mss, digests, payload, again)
        elif linear[23] == IPPROTO_TCP and linear[47] & SYN:
            self.highest.pop(self.flows.get(key) or self._name(key), None)  # another connection of the same ports
        kfree_skb(skb)
        if self.watch is not None:
            self.watch.frame_left(linear, len(payload) + header_length - len(linear))

    def _record(
        self, frags: list[Frag], flow: str, seq: int, mss: int, digests: tuple[int, ...], payload: bytes, again: bool
    ) -> None:
        pages = tuple([(frag.page.memory.domid, frag.page.frame, frag.offset, frag.size) for frag in frags])
        for frag in frags:
            if unmapped(frag.page):
                self.effects.append(AccessFault(self.place, frag.page.memory.domid, frag.page.frame))
        length = len(payload)
        shown = payload if again else b""
        self.effects.append(FrameSent(self.place, flow, seq, length, mss, digests, again, pages, shown))

    def _name(self, key: bytes) -> str:
        flow = self.flows[key] = _flow_of(key)
        return flow

    def _leaves(self, flow: str, seq: int, length: int) -> bool:
        """Take note of a range of a stream that leaves now; return whether its first byte had left before."""
        highest = self.highest.get(flow)
        end = (seq + length) & M32
        if highest is None or (end - highest) & M32 < HALF:
            self.highest[flow] = end
        return highest is not None and (seq - highest) & M32 >= HALF

    def left_before(self, flow: str, seq: int, length: int) -> bool:
        """Say whether the first byte of this range has left through this card before, as any sniffer here could tell."""
        highest = self.highest.get(flow)
        return highest is not None and length > 0 and (seq - highest) & M32 >= HALF

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
            sums = fixed + size + (seq >> 16) + (seq & 0xFFFF) + offset_flags + remembered_sum(piece, digest)
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

    def _sum_in_software(self, skb: SkBuff) -> None:
        """Freeze the bytes before they are summed; from here on the pages' owner can change nothing (skb_checksum_help)."""
        if skb.shinfo.frags and skb.shinfo.shared_frag:
            self.copied_bytes += sum(frag.size for frag in skb.shinfo.frags)
            skb_copy_ubufs(skb, self.pool)


class NicWatcher:
    """Whoever wants to know what passes a card: its owner's rules."""

    def frame_left(self, headers: bytes, more: int) -> None:
        """A packet with these first bytes, and *more* behind them, has left."""
        raise NotImplementedError


def _whole_frame(skb: SkBuff, linear: bytes, header_length: int, payload: bytes, digest: int) -> bytes:
    """Finish the checksum that CHECKSUM_PARTIAL left open: the field holds the pseudo header's sum."""
    if not skb.needs_checksum:
        return linear[:header_length] + payload
    total = int.from_bytes(linear[34:header_length], "big") % 0xFFFF
    if payload:
        total += remembered_sum(payload, digest)
    at = 50 if linear[23] == IPPROTO_TCP else 40
    check = ((0xFFFF - total % 0xFFFF) or 0xFFFF).to_bytes(2, "big")
    return b"".join((linear[:at], check, linear[at + 2 : header_length], payload))
