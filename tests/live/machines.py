"""Small machines for tests of the live world, and plans that are made of them."""

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lateack.cluster.live.plan import Part
from lateack.nodes.errors import LateackError
from lateack.nodes.facts import Connected, Counted, Fact
from lateack.nodes.memory.pages import Memory
from lateack.nodes.messages import Frames, Message, Noticed, Notify, Xenbus
from lateack.nodes.node import (
    MS,
    Audit,
    Boot,
    CancelTimer,
    Effect,
    Event,
    Halt,
    Node,
    Received,
    Send,
    SetTimer,
    TimerFired,
)
from lateack.nodes.storage.store import Store

HUB = "network"
PORT = 3


class SmallPlan:
    """Machines by name, each with its class and arguments; `owners` says whose memory is seen by whom.

    The `mortal` ones are told as a last argument how often they have died.
    """

    hub = HUB
    input: Path | None = None

    def __init__(
        self,
        machines: Mapping[str, tuple[Any, ...]],
        owners: Mapping[str, str] | None = None,
        awaited: Mapping[str, tuple[str, ...]] | None = None,
        mortal: Sequence[str] = (),
    ) -> None:
        self.mortal = tuple(mortal)
        self.machines = {HUB: (Echo,)} | dict(machines)
        self.awaited = dict(awaited or {})
        owned = owners or {}
        hosts = dict.fromkeys((*owned, *owned.values()), "host1")
        self.parts = tuple(
            Part(name, hosts.get(name, name), number, 2 if name in owned else 0, owned.get(name, ""), name in mortal)
            for number, name in enumerate(self.machines)
        )

    def store(self, name: str, directory: Path | None) -> Store | None:
        """Nobody serves files."""
        return None

    def build(
        self,
        name: str,
        *,
        memories: dict[str, Memory],
        store: Store | None,
        root: bytes,
        input: Path | None,
        incarnation: int,
    ) -> Node:
        """Return the machine; one that shares memory gets it as `memory`."""
        kind, *arguments = self.machines[name]
        node: Node = kind(*arguments, *([incarnation] if name in self.mortal else ()))
        for memory in memories.values():
            node.memory = memory  # type: ignore[attr-defined]
        return node


class Echo:
    """Sends everything back, and records the numbers in it."""

    def handle(self, event: Event, now: int) -> Sequence[Effect]:
        """Answer a message; see `Node`."""
        match event:
            case Received(source, Frames() | Xenbus() as message):
                return [*(Counted("echo", number) for number in numbers_in(message)), Send(source, message)]
            case _:
                return []

    def pending(self) -> int:
        """Nothing of its own."""
        return 0


class Caller:
    """Sends numbered messages to one machine, frames and notes in turn, and records what comes back."""

    def __init__(self, target: str, count: int) -> None:
        self.target = target
        self.count = count
        self.missing = count
        self.events = 0

    def handle(self, event: Event, now: int) -> Sequence[Effect]:
        """Send everything at boot; see `Node`."""
        match event:
            case Boot():
                return [
                    effect
                    for number in range(self.count)
                    for effect in (Counted("call", number), Send(self.target, message_of(number)))
                ]
            case Received(_, Frames() | Xenbus() as message):
                found = numbers_in(message)
                self.missing -= len(found)
                return [Counted("return", number) for number in found]
            case _:
                return []

    def pending(self) -> int:
        """How many messages have not come back."""
        return self.missing


def message_of(number: int) -> Message:
    """Return a message that says a number: by turns three frames of one, and a note."""
    return Xenbus(number, {"path": "/"}) if number % 4 == 3 else Frames((number.to_bytes(4, "big"),))


def numbers_in(message: Frames | Xenbus) -> list[int]:
    """Return the numbers that a message says."""
    if isinstance(message, Xenbus):
        return [message.state]
    return [int.from_bytes(frame[:4], "big") for frame in message.frames]


class Bouncer:
    """Two of these pass a number to and fro in shared memory, each adding one, and wake each other by event channel."""

    memory: Memory

    def __init__(self, peer: str, last: int, first: bool) -> None:
        self.peer = peer
        self.last = last
        self.first = first
        self.seen = -1

    def handle(self, event: Event, now: int) -> Sequence[Effect]:
        """Add one to what the other has put there; see `Node`."""
        match event:
            case Boot() if self.first:
                return self._write(0)
            case Received(_, Notify(port)):
                assert port == PORT
                number = self.memory.words[0]
                if number == self.seen or number >= self.last:
                    self.seen = number
                    return []  # our own, or the end
                return self._write(number + 1)
            case _:
                return []

    def _write(self, number: int) -> list[Effect]:
        self.seen = number
        self.memory.words[0] = number
        return [Counted("bounce", number), Send(self.peer, Notify(PORT))]

    def pending(self) -> int:
        """Whether the number has not reached its end here."""
        return int(self.seen < self.last - 1)


class Clockwork:
    """Sets timers, replaces and cancels some, and records when those that are left come due."""

    def __init__(self) -> None:
        self.deadlines: dict[str, int] = {}

    def handle(self, event: Event, now: int) -> Sequence[Effect]:
        """See `Node`."""
        match event:
            case Boot():
                return [
                    self._set("late", now + 1_000_000),
                    self._set("late", now + 30_000_000),
                    self._set("never", now + 2_000_000),
                    CancelTimer("never"),
                    self._set("early", now + 5_000_000),
                    self._set("past", now - 1),
                ]
            case TimerFired(name):
                assert now >= self.deadlines.pop(name), "a timer was early"
                return [Counted(name, now)]
            case _:
                return []

    def _set(self, name: str, at: int) -> SetTimer:
        self.deadlines[name] = at
        return SetTimer(name, at)

    def pending(self) -> int:
        """How many timers are to come."""
        return len(self.deadlines.keys() - {"never"})


class Listener:
    """Records the facts of others that it is told of."""

    def __init__(self, count: int) -> None:
        self.missing = count

    def handle(self, event: Event, now: int) -> Sequence[Effect]:
        """See `Node`."""
        match event:
            case Received(_, Noticed(node, fact)):
                self.missing -= 1
                return [Connected(f"{node}: {type(fact).__name__}")]
            case _:
                return []

    def pending(self) -> int:
        """How many facts are still expected."""
        return self.missing


class Reporter:
    """Records facts at boot, and one when all is over."""

    def __init__(self, *facts: Fact) -> None:
        self.facts = facts

    def handle(self, event: Event, now: int) -> Sequence[Effect]:
        """See `Node`."""
        return self.facts if isinstance(event, Boot) else [Counted("end", now)] if isinstance(event, Audit) else []

    def pending(self) -> int:
        """Nothing."""
        return 0


class Burster:
    """Sends many frames at once, and waits for nothing."""

    def __init__(self, target: str, count: int) -> None:
        self.target = target
        self.count = count

    def handle(self, event: Event, now: int) -> Sequence[Effect]:
        """See `Node`."""
        frames = tuple(number.to_bytes(4, "big").ljust(1514, b"\0") for number in range(self.count))
        return [Send(self.target, Frames(frames))] if isinstance(event, Boot) else []

    def pending(self) -> int:
        """Nothing."""
        return 0


class Sink:
    """Records how many frames each event brings."""

    def handle(self, event: Event, now: int) -> Sequence[Effect]:
        """See `Node`."""
        match event:
            case Received(_, Frames(frames)):
                return [Counted("burst", len(frames))]
            case _:
                return []

    def pending(self) -> int:
        """Nothing."""
        return 0


class Waiter:
    """Waits for something that never happens."""

    def handle(self, event: Event, now: int) -> Sequence[Effect]:
        """See `Node`."""
        return [Counted("waiting", 1)] if isinstance(event, Boot) else []

    def pending(self) -> int:
        """For ever."""
        return 1


class Signaller(Waiter):
    """Sends its own process a signal, as the kernel or a person might."""

    def __init__(self, number: int) -> None:
        self.number = number

    def handle(self, event: Event, now: int) -> Sequence[Effect]:
        """See `Node`."""
        match event:
            case Boot():
                return [SetTimer("signal", now + 50_000_000)]
            case TimerFired():
                os.kill(os.getpid(), self.number)
                return []
            case _:
                return []


class Faulty(Waiter):
    """Has a mistake in it, or finds fault with the world."""

    def __init__(self, of_the_world: bool) -> None:
        self.of_the_world = of_the_world

    def handle(self, event: Event, now: int) -> Sequence[Effect]:
        """See `Node`."""
        if isinstance(event, Boot):
            raise LateackError("the disk is full; make room.") if self.of_the_world else ZeroDivisionError("a mistake")
        return []


class Mortal:
    """Dies of its first messages, a life each; who has died `lives` times answers instead."""

    def __init__(self, lives: int, incarnation: int) -> None:
        self.lives = lives
        self.incarnation = incarnation

    def handle(self, event: Event, now: int) -> Sequence[Effect]:
        """Say at boot which life it is; see `Node`."""
        match event:
            case Boot():
                return [Counted("life", self.incarnation)]
            case Received(source, Frames() as message) if self.incarnation < self.lives:
                return [Counted("died", self.incarnation), Send(source, message), Halt(20 * MS), Counted("behind", 0)]
            case Received(source, Frames() as message):
                return [Send(source, message)]
            case _:
                return []

    def pending(self) -> int:
        """Nothing of its own."""
        return 0


class StillBorn(Mortal):
    """Dies of its boot, once."""

    def handle(self, event: Event, now: int) -> Sequence[Effect]:
        """Die or live on; see `Node`."""
        if isinstance(event, Boot) and not self.incarnation:
            return [Counted("died", 0), Halt(20 * MS)]
        return super().handle(event, now)


class Killed(Mortal):
    """Dies of its boot by a hand that no rule knows."""

    def handle(self, event: Event, now: int) -> Sequence[Effect]:
        """Be killed; see `Node`."""
        os.kill(os.getpid(), signal.SIGKILL)
        return []


class Knocker:
    """Sends a frame by way of the hub every few milliseconds, until one comes back."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.answered = False

    def handle(self, event: Event, now: int) -> Sequence[Effect]:
        """Knock, or rest; see `Node`."""
        if isinstance(event, Received):
            self.answered = True
            return [Counted("answered", 1)]
        if self.answered or isinstance(event, Audit):
            return []
        return [Send(self.target, Frames((b"knock",))), SetTimer("again", now + 5 * MS)]

    def pending(self) -> int:
        """Whether nobody has answered."""
        return int(not self.answered)
