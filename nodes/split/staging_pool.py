"""netfront's half of staging grants: pages that are lent once, into which every packet is copied before it is sent.

    connected -> how many may I keep mapped? -> grant them, list them, have them mapped -> copy packets into them

While the pool is not there yet, or is used up, packets go by grants of their own, as without it. The packet is free
as soon as it is copied: from there on it is a page of the pool that waits for the backend's answer, and the owner of
the packet's pages cannot tell.

Source: xen's docs/misc/netif-staging-grants.pandoc (revision 4). It lets a frontend recycle lent pages instead of
copying, if it sends from a fixed set of buffers (netmap, DPDK); an NFS client's pages come from its applications, so
ours copies, as Linux's series did. The document gives every queue pages for transmit and receive; ours are for
transmit alone.
"""

from lateack.nodes.errors import MemoryExhausted
from lateack.nodes.memory.grants import GNTTAB_NR_RESERVED_ENTRIES, GrantTable
from lateack.nodes.memory.netif import (
    TX_SLOT_SIZE,
    XEN_NETIF_GSO_TYPE_TCPV4,
    NETTXF_csum_blank,
    NETTXF_data_validated,
    NETTXF_extra_info,
    NETTXF_more_data,
    TxFrontRing,
)
from lateack.nodes.memory.pages import PAGE_SHIFT, Memory, Page, PagePool, put_page
from lateack.nodes.memory.ring import init_shared_ring, ring_size
from lateack.nodes.records import LightRecord
from lateack.nodes.split.control_ring import (
    GREF_LIST_MAX,
    NETIF_GREF,
    XEN_NETIF_CTRL_STATUS_SUCCESS,
    XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING,
    XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE,
    CtrlFrontRing,
    XEN_NETIF_CTRLF_GREF_readonly,
)
from lateack.nodes.split.xenbus import DOMAIN_0, EVENT_CHANNEL
from lateack.nodes.stack.lifetime import frag_view
from lateack.nodes.stack.skb import SkBuff, kfree_skb, skb_linear

STAGING_PAGES_MAX = 128
"""Pages of a pool at most: two full windows of the workloads here, and the grant table has room for no more."""

KEPT_FREE = 4
"""A pool takes at most one in so many of the kernel's free pages, so that a small guest keeps some for its packets."""

TX_SLOTS = ring_size(TX_SLOT_SIZE)
"""Requests that a transmit ring may hold, each of which may still need a reference of its own."""

QUEUE = 0


class StagingPage(LightRecord):
    """One page of the pool and the reference under which the backend keeps it mapped."""

    page: Page
    gref: int


class StagingPool:
    """The pages of one interface that the backend keeps mapped, and the control ring by which it was asked to."""

    __slots__ = (
        "busy", "copied_bytes", "free", "grants", "list_page", "live", "memory", "next_id", "pool", "ring", "ring_page",
        "size",
    )  # fmt: skip

    def __init__(self, memory: Memory, grants: GrantTable, pool: PagePool) -> None:
        """Lend a page for the control ring; the pages of the pool follow when the backend has said how many.

        Raises MemoryExhausted where no page or no reference is left.
        """
        self.memory = memory
        self.grants = grants
        self.pool = pool
        self.ring_page = self._lend(False)
        init_shared_ring(memory, self.ring_page.page.frame)
        self.ring = CtrlFrontRing(memory, self.ring_page.page.frame)
        self.list_page: StagingPage | None = None
        self.free: list[StagingPage] = []
        self.busy: dict[int, StagingPage] = {}
        self.live = False
        self.size = 0
        self.next_id = 0
        self.copied_bytes = 0

    def keys(self) -> dict[str, str | int]:
        """Return what to publish; the control ring shares the others' event channel, where Linux binds one more."""
        return {"ctrl-ring-ref": self.ring_page.gref, "event-channel-ctrl": EVENT_CHANNEL}

    # --- control ------------------------------------------------------------------------------------------------------

    def open(self) -> bool:
        """The backend is connected, and not before does it serve the control ring: ask; True to kick it."""
        return self._ask(XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE, QUEUE)

    def interrupt(self) -> bool:
        """Take the answers on the control ring; True to kick the backend."""
        ring = self.ring
        kick = False
        waiting = ring.unconsumed_responses()
        while 0 < waiting <= ring.size:
            for _ in range(waiting):
                _, kind, status, data = ring.get_response()
                kick |= self._answered(kind, status, data)
            waiting = ring.final_check_for_responses()
        return kick

    def _ask(self, kind: int, *data: int) -> bool:
        self.ring.put_request(self.next_id, kind, *data)
        self.next_id = (self.next_id + 1) & 0xFFFF
        return self.ring.push_requests()

    def _answered(self, kind: int, status: int, data: int) -> bool:
        """Go on to the next step; a backend that refuses anything is used without a pool."""
        good = status == XEN_NETIF_CTRL_STATUS_SUCCESS
        if kind == XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE and good and not self.size:
            return self._fill(min(data, self._affordable()))
        if kind == XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING and self.list_page is not None:
            if self.grants.end_access(self.list_page.gref):  # else it goes with the pool
                put_page(self.list_page.page)
                self.list_page = None
            self.live = good
        return False

    def _affordable(self) -> int:
        """Return how many pages the guest can spare: each needs a frame, and a reference that no ring slot may need."""
        grants = self.grants
        refs = grants.nr_refs - GNTTAB_NR_RESERVED_ENTRIES - grants.in_use
        return min(STAGING_PAGES_MAX, GREF_LIST_MAX, refs - TX_SLOTS - 1, self.pool.free_count // KEPT_FREE - 1)

    def _fill(self, count: int) -> bool:
        """Lend *count* pages, write the list of their references, and have them mapped."""
        if count <= 0:
            return False
        self.size = count
        self.free = [self._lend(True) for _ in range(count)]
        self.list_page = self._lend(False)
        base = self.list_page.page.frame << PAGE_SHIFT
        for number, staged in enumerate(self.free):
            NETIF_GREF.pack_into(
                self.memory.buffer, base + number * NETIF_GREF.size, staged.gref, XEN_NETIF_CTRLF_GREF_readonly, 0
            )
        return self._ask(XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING, QUEUE, self.list_page.gref, count)

    def _lend(self, readonly: bool) -> StagingPage:
        page = self.pool.alloc()
        try:
            return StagingPage(page, self.grants.grant_access(DOMAIN_0, page.frame, readonly))
        except MemoryExhausted:
            put_page(page)
            raise

    # --- transmit -----------------------------------------------------------------------------------------------------

    def send(self, skb: SkBuff, tx: TxFrontRing, free_ids: list[int]) -> bool:
        """Copy a packet into the pool, describe it in the ring, and free it; False, and nothing done, without room.

        The linear bytes get a page and so does each fragment: a packet takes as many slots as without a pool.
        """
        shinfo = skb.shinfo
        frags = shinfo.frags
        if len(self.free) <= len(frags):
            return False
        flags = NETTXF_csum_blank | NETTXF_data_validated if skb.needs_checksum else NETTXF_data_validated
        if shinfo.gso_size:
            flags |= NETTXF_extra_info
        if frags:
            flags |= NETTXF_more_data
        linear = skb_linear(skb)
        paged = sum([frag.size for frag in frags])
        self._slot(linear, flags, len(linear) + paged, tx, free_ids)
        if shinfo.gso_size:
            tx.put_extra_gso(shinfo.gso_size, XEN_NETIF_GSO_TYPE_TCPV4)
        left = len(frags)
        for frag in frags:
            left -= 1
            self._slot(frag_view(frag), NETTXF_more_data if left else 0, frag.size, tx, free_ids)
        self.copied_bytes += paged
        kfree_skb(skb)
        return True

    def charge(self) -> int:
        """Return how many payload bytes the guest has copied into the pool since it was last asked."""
        copied, self.copied_bytes = self.copied_bytes, 0
        return copied

    def answered(self, request_id: int) -> bool:
        """The backend has answered a request: its page can be used again; False if the request was not the pool's."""
        staged = self.busy.pop(request_id, None)
        if staged is None:
            return False
        self.free.append(staged)
        return True

    def _slot(self, data: bytes | memoryview, flags: int, size: int, tx: TxFrontRing, free_ids: list[int]) -> None:
        request_id = free_ids.pop()
        staged = self.busy[request_id] = self.free.pop()
        self.memory.write(staged.page.frame, 0, data)
        tx.put_request(staged.gref, 0, flags, request_id, size)

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> list[StagingPage]:
        """The interface goes: give up every page, and return them all; the backend may still have some mapped."""
        listed = [] if self.list_page is None else [self.list_page]
        given_up = [*self.free, *self.busy.values(), self.ring_page, *listed]
        self.live = False
        self.free, self.busy, self.list_page = [], {}, None
        return given_up

    def held(self) -> int:
        """Return how many pages, and as many references, an open pool holds: its own, the ring, a list under way."""
        return len(self.free) + len(self.busy) + (self.list_page is not None) + 1
