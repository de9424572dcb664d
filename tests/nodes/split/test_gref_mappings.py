"""The backend's table of staging grants: what a frontend may ask for, and what happens to a list that lies."""

import pytest

from lateack.nodes.memory.grants import GrantTable
from lateack.nodes.memory.hypervisor import Hypervisor
from lateack.nodes.memory.pages import PAGE_SIZE, Memory
from lateack.nodes.memory.ring import REQ_PROD, init_shared_ring
from lateack.nodes.split.control_ring import (
    NETIF_GREF,
    XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER,
    XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED,
    XEN_NETIF_CTRL_STATUS_SUCCESS,
    XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING,
    XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING,
    XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE,
    CtrlFrontRing,
    XEN_NETIF_CTRLF_GREF_readonly,
)
from lateack.nodes.split.gref_mappings import GREF_MAPPING_SIZE, GrefMappings
from lateack.nodes.split.xenbus import DOMAIN_0
from lateack.nodes.stack.lifetime import unmapped

RING, LIST, FIRST = 1, 2, 3
SIZE, ADD, DELETE = (
    XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE,
    XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING,
    XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING,
)
SUCCESS, INVALID = XEN_NETIF_CTRL_STATUS_SUCCESS, XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER


class Guest:
    """A guest with a control ring, a page for lists, and the table that a backend keeps of it."""

    def __init__(self) -> None:
        """Connect the ring."""
        self.memory = Memory(1, 300)
        self.grants = GrantTable(self.memory, 0)
        self.xen = Hypervisor()
        self.xen.add_domain(self.memory, 0)
        init_shared_ring(self.memory, RING)
        self.ring = CtrlFrontRing(self.memory, RING)
        self.table = GrefMappings(self.xen, 1)
        self.list_ref = self.grants.grant_access(DOMAIN_0, LIST, False)
        assert self.table.connect(self.grants.grant_access(DOMAIN_0, RING, False)) is None

    def lend(self, count: int) -> list[int]:
        """Lend pages and return their references."""
        return [self.grants.grant_access(DOMAIN_0, FIRST + number, True) for number in range(count)]

    def ask(self, kind: int, *data: int) -> tuple[int, int]:
        """Ask, and return (status, data)."""
        self.ring.put_request(1, kind, *data)
        self.ring.push_requests()
        self.table.serve()
        _, answered, status, answer = self.ring.get_response()
        assert answered == kind
        return status, answer

    def ask_for(self, kind: int, refs: list[int]) -> tuple[int, int]:
        """Ask about a list of references."""
        for number, ref in enumerate(refs):
            NETIF_GREF.pack_into(
                self.memory.buffer, LIST * PAGE_SIZE + 8 * number, ref, XEN_NETIF_CTRLF_GREF_readonly, 77
            )
        return self.ask(kind, 0, self.list_ref, len(refs))

    def pins(self) -> int:
        """Return how many pins there are beside the ring's."""
        return self.xen.pins()[1] - 1


@pytest.fixture
def guest() -> Guest:
    """Give a test a connected guest."""
    return Guest()


def test_pages_are_mapped_once_and_found_by_reference(guest: Guest) -> None:
    """The table says how many fit, maps the list, and lets go of the list's own page."""
    refs = guest.lend(3)

    assert guest.ask(SIZE, 0) == (SUCCESS, GREF_MAPPING_SIZE)
    assert guest.ask_for(ADD, refs) == (SUCCESS, 3)

    assert guest.ask(SIZE, 0) == (SUCCESS, GREF_MAPPING_SIZE - 3)
    found = guest.table.find(refs)
    assert found is not None
    assert [mapping.page.frame for mapping in found] == [3, 4, 5]
    assert guest.pins() == 3
    assert guest.table.pins() == 4
    assert guest.table.find([refs[0], 400]) is None


@pytest.mark.parametrize("lie", ["unlent", "twice", "too many"])
def test_a_list_that_lies_maps_nothing(guest: Guest, lie: str) -> None:
    """All of it or none: whatever was mapped before the bad entry is unmapped again."""
    refs = guest.lend(260)
    lists = {"unlent": [*refs[:2], 500], "twice": [*refs[:2], refs[0]], "too many": refs}

    assert guest.ask_for(ADD, lists[lie]) == (INVALID, 0)

    assert guest.pins() == 0
    assert guest.table.find(refs[:1]) is None


def test_nonsense_is_answered_and_harms_nobody(guest: Guest) -> None:
    """A kind that we do not know, another queue, a list that is none, a length that no page holds."""
    answers = [
        guest.ask(3),
        guest.ask(SIZE, 1),
        guest.ask(ADD, 0, 500, 3),
        guest.ask(ADD, 0, guest.list_ref, 0),
        guest.ask(ADD, 0, guest.list_ref, 513),
    ]

    assert answers == [(XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED, 0), *[(INVALID, 0)] * 4]
    assert guest.pins() == 0


def test_a_ring_that_claims_too_much_is_not_served(guest: Guest) -> None:
    """The frontend's index may say anything; nothing is taken then."""
    guest.memory.words[RING * 1024 + REQ_PROD] = 1000

    assert not guest.table.serve()


def test_a_page_in_use_cannot_be_deleted(guest: Guest) -> None:
    """Each entry is told what became of it; a packet's page stays, and what was never added is refused."""
    refs = guest.lend(2)
    guest.ask_for(ADD, refs)
    mappings = guest.table.find(refs)
    assert mappings is not None
    guest.table.get(mappings[0])

    assert guest.ask_for(DELETE, [*refs, 400]) == (SUCCESS, 1)

    told = [NETIF_GREF.unpack_from(guest.memory.buffer, LIST * PAGE_SIZE + 8 * number)[2] for number in range(3)]
    assert told == [INVALID, SUCCESS, INVALID]
    assert guest.grants.end_access(refs[1])
    assert not guest.grants.end_access(refs[0])


def test_a_mapping_goes_with_its_last_packet(guest: Guest) -> None:
    """The interface may go before: what a packet shows stays mapped, the rest and the ring do not."""
    refs = guest.lend(2)
    guest.ask_for(ADD, refs)
    mappings = guest.table.find(refs)
    assert mappings is not None
    guest.table.get(mappings[0])

    guest.table.close()

    assert [unmapped(mapping.page) for mapping in mappings] == [False, True]
    assert guest.xen.pins() == {1: 1}
    guest.table.put(mappings[0])
    assert unmapped(mappings[0].page)
    assert guest.xen.pins() == {}


def test_a_ring_that_is_not_lent_cannot_be_connected() -> None:
    """The interface is told what is wrong, and nothing stays mapped."""
    guest = Guest()
    table = GrefMappings(guest.xen, 1)

    assert table.connect(400) == "the control ring cannot be mapped"
    assert not table.serve()
