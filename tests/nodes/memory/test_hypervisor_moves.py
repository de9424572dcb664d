"""Claims about the two grant operations that move a mapping or bytes between grants."""

import pytest

from lateack.nodes.memory.abi import UNMAP_AND_REPLACE, GNTTABOP_unmap_and_replace
from lateack.nodes.memory.grants import GrantTable
from lateack.nodes.memory.hypervisor import (
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_bad_copy_arg,
    GNTST_bad_domain,
    GNTST_bad_gntref,
    GNTST_bad_handle,
    GNTST_general_error,
    GNTST_okay,
    Hypervisor,
)
from lateack.nodes.memory.hypervisor_moves import GrantedBytes, copy_between_grants, unmap_and_replace
from lateack.nodes.memory.pages import PAGE_SIZE, Memory, Page

BACKEND, SENDER, TAKER = 0, 1, 2


class Host:
    """A host with two guests that lend one frame each to the backend: one to read, one to write."""

    def __init__(self) -> None:
        """Start both guests and lend frame 5 of each."""
        self.xen = Hypervisor()
        self.memories = {domid: Memory(domid, 8) for domid in (SENDER, TAKER)}
        self.grants = {domid: GrantTable(memory, 0) for domid, memory in self.memories.items()}
        for memory in self.memories.values():
            self.xen.add_domain(memory, 0)
        self.source = self.grants[SENDER].grant_access(BACKEND, 5, True)
        self.dest = self.grants[TAKER].grant_access(BACKEND, 5, False)

    def copy(self, source: GrantedBytes, dest: GrantedBytes, length: int = 4) -> int:
        """Copy on behalf of the backend."""
        return copy_between_grants(self.xen, BACKEND, source, dest, length)


@pytest.fixture
def host() -> Host:
    """Give a test a fresh host."""
    return Host()


def test_a_replaced_mapping_shows_the_new_frame_and_ends_the_grant(host: Host) -> None:
    """The page that everybody holds shows the local frame, nothing is pinned, and the lender may end its grant."""
    _, handle, memory, frame = host.xen.map_grant_ref(BACKEND, SENDER, host.source, GNTMAP_host_map | GNTMAP_readonly)
    assert memory is not None
    page, own = Page(memory, frame), Page(Memory(BACKEND, 2), 1)

    status = unmap_and_replace(host.xen, BACKEND, handle, page, own)

    assert status == GNTST_okay
    assert (page.memory, page.frame) == (own.memory, 1)
    assert host.xen.pins() == {}
    assert host.grants[SENDER].end_access(host.source)


def test_a_bad_handle_replaces_nothing(host: Host) -> None:
    """What is not mapped cannot be moved, and the page keeps showing what it shows."""
    page, own = Page(host.memories[SENDER], 5), Page(Memory(BACKEND, 2), 1)

    assert unmap_and_replace(host.xen, BACKEND, 7, page, own) == GNTST_bad_handle

    assert (page.memory, page.frame) == (host.memories[SENDER], 5)


def test_the_hypercall_lies_in_memory_as_xen_has_it() -> None:
    """struct gnttab_unmap_and_replace is 24 bytes: host_addr, new_addr, handle, and the status behind it."""
    data = UNMAP_AND_REPLACE.pack(0x7F0000001000, 0x7F0000002000, 0x11, GNTST_bad_handle)

    assert GNTTABOP_unmap_and_replace == 7
    assert data.hex(" ") == "00 10 00 00 00 7f 00 00 00 20 00 00 00 7f 00 00 11 00 00 00 fc ff 00 00"


def test_bytes_go_from_one_guest_to_another(host: Host) -> None:
    """One copy, counted once, and neither page stays pinned."""
    host.memories[SENDER].write(5, 100, b"news")

    status = host.copy(GrantedBytes(SENDER, host.source, 100), GrantedBytes(TAKER, host.dest, PAGE_SIZE - 4))

    assert status == GNTST_okay
    assert host.memories[TAKER].read(5, PAGE_SIZE - 4, 4) == b"news"
    assert (host.xen.copies, host.xen.bytes_copied) == (1, 4)
    assert host.xen.pins() == {}


def test_a_copy_fails_as_xens_does_and_leaves_no_pin(host: Host) -> None:
    """Each end is checked, the source first; a page that is lent to be read only is not written to."""
    source, dest = GrantedBytes(SENDER, host.source), GrantedBytes(TAKER, host.dest)

    statuses = [
        host.copy(GrantedBytes(7, host.source), dest),
        host.copy(source, GrantedBytes(7, host.dest)),
        host.copy(GrantedBytes(SENDER, 9999), dest),
        host.copy(source, GrantedBytes(TAKER, 9999)),
        host.copy(dest, source),
        host.copy(GrantedBytes(SENDER, host.source, PAGE_SIZE - 3), dest),
        host.copy(source, GrantedBytes(TAKER, host.dest, PAGE_SIZE - 3)),
        host.copy(GrantedBytes(7, 9999), dest, 0),
    ]

    assert statuses == [
        GNTST_bad_domain,
        GNTST_bad_domain,
        GNTST_bad_gntref,
        GNTST_bad_gntref,
        GNTST_general_error,
        GNTST_bad_copy_arg,
        GNTST_bad_copy_arg,
        GNTST_okay,
    ]
    assert host.xen.pins() == {}
    assert host.xen.copies == 0
