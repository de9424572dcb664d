"""Grants that their owner wants back while the host still has them mapped (drivers/xen/grant-table.c).

Nobody can revoke a mapping. A driver that goes away used to leak such a page for good; since 569ca5b3f94c Linux keeps
the page and its reference on a list, and looks every second whether the host has let go.
"""

from collections import deque

from lateack.nodes.memory.grants import GrantTable
from lateack.nodes.memory.pages import Page, get_page, put_page

TRIED_PER_PASS = 10
"""Entries that one pass looks at (gnttab_handle_deferred; a parameter, free_per_iteration, since 2023)."""


class DeferredGrants:
    """What one domain waits to get back, oldest first; bounded by the grant table."""

    __slots__ = ("grants", "waiting")

    def __init__(self, grants: GrantTable) -> None:
        self.grants = grants
        self.waiting: deque[tuple[int, Page | None]] = deque()

    def end(self, ref: int, page: Page | None) -> None:
        """Take a frame back now, or as soon as the host no longer has it mapped (gnttab_end_foreign_access).

        As long as that lasts its *page*, if it is one, cannot be freed: somebody may still read it.
        """
        if not self.grants.end_access(ref):
            if page is not None:
                get_page(page)
            self.waiting.append((ref, page))

    def retry(self) -> bool:
        """Look at the next few; return whether any grant is still waited for."""
        for _ in range(min(TRIED_PER_PASS, len(self.waiting))):
            ref, page = self.waiting.popleft()
            if not self.grants.end_access(ref):
                self.waiting.append((ref, page))
            elif page is not None:
                put_page(page)
        return bool(self.waiting)
