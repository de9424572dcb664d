"""What waits for a guest: for how long, at whose cost, and what becomes of a guest that takes nothing."""

from lateack.nodes.facts import AccessFault, BufferRefilled, CarrierLost, PacketsDropped
from lateack.nodes.messages import Frames, Notify
from lateack.nodes.node import MS, Received, S, SetTimer, TimerFired
from lateack.nodes.split.netback_rx import RX_DRAIN_TIMEOUT, RX_STALL_TIMEOUT
from lateack.nodes.stack.lifetime import unmap_page
from lateack.nodes.strategies.backend import DevZerocopy, GrantCopy
from tests.nodes.hand import Pair, facts_of, tcp_frame, udp_frame
from tests.nodes.one_backend import OTHER_MAC, Hand

BUFFERS = 8


def arrive(hand: Hand, count: int) -> None:
    """Let frames for guest1 arrive from the wire."""
    hand.handle(Received("network", Frames(tuple(tcp_frame(seq=n, to_server=False) for n in range(count)))))


def cross(hand: Hand, count: int) -> int:
    """Let guest1 send datagrams to guest2; return how many requests it still waits for."""
    for number in range(count):
        payload = b"datagram %d" % number
        hand.front.send(OTHER_MAC + udp_frame(payload)[6:42], [payload])
    hand.kick()
    return 256 - len(hand.front.netfront.free_ids)


def wake(hand: Hand, name: str, at: int) -> None:
    """Let one of the backend's timers fire."""
    hand.now = at
    hand.handle(TimerFired(name))
    hand.front.netfront.interrupt(0)


def test_pages_of_a_neighbour_go_home_after_ten_seconds() -> None:
    """What a guest does not take is dropped (rx_drain_timeout_msecs), and whoever sent it is answered."""
    hand = Hand()

    waiting = cross(hand, BUFFERS + 3)
    wake(hand, "rx.guest2", RX_DRAIN_TIMEOUT)

    assert waiting == 3
    assert len(hand.front.netfront.free_ids) == 256
    assert [(fact.place, fact.count) for fact in facts_of(hand.facts, PacketsDropped)] == [("guest2.vif", 3)]
    assert hand.backend.pending() == 0
    assert hand.left_over() == {}


def test_a_copying_backend_owes_its_guest_nothing_meanwhile() -> None:
    """grant-copy answered long before; what waits are the host's own pages, and they are freed by the drain."""
    hand = Hand(strategy=GrantCopy)

    waiting = cross(hand, BUFFERS + 3)
    wake(hand, "rx.guest2", RX_DRAIN_TIMEOUT)

    assert waiting == 0
    assert hand.left_over() == {}


def test_only_what_is_too_old_is_dropped() -> None:
    """Each packet has its ten seconds; the timer is set for the next one."""
    hand = Hand()
    cross(hand, BUFFERS + 1)
    hand.now = 4 * S
    cross(hand, 1)

    hand.now = RX_DRAIN_TIMEOUT
    effects = hand.handle(TimerFired("rx.guest2"))

    assert [fact.count for fact in facts_of(hand.facts, PacketsDropped)] == [1]
    assert [effect for effect in effects if isinstance(effect, SetTimer)] == [SetTimer("rx.guest2", 14 * S)]


def test_one_timer_is_enough() -> None:
    """Packets that come later are looked at when the first one's time is up."""
    hand = Hand()
    arrive(hand, BUFFERS + 1)

    hand.now = 5 * MS
    effects = hand.handle(Received("network", Frames((tcp_frame(to_server=False),))))

    assert not [effect for effect in effects if isinstance(effect, SetTimer)]


def test_a_guest_that_takes_nothing_for_a_minute_loses_its_carrier() -> None:
    """Then nothing is queued for it any more (rx_stall_timeout_msecs), until it offers buffers again."""
    hand = Hand()
    arrive(hand, BUFFERS + 1)
    hand.front.netfront.withhold()
    hand.front.netfront.interrupt(0)
    wake(hand, "rx.guest1", RX_DRAIN_TIMEOUT)
    hand.now = RX_STALL_TIMEOUT - 1
    arrive(hand, 1)
    wake(hand, "rx.guest1", RX_STALL_TIMEOUT)
    lost = facts_of(hand.facts, CarrierLost)
    arrive(hand, 5)
    queued = len(hand.backend.vifs["guest1"].rx_queue)

    hand.front.netfront.offer_again()
    hand.handle(Received("guest1", Notify(1)))
    hand.front.netfront.interrupt(0)
    arrive(hand, 2)

    assert lost == [CarrierLost("guest1", RX_STALL_TIMEOUT)]
    assert queued == 1
    assert len(hand.front.netfront.interrupt(0)) == 2


def test_what_a_guest_took_with_its_carrier_off_can_grow_old_no_more() -> None:
    """The buffers that bring the carrier back take what waits, too: nothing of it is left for the timer to drop."""
    hand = Hand()
    arrive(hand, BUFFERS + 1)
    hand.front.netfront.withhold()
    hand.front.netfront.interrupt(0)
    wake(hand, "rx.guest1", RX_DRAIN_TIMEOUT)
    hand.now = RX_STALL_TIMEOUT - 1
    arrive(hand, 1)
    wake(hand, "rx.guest1", RX_STALL_TIMEOUT)
    dropped = len(facts_of(hand.facts, PacketsDropped))

    hand.front.netfront.offer_again()
    hand.handle(Received("guest1", Notify(1)))
    wake(hand, "rx.guest1", RX_STALL_TIMEOUT + RX_DRAIN_TIMEOUT)

    assert len(facts_of(hand.facts, CarrierLost)) == 1
    assert len(facts_of(hand.facts, PacketsDropped)) == dropped


def test_the_bytes_are_those_of_the_moment_at_which_they_are_copied() -> None:
    """A neighbour's packet is references until a buffer is there; its sender may have had other ideas by then."""
    hand = Hand()
    cross(hand, BUFFERS)
    skb = hand.front.skb(OTHER_MAC + udp_frame(b"old")[6:42], [b"old"])
    page = skb.shinfo.frags[0].page
    hand.front.netfront.xmit(skb, 0)
    hand.front.netfront.flush()
    hand.kick()

    hand.front.memory.write(page.frame, 0, b"new")
    hand.fronts["guest2"].netfront.interrupt(0)
    hand.handle(Received("guest2", Notify(1)))
    frames = hand.fronts["guest2"].netfront.interrupt(0)

    assert [frame[42:] for frame in frames] == [b"new"]


def test_a_page_that_is_gone_costs_the_packet_and_no_buffer() -> None:
    """Touching it is recorded; the packet is dropped, and the guest keeps its buffer for the next."""
    pair = Pair(DevZerocopy)
    pair.front.send(udp_frame(b"gone")[:42], [b"gone"])
    (skb,) = pair.take()
    unmap_page(skb.shinfo.frags[0].page)

    pair.vif.queue_packet(skb)
    frames = pair.deliver(udp_frame(b"next"))

    assert [fact.place for fact in facts_of(pair.effects, AccessFault)] == ["guest1.vif"]
    assert [frame[42:] for frame in frames] == [b"next"]
    assert pair.vif.rx_bytes == 0


def test_what_waits_for_an_interface_that_is_shut_is_let_go_of() -> None:
    """A guest that lies is shut, and its neighbours get their pages back."""
    hand = Hand()
    cross(hand, BUFFERS + 2)

    hand.backend.vifs["guest2"].fatal("it lied")
    hand.notice(BufferRefilled(0, (1,), 0, 0, 0))
    hand.front.netfront.interrupt(0)

    assert len(hand.front.netfront.free_ids) == 256
    assert hand.left_over() == {}
