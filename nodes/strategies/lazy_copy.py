"""Lazy copy: foreign pages that linger in the host are copied, so that a guest waits a second at most, nearly always.

Source: the Linux tree that came with Xen, May 2007 (96469475a6 in netback, 403542f910 for what a card has mapped,
38d075a82c for the hypercall), after an idea of Herbert Xu's.
"""

from lateack.nodes.facts import LingeringCopied
from lateack.nodes.memory.hypervisor import GNTST_okay
from lateack.nodes.memory.hypervisor_moves import unmap_and_replace
from lateack.nodes.memory.pages import PAGE_SIZE
from lateack.nodes.node import MS, S, Time
from lateack.nodes.split.xenbus import DOMAIN_0
from lateack.nodes.stack.foreign_page import ForeignPage
from lateack.nodes.strategies.backend import BackendKernel, Vif
from lateack.nodes.strategies.foreign import DEALLOC_QUEUED, PageForeign, PendingRequest

COPY_AFTER = 500 * MS
"""Age from which a page in the stack is copied whenever netback runs (HZ / 2)."""

LOOK_AFTER = S
"""Age of the oldest page at which netback runs on purpose (HZ): a page is copied half to one second after it came."""


class LazyCopy(PageForeign):
    """Foreign pages of 2007: what lingers in the stack is copied, its grant released, and the guest answered.

    The packet that holds the page never notices: the address that it knows shows a local copy from then on
    (GNTTABOP_unmap_and_replace). A page that a card has mapped for DMA cannot be moved under it, and is waited for.

    As first committed, the grant of such a page was released all the same, and only the withheld answer protected the
    guest; later trees look before they touch the mapping, and so do we. Linux marked a page when a card mapped it and
    cleared the mark only when netback used the page again. We ask whether a card has it mapped at this moment. Linux
    also moves its timer at every run; ours stands until it fires and then looks for the oldest, within the same bounds.
    """

    name = "lazy-copy"
    summary = "page-foreign, but pages that linger are copied within a second"

    def __init__(self, kernel: BackendKernel) -> None:
        super().__init__(kernel)
        # Numbers of the requests in the stack, oldest first: the order in which they entered the dictionary.
        self.in_use: dict[int, None] = {}
        self.alarm: Time | None = None
        self.copied_pages = 0

    def settle(self, vif: Vif) -> None:
        """Unmap and answer what came back; netback runs, so what has been kept too long is looked at right after."""
        super().settle(vif)
        now = self.kernel.now
        for index in self.in_use:
            if now - self.requests[index].since >= COPY_AFTER and self.alarm != now:
                self._wake(now)
            return

    def woken(self, now: Time) -> None:
        """Copy what has been kept too long, and look again when the oldest of the others is a second old."""
        self.alarm = None
        self._copy_old(now)
        self._arm()

    def pending(self) -> int:
        """Return how many pages will be copied if they are not given back before."""
        return len(self.in_use)

    def counters(self) -> dict[str, int]:
        """Return how many pages were copied because they lingered."""
        return {"lingering_copied": self.copied_pages}

    def _enters(self, request: PendingRequest) -> None:
        super()._enters(request)
        self.in_use[request.page.index] = None
        if self.alarm is None:
            self._arm()

    def _give_back(self, request: PendingRequest, index: int) -> None:
        self.in_use.pop(index, None)
        super()._give_back(request, index)

    def _arm(self) -> None:
        for index in self.in_use:
            # What could not be copied for want of memory is older already, and tried again after a while.
            self._wake(max(self.requests[index].since + LOOK_AFTER, self.kernel.now + COPY_AFTER))
            return

    def _wake(self, at: Time) -> None:
        self.alarm = at
        self.kernel.wake_at(at)

    def _copy_old(self, now: Time) -> None:
        """Copy the pages that are older than half a second, the oldest first."""
        for index in list(self.in_use):
            request = self.requests[index]
            if now - request.since < COPY_AFTER:
                return
            if request.state == DEALLOC_QUEUED:
                continue  # -ENOENT: it is on its way home as it is
            busy = self.kernel.dma_mapped(request.page)
            if not busy and not self.kernel.pool.free_count:
                return  # -ENOMEM: try again the next time
            self._record(request, now, busy)
            if busy:
                del self.in_use[index]  # -EBUSY: answered when it is really freed, and never tried again
            else:
                self._copy(request)
                self._answer(request)

    def _record(self, request: PendingRequest, now: Time, busy: bool) -> None:
        assert request.vif is not None
        waited = now - request.since
        self.kernel.effects.append(LingeringCopied(request.vif.guest, request.page.frame, waited, busy))

    def _copy(self, request: PendingRequest) -> None:
        """gnttab_copy_grant_page: the packets' page shows a copy from now on, and the request gets another page."""
        kernel, page, slot = self.kernel, request.page, request.slot
        assert page.refs > 0 and slot is not None
        local = kernel.pool.alloc()
        local.memory.write(local.frame, 0, page.memory.window(page.frame, 0, PAGE_SIZE))
        status = unmap_and_replace(kernel.hypervisor, DOMAIN_0, slot.handle, page, local)
        assert status == GNTST_okay, "netback replaced a mapping that it does not hold"
        page.copy = local
        request.page = ForeignPage(page.index, self)
        self.copied_pages += 1
        kernel.copied(PAGE_SIZE)
