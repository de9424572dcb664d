"""One process's part in one run: it carries its machines' effects out, and brings them their events.

Everything happens on one asyncio loop, and a machine is told one event at a time. What has arrived together is handed
over together: a batch of frames is one event.
"""

import asyncio
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from lateack.cluster.clock import HybridClock
from lateack.cluster.live.channels import Channel, Door, offer, room_for
from lateack.cluster.live.links import Hub, Link, Spoke
from lateack.cluster.live.plan import Opened, Order, Status
from lateack.cluster.live.timers import NEVER, Timers
from lateack.cluster.trace import Entry
from lateack.cluster.wire import decode_body, decode_parcel, encode_note
from lateack.nodes import facts
from lateack.nodes.errors import LateackError
from lateack.nodes.facts import AnyFact, Fact, WriteCompleted, WriteIssued
from lateack.nodes.memory.pages import PAGE_SIZE
from lateack.nodes.messages import Frames, Message, Noticed, Notify
from lateack.nodes.node import Audit, Boot, CancelTimer, Effect, Event, Node, Received, Send, SetTimer, TimerFired
from lateack.nodes.storage.store import Store
from lateack.protos.lateack_pb2 import Batch

TIMER_SLACK_NS = 50_000  # a timer this near is due: the loop cannot sleep for less
TIMERS_PER_WAKE = 64
RECHECK_S = 0.1
BEAT_TICKS = 10  # rechecks between two heartbeats
PAUSED_TICKS = 20
OWNERS_S = 20.0


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
        self.parts = {part.name: part for part in order.plan.parts}
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
        self._links: dict[str, Link] = {}
        self._hub: Hub | None = None
        self._spoke: Spoke | None = None
        self._door: Door | None = None
        self._channels: dict[tuple[str, str], Channel] = {}  # by local machine and peer
        self._all_owners_here = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._heard_at: dict[str, float] = {}
        self._watched = _watched(order)

    # --- opening and closing -----------------------------------------------------------------------------------------

    async def open(self, address: str, store_directory: Path | None) -> Opened:
        """Listen for the others at `address`, by which they reach this computer; open the store, if one is here."""
        hub, door = "", ""
        if self.order.plan.hub in self.order.names:
            for names in self.order.links:
                link = Link(self.order, names[0], self.clock, self.now)
                self._links.update(dict.fromkeys(names, link))
            links = {names[0]: self._links[names[0]] for names in self.order.links}
            self._hub = Hub(self.order, links, self.take, self.lose)
            hub = f"{address}:{await self._hub.open(address)}"
        owners = {part.name: part for part in self.order.plan.parts if part.shares_with in self.order.names}
        if owners:
            room_for(sum(part.frames for part in owners.values()) * PAGE_SIZE)
            self._door = Door(owners, self.order.token, self._connect)
            self.loop.add_reader(self._door.socket, self._answer)
            door = self._door.address
        for name in self.order.names:
            self.stores[name] = self.order.plan.store(name, store_directory)
        return Opened(hub, door, next((store.root for store in self.stores.values() if store), b""))

    async def join(self, others: Opened, input: Path | None) -> None:
        """Connect to the hub, share memory with whoever is to see it, and build the machines; raises LateackError."""
        for name in self.order.names:
            if self.parts[name].frames:
                self._connect(offer(self.parts[name], others.door, self.order.token))
        if self._hub is None:
            link = Link(self.order, self.order.plan.hub, self.clock, self.now)
            self._links = {part.name: link for part in self.order.plan.parts if part.name not in self.order.names}
            self._spoke = Spoke(self.order, link, self.take, self.lose)
            await self._spoke.open(others.hub)
        if self._door is not None:
            await asyncio.wait_for(self._all_owners_here.wait(), OWNERS_S)
        memories = {channel.part.name: channel.memory for channel in self._channels.values()}
        for name in self.order.names:
            seen = {
                owner: memory for owner, memory in memories.items() if name in (owner, self.parts[owner].shares_with)
            }
            node = self.order.plan.build(name, memories=seen, store=self.stores[name], root=others.root, input=input)
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
        if self._spoke is not None:
            await self._spoke.close()
        if self._hub is not None:
            await self._hub.close()
        self._close_door()
        self.machines.clear()
        for channel in self._channels.values():
            self.loop.remove_reader(channel.bell)
            if channel.link is not None:
                self.loop.remove_reader(channel.link)
            channel.close()
        self._channels.clear()
        for store in filter(None, self.stores.values()):
            store.close()

    def status(self) -> Status:
        """Say how far the machines are."""
        return Status(
            sum(machine.node.pending() for machine in self.machines.values()),
            self.sent,
            self.received,
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
            self._carry_out(machine, effects, now)
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
                entries.append((wall, logical, name, effect))  # type: ignore[arg-type]
                logical += 1
                clock.logical = logical
                if kind in watched:
                    self._notice(name, effect, now)  # type: ignore[arg-type]
        if set_timers:
            self._arm(machine, now)

    def _send(self, source: str, target: str, message: Message, now: int) -> None:
        if type(message) is Notify:
            self._channels[source, target].kick(message.port, self.clock)
            return
        link = self._links.get(target)
        if type(message) is Frames:
            self.sent += len(message.frames)
            if link is not None:
                link.outbox.put_frames(source, target, message.frames, now)
                link.flush()
                return
        else:
            self.sent += 1
            if link is not None:
                link.outbox.put_note(encode_note(source, target, message), now)
                link.flush()
                return
        self.loop.call_soon(self._receive, self.machines[target], source, message)

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
        except Exception:
            self.crash = (
                self.crash or f"{self.order.names[0]} failed at a batch of {batch.source}\n{traceback.format_exc()}"
            )

    def _take(self, batch: Batch) -> None:
        now = self.now()
        self.clock.observe(now, batch.hlc_wall_ns, batch.hlc_logical)
        if batch.frames:
            target, frames = batch.target, tuple(batch.frames)
            machine = self.machines.get(target)
            if machine is not None:
                self._receive(machine, batch.source, Frames(frames))
            else:
                self._links[target].outbox.put_frames(batch.source, target, frames, batch.sent_at_ns)
                self._links[target].flush()
        for note in batch.notes:
            parcel = decode_parcel(note)
            machine = self.machines.get(parcel.target)
            if machine is not None:
                self._receive(machine, parcel.source, decode_body(parcel))
            else:
                self._links[parcel.target].outbox.put_note(note, now)
                self._links[parcel.target].flush()

    def _receive(self, machine: Machine, source: str, message: Message) -> None:
        self.received += len(message.frames) if type(message) is Frames else 1
        self.deliver(machine, Received(source, message))

    def lose(self, peer: str) -> None:
        """A stream has ended: before the run did, unless we are closing."""
        if not self.closing and not self.failure:
            self.failure = f"the link between {self.order.names[0]} and {peer} broke"

    # --- event channels ----------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        assert self._door is not None
        self._door.answer()

    def _connect(self, channel: Channel) -> None:
        self._channels[channel.local, channel.peer] = channel
        self.loop.add_reader(channel.bell, self._ring, channel)
        assert channel.link is not None
        self.loop.add_reader(channel.link, self._hang_up, channel)
        owners = sum(part.shares_with in self.order.names for part in self.order.plan.parts)
        if self._door is not None and len(self._channels) == owners:
            self._close_door()
            self._all_owners_here.set()

    def _close_door(self) -> None:
        if self._door is not None and self._door.socket.fileno() >= 0:
            self.loop.remove_reader(self._door.socket)
            self._door.socket.close()

    def _ring(self, channel: Channel) -> None:
        port = channel.collect(self.now(), self.clock)
        if port >= 0:
            self.deliver(self.machines[channel.local], Received(channel.peer, Notify(port)))

    def _hang_up(self, channel: Channel) -> None:
        assert channel.link is not None
        self.loop.remove_reader(channel.link)
        if not self.closing:
            self.failure = (
                self.failure or f"the process of {channel.peer}, which shares memory with {channel.local}, is gone"
            )

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
        ticks, last = 0, self.loop.time()
        self._heard_at = dict.fromkeys(self._links, last)
        while True:
            await asyncio.sleep(RECHECK_S)
            now = self.loop.time()
            if now - last > PAUSED_TICKS * RECHECK_S:  # it was we who were stopped
                self._heard_at = dict.fromkeys(self._links, now)
            last = now
            ticks += 1
            self._recheck()
            if ticks % BEAT_TICKS == 0:
                for link in set(self._links.values()):
                    link.beat()
                self._listen(now)

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

    def _listen(self, now: float) -> None:
        for name, link in self._links.items():
            if link.heard:
                self._heard_at[name] = now
        for link in set(self._links.values()):
            link.heard = False
        for name, heard_at in self._heard_at.items():
            if now - heard_at > self.order.silence_s and not self.failure:
                peer = self._links[name].peer
                self.failure = f"{peer} has said nothing to {self.order.names[0]} for {self.order.silence_s:.0f} s"


def _watched(order: Order) -> dict[type[Fact], tuple[str, ...]]:
    """Return the facts that somebody wants to hear of, and those that the progress bar counts."""
    watched: dict[type[Fact], tuple[str, ...]] = {WriteIssued: (), WriteCompleted: ()}
    for name, waiters in order.plan.awaited.items():
        kind = getattr(facts, name)
        watched[kind] = tuple(waiters)
    return watched
