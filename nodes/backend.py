"""The backend domain: netback towards the guests, a bridge, and the host's network card towards the world.

    guest's ring -> netback (strategy) -> bridge -> NIC -> network          network -> NIC -> bridge -> netback -> guest

Rules can close a gate in two places, before netback and before the card: see `gates`.
"""

from collections.abc import Sequence

from lateack.nodes.facts import Counted, FrameDropped, LeftOver, VifConnected
from lateack.nodes.gates import NIC_PLACE, RING_PLACE, CardGate, Gates, RingGate, Switch
from lateack.nodes.memory.hypervisor import Hypervisor
from lateack.nodes.memory.pages import HeadSlab, Memory, PagePool
from lateack.nodes.messages import Frames, Message, Noticed, Notify, Xenbus
from lateack.nodes.node import Audit, Boot, Effect, Event, Received, Send, SetTimer, Time, TimerFired, send_frames
from lateack.nodes.records import Record
from lateack.nodes.rules import Rule
from lateack.nodes.split.netback import FatalRequest, Vif, admit_packet
from lateack.nodes.split.xenbus import CONNECTED, DOMAIN_0, GRANT_FRAME, INIT_WAIT, backend_features
from lateack.nodes.stack.dissect import dissect
from lateack.nodes.stack.nic import Nic
from lateack.nodes.stack.packets import IPPROTO_TCP, IPPROTO_UDP
from lateack.nodes.stack.skb import SkBuff, kfree_skb, skb_length, skb_linear
from lateack.nodes.strategies.backend import BackendStrategy

BRIDGE_PLACE = "backend.bridge"
STRATEGY_TIMER = "strategy"

HEAD_BYTES = 54
"""Ethernet, IPv4 and TCP headers without options."""
ETH_IPV4 = b"\x08\x00\x45"


class BackendConfig(Record):
    """What the backend is told at boot: its guests by name and domid, its neighbours, and the rules for its gates."""

    name: str
    network: str
    guests: dict[str, int]
    addresses: dict[int, str]
    rules: tuple[Rule, ...] = ()
    queue_frames: int = 1000
    gso: bool = True
    software_checksum: bool = False
    pages: int = 2048


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
        self.nic = Nic(
            NIC_PLACE, self.effects, pool=self.pool, queue_max=config.queue_frames,
            software_checksum=config.software_checksum,
        )  # fmt: skip
        self.bridge: Nic | None = None
        self.vifs: dict[str, Vif] = {}
        self.vif_by_mac: dict[bytes, Vif] = {}
        for guest, domid in config.guests.items():
            self.hypervisor.add_domain(memories[guest], GRANT_FRAME)
            self.vifs[guest] = Vif(guest, domid, self.effects)
        self.ring_gate = RingGate(self, config.addresses)
        self.gates = Gates(config.rules, self._switches(), self.effects, owner=config.name, addresses=config.addresses)
        if config.rules:
            self.nic.watch = self.gates
        self.copied_bytes = 0
        self.now = 0
        self.pinned_page_ns = 0

    def _switches(self) -> dict[str, Switch]:
        """Return what rules can switch here, by place."""
        return {NIC_PLACE: CardGate(self.nic), RING_PLACE: self.ring_gate}

    # --- what the strategy may ask (BackendKernel) --------------------------------------------------------------------

    def copied(self, count: int) -> None:
        """Charge the backend for payload bytes that it copied."""
        self.copied_bytes += count

    def wake_at(self, at: Time) -> None:
        """Call the strategy's `woken` at this time; a later order replaces an earlier one."""
        self.effects.append(SetTimer(STRATEGY_TIMER, at))

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Take one event at `now`; see `Node`."""
        self._count_pins(now)
        match event:
            case Received():
                self._received(event.source, event.message, now)
            case Boot():
                self._boot()
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
                self._interrupt(self.vifs[source], now)
            case Frames():
                self._receive(message.frames)
            case Xenbus():
                self._frontend_changed(source, message.state, message.keys)
            case Noticed():
                self.gates.fact_occurred(message.node, message.fact)

    def _timer(self, name: str, now: Time) -> None:
        assert name == STRATEGY_TIMER, f"the backend has set no timer {name}"
        self.strategy.woken(now)

    def _count_pins(self, now: Time) -> None:
        """Add up how long guests' pages have been mapped here, in page-nanoseconds; the rings count, too."""
        self.pinned_page_ns += self.hypervisor.mapped_by(DOMAIN_0) * (now - self.now)
        self.now = now

    def close(self) -> None:
        """Let go of the machine's memory; see `Node`."""
        self.memory.close()
        self.pool.pages.clear()
        self.nic.watch = None
        vars(self.strategy).clear()

    def pending(self) -> int:
        """Requests of guests that can still be answered; what waits behind a closed gate is the rule's business."""
        return sum(bool(vif.rx_queue) for vif in self.vifs.values())

    # --- guest to network ---------------------------------------------------------------------------------------------

    def _interrupt(self, vif: Vif, now: Time) -> None:
        if self.ring_gate.closed:
            self.ring_gate.park(vif)
        else:
            self._consume(vif, now)
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
        strategy = self.strategy
        try:
            if tx.requests_overflowed():
                raise FatalRequest("the ring claims more requests than it has slots")
            while True:
                while not gate.closed and strategy.may_take(vif) and (packet := vif.take_packet()):
                    skb = admit_packet(vif, strategy, packet)
                    if skb is not None:
                        self._forward(skb, now)
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
        return vif.outstanding < before or (not before and self.strategy.may_take(vif))

    def _forward(self, skb: SkBuff, now: Time) -> None:
        """The bridge: to another guest of this host if the address is one's, else out of the card."""
        data = skb.data
        linear = skb.tail - data
        head = self.memory.view[data : data + HEAD_BYTES].tobytes()  # a whole cell lies there, however short the packet
        if not is_carried(head, linear, skb.shinfo.gso_size):
            self.effects.append(FrameDropped(BRIDGE_PLACE, "neither TCP nor UDP over IPv4, or broken headers"))
            kfree_skb(skb)
            return
        if self.gates.ring_watched:
            self.gates.passed(RING_PLACE, dissect(skb_linear(skb), self.config.addresses, skb_length(skb) - linear))
        vif = self.vif_by_mac.get(head[:6])
        if vif is None:
            self.nic.xmit(skb, now)
            return
        if self.bridge is None:
            self.bridge = Nic(BRIDGE_PLACE, self.effects, pool=self.pool, queue_max=self.config.queue_frames)
        self.bridge.xmit(skb, now)  # read at once: no card and no gate stand between two guests of one host
        for frame in self.bridge.take_frames():
            vif.queue_frame(frame)

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
        """Answer every guest what is released, take what then finds room, and deliver what has arrived."""
        for vif in self.vifs.values():
            if vif.released:
                self.strategy.settle(vif)
                if vif.tx is not None and not self.ring_gate.closed and vif.tx.unconsumed_requests():
                    self._consume(vif, now)
                    self.strategy.settle(vif)
            if vif.unpushed:
                vif.push()
            if vif.rx_queue:
                vif.deliver(self.hypervisor)

    # --- xenbus -------------------------------------------------------------------------------------------------------

    def _boot(self) -> None:
        self.gates.start()
        for guest in self.vifs:
            self.effects.append(Send(guest, Xenbus(INIT_WAIT, backend_features(self.config.gso))))

    def _frontend_changed(self, guest: str, state: int, keys: dict[str, str | int]) -> None:
        vif = self.vifs[guest]
        if state != CONNECTED or vif.tx is not None:
            return
        problem = vif.connect(keys, self.hypervisor)
        if vif.mac in self.vif_by_mac:
            problem = "its address is another guest's"
        if problem is not None:
            vif.fatal(problem)
            return
        self.vif_by_mac[vif.mac] = vif
        self.effects.append(VifConnected(guest, vif.domid))
        self.effects.append(Send(guest, Xenbus(CONNECTED, {})))

    # --- audit --------------------------------------------------------------------------------------------------------

    def _audit(self) -> None:
        effects = self.effects
        for vif in self.vifs.values():
            if vif.outstanding:
                effects.append(LeftOver(f"unanswered requests of {vif.guest}", vif.outstanding))
        if self.nic.queue:
            effects.append(LeftOver("packets in the transmit queue", len(self.nic.queue)))
        for what, count in self.strategy.left_over().items():
            if count:
                effects.append(LeftOver(what, count))
        rings = 2 * sum(vif.tx is not None for vif in self.vifs.values())
        pins = sum(self.hypervisor.pins().values()) - rings
        if pins:
            effects.append(LeftOver("grant pins", pins))
        if self.slab.outstanding:
            effects.append(LeftOver("socket buffers", self.slab.outstanding))
        pages = self.pool.outstanding - len(self.slab.pages)
        if pages:
            effects.append(LeftOver("backend pages", pages))
        hypervisor = self.hypervisor
        effects.append(Counted("copied_bytes", self.copied_bytes + self.nic.copied_bytes))
        effects.append(Counted("grant_maps", hypervisor.maps))
        effects.append(Counted("grant_unmaps", hypervisor.unmaps))
        effects.append(Counted("grant_copies", hypervisor.copies))
        effects.append(Counted("grant_bytes_copied", hypervisor.bytes_copied))
        effects.append(Counted("tlb_flushes", hypervisor.tlb_flushes))
        effects.append(Counted("pinned_page_us", self.pinned_page_ns // 1000))
        effects.append(Counted("notifications", sum(vif.notifications for vif in self.vifs.values())))


def is_carried(head: bytes, linear: int, gso_size: int) -> bool:
    """Say whether the host can carry a packet: IPv4 with TCP or UDP, its headers whole within *linear* bytes.

    *head* is `HEAD_BYTES` from the packet's first one on; beyond *linear* they mean nothing. Only TCP without options
    can be cut (*gso_size*). What a guest sends must never stop the host; Linux's skb_checksum_setup drops what it
    cannot make sense of, too.
    """
    if head[12:15] != ETH_IPV4 or linear < 34:
        return False
    if head[23] == IPPROTO_TCP:
        if linear < HEAD_BYTES:
            return False
        offset = head[46] >> 4
        return offset == 5 or (offset > 5 and not gso_size and 34 + offset * 4 <= linear)
    is_fragment = head[20] & 0x3F or head[21]
    return head[23] == IPPROTO_UDP and not gso_size and bool(is_fragment or linear >= 42)
