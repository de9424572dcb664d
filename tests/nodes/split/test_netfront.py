"""netfront against a real netback over one memory, and against one that breaks the rules."""

import pytest

from lateack.nodes.facts import FrameDropped, FrontendBroken
from lateack.nodes.memory.netif import NETIF_RSP_ERROR, NETIF_RSP_NULL, NETIF_RSP_OKAY
from lateack.nodes.memory.ring import RSP_PROD
from lateack.nodes.messages import Notify
from lateack.nodes.stack.lifetime import frag_view
from lateack.nodes.stack.skb import skb_linear
from lateack.nodes.strategies.backend import BackendStrategy, DevZerocopy, GrantCopy
from tests.nodes.hand import GUEST_MAC, Pair, facts_of, messages_to, tcp_frame


def free_slots(pair: Pair) -> int:
    """Return how many transmit slots nobody uses."""
    return len(pair.netfront.free_ids)


def breaks(pair: Pair) -> list[str]:
    """Return why the frontend gave up on its backend."""
    return [fact.reason for fact in facts_of(pair.front.effects, FrontendBroken)]


def test_it_publishes_its_rings_by_grant() -> None:
    """The keys name both rings, the address and the event channel, and the receive buffers are on offer already."""
    pair = Pair(rx_target=8)

    assert pair.front.keys["mac"] == GUEST_MAC.hex(":")
    assert pair.front.keys["request-rx-copy"] == 1
    assert pair.vif.rx is not None
    assert pair.vif.rx.unconsumed_requests() == 8
    assert pair.front.grants.in_use == 2 + 8


def test_a_small_packet_takes_one_slot_and_comes_home() -> None:
    """One request for one linear area; its answer frees the slot, the grant and the packet."""
    pair = Pair()
    grants, cells = pair.front.grants.in_use, pair.front.slab.outstanding
    pair.front.send(tcp_frame())
    waiting = pair.netfront.pending()

    (skb,) = pair.take()
    linear = skb_linear(skb)
    pair.finish(skb)
    pair.netfront.interrupt(0)

    assert waiting == 1
    assert linear == tcp_frame()
    assert free_slots(pair) == 256
    assert pair.front.grants.in_use == grants
    assert pair.front.slab.outstanding == cells
    assert not breaks(pair)


def test_a_packet_to_be_cut_takes_an_extra_slot() -> None:
    """A GSO packet tells its segment size in the slot behind the first, which no id stands for."""
    pair = Pair()
    pieces = [bytes([n]) * 4096 for n in range(3)]
    pair.front.send(tcp_frame()[:54], pieces, gso_size=1460)
    ids, places = free_slots(pair), pair.netfront.tx.free_requests()

    (skb,) = pair.take()
    gso_size, sizes = skb.shinfo.gso_size, [frag.size for frag in skb.shinfo.frags]
    pair.finish(skb)
    pair.netfront.interrupt(0)

    assert (ids, places) == (256 - 4, 256 - 5)
    assert gso_size == 1460
    assert sizes == [4096] * 3
    assert free_slots(pair) == pair.netfront.tx.free_requests() == 256


def test_seventeen_fragments_fit_the_protocol() -> None:
    """A packet of 17 pages and a linear area is the 18 slots that every backend takes (XEN_NETIF_NR_SLOTS_MIN)."""
    pair = Pair()
    pair.front.send(tcp_frame()[:54], [bytes([n]) * 100 for n in range(17)])

    (skb,) = pair.take()
    shown = [frag.page.memory.read(frag.page.frame, frag.offset, frag.size) for frag in skb.shinfo.frags]
    pair.finish(skb)
    pair.netfront.interrupt(0)

    assert shown == [bytes([n]) * 100 for n in range(17)]
    assert free_slots(pair) == 256


def test_a_full_ring_makes_packets_wait_and_then_lets_them_go() -> None:
    """What does not fit the ring waits in front of it, in order, and goes in as answers make room."""
    pair = Pair()
    for number in range(300):
        pair.front.send(tcp_frame(seq=number))
    waited = len(pair.netfront.queue)
    seen = []
    for _ in range(3):
        skbs = pair.take()
        seen += [int.from_bytes(skb_linear(skb)[38:42], "big") for skb in skbs]
        pair.finish(*skbs)
        pair.netfront.interrupt(0)
        pair.netfront.flush()

    assert waited == 300 - 256
    assert seen == list(range(300))
    assert free_slots(pair) == 256
    assert not pair.netfront.queue


def test_the_queue_before_the_ring_is_bounded() -> None:
    """A packet too many is freed and told of."""
    pair = Pair(queue_max=3)
    cells = pair.front.slab.outstanding

    for _ in range(260):
        pair.front.send(tcp_frame())

    assert len(pair.netfront.queue) == 3
    assert len(facts_of(pair.front.effects, FrameDropped)) == 1
    assert pair.front.slab.outstanding == cells + 259


def test_it_kicks_only_when_it_is_asked_to() -> None:
    """A backend that has not looked again since the last kick is not kicked once more."""
    pair = Pair()

    for _ in range(5):
        pair.front.send(tcp_frame())

    assert messages_to(pair.front.effects, "backend") == [Notify(1)]
    assert pair.netfront.notifications == 1


def test_an_answer_to_an_extra_slot_means_nothing() -> None:
    """RSP_NULL is skipped, whatever id it carries (netif.h)."""
    pair = Pair()
    pair.front.send(tcp_frame())
    assert pair.vif.tx is not None
    pair.vif.tx.get_request()
    pair.vif.tx.put_response(77, NETIF_RSP_NULL)
    pair.vif.tx.push_responses()

    pair.netfront.interrupt(0)

    assert not breaks(pair)
    assert free_slots(pair) == 255


def test_an_error_is_an_answer_too() -> None:
    """A packet that the backend refused goes home as one that was sent: the network may lose anything."""
    pair = Pair()
    pair.front.send(tcp_frame())
    assert pair.vif.tx is not None
    request_id = pair.vif.tx.get_request()[3]
    pair.vif.tx.put_response(request_id, NETIF_RSP_ERROR)
    pair.vif.tx.push_responses()

    pair.netfront.interrupt(0)

    assert not breaks(pair)
    assert free_slots(pair) == 256


def test_a_response_before_the_unmap_breaks_the_device() -> None:
    """A page that the backend still maps cannot be taken back: disabled for further use, and no crash (XSA-396)."""
    pair = Pair()
    pair.front.send(tcp_frame()[:54], [b"payload"])
    (skb,) = pair.take()
    slot = skb.shinfo.ubuf.token.slots[0]  # type: ignore[union-attr]
    pair.vif.respond(slot, NETIF_RSP_OKAY)
    pair.vif.push()

    pair.netfront.interrupt(0)

    assert breaks(pair) == ["a response came while the backend still has the page mapped"]
    assert pair.netfront.broken


def test_a_broken_device_is_used_no_more() -> None:
    """After the break nothing is taken from the rings or put into them, and packets handed down are freed."""
    pair = Pair()
    for _ in range(257):
        pair.front.send(tcp_frame())
    pair.vif.queue_frame(b"frame")
    pair.vif.deliver(pair.kernel.hypervisor)
    assert pair.vif.tx is not None
    for request_id, status in ((0, NETIF_RSP_OKAY), (0, NETIF_RSP_OKAY)):
        pair.vif.tx.get_request()
        pair.vif.tx.put_response(request_id, status)
    pair.vif.tx.push_responses()
    put = pair.netfront.tx.req_prod_pvt

    frames = pair.netfront.interrupt(0)
    later = pair.netfront.interrupt(0)
    cells = pair.front.slab.outstanding
    pair.front.send(tcp_frame())

    assert breaks(pair) == ["a response names a request that is not outstanding"]
    assert frames == later == []
    assert pair.netfront.tx.req_prod_pvt == put
    assert pair.front.slab.outstanding == cells


@pytest.mark.parametrize("request_id", [3, 256, 65535])
def test_a_response_to_nothing_breaks_the_device(request_id: int) -> None:
    """An id that is not outstanding, or that no slot can have, is a lie."""
    pair = Pair()
    pair.front.send(tcp_frame())
    assert pair.vif.tx is not None
    pair.vif.tx.get_request()
    pair.vif.tx.put_response(request_id, NETIF_RSP_OKAY)
    pair.vif.tx.push_responses()

    pair.netfront.interrupt(0)

    assert breaks(pair) == ["a response names a request that is not outstanding"]


def test_more_responses_than_slots_break_the_device() -> None:
    """A producer index further ahead than the ring is long is impossible (RING_RESPONSE_PROD_OVERFLOW)."""
    pair = Pair()
    pair.front.memory.words[pair.netfront.tx.header + RSP_PROD] = 257

    pair.netfront.interrupt(0)

    assert breaks(pair) == ["the backend claims more responses than the ring has slots"]


def test_a_frame_arrives_and_its_buffer_is_offered_again() -> None:
    """What netback copied into a granted frame comes out whole, and the frame goes back into the ring at once."""
    pair = Pair(rx_target=4)

    frames = pair.deliver(b"x" * 60, b"y" * 1514)

    assert frames == [b"x" * 60, b"y" * 1514]
    assert pair.vif.rx is not None
    assert pair.vif.rx.unconsumed_requests() == 4


def test_a_jumbo_frame_arrives_in_several_slots() -> None:
    """A frame longer than a page comes in pieces that say that more follows."""
    pair = Pair(rx_target=8)
    jumbo = bytes(range(256)) * 35 + b"end"

    frames = pair.deliver(b"before", jumbo, b"after")

    assert frames == [b"before", jumbo, b"after"]


def test_buffers_that_came_back_empty_are_offered_again() -> None:
    """A receive buffer answered with an error is not lost to the ring, or a few errors would stop all traffic."""
    pair = Pair(rx_target=4)
    rx = pair.vif.rx
    assert rx is not None
    for _ in range(4):
        request_id, _ = rx.get_request()
        rx.put_response(request_id, 0, 0, NETIF_RSP_ERROR)
    rx.push_responses()

    frames = pair.netfront.interrupt(0)

    assert frames == []
    assert rx.unconsumed_requests() == 4


@pytest.mark.parametrize(("offset", "status"), [(4000, 200), (5000, 1), (0, 4097)])
def test_a_response_that_crosses_its_page_is_no_frame(offset: int, status: int) -> None:
    """netfront drops what would lie outside of the buffer, as xennet_get_responses does."""
    pair = Pair()
    rx = pair.vif.rx
    assert rx is not None
    request_id, _ = rx.get_request()
    rx.put_response(request_id, offset, 0, status)
    rx.push_responses()

    assert pair.netfront.interrupt(0) == []


def test_a_receive_buffer_that_was_never_offered_breaks_the_device() -> None:
    """An id without a buffer is a lie."""
    pair = Pair(rx_target=4)
    rx = pair.vif.rx
    assert rx is not None
    rx.get_request()
    rx.taken_ids[0] = 200
    rx.put_response(200, 0, 0, 60)
    rx.push_responses()

    pair.netfront.interrupt(0)

    assert breaks(pair) == ["a receive buffer came back that is not whole"]


@pytest.mark.parametrize("strategy", [GrantCopy, DevZerocopy])
def test_headers_that_a_guest_rewrites_after_submitting_have_no_effect(strategy: type[BackendStrategy]) -> None:
    """netback has copied the first 128 bytes; only of what lies behind them does it matter whose page it is."""
    pair = Pair(strategy)
    skb = pair.front.send(b"headers and more" + bytes(48), [b"p" * 300])
    (taken,) = pair.take()

    pair.front.memory.view[skb.data : skb.data + 7] = b"HEADERS"
    frag = skb.shinfo.frags[0]
    frag.page.memory.write(frag.page.frame, 0, b"P" * 300)

    assert skb_linear(taken)[:16] == b"headers and more"
    payload = b"".join(frag_view(frag) for frag in taken.shinfo.frags)
    assert payload == (b"p" if strategy is GrantCopy else b"P") * 300
    pair.finish(taken)
