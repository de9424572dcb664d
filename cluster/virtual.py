"""The virtual world: one process, one queue of events, virtual time; the same seed gives the same trace, byte for byte.

Events of the same moment happen in the order in which they were caused. Nothing here draws dice or looks at a clock,
and nothing imports Ray or gRPC.
"""

from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import Any

from lateack.cluster.trace import Trace
from lateack.nodes import facts
from lateack.nodes.facts import Fact, WriteCompleted, WriteIssued
from lateack.nodes.messages import Noticed, Notify
from lateack.nodes.node import Audit, Boot, CancelTimer, Effect, Event, Halt, Node, Received, Send, SetTimer, TimerFired

Progress = Callable[[str, int, int], None]

Rebuild = Callable[[str, int], Node]
"""Makes a machine anew over the same disk: its name, and how often it has died."""

EVENTS_MAX = 200_000_000
"""A run that takes more events than this is broken; it ends and is judged as it stands."""

MOMENT_EVENTS_MAX = 1_000_000
"""Events of one moment; machines that answer each other without end and without time passing are cut off here."""

PROGRESS_EVERY = 4096

WORTH_ASKING = 20_000_000
"""A wait longer than this (ns) is gone into only if some machine still has work to do."""

NOTICE_DELAY = 500_000
"""How long (ns) news of a fact takes to the rules of another machine: about what it takes on a real cluster."""


class Down:
    """The place of a machine that has died: it hears nothing, and the run waits until it is back."""

    def handle(self, event: Event, now: int) -> Sequence[Effect]:
        """Let a message be lost; see `Node`."""
        return ()

    def pending(self) -> int:
        """The boot that is to come."""
        return 1

    def close(self) -> None:
        """Hold nothing."""


class VirtualWorld:
    """Carries the effects of a set of machines out in virtual time; `rebuild` replaces those that die."""

    def __init__(
        self,
        machines: Mapping[str, Node],
        awaited: Mapping[str, tuple[str, ...]],
        duration: int,
        rebuild: Rebuild | None = None,
    ) -> None:
        self.machines = dict(machines)
        self.handlers = {name: node.handle for name, node in machines.items()}
        self.awaited: dict[type, tuple[str, ...]] = {getattr(facts, name): who for name, who in awaited.items()}
        # What is more than a fact that nobody waits for: one look tells the many from the few.
        self.special = frozenset((Send, SetTimer, CancelTimer, Halt, *self.awaited))
        self.duration = duration
        self.rebuild = rebuild
        self.deaths: dict[str, int] = {}
        self.now = 0
        self.trace = Trace()
        self.ready: list[tuple[str, Event, tuple[str, str] | None]] = []
        self.kicks: set[tuple[str, str]] = set()
        self.timers: dict[tuple[str, str], int] = {}
        self.heap: list[tuple[int, int, str, SetTimer | Received | Boot]] = []
        self.sequence = 0
        self.events = 0

    def run(self, progress: Progress | None = None) -> Trace:
        """Boot every machine, run until nothing is left to happen, audit every machine, and return the trace."""
        boot, audit = Boot(), Audit()
        for name in self.machines:
            self.ready.append((name, boot, None))
        self._run_queue(progress)
        for name in self.machines:
            self.ready.append((name, audit, None))
        self._step_ready()
        return self.trace

    def close(self) -> None:
        """Let go of every machine's memory; the world is not used again."""
        for machine in self.machines.values():
            machine.close()

    def _run_queue(self, progress: Progress | None) -> None:
        heap, timers, ready = self.heap, self.timers, self.ready
        self._step_ready()
        shown = 0
        while heap and self.events < EVENTS_MAX:
            at, _, name, coming = heappop(heap)
            event: Event
            if isinstance(coming, SetTimer):
                timer = (name, coming.name)
                if timers.get(timer) != at:
                    continue  # the timer was set anew or cancelled
                if at > self.duration or (at - self.now > WORTH_ASKING and not self._unfinished()):
                    break
                del timers[timer]
                event = TimerFired(coming.name)
            else:
                if type(coming) is Boot:
                    if at > self.duration:
                        break
                    self._restart(name)
                event = coming
            self.now = at
            ready.append((name, event, None))
            self._step_ready()
            if progress is not None and self.events - shown > PROGRESS_EVERY:
                shown = self.events
                self._report(progress)
        if progress is not None:
            self._report(progress)

    def _unfinished(self) -> bool:
        return any(machine.pending() for machine in self.machines.values())

    def _step_ready(self) -> None:
        """Handle everything that happens at this moment, and what that causes, until nothing more does."""
        ready, handlers, kicks, special = self.ready, self.handlers, self.kicks, self.special
        record: Callable[[Any], None] = self.trace.entries.append
        now = self.now
        for name, event, kick in islice(ready, MOMENT_EVENTS_MAX):  # it grows as we go
            if kick is not None:
                kicks.remove(kick)
            for effect in handlers[name](event, now):
                if type(effect) not in special:
                    record((now, 0, name, effect))
                elif isinstance(effect, Send):
                    message = effect.message
                    if type(message) is not Notify:
                        ready.append((effect.target, Received(name, message), None))
                        continue
                    # An event channel is one pending bit: a kick on top of one that was not seen yet adds nothing.
                    kick = (name, effect.target)
                    if kick not in kicks:
                        kicks.add(kick)
                        ready.append((effect.target, Received(name, message), kick))
                elif isinstance(effect, SetTimer):
                    self._set_timer(name, effect)
                elif isinstance(effect, CancelTimer):
                    self.timers.pop((name, effect.name), None)
                elif isinstance(effect, Halt):
                    self._halt(name, effect)
                    break
                else:
                    record((now, 0, name, effect))
                    self._notice(name, effect)
        self.events += len(ready) if len(ready) <= MOMENT_EVENTS_MAX else EVENTS_MAX
        ready.clear()

    def _set_timer(self, name: str, timer: SetTimer) -> None:
        at = timer.at
        if at < self.now:
            at = self.now
        self.timers[name, timer.name] = at
        self.sequence += 1
        heappush(self.heap, (at, self.sequence, name, timer))

    def _halt(self, name: str, halt: Halt) -> None:
        """Throw a machine away; what is behind the order to do so in its last event never happens."""
        self.machines[name].close()
        self.machines[name] = down = Down()
        self.handlers[name] = down.handle
        for timer in [timer for timer in self.timers if timer[0] == name]:
            del self.timers[timer]
        self.deaths[name] = self.deaths.get(name, 0) + 1
        self.sequence += 1
        heappush(self.heap, (self.now + halt.restart_after, self.sequence, name, Boot()))

    def _restart(self, name: str) -> None:
        assert self.rebuild is not None, "a machine died in a world that cannot make it anew"
        self.machines[name] = machine = self.rebuild(name, self.deaths[name])
        self.handlers[name] = machine.handle

    def _notice(self, name: str, fact: Fact) -> None:
        for waiter in self.awaited[type(fact)]:
            if waiter != name:
                self.sequence += 1
                news = Received(name, Noticed(name, fact))  # type: ignore[arg-type]
                heappush(self.heap, (self.now + NOTICE_DELAY, self.sequence, waiter, news))

    def _report(self, progress: Progress) -> None:
        completed: dict[str, int] = {}
        for _, _, node, _ in self.trace.of_type(WriteCompleted):
            completed[node] = completed.get(node, 0) + 1
        issued: dict[str, int] = {}
        for _, _, node, _ in self.trace.of_type(WriteIssued):
            issued[node] = issued.get(node, 0) + 1
        for node, count in issued.items():
            progress(node, completed.get(node, 0), count)
