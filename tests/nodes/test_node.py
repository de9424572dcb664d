"""The contract between a machine and its world."""

import copy
from collections.abc import Sequence

import msgspec
import pytest

from lateack.nodes.facts import CopyFinished, Fact
from lateack.nodes.messages import Frames
from lateack.nodes.node import (
    MS,
    US,
    Audit,
    Boot,
    CancelTimer,
    Effect,
    Event,
    Node,
    Received,
    S,
    Send,
    SetTimer,
    TimerFired,
)

EVENTS: list[Event] = [Boot(), Received("network", Frames((b"x",))), TimerFired("rto"), Audit()]
EFFECTS: list[Effect] = [Send("network", Frames((b"x",))), SetTimer("rto", 5), CancelTimer("rto"), CopyFinished("f", 1)]


class Echo:
    """The smallest machine: it sends frames back where they came from."""

    def handle(self, event: Event, now: int) -> Sequence[Effect]:
        """Answer frames with frames."""
        match event:
            case Received(source, Frames() as frames):
                return [Send(source, frames), SetTimer("later", now + MS)]
            case _:
                return []

    def pending(self) -> int:
        """Wait for nothing."""
        return 0

    def close(self) -> None:
        """Hold nothing."""


def test_time_is_whole_nanoseconds() -> None:
    """Units are plain integers, so that a sum of them is exact."""
    assert (US, MS, S) == (10**3, 10**6, 10**9)
    assert all(isinstance(unit, int) for unit in (US, MS, S))


def test_a_machine_is_whatever_handles_events() -> None:
    """No base class is asked for: a plain object with three methods will do."""
    machine: Node = Echo()

    assert machine.handle(Boot(), 0) == []
    assert machine.handle(EVENTS[1], 7) == [Send("network", Frames((b"x",))), SetTimer("later", MS + 7)]


@pytest.mark.parametrize("value", [*EVENTS, *EFFECTS], ids=lambda value: type(value).__name__)
def test_events_and_effects_are_values(value: Event | Effect) -> None:
    """They compare by what they say, can be keys, can be copied, and nobody can change them on the way."""
    twin = copy.deepcopy(value)

    assert twin == value
    assert hash(twin) == hash(value)
    for name in value.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(value, name, None)


def test_a_fact_is_an_effect_as_it_stands() -> None:
    """Recording needs no wrapper; a world tells facts from orders by their type."""
    orders = [effect for effect in EFFECTS if not isinstance(effect, Fact)]

    assert [type(order) for order in orders] == [Send, SetTimer, CancelTimer]
    assert all(isinstance(effect, msgspec.Struct) for effect in EFFECTS)
