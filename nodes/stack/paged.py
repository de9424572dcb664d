"""Received bytes that still lie in the pages of the packet that brought them: what a socket's receive queue holds.

A frame from a wire is bytes. A packet that a host sends to itself is not: loopback hands the very pages on, TCP queues
and acknowledges them, and what they hold is decided when somebody reads the socket (`sk_receive_queue`).
"""

from lateack.nodes.facts import PacketRead
from lateack.nodes.memory.pages import PAGE_SIZE
from lateack.nodes.node import Effect
from lateack.nodes.records import LightState
from lateack.nodes.stack.packets import M32, digest_of
from lateack.nodes.stack.skb import SkBuff, kfree_skb, read_frags, skb_linear


class PagedPayload:
    """A piece of a stream that lies in a packet: TCP may measure and cut it; who reads it frees the packet, once.

    `seq` is the position of its first byte on the wire; `start` and `length` say which bytes of the packet are meant.
    """

    __slots__ = ("effects", "flow", "length", "mss", "place", "seq", "skb", "start")

    def __init__(
        self, skb: SkBuff, start: int, length: int, *, seq: int, mss: int, flow: str, place: str, effects: list[Effect]
    ) -> None:
        self.skb = skb
        self.start = start
        self.length = length
        self.seq = seq
        self.mss = mss
        self.flow = flow
        self.place = place
        self.effects = effects

    def __len__(self) -> int:
        """How many bytes there are."""
        return self.length

    def __getitem__(self, cut: slice) -> "PagedPayload":
        """Return the piece from *cut* on, in place of this one, which is not used any more."""
        start, end, _ = cut.indices(self.length)
        return PagedPayload(
            self.skb, self.start + start, end - start, seq=(self.seq + start) & M32, mss=self.mss, flow=self.flow,
            place=self.place, effects=self.effects,
        )  # fmt: skip

    def __bytes__(self) -> bytes:
        """Return what the pages hold now, and let the packet go."""
        data = b"".join([skb_linear(self.skb), *read_frags(self.skb)])[self.start : self.start + self.length]
        kfree_skb(self.skb)
        return data

    def let_go(self) -> None:
        """Nobody keeps these bytes: free the packet, unless whoever dropped them has done so."""
        if self.skb.users:
            kfree_skb(self.skb)

    def read(self) -> bytes:
        """Return what the pages hold now to the process that reads the socket, and record it."""
        frags = self.skb.shinfo.frags
        pages = tuple([(frag.page.memory.domid, frag.page.frame, frag.offset, frag.size) for frag in frags])
        data = bytes(self)
        mss = self.mss or PAGE_SIZE
        digests = tuple([digest_of(data[start : start + mss]) for start in range(0, len(data), mss)])
        self.effects.append(PacketRead(self.place, self.flow, self.seq, len(data), mss, digests, pages))
        return data


Payload = bytes | PagedPayload
"""What TCP takes for a segment's payload: it only measures it, cuts it and keeps it."""


class PagedSegment(LightState):
    """A segment as `packets.Segment`, whose payload still lies in its packet."""

    protocol: int
    source: int
    target: int
    sport: int
    dport: int
    seq: int
    ack: int
    flags: int
    window: int
    options: bytes
    payload: PagedPayload
