"""The grant operation for a backend that lets go of a page which others still look at: replace its mapping.

Behaviour follows xen/common/grant_table.c, as `hypervisor` does; it is apart because only one backend asks for it.
"""

from lateack.nodes.memory.hypervisor import GNTMAP_host_map, GNTST_okay, Hypervisor
from lateack.nodes.memory.pages import Page


def unmap_and_replace(xen: Hypervisor, caller: int, handle: int, page: Page, new: Page) -> int:
    """Undo the host half of a mapping, and let *page* show the frame of *new* from this moment on; return the status.

    `GNTTABOP_unmap_and_replace` (xen-unstable, May 2007): the page table entry of one address is moved to another in
    the same step, so that whoever holds the address never meets a hole. On an error (bad_handle) nothing changes. The
    caller copies the bytes before, and *new* is its own to account for.
    """
    status = xen.unmap_grant_ref(caller, handle, GNTMAP_host_map)
    if status == GNTST_okay:
        page.memory, page.frame = new.memory, new.frame
    return status
