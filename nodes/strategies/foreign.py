"""Foreign pages: netback of 2005 to 2010, which was told by the page allocator itself; `lazy_copy` bounds the wait.

A guest's page that is mapped into the host gets a struct page of netback's with the mark PG_foreign and a destructor.
When its count reaches zero the allocator's hook (`arch_free_page`) calls that, and does not take the page. So netback
hears of the very last user, whatever became of the packet: clone, pull, split, a second head. It never went upstream:
it needs a page flag, overloads fields of struct page, and reaches into the allocator.

    FREE -> MAPPED -> IN_STACK -> DEALLOC_QUEUED -> unmapped, answered, FREE

Source: the Linux tree that came with Xen (linux-2.6-xen-sparse, drivers/xen/netback/netback.c, core/gnttab.c).
"""

from lateack.nodes.memory.netif import NETIF_RSP_OKAY
from lateack.nodes.memory.pages import Page, put_page
from lateack.nodes.split.xenbus import DOMAIN_0
from lateack.nodes.stack.foreign_page import ForeignPage
from lateack.nodes.stack.lifetime import Frag, unmap_page
from lateack.nodes.stack.skb import SkBuff, alloc_skb, kfree_skb, skb_put
from lateack.nodes.strategies.backend import READ_ONLY, BackendKernel, BackendStrategy, TxSlot, Vif

MAX_PENDING_REQS = 256
"""Requests that may be in the host at once: one pool for all guests, where later netbacks have one for each queue."""

MAX_SKB_FRAGS = 18
"""Fragments of a packet in kernels of that time (65536 / 4096 + 2)."""

PKT_PROT_LEN = 64
"""The first bytes of a packet, copied so that the guest cannot change headers that were inspected already."""

FREE, MAPPED, IN_STACK, DEALLOC_QUEUED = range(4)


class PendingRequest:
    """One of the 256: whose request it is, its page, and how far it has come."""

    __slots__ = ("page", "since", "slot", "state", "vif")

    def __init__(self, page: ForeignPage) -> None:
        self.page = page
        self.state = FREE
        self.since = 0
        self.vif: Vif | None = None
        self.slot: TxSlot | None = None


class PageForeign(BackendStrategy):
    """The first netback: maps every slot, and answers each when the allocator says that its page is free."""

    name = "page-foreign"
    summary = "maps pages and answers when the page allocator sees the last reference go"
    rx_drain_ms = 500
    """A queue that a guest does not take from is emptied after that long (2006: a dormant guest held everybody's)."""

    def __init__(self, kernel: BackendKernel) -> None:
        super().__init__(kernel)
        self.requests: list[PendingRequest] = []
        self.free_indices: list[int] = []
        self.refused = False

    def may_take(self, vif: Vif) -> bool:
        """Leave every guest's ring alone while a whole packet might not find room in the pool that all share."""
        if MAX_PENDING_REQS - self.in_flight() > MAX_SKB_FRAGS:
            return True
        self.refused = True
        return False

    def admit(self, vif: Vif, slots: list[TxSlot]) -> SkBuff | None:
        """Map every slot, copy the first bytes out of the first, and give the pages to the packet."""
        skb = alloc_skb(self.kernel.slab)
        requests = [self._claim(vif, slot) for slot in slots]
        if not self._map(requests):
            kfree_skb(skb)
            return None
        frags = skb.shinfo.frags
        first = slots[0]
        size = min(first.size, PKT_PROT_LEN)
        page = requests[0].page
        skb_put(skb, page.memory.read(page.frame, first.offset, size))
        first.offset += size
        first.size -= size
        for request, slot in zip(requests, slots, strict=True):
            if slot.size or request.page is not page:
                # The packet's reference is the only one: netback keeps none, or the hook would never be called.
                frags.append(Frag(request.page, slot.offset, slot.size))
                self._enters(request)
            else:
                self._queue(request)
        skb.shinfo.shared_frag = True  # the guest can write to them at any time, see MappingStrategy
        return skb

    def free(self, page: Page) -> None:
        """arch_free_page: nobody refers to this page any more. Queue its request; unmapping needs another context."""
        assert isinstance(page, ForeignPage)
        if page.copy is not None:  # gnttab_page_free: the guest has long been answered
            put_page(page.copy)
            unmap_page(page)
        elif page.index >= 0:  # else it belonged to a netback that died
            self._queue(self.requests[page.index])

    def settle(self, vif: Vif) -> None:
        """net_tx_action_dealloc: unmap in a batch, then answer slot by slot."""
        released = vif.released
        if released:
            vif.released = []
            self._unmap(released)
            for slot in released:
                self._answer(self._request_of(slot))

    def in_flight(self, vif: Vif | None = None) -> int:
        """Return how many pending requests of one guest, or of all, are not answered yet."""
        if vif is None:
            return len(self.requests) - len(self.free_indices)
        return sum(request.vif is vif for request in self.requests)

    def forget(self, vif: Vif) -> None:
        """Take every mapping of this guest away by force; what the stack still holds of it shows nothing any more."""
        vif.released = []
        mine = [request for request in self.requests if request.vif is vif]
        self._unmap([request.slot for request in mine if request.slot is not None])
        for request in mine:
            index, request.page.index = request.page.index, -1
            request.page = ForeignPage(index, self)
            self._give_back(request, index)

    def left_over(self) -> dict[str, int]:
        """Return how many pending requests never came back."""
        return {"pending requests in the stack": self.in_flight()}

    # --- one pending request ------------------------------------------------------------------------------------------

    def _claim(self, vif: Vif, slot: TxSlot) -> PendingRequest:
        if self.free_indices:
            request = self.requests[self.free_indices.pop()]
        else:
            assert len(self.requests) < MAX_PENDING_REQS, "netback took more than it has pending requests for"
            request = PendingRequest(ForeignPage(len(self.requests), self))
            self.requests.append(request)
        assert request.state == FREE
        request.vif, request.slot = vif, slot
        slot.page = request.page
        return request

    def _map(self, requests: list[PendingRequest]) -> bool:
        """Map each slot by itself; if one grant is bad, let go of all of them, once each.

        The original's error path walks the preceding fragments with the wrong index; we do what was meant.
        """
        whole = True
        for request in requests:
            slot, vif, page = request.slot, request.vif, request.page
            assert slot is not None and vif is not None
            _, slot.handle, memory, frame = self.kernel.hypervisor.map_grant_ref(
                DOMAIN_0, vif.domid, slot.gref, READ_ONLY
            )
            if memory is None:
                whole = False
                continue
            page.memory, page.frame, page.refs = memory, frame, 1
            request.state = MAPPED
        if not whole:
            self._unmap([request.slot for request in requests if request.slot and request.state == MAPPED])
            for request in requests:
                self._give_back(request, request.page.index)
        return whole

    def _enters(self, request: PendingRequest) -> None:
        """The stack has the page from now on."""
        request.state = IN_STACK
        request.since = self.kernel.now

    def _queue(self, request: PendingRequest) -> None:
        """netif_idx_release: put the request on the dealloc ring."""
        assert request.state in (MAPPED, IN_STACK), "a pending request was released twice"
        request.state = DEALLOC_QUEUED
        assert request.vif is not None and request.slot is not None
        request.vif.released.append(request.slot)

    def _request_of(self, slot: TxSlot) -> PendingRequest:
        assert isinstance(slot.page, ForeignPage)
        return self.requests[slot.page.index]

    def _unmap(self, slots: list[TxSlot]) -> None:
        statuses = self.kernel.hypervisor.unmap_batch(DOMAIN_0, [slot.handle for slot in slots])
        assert not any(statuses), "netback unmapped a handle that it does not hold"
        for slot in slots:
            assert slot.page is not None
            unmap_page(slot.page)

    def _answer(self, request: PendingRequest) -> None:
        vif, slot = request.vif, request.slot
        assert vif is not None and slot is not None
        self._give_back(request, request.page.index)
        vif.respond(slot, NETIF_RSP_OKAY)

    def _give_back(self, request: PendingRequest, index: int) -> None:
        request.state = FREE
        request.vif = request.slot = None
        self.free_indices.append(index)
        if self.refused and MAX_PENDING_REQS - self.in_flight() > MAX_SKB_FRAGS:
            self.refused = False
            self.room_again = True
