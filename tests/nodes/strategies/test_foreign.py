"""Foreign pages: the allocator's hook sees the very last user, and one pool serves all guests of a host."""

import copy

import pytest

from lateack.nodes.messages import Notify
from lateack.nodes.node import Received
from lateack.nodes.rules import Rule
from lateack.nodes.stack.lifetime import unmapped
from lateack.nodes.stack.skb import alloc_skb, kfree_skb, read_frags, skb_linear
from lateack.nodes.stack.skb_copy import pskb_expand_head, skb_clone
from lateack.nodes.stack.skb_cut import pskb_pull_tail, skb_split
from lateack.nodes.strategies.foreign import (
    FREE,
    MAX_PENDING_REQS,
    MAX_SKB_FRAGS,
    PKT_PROT_LEN,
    PageForeign,
)
from lateack.nodes.strategies.lazy_copy import LazyCopy
from tests.nodes.hand import Pair, tcp_frame
from tests.nodes.one_backend import Hand
from tests.nodes.strategies.held import BODY, HEAD, Held

KINDS = pytest.mark.parametrize("kind", [PageForeign, LazyCopy])


@KINDS
def test_every_slot_is_mapped_and_the_first_bytes_are_copied(kind: type[PageForeign]) -> None:
    """64 bytes become the linear area, by memcpy; the rest is shown where it lies, with one reference."""
    pair = Pair(kind)
    pair.front.send(b"h" * 100, [BODY])

    (skb,) = pair.take()

    assert skb_linear(skb) == b"h" * PKT_PROT_LEN
    assert [bytes(view) for view in read_frags(skb)] == [b"h" * 36, BODY]
    assert [frag.page.refs for frag in skb.shinfo.frags] == [1, 1]
    assert pair.kernel.hypervisor.copies == 0
    assert pair.kernel.hypervisor.maps == 2 + 2  # the rings, and the slots


@KINDS
def test_a_packet_that_is_all_header_is_unmapped_before_it_is_answered(kind: type[PageForeign]) -> None:
    """Its page goes to the dealloc ring at once: mapped, copied, unmapped, answered, although the packet lives."""
    pair = Pair(kind)
    pair.front.send(HEAD)

    (skb,) = pair.take()

    assert pair.vif.outstanding == 1
    pair.strategy.settle(pair.vif)
    assert pair.vif.outstanding == 0
    assert pair.kernel.hypervisor.pins() == {1: 2}
    assert skb_linear(skb) == HEAD


def test_t8_the_hook_is_called_when_the_total_count_is_zero() -> None:
    """Golden trace: the clone keeps both pages although the original dies; the last header's death tells of both."""
    held = Held()
    clone = skb_clone(held.skb)

    kfree_skb(held.skb)

    assert held.refs() == (1, 1)
    assert held.outstanding() == 2
    kfree_skb(clone)
    assert held.refs() == (0, 0)
    assert held.outstanding() == 0
    assert held.whole()


def test_t8_a_pulled_page_is_told_when_it_is_eaten() -> None:
    """Golden trace: the fragment that is wholly eaten comes home at once, the other with the packet."""
    held = Held(pieces=(b"a" * 100, BODY))

    pskb_pull_tail(held.skb, 150)

    assert held.refs() == (0, 1)
    assert held.outstanding() == 1
    kfree_skb(held.skb)
    assert held.outstanding() == 0
    assert held.whole()


def test_t8_two_data_blocks_count_twice() -> None:
    """Golden trace: a clone with a head of its own shows the same pages, and neither block alone may send them home."""
    held = Held()
    clone = skb_clone(held.skb)
    pskb_expand_head(clone)

    assert held.refs() == (2, 2)
    kfree_skb(held.skb)
    assert held.refs() == (1, 1)
    assert held.outstanding() == 2
    kfree_skb(clone)
    assert held.outstanding() == 0
    assert held.whole()


def test_t8_a_page_cut_in_two_waits_for_both_halves() -> None:
    """Golden trace: after a split inside the second page it is shown twice, the first once."""
    held = Held()
    rest = alloc_skb(held.pair.kernel.slab)

    skb_split(held.skb, rest, len(HEAD) + 1500)

    assert held.refs() == (1, 2)
    kfree_skb(held.skb)
    assert held.refs() == (0, 1)
    assert held.outstanding() == 1
    kfree_skb(rest)
    assert held.outstanding() == 0
    assert held.whole()


@KINDS
def test_one_bad_grant_spoils_the_packet_and_every_other_slot_is_let_go(kind: type[PageForeign]) -> None:
    """Slots that were mapped are unmapped, once each, the guest hears an error for all, and the pool is whole."""
    pair = Pair(kind)
    good = [pair.front.grant(HEAD), pair.front.grant(BODY)]
    slots = pair.slots([*good, 400, pair.front.grant(BODY)], [54, 1000, 1000, 1000])

    assert pair.strategy.admit(pair.vif, slots) is None

    assert pair.kernel.hypervisor.pins() == {1: 2}
    assert pair.strategy.in_flight() == 0
    assert pair.kernel.slab.outstanding == 0


@KINDS
def test_a_guest_that_lends_nothing_gets_an_error_for_each_slot(kind: type[PageForeign]) -> None:
    """The frontend sees errors and may go on; its interface is not shut."""
    pair = Pair(kind)
    pair.front.lie((400, 0, 4, 0, 1054), (401, 0, 0, 1, 1000))

    assert pair.take() == []

    assert pair.vif.outstanding == 0
    assert not pair.vif.disabled


def fill(hand: Hand, guest: str, packets: int) -> None:
    """Let a guest send packets of four pages each."""
    front = hand.fronts[guest]
    for number in range(packets):
        head = tcp_frame(b"x" * 4000, seq=1 + number * 4000)[:54]
        front.netfront.xmit(front.skb(head, [b"x" * 1000] * 4), 0)
    front.netfront.flush()
    hand.kick(guest)


@KINDS
def test_one_guest_can_starve_another(kind: type[PageForeign]) -> None:
    """The pool is one for the host: what one guest's packets pin is missing to everybody, until a page comes home."""
    hand = Hand(Rule("stuck", "gate", "backend.nic", since=None), strategy=kind, queue_frames=1000)
    strategy = hand.backend.strategy
    first, second = hand.backend.vifs["guest1"], hand.backend.vifs["guest2"]

    fill(hand, "guest1", 40)
    fill(hand, "guest2", 40)

    assert MAX_PENDING_REQS - strategy.in_flight() <= MAX_SKB_FRAGS
    taken = second.outstanding
    assert (first.outstanding, taken) == (160, 80)  # the headers' slots are answered
    assert second.tx is not None
    assert second.tx.unconsumed_requests() == 100
    hand.handle(Received("guest2", Notify(1)))  # kicking does not help
    assert second.outstanding == taken
    hand.backend.nic.open()
    hand.handle(Received("guest1", Notify(1)))
    for name, front in hand.fronts.items():
        front.netfront.interrupt(0)
        assert front.netfront.pending() == 0, name
    assert len(hand.frames) == 80
    assert hand.left_over() == {}


def test_who_was_refused_is_served_when_others_give_back() -> None:
    """The starved guest need not kick: netback looks into every ring again once the pool has room."""
    hand = Hand(Rule("stuck", "gate", "backend.nic", since=None), strategy=PageForeign, queue_frames=1000)
    fill(hand, "guest1", 40)
    fill(hand, "guest2", 21)
    vif = hand.backend.vifs["guest2"]
    assert vif.tx is not None
    assert vif.tx.unconsumed_requests() == 5

    hand.backend.nic.open()
    hand.kick("guest1")

    assert vif.tx.unconsumed_requests() == 0
    assert vif.outstanding == 0


def test_a_netback_that_dies_takes_the_mappings_with_it() -> None:
    """What the stack still holds shows nothing any more, and giving it back later harms nobody."""
    held = Held()

    held.strategy.forget(held.pair.vif)

    assert all(unmapped(page) for page in held.pages)
    assert held.pair.kernel.hypervisor.pins() == {1: 2}
    assert held.strategy.in_flight() == 0
    kfree_skb(held.skb)
    assert held.pair.vif.released == []
    assert all(request.state == FREE for request in held.strategy.requests)


def test_a_copied_machine_counts_for_itself() -> None:
    """A backend in the middle of a packet can be copied: both copies answer, each its own guest."""
    held = Held()

    other = copy.deepcopy(held)
    kfree_skb(other.skb)

    assert other.whole()
    assert held.outstanding() == 2
