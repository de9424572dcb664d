"""A socket of the host's own, to which guests send: its receive queue keeps their pages for as long as nobody reads.

Source: net/ipv4/ip_input.c (ip_local_deliver), net/ipv4/udp.c (udp_queue_rcv_skb), skb_set_owner_r. Where we differ:
the host has no TCP; whatever is no datagram is refused.
"""

from lateack.nodes.facts import FrameDropped
from lateack.nodes.memory.pages import PagePool
from lateack.nodes.node import Effect
from lateack.nodes.stack.packets import IPPROTO_UDP
from lateack.nodes.stack.readers import Reader, faults, orphan_frags_rx, truesize
from lateack.nodes.stack.skb import SkBuff, kfree_skb, skb_linear, skb_orphan


class LocalSocket(Reader):
    """A UDP socket of the host's own kernel: what guests send there waits in its receive queue, up to a bound."""

    __slots__ = ("buffer", "copied_bytes", "held", "pool")

    def __init__(self, place: str, effects: list[Effect], pool: PagePool, *, buffer: int) -> None:
        """Let packets wait up to *buffer* bytes of truesize (SO_RCVBUF)."""
        super().__init__(place, effects)
        self.pool = pool
        self.buffer = buffer
        self.held = 0
        self.copied_bytes = 0

    def queue_frame(self, frame: bytes) -> None:
        """Nobody out there knows this host: a frame from the wire is for no socket."""

    def queue_packet(self, skb: SkBuff) -> None:
        """ip_local_deliver and udp_queue_rcv_skb: copy what is tracked, let the sender's hook go, and queue."""
        if skb_linear(skb)[23] != IPPROTO_UDP:
            self._refuse(skb, "no socket of the host listens there")
            return
        if skb.shinfo.ubuf is not None:
            if faults(skb, self.place, self.effects):
                return
            self.copied_bytes += orphan_frags_rx(skb, self.pool)
        if self.held + truesize(skb) > self.buffer:
            self._refuse(skb, "the socket's receive buffer is full")
            return
        self.held += truesize(skb)
        skb_orphan(skb)  # skb_set_owner_r: whoever hung a destructor onto the packet is told now, and wrongly
        self.take(skb)

    def read(self) -> None:
        """Read what waits, which makes room in the socket's buffer."""
        super().read()
        if not self.queue:
            self.held = 0

    def _refuse(self, skb: SkBuff, reason: str) -> None:
        self.effects.append(FrameDropped(self.place, reason))
        kfree_skb(skb)
