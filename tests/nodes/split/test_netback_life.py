"""The life of netback's interfaces: disconnecting waits, a liar is shut, and death is not the end."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.facts import (
    AccessFault,
    CopyFinished,
    LeftOver,
    NetbackDied,
    NetbackRestarted,
    VifConnected,
    VifDisabled,
    VifDisconnected,
)
from lateack.nodes.gates import NIC_PLACE
from lateack.nodes.memory.netif import NETTXF_more_data
from lateack.nodes.messages import Xenbus
from lateack.nodes.node import Received
from lateack.nodes.rules import FactMatch, Rule, Trigger
from lateack.nodes.split.netback_life import NETBACK_PLACE
from lateack.nodes.split.xenbus import CLOSED, CLOSING, CONNECTED, INIT_WAIT, INITIALISING, NO_SESSION
from lateack.nodes.strategies.backend import BackendStrategy, DevZerocopy, GrantCopy
from lateack.nodes.strategies.staging import StagingGrants
from tests.nodes import one_backend
from tests.nodes.hand import facts_of, messages_to
from tests.nodes.one_backend import REFILLED, UNTIL_REFILLED, segment
from tests.nodes.one_guest import pattern
from tests.nodes.two_drivers import TOGGLE, Drivers

GATE = Rule("egress", "gate", NIC_PLACE, until=UNTIL_REFILLED)


def states(effects: Any, guest: str = "guest1") -> list[int]:
    """Return the xenbus states that the backend announces to a guest."""
    return [message.state for message in messages_to(effects, guest) if isinstance(message, Xenbus)]


def tell(hand: one_backend.Hand, state: int, keys: dict[str, str | int] | None = None) -> list[int]:
    """Let guest1's frontend change its state; return the states with which the backend answers."""
    return states(hand.handle(Received("guest1", Xenbus(state, keys or {}))))


def test_disconnecting_waits_for_the_last_packet_in_the_stack() -> None:
    """A netback that maps stays connected while the card has a packet of the guest; then it unmaps, and closes."""
    hand = one_backend.Hand(GATE, strategy=DevZerocopy)
    hand.front.send(segment(), [b"payload"])
    hand.kick()

    asked = tell(hand, CLOSING)
    opened = hand.notice(REFILLED)

    assert asked == []
    assert states(opened) == [CLOSING]
    assert [fact.guest for fact in facts_of(opened, VifDisconnected)] == ["guest1"]
    assert [frame[54:] for frame in hand.frames] == [b"payload"]
    assert hand.backend.hypervisor.pins() == {2: 2}


def test_a_netback_that_copies_has_nothing_to_wait_for() -> None:
    """The card still has the packet, and the interface is gone all the same; the packet leaves unharmed."""
    hand = one_backend.Hand(GATE, strategy=GrantCopy)
    hand.front.send(segment(), [b"payload"])
    hand.kick()

    asked = tell(hand, CLOSING)
    hand.notice(REFILLED)

    assert asked == [CLOSING]
    assert [frame[54:] for frame in hand.frames] == [b"payload"]
    assert hand.left_over() == {}


def test_a_closing_interface_takes_nothing_more() -> None:
    """What comes into the ring after the frontend went to Closing is left there, and answered by nobody."""
    hand = one_backend.Hand(GATE)
    hand.front.send(segment(), [b"before"])
    hand.kick()

    tell(hand, CLOSING)
    hand.front.send(segment(7), [b"after"])
    hand.kick()
    hand.notice(REFILLED)

    assert [frame[54:] for frame in hand.frames] == [b"before"]


def test_a_frontend_that_begins_anew_is_led_through_all_states() -> None:
    """One that says Initialising while it is connected is disconnected first (set_backend_state)."""
    hand = one_backend.Hand()

    walked = tell(hand, INITIALISING)
    hand.front.netfront.start_rings()
    connected = tell(hand, CONNECTED, hand.front.keys)

    assert walked == [CLOSING, CLOSED, INIT_WAIT]
    assert connected == [CONNECTED]
    assert len(facts_of(hand.facts, VifConnected)) == 3


def test_a_liar_is_shut_for_good() -> None:
    """Whoever broke the ring's rules may close, and is never offered an interface again."""
    hand = one_backend.Hand()
    hand.front.lie((hand.front.grant(), 0, NETTXF_more_data, 0, 60), (hand.front.grant(), 0, 0, 1, 61))
    hand.kick()

    answers = [tell(hand, state, hand.front.keys) for state in (CLOSING, CLOSED, INITIALISING, CONNECTED)]

    assert [fact.guest for fact in facts_of(hand.facts, VifDisabled)] == ["guest1"]
    assert answers == [[CLOSING], [CLOSED], [], []]
    assert hand.left_over() == {}


def test_who_takes_a_neighbours_address_is_shut_and_the_neighbour_is_not() -> None:
    """A liar that connects first, under the other's address, gets nothing and keeps nothing mapped."""
    hand = one_backend.Hand(strategy=StagingGrants, connect=False)
    neighbour = hand.fronts["guest2"]

    lied = tell(hand, CONNECTED, hand.front.keys | {"mac": neighbour.keys["mac"]})
    pins = hand.backend.hypervisor.pins()
    hand.handle(Received("guest2", Xenbus(CONNECTED, neighbour.keys)))

    assert lied == [] and pins == {}
    assert [fact.guest for fact in facts_of(hand.facts, VifDisabled)] == ["guest1"]
    assert [fact.guest for fact in facts_of(hand.facts, VifConnected)] == ["guest2"]


def test_a_control_ring_that_is_none_leaves_nothing_mapped() -> None:
    """The other two rings were mapped by then; the interface is shut, and they are unmapped again."""
    hand = one_backend.Hand(strategy=StagingGrants, connect=False)

    answers = tell(hand, CONNECTED, hand.front.keys | {"ctrl-ring-ref": 400})

    assert answers == []
    assert [fact.reason for fact in facts_of(hand.facts, VifDisabled)] == ["the control ring cannot be mapped"]
    assert hand.backend.hypervisor.pins() == {}


def test_netback_dies_with_a_packet_below_it() -> None:
    """Its mappings are taken away, so the card touches a page that is not there; nothing of the packet leaves."""
    hand = one_backend.Hand(GATE)
    hand.front.send(segment(), [b"payload"])
    hand.kick()
    hand.backend.life.order(True)

    died = hand.kick()
    hand.notice(REFILLED)

    assert [fact.in_flight for fact in facts_of(died, NetbackDied)] == [1]
    assert len(facts_of(hand.facts, AccessFault)) == 1
    assert hand.frames == []
    assert hand.left_over() == {}


def test_a_netback_that_copied_dies_without_harm() -> None:
    """The bytes are the host's own by then."""
    hand = one_backend.Hand(GATE, strategy=GrantCopy)
    hand.front.send(segment(), [b"payload"])
    hand.kick()
    hand.backend.life.order(True)

    hand.kick()
    hand.notice(REFILLED)

    assert [frame[54:] for frame in hand.frames] == [b"payload"]
    assert hand.left_over() == {}


def test_a_dead_netback_hears_nothing_and_comes_back_with_no_session() -> None:
    """Kicks, frames and states meet nobody; at its return it offers every guest an interface of no session."""
    hand = one_backend.Hand()
    hand.backend.life.order(True)
    hand.kick()

    unheard = tell(hand, CLOSING)
    hand.front.send(segment(), [b"payload"])
    hand.kick()
    hand.backend.life.order(False)
    returned = hand.kick()
    old = tell(hand, CONNECTED, hand.front.keys)

    assert unheard == old == []
    assert hand.frames == []
    assert len(facts_of(returned, NetbackRestarted)) == 1
    assert [message.keys["session"] for message in messages_to(returned, "guest2") if isinstance(message, Xenbus)] == [
        NO_SESSION
    ]


def test_a_rule_lets_it_die_between_two_packets() -> None:
    """A death that a frame at the card orders waits for the end of the event; all of the burst has been taken."""
    seen = Trigger(facts=(FactMatch("FrameSent", "backend"),))
    hand = one_backend.Hand(Rule("death", "crash", NETBACK_PLACE, since=seen))
    for number in range(3):
        hand.front.send(segment(number), [b"payload"])

    hand.kick()

    assert len(hand.frames) == 3
    assert len(facts_of(hand.facts, NetbackDied)) == 1
    assert hand.left_over() == {}


STATES = st.integers(-1, 9)
KEYS = st.dictionaries(
    st.sampled_from(["session", "mac", "tx-ring-ref", "rx-ring-ref", "ctrl-ring-ref", "feature-ctrl-ring"]),
    st.integers(-2, 600) | st.sampled_from(["", "00:16:3e:00:00:01", "x"]),
)


@given(messages=st.lists(st.tuples(st.sampled_from(["guest1", "backend"]), STATES, KEYS), max_size=20))
def test_no_message_at_any_time_brings_a_machine_down(messages: list[tuple[str, int, dict[str, str | int]]]) -> None:
    """Whatever either half is told in the other's name, in whatever order, both go on handling events."""
    hand = Drivers()
    hand.boot()

    for target, state, keys in messages:
        for channel in hand.channels():
            hand.deliver(channel)
        source = "backend" if target == "guest1" else "guest1"
        hand.handle(target, Received(source, Xenbus(state, keys)))

    assert states(hand.handle("backend", Received("test", TOGGLE))) == []
    assert hand.of(NetbackDied)


ORDERS = ["detach", "toggle", "stall", "fire"]
ORDERED_MAX = {"detach": 10, "toggle": 10, "stall": 10, "fire": 4}  # TCP gives up after six timeouts
ACTIONS = st.lists(st.sampled_from([*ORDERS, 0, 0, 0, 1, 2, 3]), max_size=150)


@pytest.mark.parametrize("strategy", [DevZerocopy, GrantCopy])
@given(actions=ACTIONS)
def test_an_honest_pair_always_finds_itself_again(strategy: type[BackendStrategy], actions: list[str | int]) -> None:
    """Detached and torn down at any moment, whatever is still on the way: the copy ends, and all is given back."""
    hand = Drivers(strategy)
    hand.boot()
    ordered = dict.fromkeys(ORDERS, 0)

    for action in actions:
        channels = hand.channels()
        if isinstance(action, int):
            if channels:
                hand.deliver(channels[action % len(channels)])
        elif ordered[action] < ORDERED_MAX[action]:
            ordered[action] += 1
            hand.order(action)
    for action in ("toggle", "stall"):
        if ordered[action] % 2:
            hand.order(action)
    hand.finish()
    hand.audit()

    assert len(hand.of(CopyFinished)) == 1
    assert hand.file() == pattern(24_576)
    assert hand.of(LeftOver) == []
    assert hand.guest.life.state == hand.backend.life.interfaces["guest1"].state == CONNECTED
