"""Lazy copy: what lingers is copied under the packet within a second, unless a card has it."""

import pytest

from lateack.nodes.backend import STRATEGY_TIMER
from lateack.nodes.facts import LingeringCopied
from lateack.nodes.memory.pages import PAGE_SIZE, put_page
from lateack.nodes.messages import Notify
from lateack.nodes.node import MS, Received, S, TimerFired
from lateack.nodes.rules import Rule
from lateack.nodes.stack.skb import kfree_skb, read_frags
from lateack.nodes.stack.skb_copy import skb_clone
from lateack.nodes.strategies.lazy_copy import LazyCopy
from tests.nodes.hand import facts_of, tcp_frame
from tests.nodes.one_backend import Hand
from tests.nodes.strategies.held import BODY, HEAD, Held


def lazily(held: Held) -> LazyCopy:
    """Return the strategy as what it is."""
    assert isinstance(held.strategy, LazyCopy)
    return held.strategy


def test_a_page_that_lingers_is_copied_under_the_packet() -> None:
    """The packet shows a local copy of what the page held, the grant is free, and the guest is answered."""
    held = Held(LazyCopy)
    kernel = held.pair.kernel
    kernel.now = S

    lazily(held).woken(S)

    assert held.outstanding() == 0
    assert kernel.hypervisor.pins() == {1: 2}
    assert [page.memory.domid for page in held.pages] == [0, 0]
    assert kernel.copied_bytes == 2 * PAGE_SIZE
    held.pair.front.memory.write(704, 0, b"rewritten")
    assert [bytes(view) for view in read_frags(held.skb)] == [BODY, BODY]
    assert [(fact.waited, fact.busy) for fact in facts_of(kernel.effects, LingeringCopied)] == [(S, False)] * 2
    kfree_skb(held.skb)
    assert held.whole()


def test_the_clock_is_set_to_a_second_after_the_oldest() -> None:
    """Nothing is polled: the first page in the stack sets the timer, and it is set again for who is younger then."""
    held = Held(LazyCopy)
    kernel = held.pair.kernel
    assert kernel.alarm == S

    kernel.now = 700 * MS
    held.pair.front.send(HEAD, [BODY])
    (later,) = held.pair.take()
    kernel.now = S
    lazily(held).woken(S)

    assert kernel.alarm == 1700 * MS
    assert later.shinfo.frags[0].page.memory.domid == 1
    assert [page.memory.domid for page in held.pages] == [0, 0]


@pytest.mark.parametrize(("age_ms", "looks_at"), [(499, S), (500, 500 * MS), (900, 900 * MS)])
def test_netback_at_work_copies_what_is_half_a_second_old(age_ms: int, looks_at: int) -> None:
    """Whenever it gives something back, pages of half a second and more are next; so a copy is made by one second."""
    held = Held(LazyCopy)
    kernel = held.pair.kernel
    kernel.now = age_ms * MS
    held.pair.front.send(HEAD)
    (ack,) = held.pair.take()

    held.settle()

    assert kernel.alarm == looks_at
    kfree_skb(ack)


def test_a_page_that_a_card_has_mapped_is_waited_for() -> None:
    """-EBUSY: it is never moved under a device, never tried again, and answered when it is really free."""
    held = Held(LazyCopy)
    kernel = held.pair.kernel
    kernel.in_ring = [held.pages[0]]
    kernel.now = S

    lazily(held).woken(S)

    assert held.outstanding() == 1
    assert [fact.busy for fact in facts_of(kernel.effects, LingeringCopied)] == [True, False]
    assert lazily(held).pending() == 0
    kernel.in_ring = []
    kernel.now = 5 * S
    lazily(held).woken(5 * S)
    assert held.outstanding() == 1
    kfree_skb(held.skb)
    assert held.whole()


def test_a_page_on_its_way_home_is_not_copied() -> None:
    """-ENOENT: what waits on the dealloc ring is answered the normal way."""
    held = Held(LazyCopy)
    kfree_skb(held.skb)

    lazily(held).woken(S)

    assert held.pair.kernel.copied_bytes == 0
    assert held.whole()


def test_without_memory_it_tries_again_later() -> None:
    """-ENOMEM: the page stays mapped, and the clock is set for later, never for a time that has passed."""
    held = Held(LazyCopy)
    kernel = held.pair.kernel
    taken = [kernel.pool.alloc() for _ in range(kernel.pool.free_count)]
    kernel.now = S

    lazily(held).woken(S)

    assert kernel.alarm == 1500 * MS
    kernel.now = 1400 * MS
    assert held.outstanding() == 2
    assert lazily(held).pending() == 2
    for page in taken:
        put_page(page)
    lazily(held).woken(2 * S)
    assert held.outstanding() == 0


def test_a_clone_keeps_the_copy_and_nobody_is_told_twice() -> None:
    """Every packet that shows the page shows the copy from then on; the request's next page is another."""
    held = Held(LazyCopy)
    clone = skb_clone(held.skb)
    lazily(held).woken(S)
    held.settle()

    held.pair.front.send(HEAD, [b"n" * 1000])
    (fresh,) = held.pair.take()
    kfree_skb(held.skb)

    assert bytes(read_frags(clone)[0]) == BODY
    assert fresh.shinfo.frags[0].page not in held.pages
    kfree_skb(clone)
    assert held.outstanding() == 1
    kfree_skb(fresh)
    assert held.whole()


@pytest.mark.parametrize(("place", "busy"), [("backend.queue", False), ("backend.nic", True)])
def test_it_copies_out_of_the_queue_and_not_out_of_the_ring(place: str, busy: bool) -> None:
    """A packet in the host's queue loses its page to a copy within a second; in the driver's ring it keeps it."""
    hand = Hand(Rule("stuck", "gate", place, since=None), strategy=LazyCopy)
    head = tcp_frame(BODY)[:54]
    hand.front.send(head, [BODY])
    hand.kick()

    effects = hand.backend.handle(TimerFired(STRATEGY_TIMER), S)
    hand.front.netfront.interrupt(0)
    hand.front.memory.write(704, 0, b"rewritten")

    assert [fact.busy for fact in facts_of(effects, LingeringCopied)] == [busy]
    assert hand.front.netfront.pending() == busy
    hand.backend.egress.open()
    hand.backend.nic.open()
    hand.handle(Received("guest1", Notify(1)))
    hand.front.netfront.interrupt(0)
    assert (hand.frames[0][54:] == BODY) == (not busy)
    assert hand.front.netfront.pending() == 0
    assert hand.left_over() == {}
