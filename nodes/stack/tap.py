"""A packet socket on a host's own device (tcpdump): it is shown every packet that goes down, and reads it later.

Source: dev_queue_xmit_nit (net/core/dev.c). The clone shares the packet's pages; only those whose owner would be told
are copied first (`skb_orphan_frags_rx`). What a bare reference shows is decided when the reader reads.
"""

from lateack.nodes.facts import FrameDropped
from lateack.nodes.memory.pages import PagePool
from lateack.nodes.node import Effect
from lateack.nodes.stack.gso import affords
from lateack.nodes.stack.readers import Reader, orphan_frags_rx, paged_bytes
from lateack.nodes.stack.skb import SkBuff
from lateack.nodes.stack.skb_copy import clone_copies, skb_clone
from lateack.nodes.stack.tcp import Device


class TappedDevice:
    """A device with a listener in front of it; `copied_bytes` is what the listener had to have copied."""

    __slots__ = ("copied_bytes", "device", "pool", "reader")

    def __init__(self, device: Device, place: str, pool: PagePool, effects: list[Effect]) -> None:
        self.device = device
        self.pool = pool
        self.reader = Reader(place, effects)
        self.copied_bytes = 0

    def xmit(self, skb: SkBuff, now: int) -> None:
        """Show a clone of the packet to the listener and hand the packet itself on."""
        if affords(skb, self.pool, int(skb.no_clone or skb.shinfo.ubuf is not None)):
            if clone_copies(skb):
                self.copied_bytes += paged_bytes(skb)
            clone = skb_clone(skb, self.pool)
            self.copied_bytes += orphan_frags_rx(clone, self.pool)
            self.reader.take(clone)
        else:
            self.reader.effects.append(FrameDropped(self.reader.place, "no memory to show the packet"))
        self.device.xmit(skb, now)
