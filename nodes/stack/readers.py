"""Readers: whoever is given a packet and looks at its bytes later than the card does, if ever.

A packet socket (tcpdump), the receive queue of a local socket, a second port of a bridge, another guest's ring. What
such a reader keeps is the packet, and a packet is references to pages: what the bytes are is decided when it reads.
The kernel knows the danger: before a packet may stay for long, `skb_orphan_frags_rx` copies the pages of an owner who
is told by a callback (`UbufInfo`). It can do nothing for pages that only have a count.

Source: net/core/dev.c (deliver_skb), net/packet/af_packet.c. Where we differ: packet_rcv copies into its own buffer, or
queues a clone, as it is set up; ours queues the clone, so that it shows what a slow tcpdump would see.
"""

from collections import deque

from lateack.nodes.facts import AccessFault, FrameDropped, PacketRead, Parked
from lateack.nodes.memory.pages import PagePool
from lateack.nodes.node import Effect
from lateack.nodes.stack.lifetime import frag_view, unmapped
from lateack.nodes.stack.packets import (
    IPPROTO_TCP,
    datagram_key,
    digest_of,
    flow_name,
    fragment_flow_name,
    ones_sum,
)
from lateack.nodes.stack.skb import SkBuff, kfree_skb, skb_length, skb_linear
from lateack.nodes.stack.skb_copy import skb_orphan_frags

QUEUE_PACKETS_MAX = 1000
"""Packets that wait for one reader, as a device's queue has it (txqueuelen); what comes then is not shown to it."""

SKB_OVERHEAD = 256
"""Bytes that a socket is charged for a packet's header (SKB_TRUESIZE, linux/skbuff.h)."""


class Reader:
    """A queue of packets that somebody reads at the end of each event, or, behind a closed gate, when it opens.

    It takes over the packets that it is given. It is also the switch that rules turn (`gates.Switch`).
    """

    __slots__ = ("announced", "closed", "effects", "place", "queue")

    def __init__(self, place: str, effects: list[Effect]) -> None:
        self.place = place
        self.effects = effects
        self.queue: deque[SkBuff] = deque()
        self.announced = 0
        self.closed = False

    def take(self, skb: SkBuff) -> None:
        """Keep a packet until it is read; of a reader that is far behind it is kept no more."""
        if len(self.queue) >= QUEUE_PACKETS_MAX:
            self.effects.append(FrameDropped(self.place, "the reader's queue is full"))
            kfree_skb(skb)
            return
        self.queue.append(skb)

    def read(self) -> None:
        """Read what waits and let go of it; behind a closed gate only tell what has come to wait (`Parked`)."""
        queue = self.queue
        while queue and not self.closed:
            skb = queue.popleft()
            self._look(skb)
            kfree_skb(skb)
        for number in range(self.announced, len(queue)):
            flow, seq, headers = place_of(skb_linear(queue[number]))
            self.effects.append(Parked(self.place, flow, seq, skb_length(queue[number]) - headers, False))
        self.announced = len(queue)

    def look(self) -> None:
        """The run is over: tell what a reader would get that comes now. Nothing is freed, and nobody is charged."""
        for skb in self.queue:
            self._look(skb)

    def on(self) -> None:
        """Nothing is read any more."""
        self.closed = True

    def off(self) -> None:
        """Everything that waits is read now."""
        self.closed = False
        self.announced = 0
        self.read()

    def waiting(self) -> int:
        """Return how many packets wait to be read."""
        return len(self.queue)

    def _look(self, skb: SkBuff) -> None:
        fault = touched_fault(skb, self.place)
        if fault is not None:
            self.effects.append(fault)
            return
        _, fact = read_packet(skb, self.place)
        if fact.length:
            self.effects.append(fact)


def touched_fault(skb: SkBuff, place: str) -> AccessFault | None:
    """Return the fault that whoever reads this packet at *place* runs into, or None if all its pages are mapped."""
    for frag in skb.shinfo.frags:
        if unmapped(frag.page):
            return AccessFault(place, *frag.page.lost)
    return None


def faults(skb: SkBuff, place: str, effects: list[Effect]) -> bool:
    """Say whether reading this packet at *place* would fault; then that is recorded, and the packet is gone."""
    fault = touched_fault(skb, place)
    if fault is None:
        return False
    effects.append(fault)
    kfree_skb(skb)
    return True


def read_packet(skb: SkBuff, place: str) -> tuple[bytes, PacketRead]:
    """Read a packet whose pages are all mapped, as they are at this moment: its bytes, and the fact of it."""
    linear = skb_linear(skb)
    flow, seq, headers = place_of(linear)
    frags = skb.shinfo.frags
    data = b"".join([linear, *[frag_view(frag) for frag in frags]])
    length = len(data) - headers
    mss = skb.shinfo.gso_size or max(1, length)
    digests = tuple(digest_of(data[start : start + mss]) for start in range(headers, len(data), mss))
    pages = tuple((frag.page.memory.domid, frag.page.frame, frag.offset, frag.size) for frag in frags)
    return data, PacketRead(place, flow, seq, length, mss, digests, pages)


def read_frame(skb: SkBuff, place: str) -> tuple[bytes, PacketRead]:
    """Read a packet for a device that cannot sum: a checksum that was left open is finished (skb_checksum_help)."""
    data, fact = read_packet(skb, place)
    if skb.needs_checksum:
        at = 50 if data[23] == IPPROTO_TCP else 40
        check = 0xFFFF - ones_sum(data[34:]) % 0xFFFF
        data = b"".join((data[:at], check.to_bytes(2, "big"), data[at + 2 :]))
    return data, fact


def place_of(linear: bytes) -> tuple[str, int, int]:
    """Return (flow, position, length of headers) of the packet that begins with *linear*, as facts name them."""
    if linear[23] == IPPROTO_TCP:
        key, seq, headers = linear[26:38], int.from_bytes(linear[38:42]), 34 + (linear[46] >> 4) * 4
    else:
        key, seq, headers = datagram_key(linear)
    source, target = int.from_bytes(key[:4]), int.from_bytes(key[4:8])
    if len(key) == 8:
        return fragment_flow_name(source, target), seq, headers
    return flow_name(source, int.from_bytes(key[8:10]), target, int.from_bytes(key[10:])), seq, headers


def orphan_frags_rx(skb: SkBuff, pool: PagePool) -> int:
    """Copy the pages of an owner who is told by a callback, before *skb* may stay; return how many bytes (or 0)."""
    if skb.shinfo.ubuf is None:
        return 0
    skb_orphan_frags(skb, pool)
    return paged_bytes(skb)


def paged_bytes(skb: SkBuff) -> int:
    """Return how many of a packet's bytes lie in pages."""
    return sum(frag.size for frag in skb.shinfo.frags)


def truesize(skb: SkBuff) -> int:
    """Return what a packet costs the socket in whose queue it waits, as netback counts it (xenvif_fill_frags)."""
    return SKB_OVERHEAD + skb.shinfo.slab.size + paged_bytes(skb)
