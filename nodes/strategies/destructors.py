"""Backend strategies that hang a destructor somewhere on the packet: on its header, its data block or its fragments.

Only the last is called when the page's last user is gone; what the others miss is lost to the guest, and what they take
for finished is unmapped while somebody reads it.

    skb-destructor     once per header, though clones share the data
    no-clone           the same, where every clone is a copy
    shinfo-destructor  once per data block, though a second block may show the same pages
    frag-destructor    once per page, wherever the stack has moved it
"""

from lateack.nodes.facts import ForeignPageFreed
from lateack.nodes.memory.pages import Page
from lateack.nodes.stack.lifetime import Frag, FragDestructor
from lateack.nodes.stack.skb import SkBuff
from lateack.nodes.strategies.backend import BackendKernel, MappingStrategy, TxSlot, Vif

PLACE = "backend"


class HostAllocator:
    """The host's general allocator, to which a page goes whose count reaches zero, whoever it belongs to."""

    __slots__ = ("kernel",)

    def __init__(self, kernel: BackendKernel) -> None:
        self.kernel = kernel

    def free(self, page: Page) -> None:
        """Take a page that is a guest's: Linux would hand it out again, mapped read-only and not its own."""
        self.kernel.effects.append(ForeignPageFreed(PLACE, page.memory.domid, page.frame))


class LendingStrategy(MappingStrategy):
    """What these have in common: they know which pages are out, by page, and wait to be told of each."""

    def __init__(self, kernel: BackendKernel) -> None:
        super().__init__(kernel)
        self.lent: dict[Page, tuple[Vif, TxSlot]] = {}
        self.allocator = HostAllocator(kernel)

    def hang(self, skb: SkBuff) -> None:
        """Hang the destructor onto a packet whose fragments are all lent."""
        raise NotImplementedError

    def lend(self, skb: SkBuff, vif: Vif, slots: list[TxSlot]) -> None:
        """Lend the pages with no reference but the packet's, so that the stack's last put sends them home.

        Home is the general allocator, unless the destructor sees them before (`returned`).
        """
        for slot in slots:
            page = slot.page
            assert page is not None
            page.refs = 1
            page.pool = self.allocator
            self.lent[page] = (vif, slot)
        self.hang(skb)

    def returned(self, page: Page) -> None:
        """Take a page for finished with: netback refers to it again, and unmaps and answers at the end of the burst."""
        lent = self.lent.pop(page, None)
        if lent is not None:
            page.refs += 1
            vif, slot = lent
            vif.released.append(slot)

    def in_flight(self, vif: Vif | None = None) -> int:
        """Count the pages that were never reported back; netback of that time counted slots, not packets."""
        return len(self.lent) if vif is None else sum(owner is vif for owner, _ in self.lent.values())

    def left_over(self) -> dict[str, int]:
        """What no destructor ever told of."""
        return {"pages in flight": self.in_flight()}

    def take_back(self, vif: Vif) -> list[TxSlot]:
        """Forget the pages of one guest; one more reference keeps their structs from use."""
        lost = [page for page, (owner, _) in self.lent.items() if owner is vif]
        for page in lost:
            page.refs += 1
        return [self.lent.pop(page)[1] for page in lost]


class SkbDestructor(LendingStrategy):
    """Takes the end of the header for the end of its pages: Campbell's first idea, and the wrong hook.

    kfree_skb runs it before anybody knows whether a clone still shows the data, skb_orphan runs it while the packet
    lives on, and a fragment that was pulled or cut off is no longer there to be seen (net/core/skbuff.c). AF_PACKET's
    TX_RING made this mistake until 5cd8d46ea156 (2018).
    """

    name = "skb-destructor"
    summary = "answers when the packet's header is freed: too early for clones, never for pages that were pulled"

    def hang(self, skb: SkBuff) -> None:
        """Set `skb->destructor`."""
        skb.destructor = self.destructed

    def destructed(self, skb: SkBuff) -> None:
        """Give back every page that the packet shows at this moment."""
        for frag in skb.shinfo.frags:
            self.returned(frag.page)


class NoClone(SkbDestructor):
    """The destructor, and a flag by which every clone becomes a copy (Campbell and Fitzhardinge tried it).

    The copy makes clones harmless, at the price of one for nearly every packet that a host originates or taps. A driver
    that orphans, and pages that were pulled or split off, defeat the destructor as before.
    """

    name = "no-clone"
    summary = "as skb-destructor, with a flag on the packet by which every clone becomes a full copy"

    def hang(self, skb: SkBuff) -> None:
        """Set the destructor and the flag."""
        super().hang(skb)
        skb.no_clone = True


class ShinfoDestructor(LendingStrategy):
    """A destructor for each page in the data block, called when *this* block lets go of it (Rusty Russell, ~2008).

    It outlives clones, which share the block. Whoever takes or puts a page by itself goes past it: a block made by
    copying the head (pskb_expand_head, pskb_copy), a packet split off, a fragment pulled. The patch is lost, and why
    it was given up is not on record; bare get_page and put_page all over the stack are the likely reason.
    """

    name = "shinfo-destructor"
    summary = "answers when the packet's first data block lets go of a page; bare page references go past it"

    def hang(self, skb: SkBuff) -> None:
        """Put the destructor into the data block."""
        skb.shinfo.page_destructor = self

    def frags_let_go(self, frags: list[Frag]) -> None:
        """The block is gone: give back what it still had."""
        for frag in frags:
            self.returned(frag.page)


class BackendFragDestructor(LendingStrategy):
    """Every fragment counts, wherever the stack moves it, and the last one answers (Campbell's series, 2011-12).

    Right under clones, pulls, splits and second heads. Nobody is made to copy, so a page stays out for as long as some
    socket or tap keeps it.
    """

    name = "frag-destructor"
    summary = "counts every fragment of a page and answers when the stack has dropped the last one"

    def lend(self, skb: SkBuff, vif: Vif, slots: list[TxSlot]) -> None:
        """Give each fragment a destructor; netback keeps the only reference on the page itself."""
        frags = []
        for slot in slots:
            page = slot.page
            assert page is not None
            page.refs = 1
            self.lent[page] = (vif, slot)
            frags.append(Frag(page, slot.offset, slot.size, FragDestructor(self, page)))
        skb.shinfo.frags = frags

    def frags_released(self, token: object) -> None:
        """The last fragment of a page is gone: unmap and answer at the end of the burst."""
        assert isinstance(token, Page)
        lent = self.lent.pop(token, None)
        if lent is not None:  # else netback has died since
            vif, slot = lent
            vif.released.append(slot)
