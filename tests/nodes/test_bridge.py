"""The host's path: who gets a packet besides the card, what they do to its pages, and when the guest hears of it."""

import pytest

from lateack.nodes.bridge import HOST_MAC, MIRROR_PLACE, SOCKET_PLACE, TAP_PLACE, BridgeConfig
from lateack.nodes.facts import AccessFault, FrameDropped, FrameSent, PacketRead, Parked, VifDisabled
from lateack.nodes.memory.pages import Page
from lateack.nodes.messages import Xenbus
from lateack.nodes.node import Received
from lateack.nodes.rules import Rule
from lateack.nodes.split.xenbus import CONNECTED
from lateack.nodes.stack.packets import digest_of, parse
from lateack.nodes.strategies import BACKEND_STRATEGIES
from lateack.nodes.strategies.backend import DevZerocopy, GrantCopy
from tests.nodes.hand import facts_of, tcp_frame, udp_frame
from tests.nodes.one_backend import OTHER_MAC, REFILLED, UNTIL_REFILLED, Hand, segment

FRAG_DESTRUCTOR = BACKEND_STRATEGIES["frag-destructor"]
SKB_DESTRUCTOR = BACKEND_STRATEGIES["skb-destructor"]


def send(hand: Hand, payload: bytes = b"old", *, to: bytes | None = None) -> Page:
    """Let guest1 send a packet whose payload lies in a page of its own; return the page."""
    head = segment(payload=payload) if to is None else to + udp_frame(payload)[6:42]
    skb = hand.front.skb(head, [payload])
    page = skb.shinfo.frags[0].page
    hand.front.netfront.xmit(skb, 0)
    hand.front.netfront.flush()
    hand.kick()
    return page


def unanswered(hand: Hand) -> int:
    """Return how many requests guest1 still waits for."""
    return 256 - len(hand.front.netfront.free_ids)


def rewrite(hand: Hand, page: Page, payload: bytes = b"new") -> None:
    """Let guest1's application put other bytes into its page."""
    hand.front.memory.write(page.frame, 0, payload)


def read_digests(hand: Hand) -> list[tuple[str, tuple[int, ...]]]:
    """Return who has read what, by digest."""
    return [(fact.place, fact.digests) for fact in facts_of(hand.facts, PacketRead)]


OLD, NEW = (digest_of(b"old"),), (digest_of(b"new"),)


@pytest.mark.parametrize(
    ("place", "config"), [(TAP_PLACE, BridgeConfig(tap=True)), (MIRROR_PLACE, BridgeConfig(mirror=True))]
)
def test_a_slow_listener_is_shown_copies_where_the_owner_only_knows_the_data_block(
    place: str, config: BridgeConfig
) -> None:
    """dev-zerocopy: the pages are copied for the clone, the guest is answered, and the listener sees the old bytes."""
    hand = Hand(Rule("slow", "gate", place, until=UNTIL_REFILLED), bridge=config)
    page = send(hand)
    waiting = unanswered(hand)

    rewrite(hand, page)
    hand.notice(REFILLED)

    assert waiting == 0
    assert [fact.place for fact in facts_of(hand.facts, Parked)] == [place]
    assert read_digests(hand) == [(place, OLD)]
    assert [frame[54:] for frame in hand.frames] == [b"old"]
    assert hand.backend.bridge.copied() == 3
    assert hand.left_over() == {}


@pytest.mark.parametrize(
    ("place", "config"),
    [
        (TAP_PLACE, BridgeConfig(tap=True)),
        (MIRROR_PLACE, BridgeConfig(mirror=True)),
        (MIRROR_PLACE, BridgeConfig(mirror=True, expand=True)),
    ],
)
def test_a_slow_listener_keeps_the_page_of_an_owner_who_counts(place: str, config: BridgeConfig) -> None:
    """frag-destructor: nothing is copied, and the guest is answered only when the clone is gone, too."""
    hand = Hand(Rule("slow", "gate", place, until=UNTIL_REFILLED), bridge=config, strategy=FRAG_DESTRUCTOR)
    send(hand)
    waiting = unanswered(hand)

    hand.notice(REFILLED)
    hand.front.netfront.interrupt(0)

    assert (waiting, unanswered(hand)) == (1, 0)
    assert read_digests(hand) == [(place, OLD)]
    assert hand.backend.bridge.copied() == 0
    assert hand.left_over() == {}


def test_a_listener_that_comes_after_a_wrong_answer_finds_the_page_gone() -> None:
    """skb-destructor: the original's end unmapped the page under the clone."""
    hand = Hand(
        Rule("slow", "gate", MIRROR_PLACE, until=UNTIL_REFILLED), bridge=BridgeConfig(mirror=True),
        strategy=SKB_DESTRUCTOR,
    )  # fmt: skip
    send(hand)

    hand.notice(REFILLED)

    assert [fact.place for fact in facts_of(hand.facts, AccessFault)] == [MIRROR_PLACE]
    assert read_digests(hand) == []


def test_a_listener_without_a_gate_reads_in_the_same_event() -> None:
    """tap and card read the same bytes, and both are told of."""
    hand = Hand(bridge=BridgeConfig(tap=True))

    send(hand)

    assert read_digests(hand) == [(TAP_PLACE, OLD)]
    assert len(facts_of(hand.facts, FrameSent)) == 1
    assert hand.left_over() == {}


@pytest.mark.parametrize("strategy", [DevZerocopy, GrantCopy, FRAG_DESTRUCTOR])
def test_a_filter_eats_a_whole_fragment_and_its_page_comes_home(strategy: type[DevZerocopy]) -> None:
    """What is pulled into the linear area leaves the packet's list; every owner that survives this is answered."""
    hand = Hand(bridge=BridgeConfig(inspect_bytes=128), strategy=strategy)

    hand.front.send(segment(payload=b"h" * 40 + b"x" * 4000), [b"h" * 40, b"x" * 4000])
    hand.kick()

    (sent,) = facts_of(hand.facts, FrameSent)
    assert [size for *_, size in sent.pages] == [4000 - (128 - 54 - 40)]
    assert hand.frames[0][54:] == b"h" * 40 + b"x" * 4000
    assert unanswered(hand) == 0
    assert hand.left_over() == {}


def test_a_filter_makes_a_destructor_on_the_header_miss_a_page() -> None:
    """skb-destructor: the eaten page went to the host's allocator, and its request is never answered."""
    hand = Hand(bridge=BridgeConfig(inspect_bytes=128), strategy=SKB_DESTRUCTOR)

    hand.front.send(segment(payload=b"h" * 40 + b"x" * 4000), [b"h" * 40, b"x" * 4000])
    hand.kick()

    assert unanswered(hand) == 1
    assert hand.left_over()["unanswered requests of guest1"] == 1


def test_a_local_socket_reads_at_once_unless_its_reader_sleeps() -> None:
    """Datagrams for the host go to its socket and not out of the card."""
    hand = Hand()

    send(hand, to=HOST_MAC)

    assert read_digests(hand) == [(SOCKET_PLACE, OLD)]
    assert hand.frames == []
    assert hand.left_over() == {}


def test_a_socket_that_nobody_reads_keeps_the_page_of_an_owner_who_counts() -> None:
    """At the end the guest still waits; what a reader would get is told, and the host's own buffers are no leak."""
    hand = Hand(Rule("asleep", "gate", SOCKET_PLACE), strategy=FRAG_DESTRUCTOR)
    page = send(hand, to=HOST_MAC)
    waiting = unanswered(hand)

    rewrite(hand, page)
    left = hand.left_over()

    assert waiting == 1
    assert left["unanswered requests of guest1"] == 1
    assert "socket buffers" not in left
    assert read_digests(hand) == [(SOCKET_PLACE, NEW)]


def test_a_socket_that_nobody_reads_has_copies_of_an_owner_who_is_told() -> None:
    """dev-zerocopy: ip_local_deliver copies, and nothing of the guest is kept."""
    hand = Hand(Rule("asleep", "gate", SOCKET_PLACE))
    page = send(hand, to=HOST_MAC)

    rewrite(hand, page)

    assert unanswered(hand) == 0
    assert hand.left_over() == {}
    assert read_digests(hand) == [(SOCKET_PLACE, OLD)]


def test_a_socket_orphans_what_it_queues() -> None:
    """skb-destructor: skb_set_owner_r runs the sender's destructor while the packet still waits."""
    hand = Hand(Rule("asleep", "gate", SOCKET_PLACE, until=UNTIL_REFILLED), strategy=SKB_DESTRUCTOR)
    send(hand, to=HOST_MAC)
    waiting = unanswered(hand)

    hand.notice(REFILLED)

    assert waiting == 0
    assert [fact.place for fact in facts_of(hand.facts, AccessFault)] == [SOCKET_PLACE]


def test_a_full_socket_drops() -> None:
    """Beyond its receive buffer a socket takes nothing; what it drops is answered like everything that is freed."""
    hand = Hand(Rule("asleep", "gate", SOCKET_PLACE), bridge=BridgeConfig(socket_buffer=1000), strategy=FRAG_DESTRUCTOR)

    send(hand, to=HOST_MAC)
    send(hand, to=HOST_MAC)

    assert [fact.place for fact in facts_of(hand.facts, FrameDropped)] == [SOCKET_PLACE]
    assert unanswered(hand) == 1


def test_the_host_has_no_tcp_socket_for_guests() -> None:
    """A segment for the host is dropped, and answered."""
    hand = Hand()

    hand.front.send(HOST_MAC + segment(payload=b"syn")[6:], [b"syn"])
    hand.kick()

    assert [fact.place for fact in facts_of(hand.facts, FrameDropped)] == [SOCKET_PLACE]
    assert unanswered(hand) == 0


@pytest.mark.parametrize("strategy", [DevZerocopy, GrantCopy, FRAG_DESTRUCTOR])
def test_a_guest_reads_its_neighbours_bytes_when_it_has_a_buffer(strategy: type[DevZerocopy]) -> None:
    """The packet crosses with a right checksum, the reading is told of, and the sender is answered in that event."""
    hand = Hand(strategy=strategy)

    send(hand, to=OTHER_MAC)
    (frame,) = hand.fronts["guest2"].netfront.interrupt(0)

    assert parse(frame).payload == b"old"
    assert read_digests(hand) == [("guest2.vif", OLD)]
    assert unanswered(hand) == 0
    assert hand.left_over() == {}


def test_a_large_packet_is_cut_for_a_neighbour() -> None:
    """netfront takes no GSO packet: it gets segments that fit the MTU, each whole."""
    hand = Hand()
    payload = bytes(range(250)) * 12

    hand.front.send(OTHER_MAC + tcp_frame(payload)[6:54], [payload], gso_size=1448)
    hand.kick()
    frames = hand.fronts["guest2"].netfront.interrupt(0)

    assert b"".join(frame[54:] for frame in frames) == payload
    assert [len(frame) for frame in frames] == [1502, 1502, 158]
    assert hand.left_over() == {}


def test_a_packet_that_would_be_dust_is_dropped() -> None:
    """A guest that wants its neighbour to get thousands of single bytes costs itself that packet."""
    hand = Hand()

    hand.front.send(OTHER_MAC + tcp_frame(bytes(3000))[6:54], [bytes(3000)], gso_size=1)
    hand.kick()

    assert [fact.place for fact in facts_of(hand.facts, FrameDropped)] == ["backend.bridge"]
    assert hand.left_over() == {}


def test_nobody_can_take_the_hosts_address() -> None:
    """A frontend that publishes the bridge's own address is shut, as one that publishes its neighbour's."""
    hand = Hand(connect=False)

    hand.handle(Received("guest1", Xenbus(CONNECTED, hand.front.keys | {"mac": HOST_MAC.hex(":")})))

    assert [fact.guest for fact in facts_of(hand.facts, VifDisabled)] == ["guest1"]


@pytest.mark.parametrize("config", [BridgeConfig(tap=True), BridgeConfig(inspect_bytes=200), BridgeConfig(expand=True)])
def test_a_host_without_memory_drops_what_it_would_have_to_copy(config: BridgeConfig) -> None:
    """A guest's packet that cannot be copied is dropped, its pages go home, and the host goes on."""
    hand = Hand(bridge=config)
    pool = hand.backend.pool
    kept = [pool.alloc() for _ in range(pool.free_count - 1)]  # one is left, for the packet's own head

    send(hand)

    assert unanswered(hand) == 0
    assert [fact.place for fact in facts_of(hand.facts, FrameDropped)] == ["backend.bridge"]
    assert hand.left_over() == {"backend pages": len(kept)}
