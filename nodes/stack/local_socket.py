"""A socket of the host's own, to which guests send: its receive queue keeps their pages for as long as nobody reads.

Source: net/ipv4/ip_input.c (ip_local_deliver), net/ipv4/udp.c (udp_queue_rcv_skb), skb_set_owner_r. Where we differ:
the host has no TCP; whatever is no datagram is refused.
"""

from typing import Protocol

from lateack.nodes.facts import FrameDropped
from lateack.nodes.memory.pages import PagePool
from lateack.nodes.node import Effect
from lateack.nodes.stack.packets import IPPROTO_UDP
from lateack.nodes.stack.readers import Reader, faults, orphan_frags_rx, read_frame, touched_fault, truesize
from lateack.nodes.stack.skb import SkBuff, kfree_skb, skb_linear, skb_orphan


class Listener(Protocol):
    """A program of the host that reads from the socket, and may answer."""

    def receive(self, frame: bytes) -> None:
        """Take a datagram with all its headers, as it is now that it is read."""
        ...


class LocalSocket(Reader):
    """A UDP socket of the host's own kernel: what guests send there waits in its receive queue, up to a bound."""

    __slots__ = ("buffer", "copied_bytes", "held", "listener", "pool")

    def __init__(self, place: str, effects: list[Effect], pool: PagePool, *, buffer: int) -> None:
        """Let packets wait up to *buffer* bytes of truesize (SO_RCVBUF)."""
        super().__init__(place, effects)
        self.pool = pool
        self.buffer = buffer
        self.held = 0
        self.copied_bytes = 0
        self.listener: Listener | None = None

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

    def _look(self, skb: SkBuff) -> None:
        if self.listener is None or touched_fault(skb, self.place) is not None:
            super()._look(skb)
            return
        frame, fact = read_frame(skb, self.place)
        if fact.length:
            self.effects.append(fact)
        self.listener.receive(frame)

    def _refuse(self, skb: SkBuff, reason: str) -> None:
        self.effects.append(FrameDropped(self.place, reason))
        kfree_skb(skb)
