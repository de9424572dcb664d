"""The backend's strategies: what netback does with a guest's pages, and when it answers the guest.

A strategy sees a packet at two moments: `admit` turns its ring slots into a socket buffer for the host's stack, and
`settle` runs at the end of every burst in which the stack has let go of something, to give it back.
"""

from typing import Protocol

import msgspec

from lateack.nodes.errors import MemoryExhausted
from lateack.nodes.memory.hypervisor import GNTMAP_host_map, GNTMAP_readonly, GNTST_okay, Hypervisor
from lateack.nodes.memory.netif import NETIF_RSP_OKAY
from lateack.nodes.memory.pages import HeadSlab, Page, PagePool
from lateack.nodes.node import Effect, Time
from lateack.nodes.split.gref_mappings import GrefMappings
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
    taken: Time = 0


class Vif(Protocol):
    """One guest's virtual interface, as far as a strategy needs it."""

    guest: str
    domid: int
    released: list[TxSlot]
    staging: GrefMappings | None

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

    def dma_mapped(self, page: Page) -> bool:
        """Say whether a card has this page mapped: a packet that shows it lies in the driver's ring."""
        ...


class BackendStrategy:
    """The door: give `admit`, and `settle` if anything comes back later. One instance serves all guests of a host."""

    name = "unnamed"
    summary = "says nothing about itself"
    rx_drain_ms: int | None = None
    """How long packets for a guest that takes nothing are kept, where the strategy has a mind of its own."""
    wants_staging = False
    """Whether frontends are offered a control ring, through which they lend pages once and for all."""
    room_again = False
    """Set by a strategy whose `may_take` refused somebody and would not now: netback looks into every ring again."""

    def __init__(self, kernel: BackendKernel) -> None:
        self.kernel = kernel

    def admit(self, vif: Vif, slots: list[TxSlot]) -> SkBuff | None:
        """Make a socket buffer of a packet's slots; None if a grant was bad, after every slot has been given back.

        MemoryExhausted costs the guest this packet, as a bad grant does; what was made or mapped before is given back.
        """
        raise NotImplementedError

    def settle(self, vif: Vif) -> None:
        """The burst is over: answer what can be answered now (`vif.released` says what the stack let go of).

        It is also called to make room in the ring and while an interface is disconnected; there may be nothing to do.
        """

    def may_take(self, vif: Vif) -> bool:
        """Say whether netback may take one more packet off this guest's ring; asked before each."""
        return True

    def woken(self, now: Time) -> None:
        """The time that the strategy gave to `kernel.wake_at` has come."""

    def pending(self) -> int:
        """Return how much the strategy will still do by itself at the time that it gave to `kernel.wake_at`."""
        return 0

    def in_flight(self, vif: Vif | None = None) -> int:
        """Return how many packets of one guest, or of all, the stack still holds (netback's `inflight_packets`).

        An interface is disconnected only when nothing of it is in flight.
        """
        return 0

    def forget(self, vif: Vif) -> None:
        """The interface is gone: unmap whatever of this guest is still mapped; nothing is answered any more.

        It runs at every disconnect, when nothing is in flight, and when netback dies, whatever the stack still reads.
        """

    def kept_mappings(self) -> set[int]:
        """Return the handles of mappings that outlive netback, because packets in the stack count for them."""
        return set()

    def left_over(self) -> dict[str, int]:
        """Return what was never given back at the end, by what it is; zeros are nothing."""
        return {"packets in flight": self.in_flight()}

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
            try:
                page = kernel.pool.alloc()
            except MemoryExhausted:
                kfree_skb(skb)
                raise
            page.memory.write(page.frame, 0, data)
            skb.shinfo.frags.append(Frag(page, 0, slot.size))  # up to 18: Linux would hang the last on a frag_list
            if index:  # the first slot is the linear area: headers, which every strategy copies
                kernel.copied(slot.size)
        for slot in slots:
            vif.respond(slot, NETIF_RSP_OKAY)
        return skb


class MappingStrategy(BackendStrategy):
    """What all have in common that map a guest's pages into the packet: `lend` says how the stack gives them back.

    A mapped page begins with two references, netback's own and the packet's, so that the stack's last put does not
    free the struct page (xenvif_fill_frags takes the extra one).
    """

    def __init__(self, kernel: BackendKernel) -> None:
        super().__init__(kernel)
        self.idle_pages: list[Page] = []

    def lend(self, skb: SkBuff, vif: Vif, slots: list[TxSlot]) -> None:
        """The packet shows the pages of *slots*, a fragment for each: see to it that they come back."""
        raise NotImplementedError

    def take_back(self, vif: Vif) -> list[TxSlot]:
        """Return the slots of one guest whose pages the stack still has, and forget them: nobody waits any more."""
        raise NotImplementedError

    def admit(self, vif: Vif, slots: list[TxSlot]) -> SkBuff | None:
        """Copy the header, map the rest, and lend it to the packet."""
        kernel = self.kernel
        first = slots[0]
        skb = copy_header(kernel, vif, first, XEN_NETBACK_TX_COPY_LEN)
        if skb is None:
            return None
        if not first.size and len(slots) == 1:  # an acknowledgement, say: nothing is left to lend
            vif.respond(first, NETIF_RSP_OKAY)
            return skb
        lent = slots if first.size else slots[1:]
        frags = skb.shinfo.frags
        for slot in lent:
            page = self._map(vif, slot)
            if page is None:
                self._give_up(skb, lent)
                return None
            frags.append(Frag(page, slot.offset, slot.size))
        if not first.size:
            vif.respond(first, NETIF_RSP_OKAY)
        # A guest can write to what it has lent at any time, so a stack that must sum by itself copies first. Upstream's
        # netback never says so, nor could those older than the mark (SKBFL_SHARED_FRAG, 2013). It comes to the same
        # there: a device that cannot sum has no fragments (harmonize_features). `host.checksum` has the other case.
        skb.shinfo.shared_frag = True
        self.lend(skb, vif, lent)
        return skb

    def settle(self, vif: Vif) -> None:
        """xenvif_dealloc_kthread: unmap in a batch, then answer slot by slot."""
        released = vif.released
        if not released:
            return
        vif.released = []
        self.unmap(released)
        for slot in released:
            vif.respond(slot, NETIF_RSP_OKAY)

    def forget(self, vif: Vif) -> None:
        """Unmap everything of this guest, whoever still reads it; what the stack gives back later is ignored."""
        slots = vif.released + self.take_back(vif)
        vif.released = []
        if slots:
            self.unmap(slots)

    def unmap(self, slots: list[TxSlot]) -> None:
        """Unmap the pages of *slots* in one batch; a page that the stack still has shows poison from now on."""
        statuses = self.kernel.hypervisor.unmap_batch(DOMAIN_0, [slot.handle for slot in slots])
        assert not any(statuses), "netback unmapped a handle that it does not hold"
        for slot in slots:
            page = slot.page
            assert page is not None
            unmap_page(page)
            if page.refs == 1:
                self.idle_pages.append(page)

    def _map(self, vif: Vif, slot: TxSlot) -> Page | None:
        _, slot.handle, memory, frame = self.kernel.hypervisor.map_grant_ref(DOMAIN_0, vif.domid, slot.gref, READ_ONLY)
        if memory is None:
            return None
        if self.idle_pages:
            page = self.idle_pages.pop()
            page.memory, page.frame, page.refs = memory, frame, 2
        else:
            page = Page(memory, frame, None, 2)
        slot.page = page
        return page

    def _give_up(self, skb: SkBuff, lent: list[TxSlot]) -> None:
        """One bad grant spoils the packet: unmap what was mapped; the caller answers every slot with an error."""
        kfree_skb(skb)
        self.unmap([slot for slot in lent if slot.page is not None])


class Loan(msgspec.Struct, frozen=True, eq=False):
    """The pages of one packet while the stack has them: whose they are, and the slots to answer when they come back."""

    vif: Vif
    slots: list[TxSlot]


class DevZerocopy(MappingStrategy):
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
        self.loans: dict[Loan, None] = {}

    def lend(self, skb: SkBuff, vif: Vif, slots: list[TxSlot]) -> None:
        """Hang the loan onto the packet's data block."""
        loan = Loan(vif, slots)
        skb.shinfo.ubuf = UbufInfo(self, loan)
        self.loans[loan] = None
        self.sent += 1

    def zerocopy_complete(self, token: object, success: bool) -> None:
        """xenvif_zerocopy_callback: put the slots on the dealloc queue; unmapping needs another context."""
        assert isinstance(token, Loan)
        if success:
            self.success += 1
        else:
            self.fail += 1
        if token in self.loans:  # else netback has died since
            del self.loans[token]
            token.vif.released += token.slots

    def in_flight(self, vif: Vif | None = None) -> int:
        """Packets sent up and not yet called back."""
        return len(self.loans) if vif is None else sum(loan.vif is vif for loan in self.loans)

    def take_back(self, vif: Vif) -> list[TxSlot]:
        """Forget the loans of one guest."""
        lost = [loan for loan in self.loans if loan.vif is vif]
        for loan in lost:
            del self.loans[loan]
        return [slot for loan in lost for slot in loan.slots]

    def left_over(self) -> dict[str, int]:
        """sent == success + fail at quiescence; the difference is what the stack has kept."""
        return {"packets in flight": self.sent - self.success - self.fail}

    def counters(self) -> dict[str, int]:
        """What ethtool shows of netback; `fail` says that somebody had to copy, and is no error."""
        return {"tx_zerocopy_sent": self.sent, "tx_zerocopy_success": self.success, "tx_zerocopy_fail": self.fail}
