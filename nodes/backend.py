"""The backend domain: netback towards the guests, a bridge, and the host's network card towards the world.

    guest's ring -> netback (strategy) -> bridge -> NIC -> network          network -> NIC -> bridge -> netback -> guest

Rules can close gates: before netback, in the queue, before the card reads, and before whoever else is given a packet
(see `gates`, `bridge`).
"""

from collections.abc import Sequence

from lateack.nodes.bridge import Bridge, BridgeConfig
from lateack.nodes.facts import Counted, LeftOver
from lateack.nodes.gates import RING_PLACE, Gates, RingGate, Switch, egress_switches
from lateack.nodes.memory.hypervisor import Hypervisor
from lateack.nodes.memory.pages import HeadSlab, Memory, Page, PagePool
from lateack.nodes.messages import Frames, Message, Noticed, Notify, Xenbus
from lateack.nodes.node import MS, Audit, Boot, Effect, Event, Received, SetTimer, Time, TimerFired, send_frames
from lateack.nodes.records import Record
from lateack.nodes.rules import Rule
from lateack.nodes.split.netback import Clock, FatalRequest, Vif, admit_packet
from lateack.nodes.split.netback_life import NETBACK_PLACE, NetbackLife, NetbackSwitch
from lateack.nodes.split.netback_rx import RX_DRAIN_TIMEOUT, RX_STALL_TIMEOUT
from lateack.nodes.split.xenbus import DOMAIN_0, GRANT_FRAME, backend_features
from lateack.nodes.stack.egress import PLAIN, DriverConfig, Egress
from lateack.nodes.strategies.backend import BackendStrategy

STRATEGY_TIMER = "strategy"
RX_TIMER = "rx."
"""Before a guest's name: when to look at what waits for its receive buffers."""
POLL_TIMER = "poll."
"""Before a guest's name: its ring is looked into again, now that others have had their turn."""


class BackendConfig(Record):
    """What the backend is told at boot: its guests by name and domid, its neighbours, and the rules for its gates.

    `macs` are what the toolstack has written into the backend's own directory of xenstore, which no guest can change:
    netback reads its frontend's address there (`xen_net_read_mac`). A guest that is not named may have any address.
    `poll_budget` is how many packets are taken off one ring at a time (NAPI_POLL_WEIGHT is 64); 0 takes all there are,
    which only an honest guest should be granted: one that produces while we consume would keep us for ever.
    """

    name: str
    network: str
    guests: dict[str, int]
    addresses: dict[int, str]
    rules: tuple[Rule, ...] = ()
    queue_frames: int = 1000
    gso: bool = True
    driver: DriverConfig = PLAIN
    pages: int = 2048
    bridge: BridgeConfig = BridgeConfig()
    rx_drain: Time = RX_DRAIN_TIMEOUT
    rx_stall: Time = RX_STALL_TIMEOUT
    macs: dict[str, bytes] | None = None
    poll_budget: int = 0


class Backend:
    """The machine; `kernel` services for its strategy are its own attributes and `copied`."""

    def __init__(self, config: BackendConfig, memories: dict[str, Memory], strategy: type[BackendStrategy]) -> None:
        self.config = config
        self.name = config.name
        self.effects: list[Effect] = []
        self.memory = Memory(DOMAIN_0, config.pages)
        self.pool = PagePool(self.memory, 0, config.pages)
        self.slab = HeadSlab(self.memory, self.pool)
        self.memories = memories
        self.hypervisor = Hypervisor()
        self.strategy = strategy(self)
        # Else it is asked before each packet.
        self.takes_freely = strategy.may_take is BackendStrategy.may_take and not config.poll_budget
        self.egress = Egress(
            config.name, self.effects, pool=self.pool, queue_max=config.queue_frames, driver=config.driver
        )
        self.nic = self.egress.nic
        self.bridge = Bridge(config.bridge, self.egress, slab=self.slab, pool=self.pool)
        self.clock = Clock()
        self.vifs: dict[str, Vif] = {}
        self.vif_by_mac = self.bridge.ports
        for guest, domid in config.guests.items():
            self.hypervisor.add_domain(memories[guest], GRANT_FRAME)
            self.vifs[guest] = Vif(guest, domid, self.effects, self.clock)
        features = backend_features(config.gso, self.strategy.wants_staging)
        self.life = NetbackLife(self, config.guests, features, config.macs or {})
        self.ring_gate = RingGate(self, config.addresses)
        self.gates = Gates(config.rules, self._switches(), self.effects, owner=config.name, addresses=config.addresses)
        self.bridge.gates = self.gates
        if config.rules:
            self.nic.watch = self.gates
        drain_ms = self.strategy.rx_drain_ms
        self.rx_drain = config.rx_drain if drain_ms is None else drain_ms * MS
        self.copied_bytes = 0
        self.now = 0
        self.pinned_page_ns = 0

    def _switches(self) -> dict[str, Switch]:
        """Return what rules can switch here, by place."""
        switches: dict[str, Switch] = egress_switches(self.egress) | {RING_PLACE: self.ring_gate}
        switches[NETBACK_PLACE] = NetbackSwitch(self.life)
        return switches | self.bridge.switches()

    # --- what the strategy may ask (BackendKernel) --------------------------------------------------------------------

    def copied(self, count: int) -> None:
        """Charge the backend for payload bytes that it copied."""
        self.copied_bytes += count

    def wake_at(self, at: Time) -> None:
        """Call the strategy's `woken` at this time; a later order replaces an earlier one."""
        self.effects.append(SetTimer(STRATEGY_TIMER, at))

    def dma_mapped(self, page: Page) -> bool:
        """Say whether a packet in the card's ring shows this page; asked rarely, so that nobody keeps count."""
        return any(frag.page is page for skb in self.nic.queue for frag in skb.shinfo.frags)

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Take one event at `now`; see `Node`."""
        if now != self.now:
            # How long guests' pages are mapped here, in page-nanoseconds; the rings count, too.
            self.pinned_page_ns += self.hypervisor.mapped_by(DOMAIN_0) * (now - self.now)
            self.now = self.clock.now = now
        match event:
            case Received():
                self._received(event.source, event.message, now)
            case Boot():
                self.gates.start()
                self.life.boot()
            case Audit():
                self._audit()
            case TimerFired():
                self._timer(event.name, now)
        if self.gates.waits_for_itself:
            self._finish_watched(now)
        else:
            self._settle(now)
        if self.nic.frames:
            self.effects += send_frames(self.config.network, self.nic.take_frames())
        effects = self.effects
        done = effects.copy()
        effects.clear()
        return done

    def _received(self, source: str, message: Message, now: Time) -> None:
        match message:
            case Notify():
                vif = self.vifs[source]
                vif.polled = 0
                self.interrupt(vif, now)
            case Frames():
                self._receive(message.frames)
            case Xenbus():
                self.life.frontend_changed(source, message.state, message.keys, now)
            case Noticed():
                self.gates.fact_occurred(message.node, message.fact)

    def _timer(self, name: str, now: Time) -> None:
        if name == STRATEGY_TIMER:
            self.strategy.woken(now)
            if not self.ring_gate.closed:
                self.consume_rings()  # what was answered by the way may have made room
            return
        if name.startswith(POLL_TIMER):
            vif = self.vifs[name.removeprefix(POLL_TIMER)]
            vif.polled = 0
            self.interrupt(vif, now)
            return
        assert name.startswith(RX_TIMER), f"the backend has set no timer {name}"
        self.vifs[name.removeprefix(RX_TIMER)].expire(now, self.rx_drain, self.config.rx_stall)

    def close(self) -> None:
        """Let go of the machine's memory; see `Node`."""
        self.memory.close()
        self.pool.pages.clear()
        self.nic.watch = None
        self.gates.close()
        self.ring_gate.close()
        self.life.close()
        vars(self.strategy).clear()

    def pending(self) -> int:
        """Requests of guests that can still be answered; what waits behind a closed gate is the rule's business."""
        return sum(bool(vif.rx_queue) for vif in self.vifs.values()) + self.strategy.pending()

    def plug(self, guest: str, domid: int, memory: Memory, *, grant_frame: int, grant_frames: int) -> None:
        """Add a guest while the host runs, between two events: it says Initialising next, and is offered a vif."""
        self.memories[guest] = memory
        self.hypervisor.add_domain(memory, grant_frame, grant_frames)
        self.vifs[guest] = Vif(guest, domid, self.effects, self.clock)
        self.life.plug(guest, domid)

    def unplug(self, guest: str) -> bool:
        """Forget a guest whose interface is closed; False while that waits for packets that are still in flight."""
        if not self.life.unplug(guest):
            return False
        self.hypervisor.remove_domain(self.vifs.pop(guest).domid)
        del self.memories[guest]
        return True

    # --- guest to network ---------------------------------------------------------------------------------------------

    def interrupt(self, vif: Vif, now: Time) -> None:
        """Look into the rings of an interface: its event channel has fired, or it has just been connected."""
        if self.ring_gate.closed:
            self.ring_gate.park(vif)
        else:
            self._consume(vif, now)
        if vif.staging is not None and vif.staging.serve():
            vif.notify()
        if vif.carrier_off:
            vif.look_for_buffers()
        if vif.rx_queue:
            vif.deliver(self.hypervisor)

    def consume_rings(self) -> None:
        """Take what has waited in all rings: the gate in front of them is open again."""
        for vif in self.vifs.values():
            self._consume(vif, self.now)

    def _consume(self, vif: Vif, now: Time) -> None:
        """Take everything that the guest has put into its ring, and look once more before sleeping."""
        tx = vif.tx
        if tx is None or vif.disabled:
            return
        gate = self.ring_gate
        strategy, free = self.strategy, self.takes_freely
        forward = self.bridge.forward
        try:
            if tx.requests_overflowed():
                raise FatalRequest("the ring claims more requests than it has slots")
            while True:
                while not gate.closed and (free or self._may_take(vif)) and (packet := vif.take_packet()):
                    skb = admit_packet(vif, strategy, packet)
                    if skb is not None:
                        forward(skb, now)
                if gate.closed:
                    gate.park(vif)
                    return
                if not tx.final_check_for_requests():
                    return
                if not self._finds_room(vif):
                    return
        except FatalRequest as reason:
            vif.fatal(str(reason))

    def _finds_room(self, vif: Vif) -> bool:
        """Requests wait: answer what is released, to make room for them; say whether there is room now."""
        before = vif.outstanding
        if before:
            self.strategy.settle(vif)
            vif.push()
        return vif.outstanding < before or (not before and self._may_take(vif))

    def _may_take(self, vif: Vif) -> bool:
        """Ask the strategy whether one more packet may be taken, unless this guest has had its turn."""
        budget = self.config.poll_budget
        if budget:
            if vif.polled >= budget:
                self.effects.append(SetTimer(POLL_TIMER + vif.guest, self.now))
                return False
            vif.polled += 1
        return self.strategy.may_take(vif)

    # --- network to guest ---------------------------------------------------------------------------------------------

    def _receive(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            vif = self.vif_by_mac.get(frame[:6])
            if vif is not None:
                vif.queue_frame(frame)
        # They are delivered at the end of the event, see `_settle`.

    # --- the end of every event ---------------------------------------------------------------------------------------

    def _finish_watched(self, now: Time) -> None:
        """Settle as often as what this machine records switches a rule of its own."""
        gates, name = self.gates, self.name
        seen = gates.own_facts(name, 0)
        self._settle(now)
        while gates.waits_for_itself and seen < len(self.effects):
            seen = gates.own_facts(name, seen)
            self._settle(now)

    def _settle(self, now: Time) -> None:
        """Let the readers read, answer every guest what is released, and deliver what has arrived."""
        bridge = self.bridge
        if bridge.fresh:
            bridge.read()
        self._settle_guests(now)
        if bridge.crossed:
            # What one guest takes out of its queue may give back the pages of another that had its turn already.
            for _ in self.vifs:
                if any(vif.released for vif in self.vifs.values()):
                    self._settle_guests(now)
        while self.strategy.room_again:
            self._feed(now)
        if self.life.busy and self.life.work(now):
            self._settle(now)

    def _feed(self, now: Time) -> None:
        """Slots that all guests share are free again after one was refused: look into every ring once more."""
        self.strategy.room_again = False
        if not self.ring_gate.closed:
            self.consume_rings()
        if self.bridge.fresh:
            self.bridge.read()
        self._settle_guests(now)

    def _settle_guests(self, now: Time) -> None:
        """Answer every guest what is released, take what then finds room, and deliver what has arrived."""
        for vif in self.vifs.values():
            if vif.released:
                self.strategy.settle(vif)
                if vif.tx is not None and not self.ring_gate.closed and vif.tx.unconsumed_requests():
                    self._consume(vif, now)
                    if self.bridge.fresh:
                        self.bridge.read()
                    self.strategy.settle(vif)
            if vif.unpushed:
                vif.push()
            if vif.rx_queue:
                vif.deliver(self.hypervisor)
                if vif.rx_queue:
                    self._await_guest(vif, now)

    def _await_guest(self, vif: Vif, now: Time) -> None:
        """A guest has no buffers for what arrived: look again before that has waited too long."""
        at = vif.deadline(now, self.rx_drain, self.config.rx_stall)
        if at is not None:
            self.effects.append(SetTimer(RX_TIMER + vif.guest, at))

    # --- audit --------------------------------------------------------------------------------------------------------

    def _audit(self) -> None:
        effects = self.effects
        heads_kept, pages_kept = self.bridge.audit()
        for vif in self.vifs.values():
            if vif.outstanding:
                effects.append(LeftOver(f"unanswered requests of {vif.guest}", vif.outstanding))
        if self.egress.waiting():
            effects.append(LeftOver("packets in the transmit queue", self.egress.waiting()))
        for what, count in self.strategy.left_over().items():
            if count:
                effects.append(LeftOver(what, count))
        rings = 2 * sum(vif.tx is not None for vif in self.vifs.values())
        rings += sum([vif.staging.pins() for vif in self.vifs.values() if vif.staging is not None])
        pins = sum(self.hypervisor.pins().values()) - rings
        if pins:
            effects.append(LeftOver("grant pins", pins))
        heads = self.slab.outstanding - heads_kept
        if heads:
            effects.append(LeftOver("socket buffers", heads))
        pages = self.pool.outstanding - len(self.slab.pages) - pages_kept
        if pages:
            effects.append(LeftOver("backend pages", pages))
        hypervisor = self.hypervisor
        effects.append(Counted("copied_bytes", self.copied_bytes + self.egress.copied_bytes + self.bridge.copied()))
        effects.append(Counted("grant_maps", hypervisor.maps))
        effects.append(Counted("grant_unmaps", hypervisor.unmaps))
        effects.append(Counted("grant_copies", hypervisor.copies))
        effects.append(Counted("grant_bytes_copied", hypervisor.bytes_copied))
        effects.append(Counted("tlb_flushes", hypervisor.tlb_flushes))
        effects.append(Counted("pinned_page_us", self.pinned_page_ns // 1000))
        effects.append(Counted("longest_held_us", max(vif.longest_held for vif in self.vifs.values()) // 1000))
        effects.append(Counted("notifications", sum(vif.notifications for vif in self.vifs.values())))
        effects += [Counted(name, amount) for name, amount in self.strategy.counters().items()]
