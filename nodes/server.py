"""The NFS server: a card, an IP stack, RPC records, and the file service with its duplicate request cache.

frames -> NIC -> TCP or UDP -> RPC records -> NFS procedures -> the store       and the replies the same way back
"""

from collections.abc import Sequence

from lateack.nodes.facts import LeftOver
from lateack.nodes.memory.pages import HeadSlab, Memory, PagePool
from lateack.nodes.messages import Frames
from lateack.nodes.nfs_service import NfsService
from lateack.nodes.node import Boot, Effect, Event, Received, Time, TimerFired, send_frames
from lateack.nodes.service import ServerConfig as ServerConfig, Service
from lateack.nodes.stack.host import IpStack
from lateack.nodes.stack.nic import Nic
from lateack.nodes.stack.tcp import CLOSE_WAIT
from lateack.nodes.storage.store import Store

SERVER_DOMID = 0x7FF0
"""The server is no guest; its memory only needs a name that no guest has (DOMID_FIRST_RESERVED)."""


SERVICES: dict[str, type[Service]] = {"nfs": NfsService}
"""Which service there is for which protocol."""


class Server:
    """The machine; `store` is the disk that it was handed."""

    def __init__(self, config: ServerConfig, store: Store) -> None:
        self.config = config
        self.name = config.name
        self.effects: list[Effect] = []
        self.memory = Memory(SERVER_DOMID, config.pages)
        self.pool = PagePool(self.memory, 0, config.pages)
        self.slab = HeadSlab(self.memory, self.pool)
        self.stack = IpStack(
            config.address, config.neighbours, slab=self.slab, pool=self.pool, effects=self.effects,
            parameters=config.tcp, mtu=config.mtu, isn=0x2000_0000,
        )  # fmt: skip
        self.nic = Nic(f"{config.name}.nic", self.effects, queue_max=config.queue_frames)
        self.stack.device = self.nic
        self.service = SERVICES[config.protocol](config, store, self.stack)

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Take one event at `now`; see `Node`."""
        if isinstance(event, Received):
            message = event.message
            assert isinstance(message, Frames), "only frames come to the server"
            self._receive(message.frames, now)
        elif isinstance(event, TimerFired):
            self.stack.timer_fired(event.name, now)
        elif isinstance(event, Boot):
            self.service.listen()
        else:
            self._audit()
        if self.stack.touched:
            self.stack.flush(now)
        frames = self.nic.take_frames()
        effects = self.effects
        if frames:
            effects += send_frames(self.config.network, frames)
        if not effects:
            return []
        done = effects.copy()
        effects.clear()
        return done

    def close(self) -> None:
        """Let go of the machine's memory; see `Node`."""
        self.memory.close()
        self.pool.pages.clear()
        self.stack.forget_sockets()

    def pending(self) -> int:
        """Replies that the clients have not acknowledged yet."""
        return self.stack.pending()

    def _receive(self, frames: Sequence[bytes], now: Time) -> None:
        stack, service = self.stack, self.service
        stack.receive_burst(frames, now)
        for sk in tuple(stack.touched_sockets()):
            if sk.received:
                service.serve_tcp(sk, sk.take_received(), now)
            if sk.fin_received and sk.state == CLOSE_WAIT:
                stack.close(sk, now)
        if service.udp is not None and service.udp.received:
            service.serve_udp(now)

    def _audit(self) -> None:
        self.service.audit()
        if self.slab.outstanding:
            self.effects.append(LeftOver("socket buffers of the server", self.slab.outstanding))
