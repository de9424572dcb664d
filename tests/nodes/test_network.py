"""The network machine in the hand: frames in, frames out, late, lost, held or dropped in between."""

from collections.abc import Sequence

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.facts import ConnectionCut, CopyFinished, Fact, FrameHeld, FrameLost, FramesReleased, GateClosed
from lateack.nodes.messages import Frames, Noticed
from lateack.nodes.network import HELD_FRAMES_MAX, LinkConfig, Network, NetworkConfig
from lateack.nodes.node import BURST_MAX, MS, Audit, Boot, Effect, Received, Send, SetTimer, TimerFired
from lateack.nodes.rules import FactMatch, FrameMatch, Rule, Trigger
from lateack.nodes.stack.packets import RST, parse
from tests.nodes.hand import GUEST_IP, GUEST_MAC, SERVER_IP, SERVER_MAC, facts_of, tcp_frame, udp_frame

TO_SERVER, TO_GUEST = FrameMatch(target="server"), FrameMatch(target="guest1")


class Hand:
    """The network, its clock, and what it delivers: (time, target, frame)."""

    def __init__(
        self, *rules: Rule, delay: int = MS, jitter: int = 0, loss: float = 0.0, back: LinkConfig | None = None
    ) -> None:
        links = (LinkConfig("server", delay, jitter, loss), back or LinkConfig("backend", delay))
        self.network = Network(
            NetworkConfig(
                "network", links, {GUEST_MAC: "backend", SERVER_MAC: "server"},
                {GUEST_IP: "guest1", SERVER_IP: "server"}, rules, seed=7,
            )
        )  # fmt: skip
        self.timers: dict[str, int] = {}
        self.delivered: list[tuple[int, str, bytes]] = []
        self.facts: list[Fact] = []
        self.handle(Boot(), 0)

    def handle(self, event: Boot | Received | TimerFired | Audit, now: int) -> Sequence[Effect]:
        """Handle one event and keep what came of it."""
        effects = self.network.handle(event, now)
        for effect in effects:
            match effect:
                case SetTimer(name, at):
                    self.timers[name] = at
                case Send(target, Frames(frames)):
                    self.delivered += [(now, target, frame) for frame in frames]
                case Fact():
                    self.facts.append(effect)
                case _:
                    raise AssertionError(f"the network does not do {effect}")
        return effects

    def send(self, *frames: bytes, now: int = 0) -> None:
        """Put frames onto the network in one burst."""
        self.handle(Received("backend", Frames(frames)), now)

    def notice(self, fact: Fact, node: str = "guest1", now: int = 0) -> None:
        """Bring the news of a fact."""
        self.handle(Received(node, Noticed(node, fact)), now)  # type: ignore[arg-type]

    def run(self) -> list[int]:
        """Let all timers fire in their order; return the sequence numbers delivered, in order."""
        while self.timers:
            name = min(self.timers, key=lambda each: self.timers[each])
            now = self.timers.pop(name)
            self.handle(TimerFired(name), now)
        return [int.from_bytes(frame[38:42], "big") for _, _, frame in self.delivered]


def test_a_frame_arrives_after_the_delay() -> None:
    """The delay of a direction is exact, and the frame's bytes are untouched."""
    hand = Hand(delay=3 * MS)

    hand.send(tcp_frame(b"data"), now=5)
    waiting = hand.network.pending()
    hand.run()

    assert hand.delivered == [(3 * MS + 5, "server", tcp_frame(b"data"))]
    assert (waiting, hand.network.pending()) == (1, 0)


def test_the_directions_are_independent() -> None:
    """Delay and loss of one way do not touch the other."""
    hand = Hand(delay=9 * MS, loss=1.0, back=LinkConfig("backend", MS))

    hand.send(tcp_frame(seq=1), tcp_frame(seq=2, to_server=False))
    hand.run()

    assert [(at, target) for at, target, _ in hand.delivered] == [(MS, "backend")]
    assert len(facts_of(hand.facts, FrameLost)) == 1


def test_a_frame_for_nobody_goes_nowhere() -> None:
    """An address that no link leads to is forgotten."""
    hand = Hand()

    hand.send(b"\xff" * 60, b"")

    assert hand.network.pending() == 0


@given(gaps=st.lists(st.integers(0, 2 * MS), min_size=2, max_size=40), jitter=st.integers(1, 20 * MS))
def test_jitter_never_reorders(gaps: list[int], jitter: int) -> None:
    """Whatever the gaps and the jitter, frames of one direction arrive in their order and never early or too late."""
    hand = Hand(jitter=jitter)
    now, sent = 0, []
    for number, gap in enumerate(gaps):
        now += gap
        sent.append(now)
        hand.send(tcp_frame(seq=number), now=now)

    order = hand.run()
    times = [at for at, _, _ in hand.delivered]

    assert order == list(range(len(gaps)))
    assert all(at - start >= MS for at, start in zip(times, sent, strict=True))
    assert all(at - MS - jitter <= now for at in times)


def test_loss_has_the_rate_that_was_asked_for() -> None:
    """Of 4000 frames about a tenth is lost, each told of once; the dice are the seed's, so that this never wavers."""
    hand = Hand(loss=0.1)

    for number in range(4000):
        hand.send(tcp_frame(seq=number))
    arrived = hand.run()
    lost = facts_of(hand.facts, FrameLost)

    assert 340 < len(lost) < 460
    assert len(arrived) + len(lost) == 4000
    assert {fact.rule for fact in lost} == {""}
    assert {fact.link for fact in lost} == {"server"}


def test_the_same_seed_loses_the_same_frames() -> None:
    """Two networks with one seed agree in every throw."""
    first, second = Hand(loss=0.3, jitter=MS), Hand(loss=0.3, jitter=MS)

    for number in range(50):
        first.send(tcp_frame(seq=number), now=number)
        second.send(tcp_frame(seq=number), now=number)

    assert first.run() == second.run()
    assert first.delivered == second.delivered


def test_long_bursts_are_cut() -> None:
    """No message holds more than `BURST_MAX` frames."""
    hand = Hand()
    hand.send(*(tcp_frame(seq=number) for number in range(BURST_MAX + 1)))
    (at,) = hand.timers.values()

    effects = hand.handle(TimerFired("server"), at)

    bursts = [effect.message for effect in effects if isinstance(effect, Send)]
    assert [len(burst.frames) for burst in bursts if isinstance(burst, Frames)] == [BURST_MAX, 1]


def test_a_rule_drops_the_frames_that_it_names() -> None:
    """Of the frames that match, the second and the third are dropped, and say by which rule."""
    hand = Hand(Rule("loss", "drop", frames=TO_SERVER, nth=(2, 3)))

    hand.send(*(tcp_frame(seq=number) for number in range(4)), tcp_frame(seq=9, to_server=False))

    assert sorted(hand.run()) == [0, 3, 9]
    assert [(fact.seq, fact.rule) for fact in facts_of(hand.facts, FrameLost)] == [(1, "loss"), (2, "loss")]


def test_a_rule_drops_frames_to_a_guest() -> None:
    """A guest is behind the backend, and a frame to it can be dropped all the same."""
    hand = Hand(Rule("loss", "drop", frames=TO_GUEST))

    hand.send(tcp_frame(seq=5, to_server=False))

    assert hand.run() == []
    assert [(fact.link, fact.seq) for fact in facts_of(hand.facts, FrameLost)] == [("backend", 5)]


def test_a_rule_holds_frames_until_a_fact_and_keeps_their_order() -> None:
    """What is held waits for the fact and not for time, and then goes on in its order, with the usual delay."""
    until = Trigger(facts=(FactMatch("CopyFinished", "guest1"),))
    hand = Hand(Rule("acks", "hold", frames=TO_SERVER, until=until))
    hand.send(tcp_frame(seq=0), tcp_frame(seq=1))
    hand.send(tcp_frame(seq=2), now=MS)
    early = hand.run()

    hand.notice(CopyFinished("other", 1), node="guest2", now=2 * MS)
    hand.notice(CopyFinished("mine", 1), now=7 * MS)
    hand.send(tcp_frame(seq=3), now=7 * MS)

    assert early == []
    assert hand.network.pending() == 4
    assert hand.run() == [0, 1, 2, 3]
    assert {at for at, _, _ in hand.delivered} == {8 * MS}
    assert len(facts_of(hand.facts, FrameHeld)) == 3
    assert facts_of(hand.facts, FramesReleased) == [FramesReleased("acks", 3)]


def test_a_frame_that_ends_a_rule_lets_the_held_ones_go_first() -> None:
    """In one burst: a frame that passes ends the rule, and what follows must not overtake what was held."""
    empty, full = FrameMatch(kind="ack", target="server"), FrameMatch(target="guest1")
    hand = Hand(Rule("acks", "hold", frames=empty, until=Trigger(frames=(full,))))

    hand.send(tcp_frame(seq=1), tcp_frame(seq=2), tcp_frame(seq=50, to_server=False), tcp_frame(seq=3))
    hand.run()

    to_server = [int.from_bytes(frame[38:42], "big") for _, target, frame in hand.delivered if target == "server"]
    assert to_server == [1, 2, 3]


def test_a_rule_begins_behind_the_frame_that_it_waits_for() -> None:
    """The frame that starts a rule passes; the rule acts on the next."""
    hand = Hand(Rule("hold", "hold", frames=TO_SERVER, since=Trigger(frames=(TO_SERVER,), nth=2)))

    hand.send(*(tcp_frame(seq=number) for number in range(4)))

    assert hand.run() == [0, 1]
    assert len(facts_of(hand.facts, FrameHeld)) == 2


def test_a_rule_may_wait_for_what_the_network_itself_records() -> None:
    """Three frames are held; the third fact of it is what lets them go."""
    until = Trigger(facts=(FactMatch("FrameHeld"),), nth=3)
    hand = Hand(Rule("three", "hold", frames=TO_SERVER, until=until))

    hand.send(*(tcp_frame(seq=number) for number in range(3)))

    assert hand.run() == [0, 1, 2]


def test_a_rule_that_waits_for_another_machine_is_deaf_to_the_rest() -> None:
    """A fact of another type changes nothing."""
    hand = Hand(Rule("acks", "hold", frames=TO_SERVER, until=Trigger(facts=(FactMatch("CopyFinished"),))))
    hand.send(tcp_frame(seq=1))

    hand.notice(GateClosed("x", "backend.nic"), node="backend")

    assert hand.run() == []


def test_a_firewall_refuses_frames_in_the_receivers_name() -> None:
    """The sender is told that there is no such connection, by a RST with the usual delay; the frame goes nowhere."""
    hand = Hand(Rule("firewall", "reset", frames=TO_SERVER, nth=(2,)))

    hand.send(*(tcp_frame(b"data", seq=number, ack=40 + number) for number in (1, 2, 3)))
    hand.run()

    told = [(at, parse(frame)) for at, target, frame in hand.delivered if target == "backend"]
    assert [(at, segment.flags, segment.seq) for at, segment in told] == [(MS, RST, 42)]
    assert [parse(frame).seq for _, target, frame in hand.delivered if target == "server"] == [1, 3]
    assert facts_of(hand.facts, ConnectionCut) == [ConnectionCut("firewall", "10.0.0.11:700>10.0.1.1:2049")]


@pytest.mark.parametrize("order", [("firewall", "stray"), ("stray", "firewall")])
def test_a_refused_frame_may_be_held_by_another_rule(order: tuple[str, str]) -> None:
    """It is late, and comes all the same, whichever rule is written first."""
    rules = {
        "firewall": Rule("firewall", "reset", frames=TO_SERVER),
        "stray": Rule("stray", "hold", frames=TO_SERVER, until=Trigger(facts=(FactMatch("CopyFinished"),))),
    }
    hand = Hand(*(rules[name] for name in order))

    hand.send(tcp_frame(b"data", seq=1, ack=40))
    early = hand.run()
    hand.notice(CopyFinished("mine", 1), now=7 * MS)

    assert (early, hand.run()) == ([40], [40, 1])


def test_a_datagram_cannot_be_refused() -> None:
    """It belongs to no connection, so it passes."""
    hand = Hand(Rule("firewall", "reset", frames=TO_SERVER))

    hand.send(udp_frame(b"data"))
    hand.run()

    assert [target for _, target, _ in hand.delivered] == ["server"]
    assert hand.facts == []


def test_the_audit_changes_nothing() -> None:
    """A network has nothing to count."""
    assert Hand().handle(Audit(), 5) == []


def test_what_a_rule_holds_is_bounded() -> None:
    """A frame too many is lost, as on a link, and the rule is named."""
    hand = Hand(Rule("acks", "hold", frames=TO_SERVER))
    hand.network.held["acks"] = [b""] * (HELD_FRAMES_MAX - 1)

    hand.send(tcp_frame(seq=1), tcp_frame(seq=2))

    assert [fact.seq for fact in facts_of(hand.facts, FrameHeld)] == [1]
    assert [(fact.seq, fact.rule) for fact in facts_of(hand.facts, FrameLost)] == [(2, "acks")]
