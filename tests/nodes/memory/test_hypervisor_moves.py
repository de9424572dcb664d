"""Claims about the grant operation that replaces a mapping."""

import pytest

from lateack.nodes.memory.abi import UNMAP_AND_REPLACE, GNTTABOP_unmap_and_replace
from lateack.nodes.memory.grants import GrantTable
from lateack.nodes.memory.hypervisor import (
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_bad_handle,
    GNTST_okay,
    Hypervisor,
)
from lateack.nodes.memory.hypervisor_moves import unmap_and_replace
from lateack.nodes.memory.pages import Memory, Page

BACKEND, SENDER = 0, 1


class Host:
    """A host with one guest that lends a frame to the backend, to be read only."""

    def __init__(self) -> None:
        """Start the guest and lend its frame 5."""
        self.xen = Hypervisor()
        self.memory = Memory(SENDER, 8)
        self.grants = GrantTable(self.memory, 0)
        self.xen.add_domain(self.memory, 0)
        self.source = self.grants.grant_access(BACKEND, 5, True)


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
    assert host.grants.end_access(host.source)


def test_a_bad_handle_replaces_nothing(host: Host) -> None:
    """What is not mapped cannot be moved, and the page keeps showing what it shows."""
    page, own = Page(host.memory, 5), Page(Memory(BACKEND, 2), 1)

    assert unmap_and_replace(host.xen, BACKEND, 7, page, own) == GNTST_bad_handle

    assert (page.memory, page.frame) == (host.memory, 5)


def test_the_hypercall_lies_in_memory_as_xen_has_it() -> None:
    """struct gnttab_unmap_and_replace is 24 bytes: host_addr, new_addr, handle, and the status behind it."""
    data = UNMAP_AND_REPLACE.pack(0x7F0000001000, 0x7F0000002000, 0x11, GNTST_bad_handle)

    assert GNTTABOP_unmap_and_replace == 7
    assert data.hex(" ") == "00 10 00 00 00 7f 00 00 00 20 00 00 00 7f 00 00 11 00 00 00 fc ff 00 00"
