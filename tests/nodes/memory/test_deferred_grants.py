"""Grants that cannot be ended yet come back when the host lets go, and keep their pages until then."""

from lateack.nodes.memory.deferred_grants import TRIED_PER_PASS, DeferredGrants
from lateack.nodes.memory.grants import GrantTable
from lateack.nodes.memory.hypervisor import GNTMAP_host_map, Hypervisor
from lateack.nodes.memory.pages import Memory, PagePool, put_page


def test_a_mapped_page_is_freed_when_the_host_lets_go() -> None:
    """Its owner has put it, and still it is in use as long as somebody has it mapped (569ca5b3f94c)."""
    memory = Memory(1, 8)
    grants, pool, hypervisor = GrantTable(memory, 0), PagePool(memory, 1, 7), Hypervisor()
    hypervisor.add_domain(memory, 0)
    page = pool.alloc()
    ref = grants.grant_access(0, page.frame, False)
    _, handle, _, _ = hypervisor.map_grant_ref(0, 1, ref, GNTMAP_host_map)
    deferred = DeferredGrants(grants)

    deferred.end(ref, page)
    put_page(page)
    mapped = (deferred.retry(), pool.outstanding, grants.in_use)
    hypervisor.unmap_grant_ref(0, handle)
    unmapped = (deferred.retry(), pool.outstanding, grants.in_use)

    assert mapped == (True, 1, 1)
    assert unmapped == (False, 0, 0)


def test_a_grant_that_nobody_maps_comes_back_at_once() -> None:
    """Nothing is deferred, and the page is its owner's to free."""
    memory = Memory(1, 8)
    grants, pool = GrantTable(memory, 0), PagePool(memory, 1, 7)
    page = pool.alloc()
    deferred = DeferredGrants(grants)

    deferred.end(grants.grant_access(0, page.frame, False), page)

    assert (grants.in_use, page.refs, len(deferred.waiting)) == (0, 1, 0)


def test_a_pass_looks_at_ten_and_no_more() -> None:
    """The others have their turn at the next pass, so that a long list never holds anybody up."""
    memory = Memory(1, 40)
    grants, hypervisor = GrantTable(memory, 0), Hypervisor()
    hypervisor.add_domain(memory, 0)
    deferred = DeferredGrants(grants)
    handles = []
    for frame in range(1, 16):
        ref = grants.grant_access(0, frame, False)
        handles.append(hypervisor.map_grant_ref(0, 1, ref, GNTMAP_host_map)[1])
        deferred.end(ref, None)
    hypervisor.unmap_batch(0, handles)

    more = deferred.retry()

    assert more
    assert len(deferred.waiting) == 15 - TRIED_PER_PASS
    assert not deferred.retry()
