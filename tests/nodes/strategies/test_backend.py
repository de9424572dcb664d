"""The backend's strategies: what each does with a guest's pages, and when it answers."""

import pytest

from lateack.nodes.stack.lifetime import unmapped
from lateack.nodes.stack.skb import kfree_skb, skb_linear
from lateack.nodes.stack.skb_copy import pskb_copy, skb_clone
from lateack.nodes.strategies import BACKEND_STRATEGIES
from lateack.nodes.strategies.backend import (
    XEN_NETBACK_TX_COPY_LEN,
    BackendStrategy,
    DevZerocopy,
    GrantCopy,
    TxSlot,
    copy_header,
)
from tests.nodes.hand import Pair

HEAD, BODY = b"h" * 54, b"b" * 1000


def test_the_built_in_ones_are_known_by_their_names() -> None:
    """Each has a name of its own and a sentence about itself."""
    assert list(BACKEND_STRATEGIES) == ["dev-zerocopy", "grant-copy"]
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
