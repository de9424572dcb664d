"""netfront: the guest's half of the network driver (drivers/net/xen-netfront.c).

For every piece of a packet it grants the page that holds it, puts a request into the transmit ring, and keeps the
packet until the backend has answered. What that answer means is the backend's strategy: "copied" or "nobody here uses
it".
"""

from collections import deque

from lateack.nodes.facts import FrameDropped, FrontendBroken
from lateack.nodes.memory.grants import GrantTable
from lateack.nodes.memory.netif import (
    NETIF_RSP_NULL,
    XEN_NETIF_GSO_TYPE_TCPV4,
    NETRXF_more_data,
    NETTXF_csum_blank,
    NETTXF_data_validated,
    NETTXF_extra_info,
    NETTXF_more_data,
    RxFrontRing,
    TxFrontRing,
)
from lateack.nodes.memory.pages import PAGE_SHIFT, PAGE_SIZE, Memory, Page, PagePool
from lateack.nodes.memory.ring import init_shared_ring
from lateack.nodes.messages import Notify
from lateack.nodes.node import Effect, Send
from lateack.nodes.split.xenbus import (
    DOMAIN_0,
    EVENT_CHANNEL,
    RX_RING_FRAME,
    TX_RING_FRAME,
    frontend_keys,
)
from lateack.nodes.stack.skb import SkBuff, kfree_skb

PAGE_MASK = PAGE_SIZE - 1
TOO_MANY_RESPONSES = "the backend claims more responses than the ring has slots"
PARTIAL = NETTXF_csum_blank | NETTXF_data_validated


class Netfront:
    """The device under a guest's stack."""

    __slots__ = (
        "broken", "effects", "free_ids", "grants", "guest", "kick", "memory", "notifications", "pool", "queue",
        "queue_max", "rx", "rx_grefs", "rx_offered", "rx_pages", "rx_target", "tx", "tx_grefs", "tx_skbs", "unpushed",
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
        self.guest = guest
        self.memory = memory
        self.grants = grants
        self.pool = pool
        self.effects = effects
        self.kick = Send(backend, Notify(EVENT_CHANNEL))
        self.rx_target = rx_target
        self.queue_max = queue_max
        self.queue: deque[SkBuff] = deque()
        self.unpushed = False
        self.broken = False
        self.notifications = 0
        self.rx_offered = 0
        init_shared_ring(memory, TX_RING_FRAME)
        init_shared_ring(memory, RX_RING_FRAME)
        self.tx = TxFrontRing(memory, TX_RING_FRAME)
        self.rx = RxFrontRing(memory, RX_RING_FRAME)
        self.free_ids = list(range(self.tx.size - 1, -1, -1))
        self.tx_skbs: list[SkBuff | None] = [None] * self.tx.size
        self.tx_grefs = [0] * self.tx.size
        self.rx_pages: list[Page | None] = [None] * self.rx.size
        self.rx_grefs = [0] * self.rx.size

    def connect(self, mac: bytes) -> dict[str, str | int]:
        """Grant both rings, offer the first receive buffers, and return the keys to publish."""
        tx_ref = self.grants.grant_access(DOMAIN_0, TX_RING_FRAME, False)
        rx_ref = self.grants.grant_access(DOMAIN_0, RX_RING_FRAME, False)
        self.rx_offered = min(self.rx_target, self.rx.size)
        for request_id in range(self.rx_offered):
            self._offer(request_id, self.pool.alloc())
        self.rx.push_requests()
        return frontend_keys(mac, tx_ref, rx_ref)

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
                self._notify()

    def pending(self) -> int:
        """Return how many packets the backend has not answered yet."""
        return self.tx.size - len(self.free_ids) + len(self.queue)

    def _fits(self, skb: SkBuff) -> bool:
        slots = 1 + len(skb.shinfo.frags) + (skb.shinfo.gso_size > 0)
        # An extra slot takes a place in the ring but no id, so both are asked.
        return slots <= len(self.free_ids) and slots <= self.tx.free_requests()

    def _put(self, skb: SkBuff) -> None:
        """Grant every page of the packet and describe it in the ring, header first (xennet_start_xmit)."""
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
        self._slot(skb, data >> PAGE_SHIFT, data & PAGE_MASK, flags, size)
        if gso_size:
            self.tx.put_extra_gso(gso_size, XEN_NETIF_GSO_TYPE_TCPV4)
        left = len(frags)
        for frag in frags:
            left -= 1
            self._slot(skb, frag.page.frame, frag.offset, NETTXF_more_data if left else 0, frag.size)
        self.unpushed = True

    def _slot(self, skb: SkBuff, frame: int, offset: int, flags: int, size: int) -> None:
        request_id = self.free_ids.pop()
        gref = self.grants.grant_access(DOMAIN_0, frame, True)
        self.tx_skbs[request_id] = skb
        self.tx_grefs[request_id] = gref
        self.tx.put_request(gref, offset, flags, request_id, size)

    # --- interrupt ----------------------------------------------------------------------------------------------------

    def interrupt(self, now: int) -> list[bytes]:
        """The event channel fired: free what was answered and return the frames that arrived."""
        if self.broken:
            return []
        waiting = self.tx.unconsumed_responses()
        if waiting:
            self._collect_responses(waiting)
            if self.broken:
                return []
        while self.queue and self._fits(self.queue[0]):
            self._put(self.queue.popleft())
        waiting = self.rx.unconsumed_responses()
        return self._receive(waiting) if waiting else []

    def _collect_responses(self, waiting: int) -> None:
        """Take back the grant of each answered request and let go of its packet (xennet_tx_buf_gc)."""
        tx, tx_skbs, grants = self.tx, self.tx_skbs, self.grants
        while waiting:
            if waiting > tx.size:
                return self._break(TOO_MANY_RESPONSES)
            for _ in range(waiting):
                request_id, status = tx.get_response()
                if status == NETIF_RSP_NULL:
                    continue
                skb = tx_skbs[request_id] if request_id < tx.size else None
                if skb is None:
                    return self._break("a response names a request that is not outstanding")
                if not grants.end_access(self.tx_grefs[request_id]):
                    return self._break("a response came while the backend still has the page mapped")
                tx_skbs[request_id] = None
                self.free_ids.append(request_id)
                kfree_skb(skb)
            waiting = tx.final_check_for_responses()

    def _receive(self, waiting: int) -> list[bytes]:
        """Copy out what arrived and offer each buffer again (xennet_poll)."""
        rx, grants, view = self.rx, self.grants, self.memory.view
        frames: list[bytes] = []
        parts: list[bytes] = []
        while waiting:
            if waiting > rx.size:
                self._break(TOO_MANY_RESPONSES)
                return frames
            for _ in range(waiting):
                request_id, offset, flags, status = rx.get_response()
                page = self.rx_pages[request_id] if request_id < rx.size else None
                if page is None or not grants.withdraw(self.rx_grefs[request_id]):
                    self._break("a receive buffer came back that is not whole")
                    return frames
                if status > 0 and offset + status <= PAGE_SIZE:
                    start = (page.frame << PAGE_SHIFT) + offset
                    parts.append(view[start : start + status].tobytes())
                if parts and not flags & NETRXF_more_data:
                    frames.append(parts[0] if len(parts) == 1 else b"".join(parts))
                    parts = []
                gref = self.rx_grefs[request_id]
                grants.lend_again(gref)
                rx.put_request(request_id, gref)
            waiting = rx.final_check_for_responses()
        if rx.push_requests():
            self._notify()
        return frames

    def _offer(self, request_id: int, page: Page) -> None:
        self.rx_pages[request_id] = page
        gref = self.rx_grefs[request_id] = self.grants.grant_access(DOMAIN_0, page.frame, False)
        self.rx.put_request(request_id, gref)

    def _notify(self) -> None:
        self.notifications += 1
        self.effects.append(self.kick)

    def _break(self, reason: str) -> None:
        """Stop using a backend that broke the rules (XSA-396: no crash, no further use)."""
        self.broken = True
        self.effects.append(FrontendBroken(self.guest, reason))
