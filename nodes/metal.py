"""A bare-metal host: a client whose device is a card of its own, straight onto the network.

    application -> NFS client -> RPC -> TCP or UDP -> queue -> driver -> card -> network

Here the bug was first seen, without any hypervisor: a retransmission that waits in the host's queue or in its card's
ring shows pages that were given back long ago. What of it is safe depends on what the hand-over to the driver copies
(see `egress`), and on what the strategy told the stack about the pages.
"""

from collections.abc import Sequence

from lateack.nodes.application import Source
from lateack.nodes.client import Client, ClientConfig
from lateack.nodes.gates import Switch, egress_switches
from lateack.nodes.memory.pages import Memory
from lateack.nodes.messages import Frames, Message, Noticed
from lateack.nodes.node import Audit, Boot, Effect, Event, Received, Time, TimerFired, send_frames
from lateack.nodes.stack.egress import Egress
from lateack.nodes.strategies.guest import GuestStrategy


class Metal(Client):
    """The machine; `backend` in its configuration names the network, to which its frames go."""

    def __init__(self, config: ClientConfig, memory: Memory, strategy: type[GuestStrategy], source: Source) -> None:
        super().__init__(config, memory, strategy, source, first_frame=0)
        self.egress = Egress(
            config.name, self.effects, pool=self.kernel_pages, queue_max=config.queue_packets, driver=config.driver
        )
        self.stack.gso = config.gso
        self.attach(self.egress)
        self.follow_rules()
        self.egress.nic.watch = self.gates

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Take one event at `now`; see `Node`."""
        self.now = now
        match event:
            case Received():
                self._received(event.message, now)
            case TimerFired():
                self.timer(event.name, now)
            case Boot():
                if self.gates is not None:
                    self.gates.start()
                self.remote.connect(now)
            case Audit():
                self._audit()
        return self.end_event(now)

    def switches(self) -> dict[str, Switch]:
        """Return what rules can switch at this host, by place."""
        return super().switches() | egress_switches(self.egress)

    def flush_device(self) -> None:
        """Put the frames that have left onto the network."""
        nic = self.egress.nic
        if nic.frames:
            self.effects += send_frames(self.config.backend, nic.take_frames())

    def close(self) -> None:
        """Let go of the machine's memory; see `Node`."""
        super().close()
        self.egress.nic.watch = None

    def _received(self, message: Message, now: Time) -> None:
        if isinstance(message, Frames):
            self.stack.receive_burst(message.frames, now)
            self.remote.received(now)
        else:
            assert isinstance(message, Noticed), f"a bare-metal host has no use for {message}"
            assert self.gates is not None
            self.gates.fact_occurred(message.node, message.fact)

    def _audit(self) -> None:
        self.copied_bytes += self.egress.copied_bytes
        left = {
            "packets in the transmit queue": self.egress.waiting(),
            "kernel pages": self.kernel_pages.outstanding - len(self.slab.pages),
        }
        self.audit(left, {})
