"""netback's half of one interface: what it believes, what it refuses, and when it answers."""

import pytest

from lateack.nodes.facts import FrameDropped, VifDisabled
from lateack.nodes.memory.hypervisor import Hypervisor
from lateack.nodes.memory.netif import (
    NETIF_RSP_ERROR,
    NETIF_RSP_NULL,
    NETIF_RSP_OKAY,
    NETTXF_extra_info,
    NETTXF_more_data,
)
from lateack.nodes.memory.pages import put_page
from lateack.nodes.memory.ring import REQ_PROD
from lateack.nodes.messages import Notify
from lateack.nodes.split.netback import MAX_PENDING_REQS, RX_QUEUE_BYTES_MAX, FatalRequest, Vif
from lateack.nodes.split.xenbus import GRANT_FRAME
from lateack.nodes.stack.skb_copy import skb_clone
from lateack.nodes.strategies import BACKEND_STRATEGIES
from lateack.nodes.strategies.backend import BackendStrategy, DevZerocopy, GrantCopy
from lateack.nodes.strategies.early import EarlyResponse
from tests.nodes.hand import Frontend, Pair, facts_of, messages_to, tcp_frame

STRATEGIES = [DevZerocopy, GrantCopy]


def answers(pair: Pair) -> list[tuple[int, int]]:
    """Publish and return the answers that wait for the frontend: (id, status)."""
    pair.vif.push()
    tx = pair.netfront.tx
    return [tx.get_response() for _ in range(tx.unconsumed_responses())]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_bad_grant_costs_one_packet(strategy: type[BackendStrategy]) -> None:
    """Every slot of the packet is answered with an error, nothing stays mapped, and the next packet passes."""
    pair = Pair(strategy)
    header = pair.front.grant(tcp_frame()[:54])
    pair.front.lie((header, 0, NETTXF_more_data, 0, 154), (400, 0, 0, 1, 100))
    refused = pair.take()
    first = answers(pair)
    pair.front.send(tcp_frame())

    taken = pair.take()

    assert refused == []
    assert first == [(0, NETIF_RSP_ERROR), (1, NETIF_RSP_ERROR)]
    assert len(taken) == 1
    assert not pair.vif.disabled
    pair.finish(*taken)
    assert pair.vif.outstanding == 0
    assert pair.kernel.slab.outstanding == 0
    assert sum(pair.kernel.hypervisor.pins().values()) == 2  # the rings


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_grant_gone_bad_in_the_middle_unmaps_what_was_mapped(strategy: type[BackendStrategy]) -> None:
    """The slots before the bad one are given back as well."""
    pair = Pair(strategy)
    grefs = [pair.front.grant(tcp_frame()[:54]), pair.front.grant(b"a"), pair.front.grant(b"b")]
    more = NETTXF_more_data
    pair.front.lie(
        (grefs[0], 0, more, 0, 354), (grefs[1], 0, more, 1, 100), (grefs[2], 0, more, 2, 100), (444, 0, 0, 3, 100)
    )

    assert pair.take() == []
    assert [status for _, status in answers(pair)] == [NETIF_RSP_ERROR] * 4
    assert all(pair.front.grants.end_access(gref) for gref in grefs)
    assert pair.kernel.pool.outstanding == len(pair.kernel.slab.pages)


def test_a_slot_that_crosses_its_page_is_fatal() -> None:
    """No honest frontend does that (xenvif_count_requests)."""
    pair = Pair()
    pair.front.lie((pair.front.grant(), 4000, 0, 0, 200))

    with pytest.raises(FatalRequest, match="crosses the end of its page"):
        pair.take()


def test_sizes_that_do_not_add_up_are_fatal() -> None:
    """The first slot's size is that of the whole packet, so that what follows cannot be longer."""
    pair = Pair()
    pair.front.lie((pair.front.grant(), 0, NETTXF_more_data, 0, 60), (pair.front.grant(), 0, 0, 1, 61))

    with pytest.raises(FatalRequest, match="do not add up"):
        pair.take()


def test_a_packet_that_does_not_end_is_fatal() -> None:
    """The last request says that more follows, and nothing does."""
    pair = Pair()
    pair.front.lie((pair.front.grant(), 0, NETTXF_more_data, 0, 60))

    with pytest.raises(FatalRequest, match="missing or too many slots"):
        pair.take()


def many_slots(pair: Pair, count: int) -> None:
    """Send a packet in that many slots of 54 bytes each."""
    sizes = [54 * count] + [54] * (count - 1)
    grefs = [pair.front.grant(tcp_frame()[:54]) for _ in sizes]
    flags = [NETTXF_more_data] * (count - 1) + [0]
    pair.front.lie(*((grefs[n], 0, flags[n], n, sizes[n]) for n in range(count)))


def test_far_too_many_slots_are_fatal() -> None:
    """Beyond fatal_skb_slots a frontend is malicious."""
    pair = Pair()
    many_slots(pair, 22)

    with pytest.raises(FatalRequest, match="missing or too many slots"):
        pair.take()


def test_a_few_slots_too_many_cost_the_packet() -> None:
    """More than the historic 18 but less than the fatal number: dropped, with errors, and the vif lives on."""
    pair = Pair()
    many_slots(pair, 19)

    assert pair.take() == []
    assert [status for _, status in answers(pair)] == [NETIF_RSP_ERROR] * 19
    assert not pair.vif.disabled
    assert pair.vif.outstanding == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_eighteen_slots_pass_with_a_long_first_one(strategy: type[BackendStrategy]) -> None:
    """A first slot longer than what is copied of it leaves 18 fragments; an old frontend may send that."""
    pair = Pair(strategy)
    first = pair.front.grant(tcp_frame()[:54] + bytes(200))
    rest = [pair.front.grant(bytes([n])) for n in range(17)]
    requests = [(first, 0, NETTXF_more_data, 0, 254 + 17 * 10)]
    requests += [(gref, 0, NETTXF_more_data if n < 16 else 0, n + 1, 10) for n, gref in enumerate(rest)]
    pair.front.lie(*requests)

    (skb,) = pair.take()
    sizes = [frag.size for frag in skb.shinfo.frags]
    pair.finish(skb)

    assert sizes == [126] + [10] * 17
    assert [status for _, status in answers(pair)] == [NETIF_RSP_OKAY] * 18


def test_a_runt_is_answered_with_an_error() -> None:
    """Less than an Ethernet header is not fatal: the request fails (xenvif_tx_build_gops)."""
    pair = Pair()
    pair.front.lie((pair.front.grant(), 0, 0, 5, 13))

    assert pair.take() == []
    assert answers(pair) == [(5, NETIF_RSP_ERROR)]
    assert not pair.vif.disabled


def test_a_missing_extra_slot_is_fatal() -> None:
    """The request announces extra information and the ring ends."""
    pair = Pair()
    pair.front.lie((pair.front.grant(), 0, NETTXF_extra_info, 0, 60))

    with pytest.raises(FatalRequest, match="extra slot is missing"):
        pair.take()


@pytest.mark.parametrize(("kind", "size", "gso_type"), [(0, 1460, 1), (9, 1460, 1), (1, 0, 1), (1, 1460, 7)])
def test_extra_information_that_means_nothing_is_fatal(kind: int, size: int, gso_type: int) -> None:
    """An unknown type, a segment size of zero, or an unknown way to cut (xenvif_get_extras, xenvif_set_skb_gso)."""
    pair = Pair()
    tx = pair.netfront.tx
    tx.put_request(pair.front.grant(tcp_frame()), 0, NETTXF_extra_info, 0, 54)
    place = tx.first_slot + (tx.req_prod_pvt & tx.mask) * tx.slot_size
    tx.put_extra_gso(size, gso_type)
    pair.front.memory.view[place] = kind
    tx.push_requests()

    with pytest.raises(FatalRequest, match="extra slot"):
        pair.take()


def test_an_extra_slot_is_answered_with_null() -> None:
    """Each slot of the ring gets an answer, and that of an extra one says nothing."""
    pair = Pair()
    pair.front.send(tcp_frame()[:54], [b"p" * 2000], gso_size=1460)

    pair.finish(*pair.take())

    assert sorted(status for _, status in answers(pair)) == [NETIF_RSP_OKAY, NETIF_RSP_OKAY, NETIF_RSP_NULL]


def test_grant_copy_answers_at_once() -> None:
    """The answer needs nothing of the stack: the bytes are the backend's own by then."""
    pair = Pair(GrantCopy)
    pair.front.send(tcp_frame()[:54], [b"payload"])

    skbs = pair.take()
    pair.vif.push()
    pair.netfront.interrupt(0)

    assert len(skbs) == 1
    assert len(pair.netfront.free_ids) == 256
    assert pair.kernel.copied_bytes == len(b"payload")
    assert sum(pair.kernel.hypervisor.pins().values()) == 2


def test_dev_zerocopy_answers_when_the_data_block_is_gone() -> None:
    """A packet that the stack keeps keeps its slots; the header alone was copied."""
    pair = Pair()
    pair.front.send(tcp_frame()[:54], [b"payload"])
    (skb,) = pair.take()
    pair.strategy.settle(pair.vif)
    early = [request_id for request_id, _ in answers(pair)]
    held = pair.strategy.in_flight()

    pair.finish(skb)

    assert len(early) == 1  # the linear area was copied in full
    assert held == 1
    assert len(answers(pair)) == 1
    assert pair.strategy.in_flight() == 0


def test_it_unmaps_before_it_answers() -> None:
    """A frontend that reacts at once finds every grant free: the checklist's third step (no FrontendBroken)."""
    pair = Pair()
    for _ in range(40):
        pair.front.send(tcp_frame()[:54], [b"one", b"two"])

    pair.finish(*pair.take())
    pair.netfront.interrupt(0)

    assert not pair.netfront.broken
    assert len(pair.netfront.free_ids) == 256
    assert pair.kernel.hypervisor.maps == pair.kernel.hypervisor.unmaps + 2 == 82
    assert pair.kernel.hypervisor.tlb_flushes == 3  # 80 unmaps, 32 to a flush


def test_sent_is_success_and_failure_together() -> None:
    """A clone makes the stack copy first, which the callback reports as a failure to send without a copy."""
    pair = Pair()
    for _ in range(3):
        pair.front.send(tcp_frame()[:54], [b"payload"])
    skbs = pair.take()
    clone = skb_clone(skbs[0], pair.kernel.pool)

    pair.finish(*skbs, clone)

    assert isinstance(pair.strategy, DevZerocopy)
    assert (pair.strategy.sent, pair.strategy.success, pair.strategy.fail) == (3, 2, 1)


def test_it_leaves_room_for_a_whole_packet() -> None:
    """With nearly all slots unanswered it takes no further packet until something is given back."""
    pair = Pair()
    for _ in range(256):
        pair.front.send(tcp_frame(bytes(200)))

    skbs = pair.take()
    held = pair.vif.outstanding
    pair.finish(*skbs)
    rest = pair.take()

    assert held == MAX_PENDING_REQS - 18
    assert len(skbs) + len(rest) == 256


def test_the_bytes_are_read_through_the_mapping() -> None:
    """What the guest writes into a mapped page after the hand-over is what the stack sees, but not in the header."""
    pair = Pair()
    skb = pair.front.skb(tcp_frame()[:54], [b"old payload"])
    page = skb.shinfo.frags[0].page
    pair.netfront.xmit(skb, 0)
    pair.netfront.flush()
    (taken,) = pair.take()

    pair.front.memory.write(page.frame, 0, b"new")
    frag = taken.shinfo.frags[0]

    assert frag.page.memory.read(frag.page.frame, frag.offset, frag.size) == b"new payload"


def test_arrived_frames_wait_for_buffers() -> None:
    """Without a buffer a frame waits; when the guest offers some again, it asks to be kicked and goes on."""
    pair = Pair(rx_target=4)
    for number in range(6):
        pair.vif.queue_frame(bytes([number]) * 60)
    pair.vif.deliver(pair.kernel.hypervisor)
    waiting = len(pair.vif.rx_queue)

    first = pair.netfront.interrupt(0)
    kicked = messages_to(pair.front.effects, "backend")
    second = pair.deliver()

    assert waiting == 2
    assert [frame[0] for frame in first + second] == list(range(6))
    assert kicked == [Notify(1)]
    assert pair.vif.rx_bytes == 0


def test_a_jumbo_frame_waits_until_it_fits_whole() -> None:
    """Part of a frame is of no use to anybody."""
    pair = Pair(rx_target=2)
    pair.vif.queue_frame(bytes(9000))

    pair.vif.deliver(pair.kernel.hypervisor)

    assert pair.netfront.interrupt(0) == []
    assert pair.vif.rx is not None
    assert pair.vif.rx.unconsumed_requests() == 2


def test_the_receive_queue_is_bounded() -> None:
    """Half a mebibyte may wait for a guest that offers no buffers; the rest is dropped and told of (f48da8b14d04)."""
    pair = Pair(rx_target=0)

    for _ in range(RX_QUEUE_BYTES_MAX // 1500 + 1):
        pair.vif.queue_frame(bytes(1500))

    assert pair.vif.rx_bytes <= RX_QUEUE_BYTES_MAX
    assert len(facts_of(pair.effects, FrameDropped)) == 1


def test_a_bad_receive_grant_is_an_error_for_the_guest() -> None:
    """A buffer that was never lent gets an error; the frame is gone, the vif is not."""
    pair = Pair(rx_target=0)
    pair.netfront.rx.put_request(0, 300)
    pair.netfront.rx.push_requests()
    pair.vif.queue_frame(b"x" * 60)

    pair.vif.deliver(pair.kernel.hypervisor)

    assert pair.netfront.rx.get_response() == (0, 0, 1, NETIF_RSP_ERROR)


def test_a_disabled_vif_keeps_nothing() -> None:
    """What was queued for it goes, and nothing more is queued."""
    pair = Pair(rx_target=0)
    pair.vif.queue_frame(bytes(60))

    pair.vif.fatal("it lied")
    pair.vif.queue_frame(bytes(60))

    assert facts_of(pair.effects, VifDisabled) == [VifDisabled("guest1", "it lied")]
    assert not pair.vif.rx_queue
    assert pair.vif.take_packet() is None


@pytest.mark.parametrize(
    "lie", [{"mac": "zz"}, {"mac": "00:16"}, {"tx-ring-ref": "none"}, {"tx-ring-ref": 300}, {"rx-ring-ref": 300}]
)
def test_keys_that_make_no_sense_connect_nothing(lie: dict[str, str | int]) -> None:
    """A ring that cannot be mapped or an address that is none is said in a sentence, and nothing stays mapped."""
    front, hypervisor = Frontend(), Hypervisor()
    hypervisor.add_domain(front.memory, GRANT_FRAME)
    vif = Vif("guest1", 1, [])

    problem = vif.connect(front.keys | lie, hypervisor)

    assert problem in ("the frontend's keys are incomplete", "the rings cannot be mapped")
    assert vif.tx is None
    assert hypervisor.pins() == {}


def test_an_impossible_ring_connects_nothing() -> None:
    """Indices that no frontend can have written keep the vif from connecting, and the rings are let go of."""
    front, hypervisor = Frontend(), Hypervisor()
    hypervisor.add_domain(front.memory, GRANT_FRAME)
    front.memory.words[front.netfront.rx.header + REQ_PROD] = 300
    vif = Vif("guest1", 1, [])

    problem = vif.connect(front.keys, hypervisor)

    assert problem is not None
    assert "300 requests outstanding" in problem
    assert vif.tx is None
    assert hypervisor.pins() == {}


def test_the_observer_sees_what_waits_in_the_ring() -> None:
    """Each packet is shown once, its first bytes and how many more follow; the ring stays as it is."""
    pair = Pair()
    pair.front.send(tcp_frame()[:54], [b"p" * 2000], gso_size=1460)
    pair.front.send(tcp_frame(seq=9))

    seen = pair.vif.peek_packets(pair.front.memory, 128)
    again = pair.vif.peek_packets(pair.front.memory, 128)

    assert seen[0][0][:54] == tcp_frame()[:54]
    assert [len(shown) + more for shown, more in seen] == [2054, 54]
    assert seen[1][0] == tcp_frame(seq=9)
    assert again == []
    assert pair.vif.tx is not None
    assert pair.vif.tx.unconsumed_requests() == 4


def test_the_observer_survives_a_lying_ring() -> None:
    """References out of range show nothing, and an index that went back is not walked round the clock."""
    pair = Pair()
    pair.front.lie((0xFFFF_FFFF, 0, 0, 0, 60), (5000, 0, 0, 1, 60))
    first = pair.vif.peek_packets(pair.front.memory, 128)
    pair.front.memory.words[pair.netfront.tx.header + REQ_PROD] = 1

    second = pair.vif.peek_packets(pair.front.memory, 128)

    assert [len(shown) for shown, _ in first] == [0, 0]
    assert second == []


@pytest.mark.parametrize("strategy", [kind for kind in BACKEND_STRATEGIES.values() if kind is not EarlyResponse])
@pytest.mark.parametrize("spare", [0, 1, 2])
def test_a_host_without_memory_loses_the_packet_and_nothing_else(strategy: type[BackendStrategy], spare: int) -> None:
    """No page for the head, or none for a fragment's copy: every slot is answered, and the next packet passes."""
    pair = Pair(strategy)
    pool = pair.kernel.pool
    kept = [pool.alloc() for _ in range(pool.free_count - spare)]
    pair.front.send(tcp_frame()[:54], [b"a" * 1000, b"b" * 1000])
    pair.finish(*pair.take())
    dropped = len(facts_of(pair.effects, FrameDropped))
    pair.netfront.interrupt(0)
    for page in kept:
        put_page(page)
    pair.front.send(tcp_frame()[:54], [b"a" * 1000, b"b" * 1000])

    (skb,) = pair.take()
    pair.finish(skb)

    assert dropped == (spare == 0 or issubclass(strategy, GrantCopy))
    assert not pair.vif.disabled
    assert pair.vif.outstanding == 0
    assert pair.kernel.slab.outstanding == 0
    assert pool.outstanding == len(pair.kernel.slab.pages)
    pair.strategy.forget(pair.vif)
    assert sum(pair.kernel.hypervisor.pins().values()) == 2  # the rings
