"""Two grant operations for backends that let go of a page without touching it: replace a mapping, copy grant to grant.

Behaviour follows xen/common/grant_table.c, as `hypervisor` does; these are apart because few backends ask for them.
"""

from lateack.nodes.memory.hypervisor import (
    Domain,
    GNTMAP_host_map,
    GNTPIN_hstr_inc,
    GNTPIN_hstw_inc,
    GNTST_bad_copy_arg,
    GNTST_bad_domain,
    GNTST_okay,
    Hypervisor,
)
from lateack.nodes.memory.pages import PAGE_SHIFT, PAGE_SIZE, Page
from lateack.nodes.records import Record


class GrantedBytes(Record):
    """One end of a copy: a frame that a domain lends, by its reference, and where in it the bytes begin."""

    domid: int
    ref: int
    offset: int = 0


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


def copy_between_grants(xen: Hypervisor, caller: int, source: GrantedBytes, dest: GrantedBytes, length: int) -> int:
    """Copy *length* bytes from one domain's grant into another's; return the status.

    `GNTTABOP_copy` with source_gref and dest_gref. Both must be lent to *caller*, the second writable; both are pinned
    for as long as the copy takes.
    """
    if not length:
        return GNTST_okay  # Xen looks at nothing then
    lender, taker = xen.domains.get(source.domid), xen.domains.get(dest.domid)
    if lender is None or taker is None:
        return GNTST_bad_domain
    from_frame = lender.pin(caller, source.ref, GNTPIN_hstr_inc)
    if from_frame < 0:
        return from_frame
    to_frame = taker.pin(caller, dest.ref, GNTPIN_hstw_inc)
    if to_frame < 0:
        lender.unpin(source.ref, GNTPIN_hstr_inc)
        return to_frame
    status = GNTST_bad_copy_arg
    if _fits(source, length) and _fits(dest, length):
        _move(lender, (from_frame << PAGE_SHIFT) + source.offset, taker, (to_frame << PAGE_SHIFT) + dest.offset, length)
        xen.copies += 1
        xen.bytes_copied += length
        status = GNTST_okay
    taker.unpin(dest.ref, GNTPIN_hstw_inc)
    lender.unpin(source.ref, GNTPIN_hstr_inc)
    return status


def _fits(place: GrantedBytes, length: int) -> bool:
    return length >= 0 and 0 <= place.offset <= PAGE_SIZE - length


def _move(lender: Domain, start: int, taker: Domain, target: int, length: int) -> None:
    taker.memory.view[target : target + length] = lender.memory.view[start : start + length]
