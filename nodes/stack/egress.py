"""A host's way out: the queue of packets (qdisc), the hand-over to the driver, and the card with its ring.

    xmit -> queue -> hand-over: cut, sum, orphan -> ring -> DMA reads the bytes -> completion frees the packet

The queue and the ring are two places, each with a gate, because they differ in what has become of a packet by then. In
the queue it is whole, and nothing of it has been looked at. What the hand-over copies is frozen; what it cuts is
several packets; whoever it orphans believes that it is gone. What reaches the ring untouched shows its owner's pages
still, until the card reads them.

Source: sch_direct_xmit (net/sched/sch_generic.c), validate_xmit_skb, dev_hard_start_xmit (net/core/dev.c), tun_net_xmit
(drivers/net/tun.c).
"""

from collections import deque

from lateack.nodes.facts import FrameDropped
from lateack.nodes.memory.pages import PagePool
from lateack.nodes.node import Effect
from lateack.nodes.records import Record
from lateack.nodes.stack.gso import affords, is_cut, skb_gso_segment
from lateack.nodes.stack.lifetime import frag_view
from lateack.nodes.stack.nic import Nic
from lateack.nodes.stack.packets import ones_sum
from lateack.nodes.stack.readers import faults, orphan_frags_rx, paged_bytes, place_of
from lateack.nodes.stack.skb import SkBuff, kfree_skb, skb_linear, skb_orphan
from lateack.nodes.stack.skb_copy import must_copy, skb_copy_ubufs


class DriverConfig(Record):
    """What is done to a packet when it is handed to the driver; see the section `host` of a scenario.

    `checksum` is "offload", "software" or "software-2011", `segmentation` "card" or "kernel", `device` "card",
    "orphaning" or "tun". A card that does not sum cannot cut either (netdev_fix_features), so then the kernel does.
    """

    checksum: str = "offload"
    segmentation: str = "card"
    device: str = "card"


PLAIN = DriverConfig()
"""A card that sums and cuts, and a driver that does nothing by itself."""


class Egress:
    """Queue, driver and card; a plain driver behind open gates costs a packet nothing."""

    __slots__ = (
        "closed", "copied_bytes", "cuts", "driver", "effects", "nic", "place", "pool", "queue", "queue_max", "straight",
        "sums",
    )  # fmt: skip

    def __init__(
        self,
        owner: str,
        effects: list[Effect],
        *,
        pool: PagePool,
        queue_max: int,
        driver: DriverConfig = PLAIN,
    ) -> None:
        """Make the way out of the machine *owner*: its places are `<owner>.queue` and `<owner>.nic`."""
        self.place = f"{owner}.queue"
        self.effects = effects
        self.pool = pool
        self.queue_max = queue_max
        self.driver = driver
        self.sums = driver.checksum != "offload"
        self.cuts = self.sums or driver.segmentation == "kernel"
        self.straight = not self.cuts and driver.device == "card"
        self.nic = Nic(f"{owner}.nic", effects, queue_max=queue_max)
        self.closed = False
        self.queue: deque[SkBuff] = deque()
        self.copied_bytes = 0

    def xmit(self, skb: SkBuff, now: int = 0) -> None:
        """Take over a packet; it goes to the driver at once unless the gate is closed or others wait."""
        if not self.closed and not self.queue:
            if self.straight:
                self.nic.xmit(skb, now)
            else:
                self._hand_over(skb)
        elif len(self.queue) >= self.queue_max:
            self.effects.append(FrameDropped(self.place, "the transmit queue is full"))
            kfree_skb(skb)
        else:
            self.queue.append(skb)
            self.effects.append(self.nic.parked(skb, self.place))

    def open(self) -> None:
        """Open the gate: everything that waits is handed to the driver now, in its order."""
        self.closed = False
        while self.queue and not self.closed:
            self._hand_over(self.queue.popleft())

    def waiting(self) -> int:
        """Return how many packets have been taken over and not been read, in the queue and in the ring."""
        return len(self.queue) + len(self.nic.queue)

    # --- the hand-over ------------------------------------------------------------------------------------------------

    def _hand_over(self, skb: SkBuff) -> None:
        """Do what the driver's abilities ask for, in the kernel's order, and put what comes of it into the ring."""
        if self.straight:
            self.nic.xmit(skb)
        elif not affords(skb, self.pool):
            self.effects.append(FrameDropped(self.place, "no memory to copy or to cut the packet"))
            kfree_skb(skb)
        elif not self.cuts or not is_cut(skb):
            self._finish(skb)
        elif not must_copy(skb) or not faults(skb, self.place, self.effects):
            if must_copy(skb):
                self.copied_bytes += paged_bytes(skb)
            for segment in skb_gso_segment(skb, self.pool):
                self._finish(segment)

    def _finish(self, skb: SkBuff) -> None:
        """Sum one packet, let the driver do what it does with it, and put it into the ring."""
        if self.sums and skb.shinfo.frags and skb.needs_checksum:
            if faults(skb, self.place, self.effects):
                return
            self._checksum_help(skb)
        if self.driver.device != "card":
            if self.driver.device == "tun" and skb.shinfo.ubuf is not None:
                if faults(skb, self.place, self.effects):
                    return
                self.copied_bytes += orphan_frags_rx(skb, self.pool)
            skb_orphan(skb)
        self.nic.xmit(skb)

    def _checksum_help(self, skb: SkBuff) -> None:
        """Sum the payload as it is now (skb_checksum_help); what others may rewrite is copied first.

        "software-2011" sums it where it lies, as kernels did before c9af6db4c11c (2013): a page that changes afterwards
        spoils the sum on the wire, and the receiver drops the frame. (Linux gives such a device no fragments at all
        unless it is told to; the copy goes into the linear area there, and into pages here.)
        """
        if skb.shinfo.shared_frag and self.driver.checksum == "software":
            self.copied_bytes += paged_bytes(skb)
            skb_copy_ubufs(skb, self.pool)
        linear = skb_linear(skb)
        headers = place_of(linear)[2]
        skb.summed = ones_sum(b"".join([linear[headers:], *[frag_view(frag) for frag in skb.shinfo.frags]]))
