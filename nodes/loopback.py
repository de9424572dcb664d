"""A host that serves itself: a client whose NFS server is the same machine, behind the loopback device.

    application -> NFS client -> RPC -> TCP -> lo -> TCP -> socket -> nfsd -> store

There is no wire and no card, and nothing is ever retransmitted: TCP acknowledges a segment as it queues it. But the
queue holds the application's own pages until nfsd is scheduled and reads them. Whoever takes the acknowledgement, or a
destructor that runs in loopback_xmit, for the end of the write gives the buffer back too early; only the reply says
that the bytes were read.
"""

from collections.abc import Sequence

from lateack.nodes.application import Source
from lateack.nodes.client import Client, ClientConfig
from lateack.nodes.gates import Switch
from lateack.nodes.memory.pages import Memory
from lateack.nodes.messages import Noticed
from lateack.nodes.nfs import nfs
from lateack.nodes.nfs.nfs_service import NfsService
from lateack.nodes.node import Audit, Boot, Effect, Event, Received, Time, TimerFired
from lateack.nodes.service import ServerConfig
from lateack.nodes.stack.loopback import SOFTIRQ, LoopbackDevice
from lateack.nodes.stack.tcp import CLOSE_WAIT, CLOSED, TcpSocket
from lateack.nodes.storage.store import Store
from lateack.nodes.strategies.guest import GuestStrategy


class Loopback(Client):
    """The machine; `service` says how it serves, and *store* is the disk that it was handed."""

    def __init__(
        self, config: ClientConfig, service: ServerConfig, memory: Memory, strategy: type[GuestStrategy],
        source: Source, *, store: Store,
    ) -> None:  # fmt: skip
        super().__init__(config, memory, strategy, source, first_frame=0)
        self.device = LoopbackDevice(
            config.name, self.stack, self.kernel_pages, late_port=nfs.PORT, queue_max=config.queue_packets
        )
        self.device.capture = config.capture
        self.attach(self.device)
        self.service = NfsService(service, store, self.stack)
        self.follow_rules()
        self.device.watch = self.gates

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Take one event at `now`; see `Node`."""
        self.now = now
        match event:
            case TimerFired():
                self._timer(event.name, now)
            case Received():
                assert isinstance(event.message, Noticed), "nobody sends anything to a host that serves itself"
                assert self.gates is not None
                self.gates.fact_occurred(event.message.node, event.message.fact)
            case Boot():
                self._boot(now)
            case Audit():
                self._audit()
        return self.end_event(now)

    def switches(self) -> dict[str, Switch]:
        """Return what rules can switch here, by place."""
        return super().switches() | {self.device.place: NfsdGate(self)}

    def pending(self) -> int:
        """What is under way, and what nobody has received yet."""
        return super().pending() + len(self.device.backlog) + self.service.pending()

    def close(self) -> None:
        """Let go of the machine's memory; see `Node`."""
        super().close()
        self.device.close()

    def serve(self, now: Time) -> None:
        """nfsd runs: it reads the sockets that have something, unless a rule keeps it from being scheduled."""
        if self.device.closed:
            return
        for sk in self._served():
            if sk.received:
                self.service.serve_tcp(sk, sk.take_received(), now)
            if sk.fin_received and sk.state == CLOSE_WAIT:
                self.stack.close(sk, now)
            if sk.state == CLOSED:
                self.service.closed(sk, now)
        udp = self.service.udp
        if udp is not None and udp.received:
            self.service.serve_udp(now)

    def _served(self) -> list[TcpSocket]:
        return [sk for sk in self.stack.sockets.values() if sk.local_port == nfs.PORT]

    def _boot(self, now: Time) -> None:
        if self.gates is not None:
            self.gates.start()
        self.service.listen()
        self.remote.connect(now)

    def _timer(self, name: str, now: Time) -> None:
        if name != SOFTIRQ:
            self.timer(name, now)
            self.service.timer(name, now)
            return
        self.device.receive(now)
        self.remote.received(now)
        self.serve(now)

    def _audit(self) -> None:
        unread = sum(len(piece) for sk in self._served() for piece in sk.received)
        self.copied_bytes += self.device.copied_bytes
        left = {
            "bytes that nobody has read": unread,
            "kernel pages": self.kernel_pages.outstanding - len(self.slab.pages),
        }
        self.audit(left, {})
        self.service.audit()


class NfsdGate:
    """The gate in front of nfsd: while it is closed, what has come waits in the sockets."""

    __slots__ = ("host",)

    def __init__(self, host: Loopback) -> None:
        self.host = host

    def on(self) -> None:
        """Nfsd is not scheduled any more."""
        self.host.device.closed = True

    def off(self) -> None:
        """Nfsd runs, and reads what has waited."""
        self.host.device.closed = False
        self.host.serve(self.host.now)

    def waiting(self) -> int:
        """Return how many pieces wait to be read."""
        return sum(len(sk.received) for sk in self.host._served())
