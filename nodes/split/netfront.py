"""netfront: the guest's half of the network driver (drivers/net/xen-netfront.c).

For every piece of a packet it grants the page that holds it, puts a request into the transmit ring, and keeps the
packet until the backend has answered. What that answer means is the backend's strategy: "copied" or "nobody here uses
it".
"""

from collections import deque

from lateack.nodes.errors import MemoryExhausted
from lateack.nodes.facts import FrameDropped, FrontendBroken
from lateack.nodes.memory.grants import GrantTable
from lateack.nodes.memory.netif import (
    NETIF_RSP_NULL,
    XEN_NETIF_GSO_TYPE_TCPV4,
    NETTXF_csum_blank,
    NETTXF_data_validated,
    NETTXF_extra_info,
    NETTXF_more_data,
    TxFrontRing,
)
from lateack.nodes.memory.pages import PAGE_SHIFT, PAGE_SIZE, Memory, PagePool
from lateack.nodes.memory.ring import INDEX_MASK, init_shared_ring
from lateack.nodes.messages import Notify
from lateack.nodes.node import Effect, Send
from lateack.nodes.split.netfront_rx import TOO_MANY_RESPONSES, ReceiveBuffers
from lateack.nodes.split.staging_pool import StagingPool
from lateack.nodes.split.xenbus import (
    DOMAIN_0,
    EVENT_CHANNEL,
    RX_RING_FRAME,
    TX_RING_FRAME,
    frontend_keys,
)
from lateack.nodes.stack.skb import SkBuff, kfree_skb

PAGE_MASK = PAGE_SIZE - 1
PARTIAL = NETTXF_csum_blank | NETTXF_data_validated


class Netfront(ReceiveBuffers):
    """The device under a guest's stack."""

    __slots__ = (
        "broken", "free_ids", "kick", "notifications", "queue", "queue_max", "ring_grefs", "staged_bytes", "staging",
        "tx", "tx_grefs", "tx_skbs", "unpushed",
    )  # fmt: skip

    def __init__(
        self,
        guest: str,
        backend: str,
        memory: Memory,
        grants: GrantTable,
        pool: PagePool,
        effects: list[Effect],
        *,
        rx_target: int,
        queue_max: int,
    ) -> None:
        super().__init__(guest, memory, grants, pool, effects, rx_target)
        self.kick = Send(backend, Notify(EVENT_CHANNEL))
        self.queue_max = queue_max
        self.queue: deque[SkBuff] = deque()
        self.unpushed = False
        self.broken = False
        self.notifications = 0
        self.staging: StagingPool | None = None
        self.staged_bytes = 0  # that earlier pools have copied
        self.ring_grefs: list[int] = []  # while it is connected
        self.start_rings()

    def start_rings(self) -> None:
        """Make both rings empty; whatever was in them is forgotten."""
        init_shared_ring(self.memory, TX_RING_FRAME)
        self.tx = TxFrontRing(self.memory, TX_RING_FRAME)
        self.free_ids = list(range(self.tx.size - 1, -1, -1))
        self.tx_skbs: list[SkBuff | None] = [None] * self.tx.size
        self.tx_grefs = [0] * self.tx.size
        self.start_rx_ring()

    def connect(self, mac: bytes) -> dict[str, str | int]:
        """Grant both rings, offer the first receive buffers, and return the keys to publish."""
        grants = self.grants
        self.ring_grefs = [grants.grant_access(DOMAIN_0, frame, False) for frame in (TX_RING_FRAME, RX_RING_FRAME)]
        tx_ref, rx_ref = self.ring_grefs
        if not self.free_ids:
            self.free_ids = list(range(self.tx.size - 1, -1, -1))
        self.offer_buffers()
        self._send_queued()
        return frontend_keys(mac, tx_ref, rx_ref)

    def offer_staging(self) -> dict[str, str | int]:
        """The backend keeps pages mapped for those who ask: make a control ring, and return the keys to publish.

        Without a page or a reference for it, the device is used as without the offer.
        """
        try:
            self.staging = StagingPool(self.memory, self.grants, self.pool)
        except MemoryExhausted:
            return {}
        return self.staging.keys()

    def charge(self) -> int:
        """Return how many payload bytes were copied into pools since this was last asked."""
        copied, self.staged_bytes = self.staged_bytes, 0
        return copied if self.staging is None else copied + self.staging.charge()

    def connected(self) -> None:
        """The backend is there: now it serves the control ring, if there is one."""
        if self.staging is not None and self.staging.open():
            self.notify()

    # --- transmit -----------------------------------------------------------------------------------------------------

    def xmit(self, skb: SkBuff, now: int) -> None:
        """Take over a packet: into the ring if it fits, else into the queue in front of it."""
        if self.broken:
            kfree_skb(skb)
        elif self.queue or not self._fits(skb):
            if len(self.queue) >= self.queue_max:
                self.effects.append(FrameDropped(f"{self.guest}.netfront", "the transmit queue is full"))
                kfree_skb(skb)
            else:
                self.queue.append(skb)
        else:
            self._put(skb)

    def flush(self) -> None:
        """End of a burst: publish the new requests and kick the backend if it asked for that."""
        if self.unpushed:
            self.unpushed = False
            if self.tx.push_requests():
                self.notify()

    def pending(self) -> int:
        """Return how many requests the backend has not answered yet, and packets that wait in front of the ring."""
        return self.unanswered() + len(self.queue)

    def unanswered(self) -> int:
        """Return how many requests the backend has not answered yet."""
        return self.tx.size - len(self.free_ids) if self.ring_grefs else 0

    def lent(self) -> int:
        """Return how many grants an idle device holds: its rings, and the receive buffers that it has offered."""
        return len(self.ring_grefs) + self.rx_offered

    def _send_queued(self) -> None:
        while self.queue and self._fits(self.queue[0]):
            self._put(self.queue.popleft())

    def _fits(self, skb: SkBuff) -> bool:
        slots = 1 + len(skb.shinfo.frags) + (skb.shinfo.gso_size > 0)
        # An extra slot takes a place in the ring but no id, so both are asked.
        return slots <= len(self.free_ids) and slots <= self.tx.free_requests()

    def _put(self, skb: SkBuff) -> None:
        """Grant every page of the packet and describe it in the ring, header first (xennet_start_xmit)."""
        staging = self.staging
        if staging is not None and staging.live and staging.send(skb, self.tx, self.free_ids):
            self.unpushed = True
            return
        shinfo = skb.shinfo
        frags = shinfo.frags
        gso_size = shinfo.gso_size
        data = skb.data
        size = skb.tail - data
        flags = PARTIAL if skb.needs_checksum else NETTXF_data_validated
        if frags:
            flags |= NETTXF_more_data
            skb.users += len(frags)
            for frag in frags:
                size += frag.size
        if gso_size:
            flags |= NETTXF_extra_info
        try:
            self._slot(skb, data >> PAGE_SHIFT, data & PAGE_MASK, flags, size)
            if gso_size:
                self.tx.put_extra_gso(gso_size, XEN_NETIF_GSO_TYPE_TCPV4)
            left = len(frags)
            for frag in frags:
                left -= 1
                self._slot(skb, frag.page.frame, frag.offset, NETTXF_more_data if left else 0, frag.size)
        except MemoryExhausted:
            self._take_out(skb)
            return
        self.unpushed = True

    def _take_out(self, skb: SkBuff) -> None:
        """No grant is left for the rest of a packet: take it out of the ring, where nobody has seen it, and drop it.

        Linux cannot get here: it sets grants aside for the whole ring when it connects (gnttab_alloc_grant_references).
        """
        mine = [request_id for request_id, other in enumerate(self.tx_skbs) if other is skb]
        slots = len(mine) + (1 if mine and skb.shinfo.gso_size else 0)
        self.tx.req_prod_pvt = (self.tx.req_prod_pvt - slots) & INDEX_MASK
        for request_id in mine:
            self.tx_skbs[request_id] = None
            self.grants.end_access(self.tx_grefs[request_id])
            self.free_ids.append(request_id)
        skb.users -= len(skb.shinfo.frags)
        self.effects.append(FrameDropped(f"{self.guest}.netfront", "no grant reference is left"))
        kfree_skb(skb)

    def _slot(self, skb: SkBuff, frame: int, offset: int, flags: int, size: int) -> None:
        gref = self.grants.grant_access(DOMAIN_0, frame, True)
        request_id = self.free_ids.pop()
        self.tx_skbs[request_id] = skb
        self.tx_grefs[request_id] = gref
        self.tx.put_request(gref, offset, flags, request_id, size)

    # --- interrupt ----------------------------------------------------------------------------------------------------

    def interrupt(self, now: int) -> list[bytes]:
        """The event channel fired: free what was answered and return the frames that arrived."""
        if self.broken:
            return []
        if self.staging is not None and self.staging.interrupt():
            self.notify()
        waiting = self.tx.unconsumed_responses()
        if waiting:
            self._collect_responses(waiting)
            if self.broken:
                return []
        if self.queue:
            self._send_queued()
        waiting = self.rx.unconsumed_responses()
        return self.receive(waiting) if waiting else []

    def _collect_responses(self, waiting: int) -> None:
        """Take back the grant of each answered request and let go of its packet (xennet_tx_buf_gc)."""
        tx, tx_skbs, grants = self.tx, self.tx_skbs, self.grants
        while waiting:
            if waiting > tx.size:
                return self.fail(TOO_MANY_RESPONSES)
            for _ in range(waiting):
                request_id, status = tx.get_response()
                if status == NETIF_RSP_NULL:
                    continue
                skb = tx_skbs[request_id] if request_id < tx.size else None
                if skb is None and self.staging is not None and self.staging.answered(request_id):
                    self.free_ids.append(request_id)
                    continue
                if skb is None:
                    return self.fail("a response names a request that is not outstanding")
                if not grants.end_access(self.tx_grefs[request_id]):
                    return self.fail("a response came while the backend still has the page mapped")
                tx_skbs[request_id] = None
                self.free_ids.append(request_id)
                kfree_skb(skb)
            waiting = tx.final_check_for_responses()

    def notify(self) -> None:
        """Kick the backend's event channel."""
        self.notifications += 1
        self.effects.append(self.kick)

    def fail(self, reason: str) -> None:
        """Stop using a backend that broke the rules (XSA-396: no crash, no further use)."""
        self.broken = True
        self.effects.append(FrontendBroken(self.guest, reason))
