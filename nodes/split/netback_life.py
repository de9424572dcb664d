"""The life of netback's interfaces: from xenbus state to xenbus state, and netback's own death and return.

    InitWait -> Connected -> Closing -> Closed -> InitWait        (drivers/net/xen-netback/xenbus.c, set_backend_state)

An interface is disconnected before it leaves Connected, and that waits until nothing of its guest is in the host's
stack any more (`inflight_packets`; xenvif_dealloc_kthread_should_stop). What comes back later meets a fresh `Vif`: a
slot that belongs to the old one is answered no more.

Where we differ: a netback that comes back announces itself, and the frontend connects anew. In Linux a frontend does
not react to InitWait while it is connected; the toolstack unplugs the device and plugs it in again.
"""

from typing import Protocol

from lateack.nodes.bridge import Port
from lateack.nodes.facts import NetbackDied, NetbackRestarted, VifConnected, VifDisconnected
from lateack.nodes.memory.hypervisor import Hypervisor
from lateack.nodes.messages import Xenbus
from lateack.nodes.node import Effect, Send, Time
from lateack.nodes.split.netback import Clock, Vif
from lateack.nodes.split.xenbus import (
    CLOSED,
    CLOSING,
    CONNECTED,
    DOMAIN_0,
    INIT_WAIT,
    INITIALISING,
    NO_SESSION,
    UNKNOWN,
    session_of,
    step_towards,
    with_session,
)
from lateack.nodes.strategies.backend import BackendStrategy

NETBACK_PLACE = "backend.netback"

ANSWERS = {INITIALISING: INIT_WAIT, CONNECTED: CONNECTED, CLOSING: CLOSING, CLOSED: CLOSED, UNKNOWN: CLOSED}
"""The state that netback goes to when its frontend is in one of these (frontend_changed); any other means nothing."""


class Host(Protocol):
    """What netback's life changes in the backend domain."""

    vifs: dict[str, Vif]
    vif_by_mac: dict[bytes, Port]
    clock: Clock
    hypervisor: Hypervisor
    strategy: BackendStrategy
    effects: list[Effect]

    def interrupt(self, vif: Vif, now: Time) -> None:
        """Look into the rings of an interface that is connected now."""
        ...


class Interface:
    """Where one guest's interface stands, and where its frontend wants it to be."""

    __slots__ = ("domid", "guest", "keys", "leaving", "session", "shut", "state", "wanted")

    def __init__(self, guest: str, domid: int) -> None:
        self.guest = guest
        self.domid = domid
        self.state = self.wanted = UNKNOWN
        self.session = 0
        self.keys: dict[str, str | int] = {}
        self.leaving = False
        self.shut = False  # for good: its frontend has lied


class NetbackLife:
    """All interfaces of one host; `busy` says that `work` has something to do at the end of an event."""

    __slots__ = ("backend", "busy", "dead", "features", "interfaces", "macs", "ordered")
    __deletable__ = ("backend",)  # what mypyc asks for

    def __init__(
        self, backend: Host, domids: dict[str, int], features: dict[str, str | int], macs: dict[str, bytes]
    ) -> None:
        """Serve these guests (name: domid), and publish *features* to each; *macs* are the addresses they must have."""
        self.backend = backend
        self.macs = macs
        self.features = features
        self.interfaces = {guest: Interface(guest, domid) for guest, domid in domids.items()}
        self.busy = False
        self.dead = False
        self.ordered: list[bool] = []  # deaths (True) and returns (False) that rules have ordered

    def close(self) -> None:
        """The run is over: let go of the machine, or each would keep the other until the garbage collector comes."""
        del self.backend

    def boot(self) -> None:
        """Offer every guest its interface."""
        for interface in self.interfaces.values():
            interface.wanted = INIT_WAIT
            self._announce(interface, INIT_WAIT)

    def plug(self, guest: str, domid: int) -> None:
        """A guest has come while the host runs: its interface waits until the frontend says that it is there."""
        self.interfaces[guest] = Interface(guest, domid)

    def unplug(self, guest: str) -> bool:
        """Forget a guest's interface; False, and nothing changes, unless it is closed and nothing of it in flight."""
        interface = self.interfaces[guest]
        if interface.leaving or interface.state not in (CLOSED, UNKNOWN):
            return False
        del self.interfaces[guest]
        return True

    def frontend_changed(self, guest: str, state: int, keys: dict[str, str | int], now: Time) -> None:
        """A frontend has changed its state: go where that leads, as far as it goes at once.

        What belongs to another session than the interface's, or means nothing in this direction, changes nothing.
        """
        interface = self.interfaces[guest]
        wanted = ANSWERS.get(state)
        if self.dead or wanted is None:
            return
        if wanted == INIT_WAIT:
            interface.session = session_of(keys)
        elif session_of(keys) != interface.session:
            return
        if wanted == CONNECTED:
            interface.keys = keys
        interface.shut = interface.shut or (not interface.leaving and self.backend.vifs[guest].disabled)
        if interface.shut and wanted in (INIT_WAIT, CONNECTED):
            wanted = interface.state if interface.state != CONNECTED else CLOSED
        elif wanted == INIT_WAIT == interface.state:
            self._announce(interface, INIT_WAIT)  # whoever begins anew looks at the other end's state first
        interface.wanted = wanted
        self._walk(interface, now)

    def order(self, death: bool) -> None:
        """Let netback die, or come back, at the end of this event: between two packets, not inside of one."""
        self.ordered.append(death)
        self.busy = True

    def work(self, now: Time) -> bool:
        """The end of an event: do what was ordered, and go on with interfaces that wait; return if anything changed."""
        self.busy = False
        ordered, self.ordered = self.ordered, []
        for death in ordered:
            if death and not self.dead:
                self._die()
            elif self.dead and not death:
                self._come_back()
        waiting = [interface for interface in self.interfaces.values() if interface.leaving]
        for interface in waiting:
            self._walk(interface, now)
        return bool(ordered) or any(not interface.leaving for interface in waiting)

    # --- from state to state ------------------------------------------------------------------------------------------

    def _walk(self, interface: Interface, now: Time) -> None:
        """Take one step after the other (set_backend_state); leaving Connected may have to wait."""
        while interface.leaving or interface.state != interface.wanted:
            if interface.state == CONNECTED:
                if not self._disconnect(interface):
                    self.busy = True
                    return
                self._announce(interface, CLOSING)
                continue
            step = step_towards(interface.state, interface.wanted)
            if step == CONNECTED and not self._connect(interface, now):
                interface.wanted = interface.state
                return
            self._announce(interface, step)
            if step == CONNECTED:
                # A newly bound event channel is pending at once: the frontend may have kicked too early to be heard.
                self.backend.interrupt(self.backend.vifs[interface.guest], now)

    def _connect(self, interface: Interface, now: Time) -> bool:
        """Map the rings that the frontend has published; an interface that cannot be connected is shut."""
        backend = self.backend
        vif = backend.vifs[interface.guest]
        problem = vif.connect(interface.keys, backend.hypervisor)
        if problem is None and backend.strategy.wants_staging and "ctrl-ring-ref" in interface.keys:
            problem = vif.connect_control(interface.keys, backend.hypervisor)
        if problem is None and (vif.mac in backend.vif_by_mac or vif.mac != self.macs.get(vif.guest, vif.mac)):
            problem = "its address is another guest's"
        if problem is not None:
            vif.fatal(problem)
            vif.end()
            self._unmap_all(interface.domid)
            return False
        backend.vif_by_mac[vif.mac] = vif
        backend.effects.append(VifConnected(vif.guest, vif.domid))
        return True

    def _disconnect(self, interface: Interface) -> bool:
        """Take nothing more, answer what comes back, and unmap all in the end; False while packets are in flight."""
        strategy = self.backend.strategy
        vif = self.backend.vifs[interface.guest]
        if not interface.leaving:
            interface.leaving = True
            vif.stop()
        strategy.settle(vif)
        vif.push()
        if strategy.in_flight(vif):
            return False
        self._drop(interface)
        self.backend.effects.append(VifDisconnected(interface.guest, interface.domid))
        return True

    def _drop(self, interface: Interface) -> None:
        """Unmap whatever is mapped of this guest, rings and all, and put a fresh interface in the old one's place."""
        backend = self.backend
        vif = backend.vifs[interface.guest]
        if backend.vif_by_mac.get(vif.mac) is vif:
            del backend.vif_by_mac[vif.mac]
        backend.strategy.forget(vif)
        vif.end()
        self._unmap_all(interface.domid)
        fresh = backend.vifs[interface.guest] = Vif(interface.guest, interface.domid, backend.effects, backend.clock)
        fresh.disabled = interface.shut
        fresh.notifications = vif.notifications
        fresh.longest_held = vif.longest_held
        interface.leaving = False

    def _unmap_all(self, domid: int) -> None:
        """Unmap what is mapped of a guest, but for what a strategy knows to be unmapped with its last packet."""
        backend = self.backend
        kept = backend.strategy.kept_mappings()
        handles = [handle for handle in mappings_of(backend.hypervisor, domid) if handle not in kept]
        backend.hypervisor.unmap_batch(DOMAIN_0, handles)

    def _announce(self, interface: Interface, state: int) -> None:
        interface.state = state
        keys = self.features if state == INIT_WAIT else {}
        message = Xenbus(state, with_session(keys, interface.session))
        self.backend.effects.append(Send(interface.guest, message))

    # --- death and return ---------------------------------------------------------------------------------------------

    def _die(self) -> None:
        """Take everything from netback by force, whatever the host's stack still holds; nobody is told."""
        in_flight = self.backend.strategy.in_flight()
        self.dead = True
        for interface in self.interfaces.values():
            interface.shut = False
            self._drop(interface)
            interface.state = interface.wanted = UNKNOWN
        self.backend.effects.append(NetbackDied(NETBACK_PLACE, in_flight))

    def _come_back(self) -> None:
        """Begin anew: it knows of no frontend's session, and so each of them has to begin anew, too."""
        self.dead = False
        self.backend.effects.append(NetbackRestarted(NETBACK_PLACE))
        for interface in self.interfaces.values():
            interface.session = NO_SESSION
        self.boot()


class NetbackSwitch:
    """The place backend.netback: netback dies when a rule acts, and comes back when none does any more."""

    __slots__ = ("life",)

    def __init__(self, life: NetbackLife) -> None:
        self.life = life

    def on(self) -> None:
        """netback dies."""
        self.life.order(True)

    def off(self) -> None:
        """netback comes back."""
        self.life.order(False)

    def waiting(self) -> int:
        """Return zero: nothing waits at a driver."""
        return 0


def mappings_of(hypervisor: Hypervisor, domid: int) -> list[int]:
    """Return the handles of all that the backend domain has mapped of one guest."""
    track = hypervisor.maptracks.get(DOMAIN_0)
    return [handle for handle, (lender, _, _) in track.live.items() if lender.domid == domid] if track else []
