"""The guest's strategies with an owner whom the stack knows, and the one that copies what RPC sends again."""

from lateack.nodes.stack.skb import kfree_skb
from lateack.nodes.stack.skb_copy import skb_clone, skb_orphan_frags
from lateack.nodes.stack.skb_cut import skb_split
from lateack.nodes.strategies.guest_zerocopy import CopyOnRetransmit, MsgZerocopy, ZerocopyOnReply
from tests.nodes.strategies.test_guest import BYTES, Kernel, shown


def test_msg_zerocopy_completes_on_reply_and_notification() -> None:
    """The reply is here, the queue's packet is gone: the clone below is what the write waits for."""
    kernel = Kernel()
    strategy = MsgZerocopy(kernel)
    skb = kernel.transmit(strategy)
    clone = skb_clone(skb)

    kfree_skb(skb)
    strategy.replied(kernel.write)
    before = list(kernel.completed)
    kfree_skb(clone)

    assert before == []
    assert kernel.completed == [kernel.write]
    assert kernel.refs() == [1, 1]


def test_msg_zerocopy_counts_all_transmissions_and_what_is_cut_off_them() -> None:
    """A split takes the owner along (skb_zerocopy_clone), and a second transmission shares it."""
    kernel = Kernel()
    strategy = MsgZerocopy(kernel)
    first, second, rest = kernel.transmit(strategy), kernel.transmit(strategy), kernel.packet([])

    skb_split(first, rest, 4096)
    strategy.replied(kernel.write)
    kfree_skb(first)
    kfree_skb(second)
    before = list(kernel.completed)
    kfree_skb(rest)

    assert before == []
    assert kernel.completed == [kernel.write]


def test_msg_zerocopy_waits_for_the_notification_after_an_abort_too() -> None:
    """Nobody waits for the reply any more, and the buffer is still shown."""
    kernel = Kernel()
    strategy = MsgZerocopy(kernel)
    skb = kernel.transmit(strategy)

    strategy.aborted(kernel.write)
    before = list(kernel.completed)
    kfree_skb(skb)

    assert before == []
    assert kernel.completed == [kernel.write]


def test_whoever_keeps_a_packet_copies_it_first_and_the_owner_is_free() -> None:
    """A tap's copy shows what was sent, whatever the application does next; software sums copy as well."""
    kernel = Kernel()
    strategy = MsgZerocopy(kernel)
    skb = kernel.transmit(strategy)
    tapped = skb_clone(skb)

    skb_orphan_frags(tapped, kernel.kernel_pages)
    kfree_skb(skb)
    strategy.replied(kernel.write)
    kernel.memory.write(30, 0, b"next")

    assert kernel.completed == [kernel.write]
    assert shown(tapped) == BYTES
    assert skb.shinfo.shared_frag


def test_zerocopy_on_reply_does_not_wait_for_its_notification() -> None:
    """The count comes out even all the same: the write is completed once."""
    kernel = Kernel()
    strategy = ZerocopyOnReply(kernel)
    skb = kernel.transmit(strategy)

    strategy.replied(kernel.write)
    before = list(kernel.completed)
    kfree_skb(skb)

    assert before == kernel.completed == [kernel.write]
    assert kernel.refs() == [1, 1]


def test_zerocopy_on_reply_gives_up_at_once() -> None:
    """An abort completes as the reply would."""
    kernel = Kernel()
    strategy = ZerocopyOnReply(kernel)
    kernel.transmit(strategy)

    strategy.aborted(kernel.write)

    assert kernel.completed == [kernel.write]


def test_copy_on_retransmit_copies_over_tcp_from_the_second_transmission_on() -> None:
    """The first shows the application's pages; the second was frozen while the call was pending."""
    kernel = Kernel()
    strategy = CopyOnRetransmit(kernel)
    first, second = kernel.transmit(strategy), kernel.transmit(strategy)

    strategy.replied(kernel.write)
    kernel.memory.write(30, 0, b"next")

    assert kernel.completed == [kernel.write]
    assert (shown(first)[:4], shown(second)) == (b"next", BYTES)
    assert kernel.copied_bytes == len(BYTES)


def test_copy_on_retransmit_never_copies_over_udp() -> None:
    """The fix of 2013 left xs_udp_send_request as it was."""
    kernel = Kernel()
    kernel.transport = "udp"
    strategy = CopyOnRetransmit(kernel)

    kernel.transmit(strategy)
    second = kernel.transmit(strategy)
    kernel.memory.write(30, 0, b"next")

    assert shown(second)[:4] == b"next"
    assert kernel.copied_bytes == 0
