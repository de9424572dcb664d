"""The contract between a machine and its world: events come in, effects go out, and time is told, never asked.

A *machine* is a `Node`: plain state with one door, `handle`. It touches no clock, socket, thread or random source, so
that any world can carry it: the deterministic one, the one on Ray, or a test that holds it in its hand.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from lateack.nodes.facts import Fact
from lateack.nodes.messages import Frames, Message

Time = int

US: Time = 1_000
MS: Time = 1_000_000
S: Time = 1_000_000_000


class Boot(msgspec.Struct, frozen=True):
    """The machine has been switched on; the first event that it ever sees."""


class Received(msgspec.Struct, frozen=True, gc=False):
    """A message from another machine has arrived."""

    source: str
    message: Message


class TimerFired(msgspec.Struct, frozen=True, gc=False):
    """A timer that the machine set has come due; `now` is never before its deadline."""

    name: str


class Audit(msgspec.Struct, frozen=True):
    """The run is over: record what it cost and whatever was never given back."""


Event = Boot | Received | TimerFired | Audit


class Send(msgspec.Struct, frozen=True, gc=False):
    """Carry this message to that machine; frames and notices between two machines keep their order."""

    target: str
    message: Message


BURST_MAX = 64
"""Frames that go in one message: a longer burst is cut, so that no message grows without bound."""


def send_frames(target: str, frames: Sequence[bytes]) -> list[Send]:
    """Return the orders that carry frames to a machine, in bursts of at most `BURST_MAX`."""
    if len(frames) <= BURST_MAX:
        return [Send(target, Frames(tuple(frames)))]
    starts = range(0, len(frames), BURST_MAX)
    return [Send(target, Frames(tuple(frames[start : start + BURST_MAX]))) for start in starts]


class SetTimer(msgspec.Struct, frozen=True, gc=False):
    """Wake me at this time; a second order with the same name replaces the first."""

    name: str
    at: Time


class CancelTimer(msgspec.Struct, frozen=True, gc=False):
    """Forget the timer of this name, if it is set."""

    name: str


class Halt(msgspec.Struct, frozen=True, gc=False):
    """Kill me here: nothing behind this effect happens, and all that is not on a disk is gone.

    The world makes the machine anew over the same disk and boots it when `restart_after` ns have passed.
    """

    restart_after: Time


# A fact is an effect as it stands: recording is so frequent that a wrapper around each one was measurable.
Effect = Send | SetTimer | CancelTimer | Halt | Fact


class Node(Protocol):
    """A machine: told what happened and when, it answers with what it wants done."""

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Take one event at `now` (ns since the run began) and return the effects in the order they are to happen."""
        ...

    def pending(self) -> int:
        """How much work the machine still waits for; zero on every machine means that the run may end."""
        ...

    def close(self) -> None:
        """Let go of memory at once; the machine is not used again. (Machines are full of cycles, pages are large.)"""
        ...
