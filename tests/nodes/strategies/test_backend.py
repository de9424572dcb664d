"""The backend's strategies: what each does with a guest's pages, and when it answers."""

import copy

import pytest

from lateack.nodes.split.netback import Vif
from lateack.nodes.stack.lifetime import unmapped
from lateack.nodes.stack.skb import kfree_skb, skb_linear
from lateack.nodes.stack.skb_copy import pskb_copy, skb_clone
from lateack.nodes.strategies import BACKEND_STRATEGIES
from lateack.nodes.strategies.backend import (
    XEN_NETBACK_TX_COPY_LEN,
    BackendStrategy,
    DevZerocopy,
    GrantCopy,
    MappingStrategy,
    TxSlot,
    copy_header,
)
from tests.nodes.hand import Pair

HEAD, BODY = b"h" * 54, b"b" * 1000
MAPPING = pytest.mark.parametrize(
    "strategy", [kind for kind in BACKEND_STRATEGIES.values() if issubclass(kind, MappingStrategy)]
)


def test_the_built_in_ones_are_known_by_their_names() -> None:
    """Each has a name of its own and a sentence about itself."""
    assert {"dev-zerocopy", "grant-copy"} <= set(BACKEND_STRATEGIES)
    assert all(name == strategy.name for name, strategy in BACKEND_STRATEGIES.items())
    assert all(len(strategy.summary) > 20 for strategy in BACKEND_STRATEGIES.values())


def test_the_header_is_copied_up_to_a_limit() -> None:
    """At most 128 bytes are copied, and the slot then tells what is left of it."""
    pair = Pair()
    slot = TxSlot(pair.front.grant(b"x" * 300), 0, 0, 300)

    skb = copy_header(pair.kernel, pair.vif, slot, XEN_NETBACK_TX_COPY_LEN)

    assert skb is not None
    assert skb_linear(skb) == b"x" * 128
    assert (slot.offset, slot.size) == (128, 172)


def test_a_header_that_is_not_lent_cannot_be_copied() -> None:
    """A bad reference gives no packet and leaves no head behind."""
    pair = Pair()

    assert copy_header(pair.kernel, pair.vif, TxSlot(400, 0, 0, 60), 128) is None
    assert pair.kernel.slab.outstanding == 0


def test_grant_copy_holds_nothing_of_the_guest() -> None:
    """It answers while the packet lives, and what the guest does to the page afterwards is not seen."""
    pair = Pair(GrantCopy)
    slots = pair.slots([pair.front.grant(HEAD), pair.front.grant(BODY)], [54, 1000])

    skb = pair.strategy.admit(pair.vif, slots)
    pair.front.memory.write(705, 0, b"changed")

    assert skb is not None
    assert pair.vif.outstanding == 0
    assert pair.kernel.copied_bytes == 1000
    assert pair.kernel.hypervisor.maps == 2  # the rings
    frag = skb.shinfo.frags[0]
    assert frag.page.memory.read(frag.page.frame, frag.offset, frag.size) == BODY


def test_dev_zerocopy_maps_and_counts_in_flight() -> None:
    """The fragment is a window on the guest's own frame, and the packet is in flight until its block dies."""
    pair = Pair(DevZerocopy)
    slots = pair.slots([pair.front.grant(HEAD), pair.front.grant(BODY)], [54, 1000])

    skb = pair.strategy.admit(pair.vif, slots)

    assert skb is not None
    page = skb.shinfo.frags[0].page
    assert (page.memory.domid, page.frame) == (1, 705)
    assert skb.shinfo.shared_frag
    assert pair.vif.outstanding == 1  # the header was copied whole and is answered
    assert pair.strategy.in_flight() == 1
    assert pair.kernel.copied_bytes == 0
    kfree_skb(skb)
    assert pair.strategy.in_flight() == 0
    assert pair.vif.outstanding == 1
    pair.strategy.settle(pair.vif)
    assert pair.vif.outstanding == 0
    assert unmapped(page)


def test_dev_zerocopy_makes_a_clone_copy_first() -> None:
    """The clone shows pages of the backend, so that the guest is answered whatever becomes of it."""
    pair = Pair(DevZerocopy)
    slots = pair.slots([pair.front.grant(HEAD), pair.front.grant(BODY)], [54, 1000])
    skb = pair.strategy.admit(pair.vif, slots)
    assert skb is not None

    clone = skb_clone(skb, pair.kernel.pool)
    pair.strategy.settle(pair.vif)

    assert pair.vif.outstanding == 0
    assert clone.shinfo.frags[0].page.memory is pair.kernel.memory
    pair.finish(skb, clone)
    assert pair.kernel.pool.outstanding == len(pair.kernel.slab.pages)


def test_dev_zerocopy_survives_a_second_data_block() -> None:
    """A copied head would show the same pages: they are copied first, or they would be answered for twice."""
    pair = Pair(DevZerocopy)
    slots = pair.slots([pair.front.grant(HEAD), pair.front.grant(BODY)], [54, 1000])
    skb = pair.strategy.admit(pair.vif, slots)
    assert skb is not None

    other = pskb_copy(skb, pair.kernel.pool)
    pair.finish(skb, other)

    assert pair.vif.outstanding == 0
    assert isinstance(pair.strategy, DevZerocopy)
    assert (pair.strategy.sent, pair.strategy.fail) == (1, 1)


def test_what_is_in_flight_is_counted_by_guest() -> None:
    """One guest's interface can be disconnected while another's packets are still out."""
    pair = Pair(DevZerocopy)
    strategy = pair.strategy
    slots = pair.slots([pair.front.grant(HEAD), pair.front.grant(BODY)], [54, 1000])
    skb = strategy.admit(pair.vif, slots)
    other = Vif("guest2", 2, [])

    out = [strategy.in_flight(vif) for vif in (None, pair.vif, other)]
    assert skb is not None
    pair.finish(skb)

    assert out == [1, 1, 0]
    assert strategy.in_flight() == strategy.in_flight(pair.vif) == 0
    assert strategy.counters() == {"tx_zerocopy_sent": 1, "tx_zerocopy_success": 1, "tx_zerocopy_fail": 0}
    assert strategy.left_over() == {"packets in flight": 0}


@pytest.mark.parametrize(
    "strategy", [kind for kind in BACKEND_STRATEGIES.values() if issubclass(kind, MappingStrategy)]
)
@pytest.mark.parametrize("returned", [True, False])
def test_what_is_forgotten_is_unmapped_and_never_answered(strategy: type[BackendStrategy], returned: bool) -> None:
    """netback died: whoever still has the packet sees poison, and giving it back afterwards moves nobody."""
    pair = Pair(strategy)
    skb = pair.strategy.admit(pair.vif, pair.slots([pair.front.grant(HEAD), pair.front.grant(BODY)], [54, 1000]))
    assert skb is not None
    page = skb.shinfo.frags[0].page
    answered = pair.vif.outstanding
    if returned:
        kfree_skb(skb)

    pair.strategy.forget(pair.vif)

    assert unmapped(page)
    assert pair.kernel.hypervisor.mapped_by(0) == 2  # the rings
    if not returned:
        kfree_skb(skb)
    pair.strategy.settle(pair.vif)
    assert pair.vif.outstanding == answered
    assert pair.strategy.in_flight() == 0
    assert pair.kernel.effects == []


@pytest.mark.parametrize(
    "strategy", [kind for kind in BACKEND_STRATEGIES.values() if issubclass(kind, MappingStrategy)]
)
def test_a_bad_grant_spoils_the_packet_and_nothing_else(strategy: type[BackendStrategy]) -> None:
    """What was mapped before it is unmapped again, nothing is answered, and nothing is out."""
    pair = Pair(strategy)
    slots = pair.slots([pair.front.grant(HEAD), pair.front.grant(BODY), 400], [54, 1000, 1000])

    skb = pair.strategy.admit(pair.vif, slots)

    assert skb is None
    assert pair.kernel.hypervisor.mapped_by(0) == 2  # the rings
    assert pair.vif.outstanding == 3
    assert pair.strategy.in_flight() == 0
    assert pair.kernel.slab.outstanding == 0


@MAPPING
def test_a_strategy_can_be_copied_while_its_pages_are_out(strategy: type[BackendStrategy]) -> None:
    """A search copies machines at any moment: each copy gets its own pages back and nothing of the other's."""
    pair = Pair(strategy)
    skb = pair.strategy.admit(pair.vif, pair.slots([pair.front.grant(HEAD), pair.front.grant(BODY)], [54, 1000]))

    for each, packet in (copy.deepcopy((pair, skb)), (pair, skb)):
        assert packet is not None
        each.finish(packet)
        each.strategy.woken(1)

        assert each.vif.outstanding == 0
        assert each.strategy.in_flight() == 0
        assert each.kernel.hypervisor.mapped_by(0) == 2  # the rings


def test_dev_zerocopy_lends_its_struct_pages_again() -> None:
    """The page structures of one packet serve the next: they are netback's and not the guest's."""
    pair = Pair(DevZerocopy)
    pages = set()

    for _ in range(3):
        slots = pair.slots([pair.front.grant(HEAD), pair.front.grant(BODY)], [54, 1000])
        skb = pair.strategy.admit(pair.vif, slots)
        assert skb is not None
        pages.add(id(skb.shinfo.frags[0].page))
        pair.finish(skb)

    assert len(pages) == 1


@pytest.mark.parametrize("strategy", [DevZerocopy, GrantCopy])
def test_a_packet_that_is_all_header_leaves_nothing_behind(strategy: type[BackendStrategy]) -> None:
    """An acknowledgement is copied whole, answered at once, and never in flight."""
    pair = Pair(strategy)

    skb = pair.strategy.admit(pair.vif, pair.slots([pair.front.grant(HEAD)], [54]))

    assert skb is not None
    assert pair.vif.outstanding == 0
    assert pair.strategy.in_flight() == 0
    assert not skb.shinfo.frags


def test_the_door_must_be_given_an_admission() -> None:
    """A strategy without `admit` cannot work, and says so at the first packet."""
    pair = Pair(BackendStrategy)

    with pytest.raises(NotImplementedError):
        pair.strategy.admit(pair.vif, [])


@pytest.mark.parametrize("strategy", BACKEND_STRATEGIES.values())
def test_the_stack_is_told_that_a_guest_may_rewrite_its_pages(strategy: type[BackendStrategy]) -> None:
    """Whoever maps says so (SKBFL_SHARED_FRAG); copies are the host's own, and nobody else can touch them."""
    pair = Pair(strategy)

    skb = pair.strategy.admit(pair.vif, pair.slots([pair.front.grant(HEAD), pair.front.grant(BODY)], [54, 1000]))

    assert skb is not None
    assert skb.shinfo.shared_frag == (not issubclass(strategy, GrantCopy))
