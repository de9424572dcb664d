"""A host that copies a file to an NFS server: application, NFS client, RPC and transport, down to some device.

    application -> NFS client -> RPC -> TCP or UDP -> device        and the replies the same way back

What decides every story is one line of the NFS client, `strategy.replied(write)`: the reply is in, may the application
have its buffer back? A frontend guest (`guest.py`) puts a netfront below it, a bare-metal host (`metal.py`) a card.
"""

from collections.abc import Sequence

from lateack.nodes.application import COPY_ON_WRITE, IN_PLACE, REALLOCATED, Copier, Source, frames_needed
from lateack.nodes.chatter import DatagramOrder, chatters_of, frames_of
from lateack.nodes.copying import copy_on
from lateack.nodes.facts import Counted, LeftOver
from lateack.nodes.gates import Gates, Switch
from lateack.nodes.iscsi import iscsi
from lateack.nodes.iscsi.iscsi_initiator import IscsiInitiator
from lateack.nodes.iscsi.iscsi_login import IscsiParameters
from lateack.nodes.memory.pages import HeadSlab, Memory, PagePool
from lateack.nodes.nfs import nfs
from lateack.nodes.nfs.nfs_client import NfsClient, NfsMount
from lateack.nodes.nfs.rpc_client import RpcTimeouts
from lateack.nodes.node import Effect, SetTimer, Time
from lateack.nodes.records import Record
from lateack.nodes.replication import ceph_messages, drbd_packets
from lateack.nodes.replication.ceph import CephClient
from lateack.nodes.replication.drbd import DrbdClient, DrbdTerms
from lateack.nodes.rules import Rule
from lateack.nodes.scribbler import Scribbler
from lateack.nodes.stack.egress import PLAIN, DriverConfig
from lateack.nodes.stack.host import HostAddress, IpStack
from lateack.nodes.stack.tap import TappedDevice
from lateack.nodes.stack.tcp import Device, TcpParameters
from lateack.nodes.storage.page_write import PageWrite
from lateack.nodes.storage.remote import RemoteStorage
from lateack.nodes.storage.stream_client import Peer
from lateack.nodes.strategies.guest import GuestStrategy, Write

RPC_TIMER = "rpc"


class ClientConfig(Record):
    """What a client is told at boot; `backend` is where its frames go, `rules` are for its own places."""

    name: str
    backend: str
    address: HostAddress
    server: int
    neighbours: dict[int, bytes]
    addresses: dict[int, str]
    tcp: TcpParameters
    rpc: RpcTimeouts
    root: bytes
    file: str
    mtu: int = 1500
    transport: str = "tcp"
    protocol: str = "nfs"
    unmount: bool = True
    stable: int = nfs.FILE_SYNC
    buffers: int = 4
    write_size: int = 32768
    rx_target: int = 64
    queue_packets: int = 1000
    gso: bool = True
    driver: DriverConfig = PLAIN
    first_xid: int = 1
    isn: int = 1
    rules: tuple[Rule, ...] = ()
    datagrams: tuple[DatagramOrder, ...] = ()
    reuse: str = IN_PLACE
    abort: bool = False
    tap: bool = False
    capture: bool = False
    stable_pages: bool = False
    iscsi: IscsiParameters = IscsiParameters()
    drbd: DrbdTerms = DrbdTerms()
    ceph_crc: bool = True
    reconnect: str = "never"
    releases_early: bool = False
    passes: int = 1


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
        buffer_pages = frames_needed(config.buffers, config.write_size, config.reuse)
        first_buffer = memory.frames - buffer_pages
        first_datagram = first_buffer - frames_of(config.datagrams)
        self.kernel_pages = PagePool(memory, first_frame, first_datagram - first_frame)
        self.slab = HeadSlab(memory, self.kernel_pages)
        self.stack = IpStack(
            config.address, config.neighbours, slab=self.slab, pool=self.kernel_pages, effects=self.effects,
            parameters=config.tcp, mtu=config.mtu, isn=config.isn,
        )  # fmt: skip
        self.copier = Copier(
            source, config.file, memory, self.effects,
            first_frame=first_buffer, buffers=config.buffers, write_size=config.write_size, reuse=config.reuse,
            passes=config.passes,
        )  # fmt: skip
        self.transport = config.transport
        self.strategy = strategy(self)
        if self.strategy.watches_clones:
            self.stack.clone_hook = self.strategy
        self.remote = self._remote()
        self.scribbler = Scribbler(self.remote, self.copier, waits=config.stable_pages)
        self.chatters = chatters_of(
            config.datagrams, self.stack, memory, first_frame=first_datagram, first_index=config.buffers
        )
        self.completed: list[PageWrite] = []
        self.rpc_armed: int | None = None
        self.copied_bytes = 0
        self.now = 0
        self.gates: Gates | None = None
        self.tap: TappedDevice | None = None

    def _remote(self) -> RemoteStorage:
        """Return what the file is written through."""
        config = self.config
        if config.protocol in ("drbd", "ceph"):
            return self._replicated()
        if config.protocol == "iscsi":
            pins = config.reuse in (REALLOCATED, COPY_ON_WRITE)
            peer = Peer(config.server, iscsi.PORT, config.first_xid, config.unmount, pins)
            return IscsiInitiator(
                config.name, peer, config.iscsi, self.stack, copier=self.copier, strategy=self.strategy
            )
        assert config.protocol == "nfs", f"there is no {config.protocol} here"
        mount = NfsMount(
            config.name, config.server, config.root, config.transport, config.rpc, config.stable, config.first_xid,
            config.unmount, aborts=config.abort, pins=config.reuse in (REALLOCATED, COPY_ON_WRITE),
            reconnect=config.reconnect, releases_early=config.releases_early,
        )  # fmt: skip
        return NfsClient(mount, self.stack, self.copier, self.strategy)

    def _replicated(self) -> RemoteStorage:
        """Return a client of DRBD or of Ceph."""
        config = self.config
        port = drbd_packets.PORT if config.protocol == "drbd" else ceph_messages.PORT
        pins = config.reuse in (REALLOCATED, COPY_ON_WRITE)
        peer = Peer(config.server, port, config.first_xid, config.unmount, pins)
        if config.protocol == "drbd":
            return DrbdClient(peer, config.drbd, self.stack, self.copier, self.strategy)
        return CephClient(peer, self.stack, self.copier, self.strategy, sums=config.ceph_crc)

    def attach(self, device: Device) -> None:
        """Put the stack on a device; where somebody listens, or a rule says when, a tap lies between."""
        place = f"{self.name}.tap"
        if self.config.tap or any(rule.place == place for rule in self.config.rules):
            self.tap = TappedDevice(device, place, self.kernel_pages, self.effects)
        self.stack.device = self.tap or device

    def follow_rules(self) -> None:
        """Follow the rules of the configuration, once every place that they can name exists (see `switches`)."""
        config = self.config
        if config.rules:
            switches = self.switches()
            self.gates = Gates(config.rules, switches, self.effects, owner=config.name, addresses=config.addresses)

    def switches(self) -> dict[str, Switch]:
        """Return what rules can switch at this machine, by place; a machine adds its own."""
        switches: dict[str, Switch] = {f"{self.name}.buffers": self.scribbler}
        if self.tap is not None:
            switches[f"{self.name}.tap"] = self.tap.reader
        return switches

    def end_event(self, now: Time) -> Sequence[Effect]:
        """Finish an event: run the application, flush the stack, arm the RPC timer, and return the effects."""
        while self.completed:  # a protocol may call a write done as soon as it is queued
            self._run_application(now)
        for chatter in self.chatters:
            chatter.run(now, idle=self.copier.over)
        if self.stack.touched:
            self.stack.flush(now)
        self.flush_device()
        if self.tap is not None:
            self.tap.reader.read()
        deadline = self.remote.next_deadline()
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
        if self.gates is not None:
            self.gates.close()
        vars(self.strategy).clear()

    def pending(self) -> int:
        """Whether the copy is still under way, and what TCP has not heard back about."""
        chatting = sum([chatter.pending() for chatter in self.chatters]) if self.chatters else 0
        return (not self.copier.over) + self.stack.pending() + chatting

    # --- what the strategy may ask (GuestKernel) ----------------------------------------------------------------------

    def complete(self, write: Write) -> None:
        """Tell the application that *write* is done; it refills the buffer at the end of this very event."""
        assert isinstance(write, PageWrite) and not write.done, "a write was completed twice"
        write.done = True
        self.completed.append(write)

    def copied(self, count: int) -> None:
        """Charge the client for payload bytes that it copied."""
        self.copied_bytes += count

    # --- the application ----------------------------------------------------------------------------------------------

    def _run_application(self, now: Time) -> None:
        """What has completed is the application's again."""
        completed, self.completed = self.completed, []
        copy_on(completed, self.scribbler, now)

    # --- events from below --------------------------------------------------------------------------------------------

    def timer(self, name: str, now: Time) -> None:
        """Take a timer of the RPC client or of the stack."""
        if name == RPC_TIMER:
            self.rpc_armed = None
            self.remote.timed_out(now)
            return
        self.stack.timer_fired(name, now)
        self.remote.watch(now)

    def _follow_own_facts(self, now: Time) -> None:
        """Rules may wait for what this very machine records; what they do may record more."""
        gates = self.gates
        assert gates is not None
        seen = 0
        while gates.waits_for_itself and seen < len(self.effects):
            seen = gates.own_facts(self.name, seen)
            while self.completed:
                self._run_application(now)
            self.stack.flush(now)
            self.flush_device()
            if self.tap is not None:
                self.tap.reader.read()

    # --- audit --------------------------------------------------------------------------------------------------------

    def audit(self, left: dict[str, int], counted: dict[str, int]) -> None:
        """Record what was never given back and what the run cost; a machine adds what its device knows."""
        left["page references"] = self.copier.shared_pages()
        left["socket buffers"] = self.slab.outstanding
        left["calls without a reply"] = self.remote.outstanding()
        if self.copier.over and self.copier.finished():  # else it broke off in the middle and holds what it needed
            self.effects += [LeftOver(what, count) for what, count in left.items() if count]
        if self.tap is not None:
            self.tap.reader.look()
            self.copied_bytes += self.tap.copied_bytes
        counted["copied_bytes"] = self.copied_bytes
        counted["payload_bytes"] = self.remote.payload_bytes
        counted.update(self.remote.counted())
        self.effects += [Counted(name, amount) for name, amount in counted.items()]
