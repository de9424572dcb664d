"""A host that copies a file to an NFS server: application, NFS client, RPC and transport, down to some device.

    application -> NFS client -> RPC -> TCP or UDP -> device        and the replies the same way back

What decides every story is one line of the NFS client, `strategy.replied(write)`: the reply is in, may the application
have its buffer back? A frontend guest (`guest.py`) puts a netfront below it, a bare-metal host (`metal.py`) a card.
"""

from collections.abc import Sequence

import msgspec

from lateack.nodes.application import Copier, Source
from lateack.nodes.facts import Counted, LeftOver, WriteCompleted
from lateack.nodes.gates import Gates, Switch
from lateack.nodes.memory.pages import PAGE_SIZE, HeadSlab, Memory, PagePool
from lateack.nodes.node import Effect, SetTimer, Time
from lateack.nodes.records import Record
from lateack.nodes.rules import Rule
from lateack.nodes.stack.host import HostAddress, IpStack
from lateack.nodes.stack.tcp import TcpParameters
from lateack.nodes.storage import nfs
from lateack.nodes.storage.nfs_client import NfsClient, NfsMount, NfsWrite
from lateack.nodes.storage.rpc_client import RpcTimeouts
from lateack.nodes.strategies.guest import GuestStrategy, Write

RPC_TIMER = "rpc"


class ClientConfig(Record):
    """What a client is told at boot; `backend` is where its frames go, `rules` are for its own places."""

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
    rules: tuple[Rule, ...] = ()
    addresses: dict[int, str] = msgspec.field(default_factory=dict)


class Client:
    """What all clients have in common; it is also what its strategy knows of its host (`GuestKernel`).

    A machine made of it adds a device and a door; `first_frame` is the first of the memory's frames that nobody else
    keeps.
    """

    def __init__(
        self, config: ClientConfig, memory: Memory, strategy: type[GuestStrategy], source: Source, *, first_frame: int
    ) -> None:
        self.config = config
        self.name = config.name
        self.effects: list[Effect] = []
        self.memory = memory
        buffer_pages = config.buffers * -(-config.write_size // PAGE_SIZE)
        first_buffer = memory.frames - buffer_pages
        self.kernel_pages = PagePool(memory, first_frame, first_buffer - first_frame)
        self.slab = HeadSlab(memory, self.kernel_pages)
        self.stack = IpStack(
            config.address, config.neighbours, slab=self.slab, pool=self.kernel_pages, effects=self.effects,
            parameters=config.tcp, mtu=config.mtu, isn=config.isn,
        )  # fmt: skip
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
        self.now = 0
        self.gates: Gates | None = None

    def follow_rules(self) -> None:
        """Follow the rules of the configuration, once every place that they can name exists (see `switches`)."""
        config = self.config
        if config.rules:
            switches = self.switches()
            self.gates = Gates(config.rules, switches, self.effects, owner=config.name, addresses=config.addresses)

    def switches(self) -> dict[str, Switch]:
        """Return what rules can switch at this machine, by place; a machine adds its own."""
        return {}

    def end_event(self, now: Time) -> Sequence[Effect]:
        """Finish an event: run the application, flush the stack, arm the RPC timer, and return the effects."""
        if self.completed:
            self._run_application(now)
        if self.stack.touched:
            self.stack.flush(now)
        self.flush_device()
        deadline = self.nfs.rpc.deadline
        if deadline is not None and (self.rpc_armed is None or deadline < self.rpc_armed):
            # The earliest call timeout; an earlier wake-up that is on its way does as well.
            self.rpc_armed = deadline
            self.effects.append(SetTimer(RPC_TIMER, deadline))
        if self.gates is not None and self.gates.waits_for_itself:
            self._follow_own_facts(now)
        effects = self.effects
        if not effects:
            return []
        done = effects.copy()
        effects.clear()
        return done

    def flush_device(self) -> None:
        """Let the device publish what the event has put into it."""

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
        """Charge the client for payload bytes that it copied."""
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

    def timer(self, name: str, now: Time) -> None:
        """Take a timer of the RPC client or of the stack."""
        if name == RPC_TIMER:
            self.rpc_armed = None
            self.nfs.calls_timed_out(now)
            return
        self.stack.timer_fired(name, now)
        if self.nfs.socket is not None:
            self.nfs.watch_connection(self.nfs.socket, now)

    def _follow_own_facts(self, now: Time) -> None:
        """Rules may wait for what this very machine records; what they do may record more."""
        gates = self.gates
        assert gates is not None
        seen = 0
        while gates.waits_for_itself and seen < len(self.effects):
            seen = gates.own_facts(self.name, seen)
            if self.completed:
                self._run_application(now)
            self.stack.flush(now)
            self.flush_device()

    # --- audit --------------------------------------------------------------------------------------------------------

    def audit(self, left: dict[str, int], counted: dict[str, int]) -> None:
        """Record what was never given back and what the run cost; a machine adds what its device knows."""
        left["page references"] = sum([page.refs - 1 for buffer in self.copier.buffers for page in buffer.pages])
        left["socket buffers"] = self.slab.outstanding
        left["calls without a reply"] = len(self.nfs.rpc.pending)
        self.effects += [LeftOver(what, count) for what, count in left.items() if count]
        counted["copied_bytes"] = self.copied_bytes
        counted["payload_bytes"] = self.nfs.payload_bytes
        counted["rpc_retransmissions"] = self.nfs.rpc.retransmissions
        counted["unmatched_replies"] = self.nfs.rpc.unmatched_replies
        self.effects += [Counted(name, amount) for name, amount in counted.items()]
