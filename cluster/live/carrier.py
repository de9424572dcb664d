"""One process's part in one run: it carries its machines' effects out, and brings them their events.

Everything happens on one asyncio loop, and a machine is told one event at a time. What has arrived together is handed
over together: a batch of frames is one event.
"""

import asyncio
import itertools
import shutil
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from lateack.cluster.clock import HybridClock
from lateack.cluster.live.channels import Channel
from lateack.cluster.live.journal import Journal
from lateack.cluster.live.plan import Opened, Order, Status
from lateack.cluster.live.timers import NEVER, Timers
from lateack.cluster.live.wiring import Wiring
from lateack.cluster.trace import Entry
from lateack.cluster.wire import decode_body, decode_parcel, encode_note
from lateack.nodes import facts
from lateack.nodes.errors import LateackError
from lateack.nodes.facts import AnyFact, Fact, WriteCompleted, WriteIssued
from lateack.nodes.messages import Frames, Message, Noticed, Notify
from lateack.nodes.node import Audit, Boot, CancelTimer, Effect, Event, Halt, Node, Received, Send, SetTimer, TimerFired
from lateack.nodes.storage.store import Store
from lateack.protos.lateack_pb2 import Batch

TIMER_SLACK_NS = 50_000  # a timer this near is due: the loop cannot sleep for less
TIMERS_PER_WAKE = 64
RECHECK_S = 0.1
BEAT_TICKS = 10  # rechecks between two heartbeats


class Machine:
    """A node and what its world keeps for it."""

    __slots__ = ("alarm", "alarm_at", "backlog", "name", "node", "now", "timers")

    def __init__(self, name: str, node: Node) -> None:
        self.name = name
        self.node = node
        self.now = 0
        self.timers = Timers()
        self.alarm: asyncio.TimerHandle | None = None
        self.alarm_at = NEVER
        self.backlog: list[Event] | None = []  # what came before it was switched on; None from then on


class Carrier:
    """The machines of one process, for as long as one run lasts."""

    def __init__(self, order: Order) -> None:
        """Get ready to carry `order.names`; nothing is opened yet."""
        self.order = order
        self.machines: dict[str, Machine] = {}
        self.entries: list[Entry] = []
        self.stores: dict[str, Store | None] = {}
        self.clock = HybridClock()
        self.loop = asyncio.get_running_loop()
        self.sent = self.received = self.events = 0
        self.writes: dict[str, tuple[int, int]] = {}
        self.failure = self.crash = ""
        self.closing = False
        self._start_ns = NEVER
        self._wiring = Wiring(order, self)
        self._links, self._channels = self._wiring.links, self._wiring.channels
        self._watch: asyncio.Task[None] | None = None
        self._watched = _watched(order)
        self._journal: Journal | None = None

    # --- opening and closing -----------------------------------------------------------------------------------------

    async def open(self, address: str, store_directory: Path | None) -> Opened:
        """Listen for the others at `address`, by which they reach this computer; open the store, if one is here."""
        if self.order.is_mortal():
            store_directory = store_directory or self.order.scratch_folder("store")
            self._journal = Journal(self.order.journal)
        hub, door = await self._wiring.open(address)
        for name in self.order.names:
            self.stores[name] = self.order.plan.store(name, store_directory)
        return Opened(hub, door, next((store.root for store in self.stores.values() if store), b""))

    async def join(self, others: Opened, input: Path | None) -> None:
        """Connect to the other processes, and build the machines; raises LateackError."""
        await self._wiring.join(others)
        for name in self.order.names:
            memories, store = self._wiring.memories_of(name), self.stores[name]
            node = self.order.plan.build(
                name, memories=memories, store=store, root=others.root, input=input, incarnation=self.order.incarnation
            )
            self.machines[name] = Machine(name, node)

    def boot(self, start_ns: int) -> None:
        """Switch the machines on; `start_ns` is the run's common start on this computer's monotonic clock."""
        self._start_ns = start_ns
        self._watch = self.loop.create_task(self._watch_over())
        for machine in self.machines.values():
            backlog, machine.backlog = machine.backlog, None
            for event in (Boot(), *(backlog or ())):
                self.deliver(machine, event)

    def audit(self) -> int:
        """Let the machines record what the run cost and left; return how many facts there are."""
        for machine in self.machines.values():
            self.deliver(machine, Audit())
        return len(self.entries)

    async def close(self) -> None:
        """Close the ports and links, and give the memory back."""
        self.closing = True
        if self._watch is not None:
            self._watch.cancel()
        for machine in self.machines.values():
            if machine.alarm is not None:
                machine.alarm.cancel()
        await self._wiring.close_links()
        self.machines.clear()  # before the memory that they see
        self._wiring.close_channels()
        for store in filter(None, self.stores.values()):
            store.close()
        if self._journal is not None:
            self._journal.close()
            shutil.rmtree(self.order.journal.parent, ignore_errors=True)

    def expect(self, names: tuple[str, ...]) -> None:
        """Get ready for the process that takes the place of a dead one; see `Wiring.expect`."""
        self._wiring.expect(names)

    def status(self) -> Status:
        """Say how far the machines are.

        Messages are counted link by link, and once more where they are passed on: so what went to or came from a
        process that died is forgotten with its link, and all that is left can be expected to arrive.
        """
        links = set(self._links.values())
        return Status(
            sum(machine.node.pending() for machine in self.machines.values()),
            self.sent + sum(link.sent for link in links),
            self.received + sum(link.received for link in links),
            self.events,
            len(self.entries),
            self.writes,
            self.failure,
            self.crash,
        )

    # --- events in, effects out --------------------------------------------------------------------------------------

    def now(self) -> int:
        """Return the time since the run's common start (ns); 0 before it."""
        now = time.monotonic_ns() - self._start_ns
        return max(0, now)

    def deliver(self, machine: Machine, event: Event, deadline: int = 0) -> int:
        """Let a machine handle an event, not before `deadline` (ns), and return how many effects it had."""
        if machine.backlog is not None:
            machine.backlog.append(event)
            return 0
        if self.failure or self.crash:
            return 0
        now = max(self.now(), machine.now, deadline)
        machine.now = now
        self.clock.tick(now)
        self.events += 1
        try:
            effects = machine.node.handle(event, now)
            if self._journal is None:
                self._carry_out(machine, effects, now)
            else:
                self._carry_out_and_note(machine, effects, now, self._journal)
        except LateackError as error:
            self.failure = f"{machine.name}: {error}"
            return 0
        except Exception:
            self.crash = f"{machine.name} failed at {event!r:.200}\n{traceback.format_exc()}"
            return 0
        return len(effects)

    def _carry_out(self, machine: Machine, effects: Sequence[Effect], now: int) -> None:
        clock, entries, watched, name = self.clock, self.entries, self._watched, machine.name
        wall, logical = clock.wall, clock.logical
        set_timers = False
        for effect in effects:
            kind = type(effect)
            if kind is Send:
                self._send(name, effect.target, effect.message, now)  # type: ignore[union-attr]
            elif kind is SetTimer:
                machine.timers.set(effect.name, effect.at)  # type: ignore[union-attr]
                set_timers = True
            elif kind is CancelTimer:
                machine.timers.cancel(effect.name)  # type: ignore[union-attr]
            else:
                assert kind is not Halt, "a machine dies whose plan did not say that it may"
                entries.append((wall, logical, name, effect))  # type: ignore[arg-type]
                logical += 1
                clock.logical = logical
                if kind in watched:
                    self._notice(name, effect, now)  # type: ignore[arg-type]
        if set_timers:
            self._arm(machine, now)

    def _carry_out_and_note(self, machine: Machine, effects: Sequence[Effect], now: int, journal: Journal) -> None:
        """Carry out what comes before a death, and write it down: nothing leaves us before the loop runs again."""
        halt = next((effect for effect in effects if isinstance(effect, Halt)), None)
        self._carry_out(machine, effects if halt is None else effects[: effects.index(halt)], now)
        journal.keep(self.entries)
        if halt is not None:
            journal.die(halt)

    def _send(self, source: str, target: str, message: Message, now: int) -> None:
        if type(message) is Notify:
            self._channels[source, target].kick(message.port, self.clock)
            return
        link = self._links.get(target)
        if link is None:
            self.sent += _count(message)
            self.loop.call_soon(self._receive, self.machines[target], source, message)
        elif type(message) is Frames:
            link.put_frames(source, target, message.frames, now)
        else:
            link.put_note(encode_note(source, target, message), now)

    def _notice(self, name: str, fact: Fact, now: int) -> None:
        completed, issued = self.writes.get(name, (0, 0))
        if type(fact) is WriteIssued:
            self.writes[name] = completed, issued + 1
        elif type(fact) is WriteCompleted:
            self.writes[name] = completed + 1, issued
        for waiter in self._watched[type(fact)]:
            if waiter != name:
                assert isinstance(fact, AnyFact)
                self._send(name, waiter, Noticed(name, fact), now)

    # --- what arrives ------------------------------------------------------------------------------------------------

    def take(self, batch: Batch) -> None:
        """Hand over what is for our machines, and pass on what is not, unread."""
        try:
            self._take(batch)
        except LateackError as error:
            self.fail(str(error))
        except Exception:
            self.crash = (
                self.crash or f"{self.order.names[0]} failed at a batch of {batch.source}\n{traceback.format_exc()}"
            )

    def _take(self, batch: Batch) -> None:
        now = self.now()
        self.clock.observe(now, batch.hlc_wall_ns, batch.hlc_logical)
        if self.order.incarnation and self._start_ns == NEVER:
            return  # nobody hears what comes to a machine that is not up again
        if batch.frames:
            target, frames = batch.target, tuple(batch.frames)
            machine = self.machines.get(target)
            if machine is not None:
                self.deliver(machine, Received(batch.source, Frames(frames)))
            else:
                self._links[target].put_frames(batch.source, target, frames, batch.sent_at_ns)
        for note in batch.notes:
            parcel = decode_parcel(note)
            machine = self.machines.get(parcel.target)
            if machine is not None:
                self.deliver(machine, Received(parcel.source, decode_body(parcel)))
            else:
                self._links[parcel.target].put_note(note, now)

    def _receive(self, machine: Machine, source: str, message: Message) -> None:
        """Hand over what a machine of ours has sent to another one of ours."""
        self.received += _count(message)
        self.deliver(machine, Received(source, message))

    def ring(self, channel: Channel) -> None:
        """A peer has kicked one of our machines."""
        port = channel.collect(self.now(), self.clock)
        if port >= 0:
            self.deliver(self.machines[channel.local], Received(channel.peer, Notify(port)))

    def fail(self, sentence: str) -> None:
        """Something outside our code broke: before the run was over, unless we are closing."""
        if not self.closing:
            self.failure = self.failure or sentence

    # --- timers and the watch ----------------------------------------------------------------------------------------

    def _arm(self, machine: Machine, now: int) -> None:
        """See that the loop wakes up when the machine's next timer comes due."""
        deadline = machine.timers.next_deadline()
        if deadline >= machine.alarm_at:
            return  # a wake-up that comes too early finds nothing due, and asks for the next
        if machine.alarm is not None:
            machine.alarm.cancel()
        machine.alarm_at = deadline
        machine.alarm = self.loop.call_later(max(0, deadline - now) / 1e9, self._fire, machine)

    def _fire(self, machine: Machine) -> None:
        machine.alarm, machine.alarm_at = None, NEVER
        timers = machine.timers
        for _ in range(TIMERS_PER_WAKE):
            deadline = timers.next_deadline()
            if deadline > self.now() + TIMER_SLACK_NS:
                break
            # A machine never sees a time before its own deadline, even if the loop woke up a hair early.
            self.deliver(machine, TimerFired(timers.take_next()), deadline)
        self._arm(machine, self.now())

    async def _watch_over(self) -> None:
        """Look again at every ring, say that we are alive, and notice who no longer says so."""
        for tick in itertools.count(1):
            await asyncio.sleep(RECHECK_S)
            self._recheck()
            self._wiring.listen(self.loop.time())
            if tick % BEAT_TICKS == 0:
                self._wiring.beat()

    def _recheck(self) -> None:
        """Kick ourselves where the peer has kicked before.

        Xen's ring macros put a full barrier between publishing an index and reading the peer's event index. Python has
        none, so that a kick may be left out on both sides at once; here it is made up for.
        """
        for channel in list(self._channels.values()):
            if channel.port >= 0:
                machine = self.machines[channel.local]
                if not self.deliver(machine, Received(channel.peer, Notify(channel.port))):
                    self.events -= 1  # nothing happened


def _count(message: Message) -> int:
    return len(message.frames) if type(message) is Frames else 1


def _watched(order: Order) -> dict[type[Fact], tuple[str, ...]]:
    """Return the facts that somebody wants to hear of, and those that the progress bar counts."""
    watched: dict[type[Fact], tuple[str, ...]] = {WriteIssued: (), WriteCompleted: ()}
    for name, waiters in order.plan.awaited.items():
        kind = getattr(facts, name)
        watched[kind] = tuple(waiters)
    return watched
