"""Backend strategies that answer the guest as soon as the packet is handed over, while the stack still has its pages.

Both show why netback may answer only when the last user is gone: the answer is what lets the guest take its page back.
"""

from lateack.nodes.memory.netif import NETIF_RSP_OKAY
from lateack.nodes.node import S, Time
from lateack.nodes.stack.skb import SkBuff
from lateack.nodes.strategies.backend import BackendKernel, MappingStrategy, TxSlot, Vif

LAZY_UNMAP = S
"""How long (ns) an answered page may stay mapped while nothing else reminds netback of it."""


class EarlyResponse(MappingStrategy):
    """Answers at hand-off and unmaps later: an honest frontend finds its grant in use and gives up.

    Unmapping costs a TLB flush, so it is left for the guest's next burst, which flushes once for all (IOMMU drivers do
    the same, drivers/iommu/iova.c). netfront looks at the grant when it sees the answer: up to 2021 it then stopped the
    guest (BUG), and since XSA-396 it disables its device.
    """

    name = "early-response"
    summary = "answers the guest as soon as the packet is handed over, and unmaps its pages some time later"

    def __init__(self, kernel: BackendKernel) -> None:
        super().__init__(kernel)
        self.answered: list[tuple[Vif, TxSlot]] = []
        self.answered_at: Time = -1
        self.waking = False

    def lend(self, skb: SkBuff, vif: Vif, slots: list[TxSlot]) -> None:
        """Answer at once; what an earlier burst has left mapped is unmapped now."""
        now = self.kernel.now
        if now > self.answered_at:
            self._unmap_unused()
            self.answered_at = now
            self.kernel.wake_at(now + LAZY_UNMAP)
            self.waking = True
        for slot in slots:
            vif.respond(slot, NETIF_RSP_OKAY)
            self.answered.append((vif, slot))

    def woken(self, now: Time) -> None:
        """No burst has come for long: unmap what the stack has given back. What it still has waits for the next."""
        self.waking = False
        self._unmap_unused()

    def pending(self) -> int:
        """Pages that the next waking will look at."""
        return len(self.answered) if self.waking else 0

    def take_back(self, vif: Vif) -> list[TxSlot]:
        """Forget what is still mapped of one guest."""
        lost = [slot for owner, slot in self.answered if owner is vif]
        self.answered = [(owner, slot) for owner, slot in self.answered if owner is not vif]
        return lost

    def _unmap_unused(self) -> None:
        """Unmap in one batch the pages to which nobody but netback refers any more."""
        unused, kept = [], []
        for owner, slot in self.answered:
            assert slot.page is not None
            if slot.page.refs == 1:
                unused.append(slot)
            else:
                kept.append((owner, slot))
        self.answered = kept
        if unused:
            self.unmap(unused)


class EarlyUnmap(MappingStrategy):
    """Answers and unmaps at hand-off: the guest is content, and whoever reads the packet touches an unmapped page.

    On a real host the card's DMA and the unmapping race. Here the unmapping always wins: what may go wrong shall.
    """

    name = "early-unmap"
    summary = "unmaps the guest's pages and answers as it hands the packet over, before anybody has read it"

    def lend(self, skb: SkBuff, vif: Vif, slots: list[TxSlot]) -> None:
        """Take the pages out of the packet's sight again."""
        self.unmap(slots)
        for slot in slots:
            vif.respond(slot, NETIF_RSP_OKAY)

    def take_back(self, vif: Vif) -> list[TxSlot]:
        """Nothing is ever out."""
        return []
