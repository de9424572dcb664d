"""The NFS server: a card, an IP stack, RPC records, and the file service with its duplicate request cache.

frames -> NIC -> TCP or UDP -> RPC records -> NFS procedures -> the store       and the replies the same way back
"""

from collections.abc import Sequence

from msgspec.structs import replace

from lateack.nodes.crash import Doom, rules_in_force
from lateack.nodes.facts import LeftOver, ServerRestarted
from lateack.nodes.iscsi.iscsi_service import IscsiService
from lateack.nodes.memory.pages import HeadSlab, Memory, PagePool
from lateack.nodes.messages import Frames, Message, Noticed
from lateack.nodes.nfs.nfs_service import NfsService
from lateack.nodes.node import Audit, Boot, Effect, Event, Received, Time, TimerFired, send_frames
from lateack.nodes.replication.ceph_service import CephService
from lateack.nodes.replication.drbd_service import DrbdService
from lateack.nodes.service import ServerConfig as ServerConfig, Service
from lateack.nodes.stack.host import IpStack
from lateack.nodes.stack.nic import Nic
from lateack.nodes.stack.tcp import CLOSE_WAIT, CLOSED, TcpSocket
from lateack.nodes.storage.store import Store

SERVER_DOMID = 0x7FF0
"""The server is no guest; its memory only needs a name that no guest has (DOMID_FIRST_RESERVED)."""


SERVICES: dict[str, type[Service]] = {
    "nfs": NfsService, "drbd": DrbdService, "ceph": CephService, "iscsi": IscsiService,
}  # fmt: skip
"""Which service there is for which protocol."""

ISN = 0x2000_0000
ISN_STEP = 0x1234_5678
"""By how much a restarted server's sequence numbers are ahead: no segment of a dead connection lies in a window of a
new one, as clock-driven numbers see to on a real host (RFC 9293 section 3.4.1)."""


def after_crashes(config: ServerConfig, incarnation: int) -> ServerConfig:
    """Return what a server is told that has died *incarnation* times: another verifier, and the rules still to come."""
    if not config.rules:
        return config
    verifier = (int.from_bytes(config.verifier) + incarnation).to_bytes(8)
    rules = rules_in_force(config.rules, incarnation)
    return replace(config, verifier=verifier, rules=rules, incarnation=incarnation)


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
            parameters=config.tcp, mtu=config.mtu, isn=(ISN + config.incarnation * ISN_STEP) & 0xFFFF_FFFF,
        )  # fmt: skip
        self.nic = Nic(f"{config.name}.nic", self.effects, queue_max=config.queue_frames)
        self.stack.device = self.nic
        self.service = SERVICES[config.protocol](config, store, self.stack)
        self.doom: Doom | None = None
        if config.rules:
            names = config.clients | {config.address.ip: config.name}
            self.doom = Doom(config.rules, self.effects, self.nic, owner=config.name, addresses=names)

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Take one event at `now`; see `Node`."""
        if self.doom is not None and not isinstance(event, Audit):
            return self._handle_in_danger(event, now, self.doom)
        if isinstance(event, Received):
            message = event.message
            if isinstance(message, Frames):
                self._receive(message.frames, now)
            else:  # what the rule of an earlier life has waited for
                assert isinstance(message, Noticed), "only frames and news come to the server"
        elif isinstance(event, TimerFired):
            self._timer(event.name, now)
        elif isinstance(event, Boot):
            self._boot()
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

    def _handle_in_danger(self, event: Event, now: Time, doom: Doom) -> Sequence[Effect]:
        """Take one event step by step, for after each of them the machine may be dead."""
        doom.next_event()
        if isinstance(event, Received):
            self._receive_one_by_one(event.message, now, doom)
        elif isinstance(event, TimerFired):
            self._timer(event.name, now)
        else:
            self._boot()
            doom.start()
        if not doom.look():
            self.stack.flush(now)
        if doom.look():
            return doom.last_words(f"{self.name}.nfsd", self.config.network, self.config.reboot)
        done = self.effects.copy()
        self.effects.clear()
        frames = self.nic.take_frames()
        if frames:
            done += send_frames(self.config.network, frames)
        return done

    def _receive_one_by_one(self, message: Message, now: Time, doom: Doom) -> None:
        """Take a burst frame by frame; of a frame that kills the server, and of those behind it, nobody hears."""
        if isinstance(message, Noticed):
            doom.notice(message.node, message.fact)
            return
        assert isinstance(message, Frames), "only frames and news come to the server"
        for frame in message.frames:
            if doom.frame_came(frame):
                return
            self._receive((frame,), now)
            if doom.look():
                return

    def _boot(self) -> None:
        if self.config.incarnation:
            self.effects.append(ServerRestarted(f"{self.name}.nfsd", self.config.verifier))
        self.service.listen()

    def close(self) -> None:
        """Let go of the machine's memory; see `Node`."""
        self.memory.close()
        self.pool.pages.clear()
        if self.doom is not None:
            self.doom.close()
        self.stack.forget_sockets()

    def pending(self) -> int:
        """Replies that the clients have not acknowledged yet, and what the service is still doing."""
        return self.stack.pending() + self.service.pending()

    def _timer(self, name: str, now: Time) -> None:
        stack = self.stack
        if not stack.timer_fired(name, now):
            self.service.timer(name, now)
            return
        for sk in stack.touched_sockets():
            if sk.state == CLOSED:  # its peer did not answer any more
                self.service.closed(sk, now)

    def _receive(self, frames: Sequence[bytes], now: Time) -> None:
        stack, service = self.stack, self.service
        stack.receive_burst(frames, now)
        for sk in tuple(stack.touched_sockets()):
            if sk.received:
                self._serve_tcp(sk, now)
            if sk.fin_received and sk.state == CLOSE_WAIT:
                stack.close(sk, now)
            if sk.state == CLOSED:
                service.closed(sk, now)
        if service.udp is not None and service.udp.received:
            service.serve_udp(now)

    def _serve_tcp(self, sk: TcpSocket, now: Time) -> None:
        """Serve what a connection has received: at once, or segment by segment where each may be the last.

        Calls that end in one segment are all served before a crash that the first of them brings about; their facts
        behind it are dropped. Only calls shorter than a segment come so close.
        """
        chunks = sk.take_received()
        if self.doom is None:
            self.service.serve_tcp(sk, chunks, now)
            return
        for chunk in chunks:
            if self.doom.look():
                return
            self.service.serve_tcp(sk, (chunk,), now)

    def _audit(self) -> None:
        self.service.audit()
        if self.slab.outstanding:
            self.effects.append(LeftOver("socket buffers of the server", self.slab.outstanding))
