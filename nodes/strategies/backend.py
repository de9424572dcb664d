"""The backend's strategies: what netback does with a guest's pages, and when it answers the guest.

A strategy sees a packet at two moments: `admit` turns its ring slots into a socket buffer for the host's stack, and
`settle` runs at the end of every burst, to give back what the stack has let go of.
"""

from typing import Protocol

import msgspec

from lateack.nodes.memory.hypervisor import GNTMAP_host_map, GNTMAP_readonly, GNTST_okay, Hypervisor
from lateack.nodes.memory.netif import NETIF_RSP_OKAY
from lateack.nodes.memory.pages import HeadSlab, Page, PagePool
from lateack.nodes.node import Effect, Time
from lateack.nodes.split.xenbus import DOMAIN_0
from lateack.nodes.stack.lifetime import Frag, UbufInfo, unmap_page
from lateack.nodes.stack.skb import SkBuff, alloc_skb, kfree_skb, skb_put

XEN_NETBACK_TX_COPY_LEN = 128
"""The first bytes of every packet are copied, so that a guest cannot change headers that were inspected already."""


READ_ONLY = GNTMAP_host_map | GNTMAP_readonly
"""The stack may look at a guest's pages, and never write to them."""


class TxSlot(msgspec.Struct, eq=False):
    """One request of the guest, private to the backend: where its bytes are, and what became of it."""

    # Mutable state, and yet a Struct: one is made for each request, and no other constructor is as quick.
    gref: int
    offset: int
    request_id: int
    size: int
    handle: int = -1
    page: Page | None = None


class Vif(Protocol):
    """One guest's virtual interface, as far as a strategy needs it."""

    domid: int
    released: list[TxSlot]

    def respond(self, slot: TxSlot, status: int) -> None:
        """Answer the guest's request; nothing of the slot may be used afterwards."""
        ...


class BackendKernel(Protocol):
    """What a strategy may ask of the backend domain."""

    hypervisor: Hypervisor
    slab: HeadSlab
    pool: PagePool
    effects: list[Effect]
    now: Time

    def wake_at(self, at: Time) -> None:
        """Call the strategy's `woken` at this time (ns); a later order replaces an earlier one."""
        ...

    def copied(self, count: int) -> None:
        """Charge the backend for *count* payload bytes that it copied."""
        ...


class BackendStrategy:
    """The door: give `admit`, and `settle` if anything comes back later. One instance serves all guests of a host."""

    name = "unnamed"
    summary = "says nothing about itself"

    def __init__(self, kernel: BackendKernel) -> None:
        self.kernel = kernel

    def admit(self, vif: Vif, slots: list[TxSlot]) -> SkBuff | None:
        """Make a socket buffer of a packet's slots; None if a grant was bad, after every slot has been given back."""
        raise NotImplementedError

    def settle(self, vif: Vif) -> None:
        """The burst is over: answer what can be answered now (`vif.released` says what the stack let go of)."""

    def may_take(self, vif: Vif) -> bool:
        """Say whether netback may take one more packet off this guest's ring; asked before each."""
        return True

    def woken(self, now: Time) -> None:
        """The time that the strategy gave to `kernel.wake_at` has come."""

    def in_flight(self, vif: Vif | None = None) -> int:
        """Return how many packets of one guest, or of all, the stack still holds (netback's `inflight_packets`).

        An interface is disconnected only when nothing of it is in flight.
        """
        return 0

    def forget(self, vif: Vif) -> None:
        """netback died: unmap by force whatever of this guest is still mapped; nothing is answered any more."""

    def left_over(self) -> dict[str, int]:
        """Return what was never given back at the end, by what it is; zeros are nothing."""
        return {"packets that the stack never gave back": self.in_flight()}

    def counters(self) -> dict[str, int]:
        """Return what the strategy has counted for itself, by name (`tx_zerocopy_sent`, say)."""
        return {}


def copy_header(kernel: BackendKernel, vif: Vif, slot: TxSlot, limit: int) -> SkBuff | None:
    """Copy the first bytes of a packet into a new socket buffer's linear area (GNTTABOP_copy)."""
    size = slot.size
    if size > limit:
        size = limit
    status, data = kernel.hypervisor.copy_from_grant(DOMAIN_0, vif.domid, slot.gref, slot.offset, size)
    if status != GNTST_okay:
        return None
    skb = alloc_skb(kernel.slab)
    skb_put(skb, data)
    slot.offset += size
    slot.size -= size
    return skb


class GrantCopy(BackendStrategy):
    """Upstream's first netback (2.6.39): copy everything, answer at once, and hold nothing of the guest."""

    name = "grant-copy"
    summary = "the hypervisor copies the packet into the backend's pages and the guest is answered at once"

    def admit(self, vif: Vif, slots: list[TxSlot]) -> SkBuff | None:
        """Copy the header and every fragment: from here on the guest can change nothing of this packet."""
        kernel = self.kernel
        skb = copy_header(kernel, vif, slots[0], XEN_NETBACK_TX_COPY_LEN)
        if skb is None:
            return None
        for index, slot in enumerate(slots):
            if not slot.size:
                continue
            status, data = kernel.hypervisor.copy_from_grant(DOMAIN_0, vif.domid, slot.gref, slot.offset, slot.size)
            if status != GNTST_okay:
                kfree_skb(skb)
                return None
            page = kernel.pool.alloc()
            page.memory.write(page.frame, 0, data)
            skb.shinfo.frags.append(Frag(page, 0, slot.size))  # up to 18: Linux would hang the last on a frag_list
            if index:  # the first slot is the linear area: headers, which every strategy copies
                kernel.copied(slot.size)
        for slot in slots:
            vif.respond(slot, NETIF_RSP_OKAY)
        return skb


class Loan(msgspec.Struct, frozen=True, eq=False):
    """The pages of one packet while the stack has them: whose they are, and the slots to answer when they come back."""

    vif: Vif
    slots: list[TxSlot]


class DevZerocopy(BackendStrategy):
    """netback since 2014: map the guest's pages into the packet, and answer when its data block is gone.

    Source: drivers/net/xen-netback/netback.c. Whoever would keep the pages (a clone, a tap, a local socket) must copy
    them first, and the callback says so. Unmapping is batched, and always precedes the answer.
    """

    name = "dev-zerocopy"
    summary = "maps the guest's pages and answers when the packet's data block dies; clones and taps must copy"

    def __init__(self, kernel: BackendKernel) -> None:
        super().__init__(kernel)
        self.sent = 0
        self.success = 0
        self.fail = 0
        self.idle_pages: list[Page] = []

    def admit(self, vif: Vif, slots: list[TxSlot]) -> SkBuff | None:
        """Copy the header, map the rest, and hang the loan onto the packet."""
        kernel = self.kernel
        first = slots[0]
        skb = copy_header(kernel, vif, first, XEN_NETBACK_TX_COPY_LEN)
        if skb is None:
            return None
        if not first.size and len(slots) == 1:  # an acknowledgement, say: nothing is left to lend
            vif.respond(first, NETIF_RSP_OKAY)
            return skb
        lent = slots if first.size else slots[1:]
        shinfo = skb.shinfo
        for slot in lent:
            page = self._map(vif, slot)
            if page is None:
                self._give_up(skb, lent)
                return None
            shinfo.frags.append(Frag(page, slot.offset, slot.size))
        if not first.size:
            vif.respond(first, NETIF_RSP_OKAY)
        if lent:
            shinfo.shared_frag = True
            shinfo.ubuf = UbufInfo(self, Loan(vif, lent))
            self.sent += 1
        return skb

    def zerocopy_complete(self, token: object, success: bool) -> None:
        """xenvif_zerocopy_callback: put the slots on the dealloc queue; unmapping needs another context."""
        assert isinstance(token, Loan)
        if success:
            self.success += 1
        else:
            self.fail += 1
        token.vif.released += token.slots

    def settle(self, vif: Vif) -> None:
        """xenvif_dealloc_kthread: unmap in a batch, then answer slot by slot."""
        released = vif.released
        if not released:
            return
        vif.released = []
        self._unmap(released)
        for slot in released:
            vif.respond(slot, NETIF_RSP_OKAY)

    def in_flight(self, vif: Vif | None = None) -> int:
        """Packets sent up and not yet called back: sent == success + fail at quiescence."""
        return self.sent - self.success - self.fail

    def _map(self, vif: Vif, slot: TxSlot) -> Page | None:
        _, slot.handle, memory, frame = self.kernel.hypervisor.map_grant_ref(DOMAIN_0, vif.domid, slot.gref, READ_ONLY)
        if memory is None:
            return None
        # Two references, the slot's own and the packet's: the stack's last put never frees the struct page.
        if self.idle_pages:
            page = self.idle_pages.pop()
            page.memory, page.frame, page.refs = memory, frame, 2
        else:
            page = Page(memory, frame, None, 2)
        slot.page = page
        return page

    def _unmap(self, slots: list[TxSlot]) -> None:
        statuses = self.kernel.hypervisor.unmap_batch(DOMAIN_0, [slot.handle for slot in slots])
        assert not any(statuses), "netback unmapped a handle that it does not hold"
        for slot in slots:
            page = slot.page
            assert page is not None
            unmap_page(page)
            if page.refs == 1:
                self.idle_pages.append(page)

    def _give_up(self, skb: SkBuff, lent: list[TxSlot]) -> None:
        """One bad grant spoils the packet: unmap what was mapped; the caller answers every slot with an error."""
        kfree_skb(skb)
        self._unmap([slot for slot in lent if slot.page is not None])
