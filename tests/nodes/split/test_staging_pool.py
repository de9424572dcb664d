"""The frontend's pool: how much it takes of a guest, how it comes to be, and how it goes."""

from lateack.nodes.memory.grants import GrantTable
from lateack.nodes.memory.hypervisor import Hypervisor
from lateack.nodes.memory.netif import TxFrontRing
from lateack.nodes.memory.pages import HeadSlab, Memory, Page, PagePool, put_page
from lateack.nodes.memory.ring import init_shared_ring
from lateack.nodes.split.gref_mappings import GREF_MAPPING_SIZE, GrefMapping, GrefMappings
from lateack.nodes.split.staging_pool import STAGING_PAGES_MAX, StagingPool
from lateack.nodes.stack.skb import SkBuff, alloc_skb, skb_put

TX_FRAME = 1


class Guest:
    """A guest with a transmit ring and a pool, and the backend's table behind it."""

    def __init__(self, frames: int = 600) -> None:
        """Offer a pool to a backend that serves it."""
        self.memory = Memory(1, frames)
        self.kernel_pages = PagePool(self.memory, 2, frames - 2)
        self.slab = HeadSlab(self.memory, self.kernel_pages)
        self.grants = GrantTable(self.memory, 0)
        self.xen = Hypervisor()
        self.xen.add_domain(self.memory, 0)
        init_shared_ring(self.memory, TX_FRAME)
        self.tx = TxFrontRing(self.memory, TX_FRAME)
        self.ids = [1, 0]
        self.pool = StagingPool(self.memory, self.grants, self.kernel_pages)
        self.table = GrefMappings(self.xen, 1)

    def connect(self) -> None:
        """Go through the whole conversation."""
        ref = self.pool.keys()["ctrl-ring-ref"]
        assert isinstance(ref, int)
        assert self.table.connect(ref) is None
        kick = self.pool.open()
        while kick:
            kick = self.table.serve() and self.pool.interrupt()

    def packet(self) -> SkBuff:
        """Return a packet of a header alone."""
        skb = alloc_skb(self.slab)
        skb_put(skb, b"h" * 54)
        return skb


def test_a_pool_has_what_the_guest_can_spare() -> None:
    """A large guest has a full pool; a small one gives up a quarter of its free pages."""
    large, small = Guest(), Guest(frames=34)

    large.connect()
    small.connect()

    assert len(large.pool.free) == STAGING_PAGES_MAX
    assert len(small.pool.free) == 31 // 4 - 1
    assert small.pool.live


def test_a_guest_with_nothing_to_spare_goes_without() -> None:
    """No pool, no request to map one, and every packet is told to go by grants."""
    guest = Guest(frames=8)

    guest.connect()

    assert not guest.pool.live
    assert not guest.pool.send(guest.packet(), guest.tx, guest.ids)
    assert guest.pool.held() == 1


def test_ring_slots_keep_their_references() -> None:
    """The pool leaves a reference of its own to every slot of the transmit ring."""
    guest = Guest()
    for frame in range(160):
        guest.grants.grant_access(0, frame, True)

    guest.connect()

    assert len(guest.pool.free) == 504 - 160 - 1 - 256 - 1


def test_a_backend_that_has_room_for_less_gets_less() -> None:
    """The frontend asks before it lends, and takes the answer."""
    guest = Guest()
    for ref in range(10_000, 10_000 + GREF_MAPPING_SIZE - 5):
        guest.table.entries[ref] = GrefMapping(ref, -1, Page(guest.memory, 0))

    guest.connect()

    assert len(guest.pool.free) == 5


def test_an_answered_slot_is_the_next_to_be_used() -> None:
    """Last freed, first used, as the kernel's lists are: an early answer shows at once."""
    guest = Guest()
    guest.connect()
    assert guest.pool.send(guest.packet(), guest.tx, guest.ids)
    (staged,) = guest.pool.busy.values()

    assert guest.pool.answered(0)
    assert not guest.pool.answered(0)

    assert guest.pool.free[-1] is staged


def test_a_closed_pool_gives_everything_back() -> None:
    """Once the backend has let go, every grant is ended and every page is free, and the ring's, too."""
    guest = Guest()
    guest.connect()
    guest.table.close()

    for staged in guest.pool.close():
        assert guest.grants.end_access(staged.gref)
        put_page(staged.page)

    assert guest.grants.in_use == 0
    assert guest.kernel_pages.outstanding == 0
