"""The guest's strategies that believe a packet's destructor: when it runs, and what still shows the pages then."""

import copy

import pytest

from lateack.nodes.stack.skb import SkBuff, kfree_skb, skb_header_release, skb_orphan
from lateack.nodes.stack.skb_copy import skb_clone
from lateack.nodes.stack.skb_cut import skb_split
from lateack.nodes.strategies.guest import GuestStrategy
from lateack.nodes.strategies.guest_destructors import CloneDestructors, NoCloneDestructors, QueueDestructors
from tests.nodes.strategies.test_guest import BYTES, Kernel, shown


def queue(kernel: Kernel, strategy: GuestStrategy) -> SkBuff:
    """Put the write into one packet of TCP's queue."""
    kernel.write.transmissions += 1
    skb = kernel.packet(strategy.take(kernel.write))
    skb_header_release(skb)
    skb.transmissions = 0
    strategy.queued(kernel.write, [skb])
    return skb


def send(kernel: Kernel, strategy: GuestStrategy, skb: SkBuff) -> SkBuff:
    """Transmit a queued packet once more; return what the device gets, with TCP's destructor on it."""
    skb.transmissions += 1
    clone = skb_clone(skb, kernel.kernel_pages)
    clone.destructor = kernel.wfree
    if strategy.watches_clones:
        strategy.skb_shared(skb, clone)
    return clone


def test_the_queues_destructor_runs_while_a_clone_lives() -> None:
    """The acknowledgement frees the packet: its destructor gives the page away under the clone that waits below."""
    kernel = Kernel()
    strategy = QueueDestructors(kernel)
    skb = queue(kernel, strategy)
    clone = send(kernel, strategy, skb)

    kfree_skb(skb)
    kernel.memory.write(30, 0, b"next")

    assert kernel.completed == [kernel.write]
    assert shown(clone)[:4] == b"next"


def test_the_queues_destructor_asks_no_reply() -> None:
    """The reply alone does not complete the write, nor does an abort; the destructor does, once."""
    kernel = Kernel()
    strategy = QueueDestructors(kernel)
    first, second = queue(kernel, strategy), queue(kernel, strategy)

    strategy.replied(kernel.write)
    strategy.aborted(kernel.write)
    kfree_skb(first)
    before = list(kernel.completed)
    kfree_skb(second)
    kernel.write.done = True
    kfree_skb(queue(kernel, strategy))

    assert before == []
    assert kernel.completed == [kernel.write]


def test_what_is_cut_off_a_packet_has_no_destructor() -> None:
    """tcp_fragment: the first part's end is taken for the end of all, and the rest has not even been sent."""
    kernel = Kernel()
    strategy = QueueDestructors(kernel)
    skb = queue(kernel, strategy)
    rest = kernel.packet([])

    skb_split(skb, rest, 4096)
    kfree_skb(skb)

    assert kernel.completed == [kernel.write]
    assert shown(rest) == BYTES[4096:]


def test_a_clones_destructor_precedes_the_acknowledgement() -> None:
    """The device is through with the clone, and the packet in the queue still shows the page it may have to repeat."""
    kernel = Kernel()
    strategy = CloneDestructors(kernel)
    skb = queue(kernel, strategy)
    clone = send(kernel, strategy, skb)

    kfree_skb(clone)
    kernel.memory.write(30, 0, b"next")

    assert kernel.completed == [kernel.write]
    assert shown(skb)[:4] == b"next"
    assert kernel.charged == -1  # TCP's own destructor ran, too


def test_a_clones_destructor_waits_for_all_clones_and_for_what_was_never_sent() -> None:
    """One packet of two has left, and the other once: only the last clone below completes the write."""
    kernel = Kernel()
    strategy = CloneDestructors(kernel)
    first, second = queue(kernel, strategy), queue(kernel, strategy)
    kfree_skb(send(kernel, strategy, first))
    unsent = list(kernel.completed)
    once, again = send(kernel, strategy, second), send(kernel, strategy, second)

    kfree_skb(again)
    before = list(kernel.completed)
    skb_orphan(once)  # a driver that orphans what it takes runs the destructor while the packet lives on

    assert (unsent, before) == ([], [])
    assert kernel.completed == [kernel.write]
    kfree_skb(first)
    kfree_skb(second)
    assert strategy.counts == {}


def test_a_strategy_with_packets_under_way_can_be_copied() -> None:
    """A copy of a whole machine goes on by itself: its packets tell its own strategy."""
    kernel = Kernel()
    strategy = CloneDestructors(kernel)
    skb = queue(kernel, strategy)

    twin_kernel, twin, twin_skb = copy.deepcopy((kernel, strategy, skb))
    kfree_skb(send(twin_kernel, twin, twin_skb))

    assert kernel.completed == []
    assert twin_kernel.completed == [twin_kernel.write]


def test_no_clone_copies_each_transmission_and_charges_for_it() -> None:
    """What is below shows no page of the application, so that the destructor in the queue can be believed."""
    kernel = Kernel()
    strategy = NoCloneDestructors(kernel)
    skb = queue(kernel, strategy)
    clones = [send(kernel, strategy, skb), send(kernel, strategy, skb)]

    kfree_skb(skb)
    kernel.memory.write(30, 0, b"next")

    assert kernel.completed == [kernel.write]
    assert [shown(clone) for clone in clones] == [BYTES, BYTES]
    assert kernel.copied_bytes == 2 * len(BYTES)


@pytest.mark.parametrize("kind", [QueueDestructors, CloneDestructors, NoCloneDestructors])
def test_a_datagrams_packets_complete_the_write_when_they_have_been_sent(kind: type[QueueDestructors]) -> None:
    """They are in no queue: the packet that carries the destructor is the one that goes down."""
    kernel = Kernel()
    strategy = kind(kernel)
    skb = kernel.transmit(strategy)

    kfree_skb(skb)

    assert kernel.completed == [kernel.write]


def test_a_queued_packet_that_never_was_transmitted_is_gone_with_its_connection() -> None:
    """TCP drops its queue: nothing of the packet will ever go down, and its destructor says so, too."""
    kernel = Kernel()
    strategy = CloneDestructors(kernel)
    skb = queue(kernel, strategy)

    kfree_skb(skb)

    assert kernel.completed == [kernel.write]
