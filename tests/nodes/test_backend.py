"""The backend in the hand: two real frontends, a card, and guests that lie."""

import pytest

from lateack.nodes.bridge import BridgeConfig
from lateack.nodes.facts import Counted, FrameDropped, FrameSent, Parked, VifConnected, VifDisabled
from lateack.nodes.gates import NIC_PLACE
from lateack.nodes.memory.netif import NETIF_RSP_OKAY, NETTXF_csum_blank, NETTXF_extra_info, NETTXF_more_data
from lateack.nodes.memory.ring import REQ_PROD
from lateack.nodes.messages import Frames, Notify, Xenbus
from lateack.nodes.node import Audit, Received, S, Send, TimerFired
from lateack.nodes.rules import Rule
from lateack.nodes.split.xenbus import CONNECTED, INIT_WAIT
from lateack.nodes.stack.skb import SkBuff
from lateack.nodes.strategies.backend import (
    BackendKernel,
    BackendStrategy,
    DevZerocopy,
    GrantCopy,
    TxSlot,
    Vif,
    copy_header,
)
from tests.nodes.hand import GUEST_MAC, Frontend, facts_of, messages_to, tcp_frame, udp_frame
from tests.nodes.one_backend import OTHER_MAC, REFILLED, UNTIL_REFILLED, Hand, segment


def test_the_handshake() -> None:
    """Features at boot; once the frontend is connected the backend says so, and knows its address."""
    hand = Hand(connect=False)
    offers = [(effect.target, effect.message) for effect in hand.booted if isinstance(effect, Send)]

    effects = hand.handle(Received("guest1", Xenbus(CONNECTED, hand.front.keys)))
    again = hand.handle(Received("guest1", Xenbus(CONNECTED, hand.front.keys)))

    assert [(target, message.state) for target, message in offers if isinstance(message, Xenbus)] == [
        ("guest1", INIT_WAIT), ("guest2", INIT_WAIT),
    ]  # fmt: skip
    assert messages_to(effects, "guest1") == [Xenbus(CONNECTED, {})]
    assert facts_of(effects, VifConnected) == [VifConnected("guest1", 1)]
    assert again == []


def test_a_frontend_whose_keys_make_no_sense_is_shut() -> None:
    """It is told of, and nothing stays pinned."""
    hand = Hand(connect=False)

    effects = hand.handle(Received("guest1", Xenbus(CONNECTED, {"mac": "no"})))

    assert facts_of(effects, VifDisabled) == [VifDisabled("guest1", "the frontend's keys are incomplete")]
    assert messages_to(effects, "guest1") == []
    assert hand.left_over() == {}


@pytest.mark.parametrize("strategy", [DevZerocopy, GrantCopy])
def test_a_packet_goes_out_of_the_card_and_home(strategy: type[BackendStrategy]) -> None:
    """The bytes leave as they are in the guest's page, the guest is answered and kicked, and nothing is left over."""
    hand = Hand(strategy=strategy)
    hand.front.send(segment(), [b"payload"])

    effects = hand.kick()

    assert [frame[54:] for frame in hand.frames] == [b"payload"]
    assert [sent.length for sent in facts_of(effects, FrameSent)] == [7]
    assert len(hand.front.netfront.free_ids) == 256
    assert hand.left_over() == {}


def test_a_frame_arrives_for_the_guest_it_is_addressed_to() -> None:
    """Each guest gets what carries its address; what carries nobody's is dropped by the bridge."""
    hand = Hand()
    mine, others = tcp_frame(b"mine", to_server=False), OTHER_MAC + tcp_frame(b"other", to_server=False)[6:]

    effects = hand.handle(Received("network", Frames((mine, others, b"\xff" * 60))))

    assert hand.fronts["guest1"].netfront.interrupt(0) == [mine]
    assert hand.fronts["guest2"].netfront.interrupt(0) == [others]
    assert messages_to(effects, "guest1") == messages_to(effects, "guest2") == [Notify(1)]


def test_guests_of_one_host_reach_each_other() -> None:
    """The bridge hands a packet to the other vif, and the network never sees it."""
    hand = Hand()
    hand.front.send(OTHER_MAC + segment()[6:], [b"neighbour"])

    hand.kick()

    assert hand.frames == []
    assert [frame[54:] for frame in hand.fronts["guest2"].netfront.interrupt(0)] == [b"neighbour"]


def test_requests_beyond_the_pending_pool_are_taken_when_answers_made_room() -> None:
    """The guest does not kick again for what it put into the ring before: netback must come back for it."""
    hand = Hand(Rule("egress", "gate", NIC_PLACE, until=UNTIL_REFILLED), queue_frames=1000)
    for number in range(256):
        hand.front.send(tcp_frame(bytes(200), seq=number))
    hand.kick()
    first = len(facts_of(hand.facts, Parked))

    hand.notice(REFILLED)
    hand.front.netfront.interrupt(0)

    assert first == 256 - 18
    assert len(hand.frames) == 256
    assert len(hand.front.netfront.free_ids) == 256


def test_the_queue_of_a_closed_card_is_bounded() -> None:
    """A packet too many is dropped and answered: a drop is a release."""
    hand = Hand(Rule("egress", "gate", NIC_PLACE), queue_frames=2)

    for number in range(3):
        hand.front.send(segment(number, b"x"), [b"x"])
    hand.kick()

    assert len(facts_of(hand.facts, FrameDropped)) == 1
    assert hand.left_over() == {
        "grant pins": 2, "packets in the transmit queue": 2, "packets in flight": 2,
        "socket buffers": 2, "unanswered requests of guest1": 2,
    }  # fmt: skip


def lie_sizes(front: Frontend) -> None:
    """Sizes that do not add up."""
    front.lie((front.grant(), 0, NETTXF_more_data, 0, 60), (front.grant(), 0, 0, 1, 61))


def lie_page(front: Frontend) -> None:
    """A slot that crosses its page."""
    front.lie((front.grant(), 4090, 0, 0, 60))


def lie_slots(front: Frontend) -> None:
    """Slots without end."""
    front.lie(*((front.grant(), 0, NETTXF_more_data, n, 60000 if n == 0 else 60) for n in range(40)))


def lie_extra(front: Frontend) -> None:
    """Extra information that never comes."""
    front.lie((front.grant(), 0, NETTXF_extra_info, 0, 60))


def lie_index(front: Frontend) -> None:
    """More requests than the ring has slots."""
    front.memory.words[front.netfront.tx.header + REQ_PROD] = 500


@pytest.mark.parametrize("lie", [lie_sizes, lie_page, lie_slots, lie_extra, lie_index])
def test_a_liar_shuts_its_own_interface_only(lie: object) -> None:
    """The vif is disabled once, whatever it does from then on; its neighbour sends and receives as before."""
    hand = Hand()
    assert callable(lie)

    lie(hand.front)
    hand.kick()
    hand.kick()
    hand.handle(Received("network", Frames((tcp_frame(to_server=False),))))
    hand.fronts["guest2"].send(segment(), [b"honest"])
    hand.kick("guest2")

    assert [fact.guest for fact in facts_of(hand.facts, VifDisabled)] == ["guest1"]
    assert [frame[54:] for frame in hand.frames] == [b"honest"]
    assert hand.backend.pending() == 0
    assert hand.left_over() == {}


def nonsense(hand: Hand, data: bytes, *, flags: int = 0, gso_size: int = 0) -> None:
    """Send these very bytes, perhaps with an order to cut them."""
    skb = hand.front.skb(data[:128], [data[128:]] if data[128:] else [], gso_size=gso_size)
    skb.needs_checksum = bool(flags & NETTXF_csum_blank)
    hand.front.netfront.xmit(skb, 0)
    hand.front.netfront.flush()
    hand.kick()


@pytest.mark.parametrize(
    ("data", "gso_size"),
    [
        (bytes(14), 0), (bytes(20), 0), (bytes(60), 0), (tcp_frame()[:40], 0), (tcp_frame()[:46] + b"\xff" * 8, 0),
        (tcp_frame()[:46] + b"\xff" * 8 + bytes(4000), 1460), (udp_frame(bytes(3000)), 1460),
        (tcp_frame()[:46] + b"\x60" + tcp_frame()[47:54] + bytes(3000), 1460),
        (tcp_frame()[:23] + b"\x63" + bytes(80), 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("checksum", [0, NETTXF_csum_blank])
def test_packets_that_are_none_do_not_stop_the_host(data: bytes, gso_size: int, checksum: int) -> None:
    """Runts, other protocols and broken headers are dropped and answered; the host goes on."""
    hand = Hand()

    nonsense(hand, data, flags=checksum, gso_size=gso_size)
    hand.front.send(segment(), [b"honest"])
    hand.kick()

    assert hand.frames[-1][54:] == b"honest"
    assert len(hand.front.netfront.free_ids) == 256
    assert hand.left_over() == {}


def test_frames_for_a_guest_without_buffers_wait() -> None:
    """They keep the run alive, and go in when the guest offers buffers and kicks."""
    hand = Hand()
    hand.handle(Received("network", Frames(tuple(tcp_frame(seq=n, to_server=False) for n in range(10)))))
    waiting = hand.backend.pending()

    first = hand.front.netfront.interrupt(0)
    hand.handle(Received("guest1", Notify(1)))
    rest = hand.front.netfront.interrupt(0)

    assert waiting == 1
    assert (len(first), len(rest)) == (8, 2)
    assert hand.backend.pending() == 0


def test_the_audit_counts_the_work() -> None:
    """Maps, unmaps, copies and kicks are told by name; two maps are the rings'."""
    hand = Hand()
    hand.front.send(segment(), [b"payload"])
    hand.kick()

    counts = {fact.name: fact.amount for fact in facts_of(hand.handle(Audit()), Counted)}

    assert counts["grant_maps"] - 4 == counts["grant_unmaps"] == 1
    assert counts["grant_copies"] == 1
    assert counts["copied_bytes"] == 0
    assert counts["notifications"] == 1


def test_it_has_no_clock() -> None:
    """The backend sets no timers; one that fires is our own bug."""
    with pytest.raises(AssertionError):
        Hand().handle(TimerFired("x"))


def test_its_address_cannot_be_taken() -> None:
    """A frontend that publishes its neighbour's address does not get the neighbour's frames."""
    hand = Hand(connect=False)
    hand.handle(Received("guest1", Xenbus(CONNECTED, hand.front.keys)))

    effects = hand.handle(
        Received("guest2", Xenbus(CONNECTED, hand.fronts["guest2"].keys | {"mac": GUEST_MAC.hex(":")}))
    )

    assert facts_of(effects, VifDisabled) == [VifDisabled("guest2", "its address is another guest's")]
    hand.handle(Received("network", Frames((tcp_frame(b"mine", to_server=False),))))
    assert len(hand.front.netfront.interrupt(0)) == 1


def test_the_audit_tells_what_the_strategy_has_counted() -> None:
    """tx_zerocopy_sent is success and fail together once nothing is in flight; a tap makes one a copy, and no error."""
    hand = Hand(bridge=BridgeConfig(tap=True))
    plain = Hand()
    for each in (hand, plain):
        each.front.send(segment(), [b"payload"])
        each.kick()

    counts = [{fact.name: fact.amount for fact in facts_of(each.handle(Audit()), Counted)} for each in (hand, plain)]

    names = ("tx_zerocopy_sent", "tx_zerocopy_success", "tx_zerocopy_fail")
    assert [tuple(count[name] for name in names) for count in counts] == [(1, 0, 1), (1, 1, 0)]


class AnswersLater(GrantCopy):
    """Somebody's own strategy: it copies, and answers a second later, without ever having been told of a release."""

    def __init__(self, kernel: BackendKernel) -> None:
        super().__init__(kernel)
        self.waiting: list[tuple[Vif, TxSlot]] = []

    def admit(self, vif: Vif, slots: list[TxSlot]) -> SkBuff | None:
        """Copy the header alone, and remember whom to answer."""
        self.waiting += [(vif, slot) for slot in slots]
        self.kernel.wake_at(S)
        return copy_header(self.kernel, vif, slots[0], 54)

    def woken(self, now: int) -> None:
        """Answer everybody."""
        waiting, self.waiting = self.waiting, []
        for vif, slot in waiting:
            vif.respond(slot, NETIF_RSP_OKAY)


def test_a_strategy_that_answers_by_the_clock_makes_room_as_well() -> None:
    """What waits in a full ring is taken when the timer has made room: the guest does not kick for it again."""
    hand = Hand(strategy=AnswersLater)
    for number in range(256):
        hand.front.send(tcp_frame(seq=number))
    hand.kick()
    first = len(hand.frames)

    for _ in range(2):
        hand.handle(TimerFired("strategy"))
    hand.front.netfront.interrupt(0)

    assert first == 256 - 18
    assert len(hand.frames) == 256
    assert len(hand.front.netfront.free_ids) == 256
