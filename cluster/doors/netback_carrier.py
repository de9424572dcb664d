"""The backend machine in real time, for frontends that come and go: events in, effects out, on one asyncio loop.

It is the live world's carrier (`live.carrier`) cut down to one machine with nobody behind its card: what leaves there
is lost. What guests send one another, and to the host at 10.0.0.1, never gets that far.
"""

import asyncio
import ctypes
import mmap
import time
from collections.abc import Sequence
from typing import Protocol

from lateack.cluster.doors.netback_atomics import atomics_of, load_library
from lateack.cluster.plugins import backend_strategy
from lateack.nodes.backend import POLL_TIMER, RX_TIMER, Backend, BackendConfig
from lateack.nodes.bridge import BridgeConfig
from lateack.nodes.facts import AccessFault, FrameDropped, PacketsDropped, VifDisabled
from lateack.nodes.memory.pages import Memory
from lateack.nodes.messages import Notify, Xenbus
from lateack.nodes.node import Boot, CancelTimer, Effect, Event, Received, Send, SetTimer, TimerFired
from lateack.nodes.split.xenbus import CLOSED, EVENT_CHANNEL, INITIALISING, with_session
from lateack.nodes.stack.packets import address_of

HOST_ADDRESS = "10.0.0.1"
POLL_BUDGET = 64
"""Packets that one frontend may send before the others have their turn (NAPI_POLL_WEIGHT)."""
PAGES = 1024
PAGES_PER_GUEST = 512
"""Frames of the host's own memory: what is copied of one guest waits in queues of at most 512 KiB each."""
FLOWS_MAX = 4096
"""Flows that the card remembers, before it forgets all: a frontend may name as many as it likes."""
DOMIDS_MAX = 0x7FF0
"""DOMID_FIRST_RESERVED (public/xen.h): domains have smaller numbers."""

UNMAPPED = "a page of the guest is not mapped any more"


class Told(Protocol):
    """Whoever stands between the carrier and the frontends."""

    def kicked(self, guest: str) -> None:
        """The guest's event channel fires."""
        ...

    def announced(self, guest: str, message: Xenbus) -> None:
        """Netback's half has changed its state."""
        ...

    def shut(self, guest: str, reason: str) -> None:
        """Netback has shut the guest's interface for good."""
        ...

    def left(self, guest: str) -> None:
        """Nothing of the guest is in use any more, and its name is free."""
        ...


class NetbackCarrier:
    """The machine and its alarms; `leaving` are guests whose last packets are still on their way."""

    def __init__(self, strategy: str, guests_max: int, told: Told) -> None:
        """Boot a host without guests; raises StrategyNotFound."""
        config = BackendConfig(
            "backend",
            "network",
            {},
            {},
            pages=PAGES + PAGES_PER_GUEST * guests_max,
            bridge=BridgeConfig(address=address_of(HOST_ADDRESS)),
            poll_budget=POLL_BUDGET,
        )
        self.backend = Backend(config, {}, backend_strategy(strategy))
        self.library: ctypes.CDLL | None = load_library()
        self.leaving: set[str] = set()
        self.losses: dict[tuple[str, str], int] = {}
        """How many packets were lost at a place for a reason; what happens at one guest's interface is at `vif`."""
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._alarms: dict[str, asyncio.TimerHandle] = {}
        self._began = time.monotonic_ns()
        self._last_domid = 0
        self._now = 0
        self.deliver(Boot())

    def attach(self, guest: str, memory: Memory, *, grant_frame: int, grant_frames: int) -> int:
        """Plug a guest in, and return its domain's number; netback announces itself (InitWait)."""
        memory.domid = domid = self._free_domid()
        backend = self.backend
        backend.plug(guest, domid, memory, grant_frame=grant_frame, grant_frames=grant_frames)
        assert isinstance(memory.buffer, mmap.mmap)
        backend.hypervisor.domains[domid].atomics = atomics_of(memory.buffer, self.library)
        self.deliver(Received(guest, Xenbus(INITIALISING, {})))
        return domid

    def detach(self, guest: str) -> None:
        """The frontend is gone: close its interface, and forget it as soon as nothing of it is in flight."""
        self.leaving.add(guest)
        session = self.backend.life.interfaces[guest].session
        self.deliver(Received(guest, Xenbus(CLOSED, with_session({}, session))))

    def kick(self, guest: str) -> None:
        """The frontend has kicked its event channel."""
        self.deliver(Received(guest, Notify(EVENT_CHANNEL)))

    def knows(self, guest: str) -> bool:
        """Say whether the name is taken, if only by a guest that is leaving."""
        return guest in self.backend.vifs

    def deliver(self, event: Event, deadline: int = 0) -> None:
        """Let the machine handle an event, not before `deadline` (ns), and carry out what it orders."""
        self._now = max(time.monotonic_ns() - self._began, self._now, deadline)
        self._carry_out(self.backend.handle(event, self._now))
        if len(self.backend.nic.flows) > FLOWS_MAX:
            for memory in (self.backend.nic.flows, self.backend.nic.highest, self.backend.nic.gaps):
                memory.clear()
        if self.leaving:
            self._see_off()

    def close(self) -> None:
        """Forget all alarms and let go of the machine."""
        for alarm in self._alarms.values():
            alarm.cancel()
        self.backend.close()

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        """Do what is ordered; several kicks of one guest in one event are one, as its channel has one pending bit."""
        kicked: dict[str, None] = {}
        for effect in effects:
            if isinstance(effect, Send):
                if isinstance(effect.message, Notify):
                    kicked[effect.target] = None
                elif isinstance(effect.message, Xenbus):
                    self._told.announced(effect.target, effect.message)
            elif isinstance(effect, SetTimer):
                self._set(effect.name, effect.at)
            elif isinstance(effect, CancelTimer):
                self._cancel(effect.name)
            elif isinstance(effect, VifDisabled):
                self._told.shut(effect.guest, effect.reason)
            elif isinstance(effect, FrameDropped | PacketsDropped | AccessFault):
                self._count(effect)
        for guest in kicked:
            self._told.kicked(guest)

    def _count(self, loss: FrameDropped | PacketsDropped | AccessFault) -> None:
        """Add up what becomes of packets; the places and reasons are few, whatever guests do."""
        place = loss.place if loss.place.startswith("backend.") else "vif"
        reason = UNMAPPED if isinstance(loss, AccessFault) else loss.reason
        count = loss.count if isinstance(loss, PacketsDropped) else 1
        self.losses[place, reason] = self.losses.get((place, reason), 0) + count

    def _see_off(self) -> None:
        for guest in list(self.leaving):
            memory = self.backend.memories[guest]
            domid = memory.domid
            if not self.backend.unplug(guest):
                continue
            self.leaving.discard(guest)
            for name in (RX_TIMER + guest, POLL_TIMER + guest):
                self._cancel(name)
            if not any(domain.domid == domid for domain in self.backend.hypervisor.dying):
                memory.close()  # page descriptors that are kept for the next guest would keep it mapped
            self._told.left(guest)

    def _free_domid(self) -> int:
        """Count on, and begin anew at the end, past numbers that are still in use."""
        hypervisor = self.backend.hypervisor
        taken = {*hypervisor.domains, *(domain.domid for domain in hypervisor.dying)}
        for _ in range(DOMIDS_MAX):
            self._last_domid = self._last_domid % (DOMIDS_MAX - 1) + 1
            if self._last_domid not in taken:
                break
        return self._last_domid

    # --- timers -------------------------------------------------------------------------------------------------------

    def _set(self, name: str, at: int) -> None:
        self._cancel(name)
        delay = max(0, at - (time.monotonic_ns() - self._began)) / 1e9
        self._alarms[name] = self._loop.call_later(delay, self._fire, name, at)

    def _cancel(self, name: str) -> None:
        alarm = self._alarms.pop(name, None)
        if alarm is not None:
            alarm.cancel()

    def _fire(self, name: str, at: int) -> None:
        del self._alarms[name]
        self.deliver(TimerFired(name), at)
