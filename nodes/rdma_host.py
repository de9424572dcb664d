"""A host with an RDMA adapter that copies a file to an NFS server: CPUs build headers, adapters move the bytes.

    application -> NFS client -> RPC over RDMA -> queue pair -> adapter -> network     and the replies the same way back

What decides every story is the strategy's answer to three events: the reply is in, the Send is complete, the caller has
given up. The adapter reads a buffer whenever it sends, or sends again, or the server asks it to.
"""

from collections.abc import Sequence

from lateack.nodes.application import REALLOCATED, Copier, Source, frames_needed
from lateack.nodes.copying import copy_on
from lateack.nodes.facts import Counted, LeftOver
from lateack.nodes.gates import Gates, QueueGate, Switch
from lateack.nodes.memory.pages import Memory, PagePool
from lateack.nodes.messages import Frames, Message, Noticed
from lateack.nodes.nfs import nfs
from lateack.nodes.nfs.nfs_mount import NfsMount
from lateack.nodes.nfs.rpc_client import RpcTimeouts
from lateack.nodes.node import Audit, Boot, Effect, Event, Received, SetTimer, Time, TimerFired, send_frames
from lateack.nodes.rdma.adapter import Adapter
from lateack.nodes.rdma.connector import Connector
from lateack.nodes.rdma.lending import RETIRED_PER_BUFFER, PostedWrite
from lateack.nodes.rdma.nfs_rdma import NfsRdmaClient
from lateack.nodes.rdma.work import RdmaParameters
from lateack.nodes.records import Record
from lateack.nodes.rules import Rule
from lateack.nodes.scribbler import Scribbler
from lateack.nodes.stack.host import HostAddress
from lateack.nodes.strategies.rdma import RdmaStrategy, RdmaWrite

RPC_TIMER = "rpc"


class RdmaHostConfig(Record):
    """What such a host is told at boot; `network` is where its frames go, `rules` are for its own place."""

    name: str
    network: str
    address: HostAddress
    server: HostAddress
    addresses: dict[int, str]
    rpc: RpcTimeouts
    root: bytes
    file: str
    rdma: RdmaParameters = RdmaParameters()
    inline_bytes: int = 4096
    unmount: bool = True
    stable: int = nfs.FILE_SYNC
    buffers: int = 4
    write_size: int = 32768
    queue_packets: int = 1000
    first_xid: int = 1
    first_psn: int = 1
    rules: tuple[Rule, ...] = ()
    reuse: str = "in-place"
    passes: int = 1
    abort: bool = False
    stable_pages: bool = False


class RdmaHost:
    """The machine; it is also what its strategy knows of its host (`RdmaKernel`)."""

    def __init__(self, config: RdmaHostConfig, memory: Memory, strategy: type[RdmaStrategy], source: Source) -> None:
        self.config = config
        self.name = config.name
        self.effects: list[Effect] = []
        self.memory = memory
        first_buffer = memory.frames - frames_needed(config.buffers, config.write_size, config.reuse)
        self.kernel_pages = PagePool(memory, 0, first_buffer)
        self.copier = Copier(
            source, config.file, memory, self.effects,
            first_frame=first_buffer, buffers=config.buffers, write_size=config.write_size, reuse=config.reuse,
            passes=config.passes,
        )  # fmt: skip
        self.adapter = Adapter(
            f"{config.name}.nic", config.address, self.effects,
            parameters=config.rdma, queue_max=config.queue_packets,
        )  # fmt: skip
        self.strategy = strategy(self)
        mount = NfsMount(
            config.name, config.server.ip, config.root, "rdma", config.rpc, config.stable, config.first_xid,
            config.unmount, aborts=config.abort, pins=config.reuse == REALLOCATED,
        )  # fmt: skip
        connector = Connector(self.adapter, config.server, first_psn=config.first_psn)
        self.remote = NfsRdmaClient(
            mount,
            connector,
            self.copier,
            self.strategy,
            inline_bytes=config.inline_bytes,
            retired_max=RETIRED_PER_BUFFER * config.buffers,
        )
        self.scribbler = Scribbler(self.remote, self.copier, waits=config.stable_pages)
        self.completed: list[PostedWrite] = []
        self.rpc_armed: int | None = None
        self.copied_bytes = 0
        self.gates: Gates | None = None
        if config.rules:
            self.gates = Gates(
                config.rules, self.switches(), self.effects, owner=config.name, addresses=config.addresses
            )
            self.adapter.watch = self.gates

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Take one event at `now`; see `Node`."""
        self.adapter.now = now
        match event:
            case Received():
                self._received(event.message, now)
            case TimerFired():
                self._timer(event.name, now)
            case Boot():
                if self.gates is not None:
                    self.gates.start()
                self.remote.connect(now)
            case Audit():
                self._audit()
        return self._end_event(now)

    def switches(self) -> dict[str, Switch]:
        """Return what rules can switch at this host, by place."""
        return {self.adapter.place: QueueGate(self.adapter), f"{self.name}.buffers": self.scribbler}

    def pending(self) -> int:
        """Whether the copy is still under way, and what the adapter was asked and has not completed."""
        return (not self.copier.over) + self.adapter.pending()

    def close(self) -> None:
        """Let go of the machine's memory; see `Node`."""
        self.memory.close()
        self.kernel_pages.pages.clear()
        self.adapter.watch = None
        self.adapter.pairs.clear()
        if self.gates is not None:
            self.gates.close()
        vars(self.strategy).clear()

    # --- what the strategy may ask (RdmaKernel) -----------------------------------------------------------------------

    def complete(self, write: RdmaWrite) -> None:
        """Tell the application that *write* is done; it refills the buffer at the end of this very event."""
        assert isinstance(write, PostedWrite) and not write.done, "a write was completed twice"
        write.done = True
        self.completed.append(write)

    def invalidate(self, write: RdmaWrite) -> None:
        """Take back the right to read the write's memory, now."""
        self.remote.lending.invalidate(write)

    def retire(self, write: RdmaWrite) -> None:
        """Let the right to read the write's memory be taken back some time."""
        self.remote.lending.retire(write)

    def copied(self, count: int) -> None:
        """Charge the host for payload bytes that it copied."""
        self.copied_bytes += count

    # --- events -------------------------------------------------------------------------------------------------------

    def _received(self, message: Message, now: Time) -> None:
        if isinstance(message, Frames):
            self.adapter.receive(message.frames, now)
        else:
            assert isinstance(message, Noticed), f"a host with an RDMA adapter has no use for {message}"
            assert self.gates is not None
            self.gates.fact_occurred(message.node, message.fact)

    def _timer(self, name: str, now: Time) -> None:
        if name == RPC_TIMER:
            self.rpc_armed = None
            self.remote.timed_out(now)
        else:
            self.adapter.timer_fired(name, now)

    def _end_event(self, now: Time) -> Sequence[Effect]:
        """Finish an event: look at what has happened, run the application, arm the timer, and return the effects."""
        self._settle(now)
        deadline = self.remote.next_deadline()
        if deadline is not None and (self.rpc_armed is None or deadline < self.rpc_armed):
            self.rpc_armed = deadline
            self.effects.append(SetTimer(RPC_TIMER, deadline))
        if self.gates is not None and self.gates.waits_for_itself:
            self._follow_own_facts(now)
        if self.adapter.frames:
            self.effects += send_frames(self.config.network, self.adapter.take_frames())
        done = self.effects.copy()
        self.effects.clear()
        return done

    def _settle(self, now: Time) -> None:
        """Let the client see what the adapter has for it, and the application its buffers, until nothing is left."""
        adapter = self.adapter
        while adapter.happened or adapter.management or self.completed:
            self.remote.received(now)
            self._run_application(now)

    def _run_application(self, now: Time) -> None:
        """What has completed is the application's again."""
        completed, self.completed = self.completed, []
        copy_on(completed, self.scribbler, now)

    def _follow_own_facts(self, now: Time) -> None:
        """Rules may wait for what this very machine records; what they do may record more."""
        gates = self.gates
        assert gates is not None
        seen = 0
        while gates.waits_for_itself and seen < len(self.effects):
            seen = gates.own_facts(self.name, seen)
            self._settle(now)

    # --- audit --------------------------------------------------------------------------------------------------------

    def _audit(self) -> None:
        """Record what was never given back and what the run cost."""
        left = {
            "page references": self.copier.shared_pages(),
            "kernel pages": self.kernel_pages.outstanding,
            "memory regions": len(self.adapter.regions.regions),
            "calls without a reply": self.remote.outstanding(),
        }
        if self.copier.over and self.copier.finished():  # else it broke off in the middle and holds what it needed
            self.effects += [LeftOver(what, count) for what, count in left.items() if count]
        counted = {"copied_bytes": self.copied_bytes, "payload_bytes": self.remote.payload_bytes}
        counted.update(self.remote.counted())
        self.effects += [Counted(name, amount) for name, amount in counted.items()]
