"""Claims about a bare-metal host: it copies its file over its own card, and its two gates keep what they should."""

import pytest

from lateack.nodes.facts import CopyFinished, Counted, FrameSent, GateClosed, GateOpened, Parked
from lateack.nodes.memory.pages import Memory
from lateack.nodes.messages import Frames, Noticed
from lateack.nodes.metal import Metal
from lateack.nodes.node import Audit, Received
from lateack.nodes.rules import FactMatch, FrameMatch, Rule, Trigger
from lateack.nodes.server import Server, ServerConfig
from lateack.nodes.stack.egress import DriverConfig
from lateack.nodes.stack.host import HostAddress
from lateack.nodes.stack.tcp import TcpParameters
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.strategies.guest import FullCopy, GuestStrategy, OnReply
from tests.nodes import one_guest
from tests.nodes.hand import GUEST_IP, GUEST_MAC, SERVER_IP, SERVER_MAC, facts_of

NAMES = {GUEST_IP: "guest1", SERVER_IP: "server"}
WRITE = FrameMatch(source="guest1", rpc="WRITE")


class Hand(one_guest.Hand):
    """A bare-metal host and a server that a test carries frames between."""

    def __init__(self, strategy: type[GuestStrategy] = OnReply, **settings: object) -> None:
        self.data = one_guest.pattern(12000)
        self.store = MemoryStore(handle_bytes=36)
        config = one_guest.config_of(root=self.store.root, backend="network", addresses=NAMES, **settings)
        self.metal = Metal(config, Memory(1, 200), strategy, one_guest.Bytes(self.data))
        server = HostAddress(SERVER_IP, SERVER_MAC)
        config_of_server = ServerConfig(
            "server", "network", server, {GUEST_IP: GUEST_MAC}, {GUEST_IP: "guest1"}, TcpParameters()
        )
        self.machines = {"guest1": self.metal, "server": Server(config_of_server, self.store)}
        self.now = 0
        self.facts = []
        self.timers = {}
        self.queue = []

    def carry(self) -> None:
        """Carry bursts of frames until there are none."""
        while self.queue:
            source, _, message = self.queue.pop(0)
            assert isinstance(message, Frames)
            self.handle("server" if source == "guest1" else "guest1", Received("network", message))


@pytest.mark.parametrize("device", ["card", "orphaning", "tun"])
@pytest.mark.parametrize("segmentation", ["card", "kernel"])
@pytest.mark.parametrize("checksum", ["offload", "software", "software-2011"])
def test_a_file_is_copied_over_any_driver(checksum: str, segmentation: str, device: str) -> None:
    """On a calm day nobody can tell how a card is driven: the file is right, and everything is given back."""
    hand = Hand(driver=DriverConfig(checksum, segmentation, device))

    hand.boot()

    assert hand.of(CopyFinished)
    assert hand.file() == hand.data
    assert hand.left_over() == []


@pytest.mark.parametrize("checksum", ["offload", "software"])
def test_what_the_hand_over_copies_is_charged_to_the_host(checksum: str) -> None:
    """The CPU copies the application's pages before it sums them, and no others."""
    hand = Hand(driver=DriverConfig(checksum))
    copied = Hand(FullCopy, driver=DriverConfig(checksum))
    for each in (hand, copied):
        each.boot()

    charged = [
        next(fact.amount for fact in facts_of(each.handle("guest1", Audit()), Counted) if fact.name == "copied_bytes")
        for each in (hand, copied)
    ]

    assert charged[0] >= len(hand.data) if checksum == "software" else charged[0] == 0
    assert charged[1] == len(hand.data)  # its copies are the kernel's own: they are summed where they lie


@pytest.mark.parametrize("place", ["guest1.queue", "guest1.nic"])
def test_a_gate_keeps_packets_from_leaving(place: str) -> None:
    """The frame that closes the gate leaves, what comes behind it waits at that place, and leaves when it opens."""
    hand = Hand(rules=(Rule("egress", "gate", place, since=Trigger(frames=(WRITE,))),))
    hand.boot()
    waiting = hand.of(Parked)
    sent = len(hand.of(FrameSent))

    hand.metal.switches()[place].off()
    hand.handle("guest1", Received("network", Frames(())))
    hand.carry()

    assert hand.of(GateClosed) == [GateClosed("egress", place)]
    assert {fact.place for fact in waiting} == {place}
    assert len(hand.of(FrameSent)) > sent
    assert hand.file() == hand.data


def test_news_of_a_fact_opens_the_gate() -> None:
    """A rule may wait for what another machine has recorded."""
    until = Trigger(facts=(FactMatch("CopyFinished", "guest2"),))
    hand = Hand(rules=(Rule("egress", "gate", "guest1.nic", until=until),))
    hand.boot()
    before = hand.of(FrameSent)

    hand.handle("guest1", Received("guest2", Noticed("guest2", CopyFinished("other", 1))))
    hand.carry()

    assert before == []
    assert hand.of(GateOpened) == [GateOpened("egress", "guest1.nic", 1)]
    assert hand.file() == hand.data
