"""A frontend guest: a client whose device is netfront, the guest's half of a network driver over shared rings."""

from collections.abc import Sequence

from lateack.nodes.application import Source
from lateack.nodes.client import Client, ClientConfig
from lateack.nodes.gates import Switch
from lateack.nodes.memory.grants import GrantTable
from lateack.nodes.memory.pages import Memory
from lateack.nodes.messages import Message, Noticed, Notify, Xenbus
from lateack.nodes.node import Audit, Boot, Effect, Event, Received, Time, TimerFired
from lateack.nodes.split.header_forger import HeaderForger
from lateack.nodes.split.netfront import Netfront
from lateack.nodes.split.netfront_life import GRANTS_TIMER, NetfrontLife, VifSwitch
from lateack.nodes.split.rx_gate import ReceiveGate
from lateack.nodes.split.xenbus import FIRST_FREE_FRAME, GRANT_FRAME, INIT_WAIT
from lateack.nodes.strategies.guest import GuestStrategy


class Guest(Client):
    """The machine."""

    def __init__(self, config: ClientConfig, memory: Memory, strategy: type[GuestStrategy], source: Source) -> None:
        super().__init__(config, memory, strategy, source, first_frame=FIRST_FREE_FRAME)
        self.grants = GrantTable(memory, GRANT_FRAME)
        self.netfront = Netfront(
            config.name, config.backend, memory, self.grants, self.kernel_pages, self.effects,
            rx_target=config.rx_target, queue_max=config.queue_packets,
        )  # fmt: skip
        self.life = NetfrontLife(self.netfront, config.backend, config.address.mac)
        self.started = False
        self.attach(self.netfront)
        self.follow_rules()

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Take one event at `now`; see `Node`."""
        self.now = now
        if isinstance(event, Received):
            message = event.message
            if isinstance(message, Notify):
                frames = self.netfront.interrupt(now)
                if frames:
                    self.stack.receive_burst(frames, now)
                    self.remote.received(now)
            else:
                self._received(message, now)
        elif isinstance(event, TimerFired):
            self.timer(event.name, now)
        elif isinstance(event, Boot):
            if self.gates is not None:
                self.gates.start()
        elif isinstance(event, Audit):
            self._audit()
        return self.end_event(now)

    def switches(self) -> dict[str, Switch]:
        """Return what rules can switch at this guest, by place."""
        switches = super().switches()
        switches[f"{self.name}.rx"] = ReceiveGate(self.netfront)
        switches[f"{self.name}.vif"] = VifSwitch(self.life)
        switches[f"{self.name}.headers"] = HeaderForger(self.netfront, self.effects)
        return switches

    def timer(self, name: str, now: Time) -> None:
        """Take a timer of the driver, or of what lies above it."""
        if name == GRANTS_TIMER:
            self.life.retry(now)
        else:
            super().timer(name, now)

    def flush_device(self) -> None:
        """Publish the new requests and kick the backend if it asked for that."""
        if self.netfront.unpushed:
            self.netfront.flush()

    def _received(self, message: Message, now: Time) -> None:
        """Take what is no kick of the event channel."""
        if isinstance(message, Noticed):
            assert self.gates is not None
            self.gates.fact_occurred(message.node, message.fact)
        else:
            assert isinstance(message, Xenbus), f"a guest has no use for {message}"
            self._backend_changed(message.state, message.keys, now)

    def _backend_changed(self, state: int, keys: dict[str, str | int], now: Time) -> None:
        if state == INIT_WAIT:
            self.stack.gso = bool(keys.get("feature-gso-tcpv4"))
        if not self.life.backend_changed(state, keys, now):
            return
        self.netfront.connected()
        if not self.started:
            self.started = True
            self.remote.connect(now)
            for chatter in self.chatters:
                if not chatter.order.after_copy:
                    chatter.start(now)

    def _audit(self) -> None:
        netfront, deferred = self.netfront, self.life.deferred
        for _ in range(len(deferred.waiting)):
            deferred.retry()  # the timer would have got there
        lent, kept = netfront.lent(), netfront.rx_offered
        staging = netfront.staging
        if staging is not None:
            lent, kept = lent + staging.held(), kept + staging.held()
        self.copied(netfront.charge())
        left = {
            "grants": self.grants.in_use - lent,
            "unanswered requests": netfront.unanswered(),
            "queued packets": len(netfront.queue),
            "kernel pages": self.kernel_pages.outstanding - len(self.slab.pages) - kept,
        }
        self.audit(left, {"notifications": netfront.notifications})
