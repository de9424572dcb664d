"""Staging grants: a pool that is mapped once, packets that are copied into it, and no grant operation afterwards."""

import pytest

from lateack.nodes.backend import Backend
from lateack.nodes.memory.hypervisor import Hypervisor
from lateack.nodes.messages import Notify, Xenbus
from lateack.nodes.node import Received
from lateack.nodes.rules import Rule
from lateack.nodes.split.staging_pool import STAGING_PAGES_MAX, StagingPool
from lateack.nodes.split.xenbus import CONNECTED
from lateack.nodes.stack.lifetime import unmapped
from lateack.nodes.stack.skb import SkBuff
from lateack.nodes.strategies.backend import BackendStrategy, GrantCopy
from lateack.nodes.strategies.staging import StagingGrants, StagingGrantsCopy
from tests.nodes.hand import tcp_frame
from tests.nodes.one_backend import Hand

BODY = b"b" * 1000
STUCK = Rule("stuck", "gate", "backend.nic", since=None)
KINDS = pytest.mark.parametrize("kind", [StagingGrants, StagingGrantsCopy])


class Staged(Hand):
    """A backend with two frontends, each with a pool that the backend has mapped."""

    def __init__(self, *rules: Rule, strategy: type[BackendStrategy] = StagingGrants) -> None:
        super().__init__(*rules, strategy=strategy, connect=False)
        for name, front in self.fronts.items():
            keys = front.keys | front.netfront.offer_staging()
            self.handle(Received(name, Xenbus(CONNECTED, keys)))
            front.netfront.connected()
            self.kick(name)
            self.kick(name)

    def pool(self, name: str = "guest1") -> StagingPool:
        """Return a frontend's pool."""
        pool = self.fronts[name].netfront.staging
        assert pool is not None
        return pool

    def packet(self, *bodies: bytes, seq: int = 1) -> SkBuff:
        """Return a packet of guest1 whose payload lies in pages."""
        return self.front.skb(tcp_frame(b"".join(bodies), seq=seq)[:54], bodies)

    def send(self, *bodies: bytes, seq: int = 1) -> None:
        """Let guest1 send a packet, and the backend take it."""
        self.front.netfront.xmit(self.packet(*bodies, seq=seq), 0)
        self.front.netfront.flush()
        self.kick()

    def costs(self) -> tuple[int, int, int, int]:
        """Return how many grant operations and TLB flushes there were."""
        xen: Hypervisor = self.backend.hypervisor
        return xen.maps, xen.unmaps, xen.copies, xen.tlb_flushes


@KINDS
def test_the_pool_is_mapped_when_the_interface_connects(kind: type[BackendStrategy]) -> None:
    """Ask how many, lend them, list them: then the frontend holds as many pages as the backend has mapped."""
    hand = Staged(strategy=kind)

    staging = hand.backend.vifs["guest1"].staging

    assert hand.pool().live
    assert len(hand.pool().free) == STAGING_PAGES_MAX
    assert staging is not None
    assert staging.pins() == STAGING_PAGES_MAX + 1
    assert hand.pool().held() == STAGING_PAGES_MAX + 1  # the list's page is free again
    assert hand.left_over() == {}


@KINDS
def test_a_packet_costs_no_grant_operation(kind: type[BackendStrategy]) -> None:
    """No map, no unmap, no copy by the hypervisor, no TLB flush; the guest has copied, and the bytes are right."""
    hand = Staged(strategy=kind)
    before = hand.costs()

    hand.send(BODY, b"c" * 500)

    assert hand.costs() == before
    assert [frame[54:] for frame in hand.frames] == [BODY + b"c" * 500]
    assert hand.pool().charge() == 1500
    assert len(hand.pool().free) == STAGING_PAGES_MAX
    assert hand.front.netfront.pending() == 0
    assert hand.front.slab.outstanding == 0
    assert hand.left_over() == {}


def test_the_guests_packet_is_free_as_soon_as_it_is_copied() -> None:
    """Its owner may rewrite the page at once: what leaves is what it held when netfront took it."""
    hand = Staged(STUCK)

    hand.send(BODY)
    hand.front.memory.write(704, 0, b"rewritten")

    assert hand.front.slab.outstanding == 0
    assert hand.front.netfront.pending() == 1  # the pool's slot waits; the header's is answered
    hand.backend.nic.open()
    hand.handle(Received("guest1", Notify(1)))
    assert [frame[54:] for frame in hand.frames] == [BODY]


def test_a_slot_refilled_too_early_is_stale_and_never_a_fault() -> None:
    """The page is mapped whatever happens, so that who breaks the rules sends other bytes, and nobody notices."""
    hand = Staged(STUCK)
    hand.send(BODY)
    (staged,) = hand.pool().busy.values()

    hand.front.memory.write(staged.page.frame, 0, b"x" * 1000)
    hand.backend.nic.open()
    hand.handle(Received("guest1", Notify(1)))

    assert [frame[54:] for frame in hand.frames] == [b"x" * 1000]
    assert not any(type(fact).__name__ == "AccessFault" for fact in hand.facts)


def test_copied_out_of_the_pool_the_slot_is_back_at_once() -> None:
    """With the backend's copy the guest waits for nobody, and both have copied every byte."""
    hand = Staged(STUCK, strategy=StagingGrantsCopy)

    hand.send(BODY)

    assert hand.front.netfront.pending() == 0
    assert len(hand.pool().free) == STAGING_PAGES_MAX
    assert hand.backend.copied_bytes == 1000
    assert hand.pool().charge() == 1000


@KINDS
def test_a_used_up_pool_falls_back_to_grants(kind: type[BackendStrategy]) -> None:
    """Packets that find no room go the usual way, and come back the usual way."""
    hand = Staged(STUCK, strategy=kind)
    pool = hand.pool()
    kept, pool.free = pool.free[:-1], pool.free[-1:]
    before = hand.costs()

    hand.send(BODY)

    assert hand.costs() != before
    assert pool.charge() == 0
    hand.backend.nic.open()
    hand.handle(Received("guest1", Notify(1)))
    hand.front.netfront.interrupt(0)
    pool.free += kept
    assert [frame[54:] for frame in hand.frames] == [BODY]
    assert hand.front.netfront.pending() == 0
    assert hand.left_over() == {}


def test_a_backend_that_offers_nothing_is_asked_nothing() -> None:
    """A frontend's control ring is ignored by a strategy that has no use for it, and packets go by grants."""
    hand = Staged(strategy=GrantCopy)

    hand.send(BODY)

    assert hand.backend.vifs["guest1"].staging is None
    assert not hand.pool().live
    assert [frame[54:] for frame in hand.frames] == [BODY]


def test_a_slot_that_names_somebody_elses_page_is_no_way_around_the_grants() -> None:
    """A reference is looked up in the table of its own guest alone: guest2's pool is nothing to guest1."""
    hand = Staged()
    vif, other = hand.backend.vifs["guest1"], hand.backend.vifs["guest2"]
    assert vif.staging is not None
    assert other.staging is not None

    assert vif.staging.entries.keys() == other.staging.entries.keys()
    assert all(mapping.page.memory is hand.front.memory for mapping in vif.staging.entries.values())


def test_when_netback_dies_a_packet_keeps_its_page_mapped() -> None:
    """The table goes, what the card still holds stays readable, and the frontend ends that grant only afterwards."""
    hand = Staged(STUCK)
    hand.send(BODY)
    backend: Backend = hand.backend
    vif = backend.vifs["guest1"]
    staging, pool = vif.staging, hand.pool()
    assert staging is not None
    (mapping,) = [entry for entry in staging.entries.values() if entry.refcount > 1]

    backend.strategy.forget(vif)
    grants = hand.front.grants
    left = [staged.gref for staged in pool.close() if not grants.end_access(staged.gref)]

    assert not unmapped(mapping.page)
    assert left == [mapping.ref]
    backend.nic.open()
    assert unmapped(mapping.page)
    assert grants.end_access(mapping.ref)
    assert backend.strategy.in_flight() == 0
