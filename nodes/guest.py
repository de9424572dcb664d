"""A frontend guest: an application that copies a file to the NFS server, and everything below it down to the ring.

    application -> NFS client -> RPC -> TCP or UDP -> netfront -> ring        and the replies the same way back

What decides the story is one line of the NFS client, `strategy.replied(write)`: the reply is in, may the application
have its buffer back?
"""

from collections.abc import Sequence

from lateack.nodes.application import Copier, Source
from lateack.nodes.facts import Counted, LeftOver, WriteCompleted
from lateack.nodes.memory.grants import GrantTable
from lateack.nodes.memory.pages import PAGE_SIZE, HeadSlab, Memory, PagePool
from lateack.nodes.messages import Message, Notify, Xenbus
from lateack.nodes.node import Audit, Effect, Event, Received, Send, SetTimer, Time, TimerFired
from lateack.nodes.records import Record
from lateack.nodes.split.netfront import Netfront
from lateack.nodes.split.xenbus import CONNECTED, FIRST_FREE_FRAME, GRANT_FRAME, INIT_WAIT
from lateack.nodes.stack.host import HostAddress, IpStack
from lateack.nodes.stack.tcp import TcpParameters
from lateack.nodes.storage import nfs
from lateack.nodes.storage.nfs_client import NfsClient, NfsMount, NfsWrite
from lateack.nodes.storage.rpc_client import RpcTimeouts
from lateack.nodes.strategies.guest import GuestStrategy, Write

RPC_TIMER = "rpc"


class GuestConfig(Record):
    """What a guest is told at boot."""

    name: str
    backend: str
    address: HostAddress
    server: int
    neighbours: dict[int, bytes]
    tcp: TcpParameters
    rpc: RpcTimeouts
    root: bytes
    file: str
    mtu: int = 1500
    transport: str = "tcp"
    unmount: bool = True
    stable: int = nfs.FILE_SYNC
    buffers: int = 4
    write_size: int = 32768
    rx_target: int = 64
    queue_packets: int = 1000
    first_xid: int = 1
    isn: int = 1


class Guest:
    """The machine; it is also what its strategy knows of it (`GuestKernel`)."""

    def __init__(self, config: GuestConfig, memory: Memory, strategy: type[GuestStrategy], source: Source) -> None:
        self.config = config
        self.name = config.name
        self.effects: list[Effect] = []
        self.memory = memory
        buffer_pages = config.buffers * -(-config.write_size // PAGE_SIZE)
        first_buffer = memory.frames - buffer_pages
        self.kernel_pages = PagePool(memory, FIRST_FREE_FRAME, first_buffer - FIRST_FREE_FRAME)
        self.slab = HeadSlab(memory, self.kernel_pages)
        self.grants = GrantTable(memory, GRANT_FRAME)
        self.netfront = Netfront(
            config.name, config.backend, memory, self.grants, self.kernel_pages, self.effects,
            rx_target=config.rx_target, queue_max=config.queue_packets,
        )  # fmt: skip
        self.stack = IpStack(
            config.address, config.neighbours, slab=self.slab, pool=self.kernel_pages, effects=self.effects,
            parameters=config.tcp, mtu=config.mtu, isn=config.isn,
        )  # fmt: skip
        self.stack.device = self.netfront
        self.copier = Copier(
            source, config.file, memory, self.effects,
            first_frame=first_buffer, buffers=config.buffers, write_size=config.write_size,
        )  # fmt: skip
        self.strategy = strategy(self)
        if self.strategy.watches_clones:
            self.stack.clone_hook = self.strategy
        mount = NfsMount(
            config.name, config.server, config.root, config.transport, config.rpc, config.stable, config.first_xid,
            config.unmount,
        )  # fmt: skip
        self.nfs = NfsClient(mount, self.stack, self.copier, self.strategy)
        self.completed: list[NfsWrite] = []
        self.rpc_armed: int | None = None
        self.copied_bytes = 0

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Take one event at `now`; see `Node`."""
        if isinstance(event, Received):
            message = event.message
            if isinstance(message, Notify):
                frames = self.netfront.interrupt(now)
                if frames:
                    self.stack.receive_burst(frames, now)
                    self.nfs.received(now)
            else:
                self._received(message, now)
        elif isinstance(event, TimerFired):
            self._timer(event.name, now)
        elif isinstance(event, Audit):
            self._audit()
        if self.completed:
            self._run_application(now)
        if self.stack.touched:
            self.stack.flush(now)
        if self.netfront.unpushed:
            self.netfront.flush()
        deadline = self.nfs.rpc.deadline
        if deadline is not None and (self.rpc_armed is None or deadline < self.rpc_armed):
            # The earliest call timeout; an earlier wake-up that is on its way does as well.
            self.rpc_armed = deadline
            self.effects.append(SetTimer(RPC_TIMER, deadline))
        effects = self.effects
        if not effects:
            return []
        done = effects.copy()
        effects.clear()
        return done

    def _received(self, message: Message, now: Time) -> None:
        """Take what is no kick of the event channel."""
        assert isinstance(message, Xenbus), f"a guest has no use for {message}"
        self._backend_changed(message.state, message.keys, now)

    def close(self) -> None:
        """Let go of the machine's memory; see `Node`."""
        self.memory.close()
        self.kernel_pages.pages.clear()
        self.stack.forget_sockets()
        vars(self.strategy).clear()

    def pending(self) -> int:
        """Whether the copy is still under way, and what TCP has not heard back about."""
        return (not self.copier.over) + self.stack.pending()

    # --- what the strategy may ask (GuestKernel) ----------------------------------------------------------------------

    def complete(self, write: Write) -> None:
        """Tell the application that *write* is done; it refills the buffer at the end of this very event."""
        assert isinstance(write, NfsWrite) and not write.done, "a write was completed twice"
        write.done = True
        self.completed.append(write)

    def copied(self, count: int) -> None:
        """Charge the guest for payload bytes that it copied."""
        self.copied_bytes += count

    # --- the application ----------------------------------------------------------------------------------------------

    def _run_application(self, now: Time) -> None:
        """Each finished write frees its buffer, the buffer takes the next bytes, and they are written."""
        copier = self.copier
        completed, self.completed = self.completed, []
        for write in completed:
            self.effects.append(
                WriteCompleted(write.xid, copier.file, write.offset, write.count, now - write.issued_at)
            )
            if not copier.over and copier.refill(write.buffer):
                self.nfs.write(write.buffer, now)
        if copier.finished() and not self.nfs.unmounting and not copier.over:
            self.nfs.unmount(now)

    # --- events from below --------------------------------------------------------------------------------------------

    def _backend_changed(self, state: int, keys: dict[str, str | int], now: Time) -> None:
        if state == INIT_WAIT:
            self.stack.gso = bool(keys.get("feature-gso-tcpv4"))
            mine = self.netfront.connect(self.config.address.mac)
            self.effects.append(Send(self.config.backend, Xenbus(CONNECTED, mine)))
        elif state == CONNECTED:
            self.nfs.connect(now)

    def _timer(self, name: str, now: Time) -> None:
        if name == RPC_TIMER:
            self.rpc_armed = None
            self.nfs.calls_timed_out(now)
            return
        self.stack.timer_fired(name, now)
        if self.nfs.socket is not None:
            self.nfs.watch_connection(self.nfs.socket, now)

    # --- audit --------------------------------------------------------------------------------------------------------

    def _audit(self) -> None:
        netfront = self.netfront
        offered = netfront.rx_offered
        left = {
            "grants": self.grants.in_use - 2 - offered,
            "unanswered requests": netfront.tx.size - len(netfront.free_ids),
            "queued packets": len(netfront.queue),
            "page references": sum([page.refs - 1 for buffer in self.copier.buffers for page in buffer.pages]),
            "socket buffers": self.slab.outstanding,
            "kernel pages": self.kernel_pages.outstanding - len(self.slab.pages) - offered,
            "calls without a reply": len(self.nfs.rpc.pending),
        }
        if netfront.tx.req_prod_pvt:
            for what, count in left.items():
                if count:
                    self.effects.append(LeftOver(what, count))
        counted = {
            "copied_bytes": self.copied_bytes,
            "payload_bytes": self.nfs.payload_bytes,
            "notifications": netfront.notifications,
            "rpc_retransmissions": self.nfs.rpc.retransmissions,
            "unmatched_replies": self.nfs.rpc.unmatched_replies,
        }
        for name, amount in counted.items():
            self.effects.append(Counted(name, amount))
