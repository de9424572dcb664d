"""Backend strategies that answer before the stack is through: what the guest finds, and what a late reader finds."""

from lateack.nodes.facts import FrontendBroken
from lateack.nodes.stack.lifetime import unmapped
from lateack.nodes.stack.skb import SkBuff, kfree_skb
from lateack.nodes.strategies.early import LAZY_UNMAP, EarlyResponse, EarlyUnmap
from tests.nodes.hand import Pair, facts_of

HEAD, BODY = b"h" * 54, b"b" * 1000


def admitted(pair: Pair) -> SkBuff:
    """Send one packet with a page of its own and take it off the ring."""
    pair.front.send(HEAD, [BODY])
    (skb,) = pair.take()
    pair.vif.push()
    return skb


def test_an_early_response_breaks_an_honest_frontend() -> None:
    """The answer is there and the page still mapped: netfront may not take it back, and gives the device up."""
    pair = Pair(EarlyResponse)
    admitted(pair)

    pair.netfront.interrupt(0)

    assert pair.netfront.broken
    assert len(facts_of(pair.front.effects, FrontendBroken)) == 1


def test_an_early_response_breaks_it_even_if_the_stack_was_quick() -> None:
    """Unmapping is put off for the sake of the TLB: the packet may be gone, and the page is mapped all the same."""
    pair = Pair(EarlyResponse)
    kfree_skb(admitted(pair))

    pair.netfront.interrupt(0)

    assert pair.netfront.broken


def test_the_next_burst_unmaps_what_the_stack_has_given_back() -> None:
    """In one batch; a page that the stack still has stays mapped, and nothing ever touches poison."""
    pair = Pair(EarlyResponse)
    done, held = admitted(pair), admitted(pair)
    pages = [skb.shinfo.frags[0].page for skb in (done, held)]
    kfree_skb(done)
    before = [unmapped(page) for page in pages]
    pair.kernel.now += 1

    admitted(pair)

    assert before == [False, False]
    assert [unmapped(page) for page in pages] == [True, False]
    assert pair.kernel.hypervisor.tlb_flushes == 1


def test_a_guest_that_stays_silent_has_its_pages_unmapped_some_time() -> None:
    """The strategy asks to be woken, and has nothing left to do afterwards."""
    pair = Pair(EarlyResponse)
    skb = admitted(pair)
    page = skb.shinfo.frags[0].page
    kfree_skb(skb)
    waiting = pair.strategy.pending()

    pair.strategy.woken(LAZY_UNMAP)

    assert pair.kernel.alarm == LAZY_UNMAP
    assert unmapped(page)
    assert (waiting, pair.strategy.pending()) == (1, 0)


def test_an_early_unmap_satisfies_the_guest_and_nobody_else() -> None:
    """The frontend takes its page back; the packet shows a page that is no longer mapped."""
    pair = Pair(EarlyUnmap)

    skb = admitted(pair)
    pair.netfront.interrupt(0)

    assert not pair.netfront.broken
    assert pair.vif.outstanding == 0
    assert unmapped(skb.shinfo.frags[0].page)
    assert pair.strategy.in_flight() == 0
