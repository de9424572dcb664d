"""The gates in their backend: what waits at each, whose bytes it has then, and when rules open and close them."""

import pytest

from lateack.nodes.facts import CopyFinished, GateClosed, GateOpened, Parked
from lateack.nodes.gates import NIC_PLACE, RING_PLACE
from lateack.nodes.rules import FactMatch, FrameMatch, Rule, Trigger
from lateack.nodes.strategies.backend import BackendStrategy, DevZerocopy, GrantCopy
from tests.nodes.hand import facts_of
from tests.nodes.one_backend import REFILLED, UNTIL_REFILLED, Hand, segment


def test_a_closed_card_parks_packets_and_reads_them_when_it_opens() -> None:
    """With the guest's page mapped the bytes are those of the moment at which the gate opens."""
    hand = Hand(Rule("egress", "gate", NIC_PLACE, until=UNTIL_REFILLED))
    skb = hand.front.skb(segment(payload=b"old"), [b"old"])
    page = skb.shinfo.frags[0].page
    hand.front.netfront.xmit(skb, 0)
    hand.front.netfront.flush()
    hand.kick()
    parked, unanswered = facts_of(hand.facts, Parked), 256 - len(hand.front.netfront.free_ids)

    hand.front.memory.write(page.frame, 0, b"new")
    effects = hand.notice(REFILLED)

    assert facts_of(hand.facts, GateClosed) == [GateClosed("egress", NIC_PLACE)]
    assert [(fact.place, fact.length, fact.again) for fact in parked] == [(NIC_PLACE, 3, False)]
    assert unanswered == 1
    assert facts_of(effects, GateOpened) == [GateOpened("egress", NIC_PLACE, 1)]
    assert [frame[54:] for frame in hand.frames] == [b"new"]
    hand.front.netfront.interrupt(0)
    assert len(hand.front.netfront.free_ids) == 256


def test_grant_copy_froze_the_bytes_before_the_card() -> None:
    """The same with a backend that copies: the old bytes leave, and the guest was answered long before."""
    hand = Hand(Rule("egress", "gate", NIC_PLACE, until=UNTIL_REFILLED), strategy=GrantCopy)
    skb = hand.front.skb(segment(payload=b"old"), [b"old"])
    page = skb.shinfo.frags[0].page
    hand.front.netfront.xmit(skb, 0)
    hand.front.netfront.flush()
    hand.kick()
    free = len(hand.front.netfront.free_ids)

    hand.front.memory.write(page.frame, 0, b"new")
    hand.notice(REFILLED)

    assert free == 256
    assert [frame[54:] for frame in hand.frames] == [b"old"]


@pytest.mark.parametrize("strategy", [DevZerocopy, GrantCopy])
def test_a_closed_ring_leaves_everything_to_the_guest(strategy: type[BackendStrategy]) -> None:
    """netback has taken nothing, so that even one that copies reads what is in the page when it is scheduled again."""
    hand = Hand(Rule("egress", "gate", RING_PLACE, until=UNTIL_REFILLED), strategy=strategy)
    skb = hand.front.skb(segment(payload=b"old"), [b"old"])
    page = skb.shinfo.frags[0].page
    hand.front.netfront.xmit(skb, 0)
    hand.front.netfront.flush()
    hand.kick()
    parked, copies = facts_of(hand.facts, Parked), hand.backend.hypervisor.copies

    hand.front.memory.write(page.frame, 0, b"new")
    effects = hand.notice(REFILLED)

    assert [(fact.place, fact.length) for fact in parked] == [(RING_PLACE, 3)]
    assert copies == 0
    assert [fact.waiting for fact in facts_of(effects, GateOpened)] == [2]
    assert [frame[54:] for frame in hand.frames] == [b"new"]


def test_a_closed_ring_is_kicked_for_every_packet() -> None:
    """While the gate is closed the observer wants to see each packet come, and records each once."""
    hand = Hand(Rule("egress", "gate", RING_PLACE, until=UNTIL_REFILLED))

    for number in range(3):
        hand.front.send(segment(number, b"x"), [b"x"])
        hand.kick()

    assert hand.front.netfront.notifications == 3
    assert [fact.seq for fact in facts_of(hand.facts, Parked)] == [0, 1, 2]


def test_a_rule_closes_the_card_behind_the_frame_that_it_waits_for() -> None:
    """The frame that starts the rule leaves; the next, in the same burst, does not."""
    since = Trigger(frames=(FrameMatch(source="guest1"),))
    hand = Hand(Rule("egress", "gate", NIC_PLACE, since=since, until=UNTIL_REFILLED))
    hand.front.send(segment(1, b"a"), [b"a"])
    hand.front.send(segment(2, b"b"), [b"b"])

    hand.kick()

    assert [frame[54:] for frame in hand.frames] == [b"a"]
    assert [fact.seq for fact in facts_of(hand.facts, Parked)] == [2]


def test_a_rule_may_wait_for_what_the_backend_itself_records() -> None:
    """The second packet that is parked opens the gate again, in the very same event."""
    until = Trigger(facts=(FactMatch("Parked", "backend"),), nth=2)
    hand = Hand(Rule("egress", "gate", NIC_PLACE, until=until))
    hand.front.send(segment(1, b"a"), [b"a"])
    hand.kick()
    before = list(hand.frames)

    hand.front.send(segment(2, b"b"), [b"b"])
    hand.kick()

    assert before == []
    assert [frame[54:] for frame in hand.frames] == [b"a", b"b"]
    assert len(hand.front.netfront.free_ids) == 256


def test_own_facts_are_seen_however_late_they_come() -> None:
    """Packets that netback takes only when answers made room are parked and seen by the rules like all others."""
    until = Trigger(facts=(FactMatch("FrameSent", "backend"),), nth=250)
    hand = Hand(
        Rule("first", "gate", NIC_PLACE, until=UNTIL_REFILLED),
        Rule("second", "gate", RING_PLACE, since=until, until=Trigger(facts=(FactMatch("CopyFinished"),))),
        queue_frames=1000,
    )
    for number in range(256):
        hand.front.send(segment(number, bytes(200)) + bytes(200))
    hand.kick()

    hand.notice(REFILLED)

    assert GateClosed("second", RING_PLACE) in hand.facts


def test_two_gates_at_one_place_open_with_the_last() -> None:
    """The card stays closed while any rule keeps it so."""
    finished = Trigger(facts=(FactMatch("CopyFinished"),))
    hand = Hand(Rule("one", "gate", NIC_PLACE, until=UNTIL_REFILLED), Rule("two", "gate", NIC_PLACE, until=finished))
    hand.front.send(segment(1, b"a"), [b"a"])
    hand.kick()

    hand.notice(REFILLED)
    between = list(hand.frames)
    hand.notice(CopyFinished("f", 1))

    assert between == []
    assert len(hand.frames) == 1
