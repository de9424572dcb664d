"""Backend strategies that hang a destructor on the packet: which of the stack's operations each of them survives."""

from collections.abc import Callable

import pytest

from lateack.nodes.facts import ForeignPageFreed
from lateack.nodes.stack.lifetime import unmapped
from lateack.nodes.stack.skb import SkBuff, alloc_skb, kfree_skb, skb_orphan
from lateack.nodes.stack.skb_copy import pskb_copy, pskb_expand_head, skb_clone
from lateack.nodes.stack.skb_cut import pskb_pull_tail, skb_split
from lateack.nodes.strategies.destructors import (
    BackendFragDestructor,
    LendingStrategy,
    NoClone,
    ShinfoDestructor,
    SkbDestructor,
)
from tests.nodes.hand import Pair, facts_of

HEAD, BODY = b"h" * 54, b"b" * 200
EVERY = [SkbDestructor, NoClone, ShinfoDestructor, BackendFragDestructor]
EXACT, EARLY, MISSED, COPIED = "exact", "early", "missed", "copied"

# What happens to the first of two pages: the operation gives those who still show it, the original aside.
Operation = Callable[[Pair, SkBuff], list[SkBuff]]


def admitted(pair: Pair) -> SkBuff:
    """Send a packet with two pages and take it off the ring."""
    pair.front.send(HEAD, [BODY, BODY])
    (skb,) = pair.take()
    return skb


def clone(pair: Pair, skb: SkBuff) -> list[SkBuff]:
    """A tap takes a clone."""
    return [skb_clone(skb, pair.kernel.pool)]


def copy_head(pair: Pair, skb: SkBuff) -> list[SkBuff]:
    """Somebody wants a header of its own over the same pages."""
    return [pskb_copy(skb, pair.kernel.pool)]


def clone_and_expand(pair: Pair, skb: SkBuff) -> list[SkBuff]:
    """Somebody clones the packet and writes to the clone's head."""
    other = skb_clone(skb, pair.kernel.pool)
    pskb_expand_head(other, pair.kernel.pool)
    return [other]


def orphan(pair: Pair, skb: SkBuff) -> list[SkBuff]:
    """A driver orphans the packet, which lives on."""
    skb.users += 1
    skb_orphan(skb)
    return [skb]


def pull(pair: Pair, skb: SkBuff) -> list[SkBuff]:
    """A filter pulls the first page into the linear area."""
    pskb_pull_tail(skb, len(BODY), pair.kernel.pool)
    return []


def split(pair: Pair, skb: SkBuff) -> list[SkBuff]:
    """The packet is cut in two within its first page."""
    rest = alloc_skb(pair.kernel.slab)
    skb_split(skb, rest, len(HEAD) + 10)
    return [rest]


OUTCOMES: dict[Operation, dict[type[LendingStrategy], str]] = {
    clone: {SkbDestructor: EARLY, NoClone: COPIED, ShinfoDestructor: EXACT, BackendFragDestructor: EXACT},
    copy_head: {SkbDestructor: EARLY, NoClone: COPIED, ShinfoDestructor: EARLY, BackendFragDestructor: EXACT},
    clone_and_expand: {SkbDestructor: EARLY, NoClone: COPIED, ShinfoDestructor: EARLY, BackendFragDestructor: EXACT},
    orphan: {SkbDestructor: EARLY, NoClone: EARLY, ShinfoDestructor: EXACT, BackendFragDestructor: EXACT},
    pull: {SkbDestructor: MISSED, NoClone: MISSED, ShinfoDestructor: MISSED, BackendFragDestructor: EXACT},
    split: {SkbDestructor: EARLY, NoClone: EARLY, ShinfoDestructor: EARLY, BackendFragDestructor: EXACT},
}


@pytest.mark.parametrize("strategy", EVERY)
@pytest.mark.parametrize("operation", OUTCOMES, ids=lambda operation: operation.__name__)
def test_what_each_destructor_survives(operation: Operation, strategy: type[LendingStrategy]) -> None:
    """The owner is told of a page at its last use, too early, never, or of a copy that somebody else made."""
    pair = Pair(strategy)
    skb = admitted(pair)
    page = skb.shinfo.frags[0].page

    holders = operation(pair, skb)
    kfree_skb(skb)
    pair.strategy.settle(pair.vif)

    outcome = OUTCOMES[operation][strategy]
    shown = any(frag.page is page for holder in holders for frag in holder.shinfo.frags)
    assert shown == (bool(holders) and outcome != COPIED)
    assert unmapped(page) == (outcome in (EARLY, COPIED) or (outcome == EXACT and not shown))
    pair.finish(*holders)
    assert unmapped(page) == (outcome != MISSED)


@pytest.mark.parametrize("strategy", EVERY)
def test_an_undisturbed_packet_comes_home(strategy: type[LendingStrategy]) -> None:
    """Freed by the card and by nobody else: every slot is answered, and the page structures serve again."""
    pair = Pair(strategy)

    pages = set()
    for _ in range(3):
        skb = admitted(pair)
        pages |= {id(frag.page) for frag in skb.shinfo.frags}
        pair.finish(skb)
        pair.netfront.interrupt(0)

    assert len(pages) == 2
    assert (pair.vif.outstanding, pair.strategy.in_flight()) == (0, 0)
    assert not pair.netfront.broken
    assert pair.kernel.effects == []


@pytest.mark.parametrize("strategy", [SkbDestructor, NoClone, ShinfoDestructor])
def test_a_pulled_page_goes_to_the_hosts_allocator(strategy: type[LendingStrategy]) -> None:
    """Nobody tells netback, the slot is never answered, and a frame of the guest's is handed out as the host's own."""
    pair = Pair(strategy)
    skb = admitted(pair)
    frame = skb.shinfo.frags[0].page.frame

    pskb_pull_tail(skb, len(BODY), pair.kernel.pool)
    pair.finish(skb)

    assert facts_of(pair.kernel.effects, ForeignPageFreed) == [ForeignPageFreed("backend", 1, frame)]
    assert pair.vif.outstanding == 1
    assert pair.strategy.left_over() == {"pages in flight": 1}
    assert pair.strategy.in_flight(pair.vif) == 1


def test_a_split_sends_what_it_moved_past_the_data_block() -> None:
    """The second page now belongs to another packet, which has no destructor: it is missed."""
    pair = Pair(ShinfoDestructor)
    skb = admitted(pair)
    rest = alloc_skb(pair.kernel.slab)

    skb_split(skb, rest, len(HEAD) + len(BODY))
    pair.finish(skb, rest)

    assert pair.vif.outstanding == 1
    assert len(facts_of(pair.kernel.effects, ForeignPageFreed)) == 1


def test_an_unshared_head_can_grow_under_a_data_blocks_destructor() -> None:
    """The fragments just move to the larger head, and what hangs on the block moves with them."""
    pair = Pair(ShinfoDestructor)
    skb = admitted(pair)

    pskb_expand_head(skb, pair.kernel.pool)
    early = pair.vif.released.copy()
    pair.finish(skb)

    assert early == []
    assert pair.vif.outstanding == 0


def test_fragments_are_answered_one_by_one() -> None:
    """A page that was pulled is answered at once, while the rest of the packet is still on its way."""
    pair = Pair(BackendFragDestructor)
    skb = admitted(pair)

    pskb_pull_tail(skb, len(BODY), pair.kernel.pool)
    pair.strategy.settle(pair.vif)

    assert pair.vif.outstanding == 1
    pair.finish(skb)
    assert pair.vif.outstanding == 0
