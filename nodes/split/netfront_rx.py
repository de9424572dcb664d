"""The receive half of netfront: frames of the guest that the backend may fill (drivers/net/xen-netfront.c).

A buffer is granted, offered, filled by the backend with a grant copy, read, and offered again under the same reference.
"""

from lateack.nodes.errors import MemoryExhausted
from lateack.nodes.memory.grants import GrantTable
from lateack.nodes.memory.netif import NETRXF_more_data, RxFrontRing
from lateack.nodes.memory.pages import PAGE_SHIFT, PAGE_SIZE, Memory, Page, PagePool, put_page
from lateack.nodes.memory.ring import init_shared_ring
from lateack.nodes.node import Effect
from lateack.nodes.split.xenbus import DOMAIN_0, RX_RING_FRAME

TOO_MANY_RESPONSES = "the backend claims more responses than the ring has slots"


class ReceiveBuffers:
    """The receive half of one netfront; `Netfront` adds the half that sends."""

    __slots__ = (
        "effects", "grants", "guest", "memory", "pool", "rx", "rx_grefs", "rx_offered", "rx_pages", "rx_target",
        "withheld",
    )  # fmt: skip

    def __init__(
        self, guest: str, memory: Memory, grants: GrantTable, pool: PagePool, effects: list[Effect], rx_target: int
    ) -> None:
        self.guest = guest
        self.memory = memory
        self.grants = grants
        self.pool = pool
        self.effects = effects
        self.rx_target = rx_target
        self.rx_offered = 0
        self.withheld: list[int] | None = None  # receive buffers that a gate keeps from being offered again

    def notify(self) -> None:
        """Kick the backend's event channel."""
        raise NotImplementedError

    def fail(self, reason: str) -> None:
        """Stop using a backend that broke the rules."""
        raise NotImplementedError

    def start_rx_ring(self) -> None:
        """Make the ring empty; whatever was in it is forgotten."""
        init_shared_ring(self.memory, RX_RING_FRAME)
        self.rx = RxFrontRing(self.memory, RX_RING_FRAME)
        self.rx_pages: list[Page | None] = [None] * self.rx.size
        self.rx_grefs = [0] * self.rx.size

    def receive(self, waiting: int) -> list[bytes]:
        """Copy out what arrived and offer each buffer again (xennet_poll)."""
        rx, grants, view = self.rx, self.grants, self.memory.view
        frames: list[bytes] = []
        parts: list[bytes] = []
        while waiting:
            if waiting > rx.size:
                self.fail(TOO_MANY_RESPONSES)
                return frames
            for _ in range(waiting):
                request_id, offset, flags, status = rx.get_response()
                page = self.rx_pages[request_id] if request_id < rx.size else None
                if page is None or not grants.withdraw(self.rx_grefs[request_id]):
                    self.fail("a receive buffer came back that is not whole")
                    return frames
                if status > 0 and offset + status <= PAGE_SIZE:
                    start = (page.frame << PAGE_SHIFT) + offset
                    parts.append(view[start : start + status].tobytes())
                if parts and not flags & NETRXF_more_data:
                    frames.append(parts[0] if len(parts) == 1 else b"".join(parts))
                    parts = []
                if self.withheld is not None:
                    self.withheld.append(request_id)
                    continue
                gref = self.rx_grefs[request_id]
                grants.lend_again(gref)
                rx.put_request(request_id, gref)
            waiting = rx.final_check_for_responses()
        if rx.push_requests():
            self.notify()
        return frames

    def withhold(self) -> None:
        """From now on, do not offer again what the guest has received: it is too busy to look after its buffers."""
        if self.withheld is None:
            self.withheld = []

    def offer_again(self) -> None:
        """Offer everything that was withheld, and go on as usual."""
        withheld, self.withheld = self.withheld or [], None
        for request_id in withheld:
            self.grants.lend_again(self.rx_grefs[request_id])
            self.rx.put_request(request_id, self.rx_grefs[request_id])
        if self.rx.push_requests():
            self.notify()

    def offer_buffers(self) -> None:
        """Offer the first receive buffers, as many as there are frames and grants for."""
        self.rx_offered = 0
        for request_id in range(min(self.rx_target, self.rx.size)):
            page = None
            try:
                page = self.pool.alloc()
                self._offer(request_id, page)
            except MemoryExhausted:
                # Some are still mapped by the last backend. Linux tries again by a timer (rx_refill_timer).
                if page is not None:
                    put_page(page)
                break
            self.rx_offered += 1
        self.rx.push_requests()

    def _offer(self, request_id: int, page: Page) -> None:
        gref = self.rx_grefs[request_id] = self.grants.grant_access(DOMAIN_0, page.frame, False)
        self.rx_pages[request_id] = page
        self.rx.put_request(request_id, gref)
