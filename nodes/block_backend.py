"""The backend domain of 2008: it keeps guests' disks in files on an NFS server, and writes guests' pages itself.

    guest's ring -> blkback -> NFS client -> RPC -> TCP or UDP -> card -> network      and the replies the same way back

It is blktap's situation. The pages belong to guests and are mapped here for as long as their request is under way; the
NFS client sends them by reference, as it does for whoever writes with O_DIRECT. When the write is done, blkback unmaps
them and answers the guest. *When* it is done is the strategy's decision: the same strategies that a client runs for its
application run here for blkback. One that completes on the reply takes the mapping away from under a retransmission
that still waits for the card, and the card's driver touches a page that is not there.

Source: the 2008 thread "RPC retransmission of write requests containing bogus data" on linux-nfs. Where we differ:
each disk has a mount and a connection of its own (nosharecache); Linux shares one per server.
"""

from collections.abc import Sequence

from lateack.nodes.facts import Counted, LeftOver
from lateack.nodes.gates import Gates, Switch, egress_switches
from lateack.nodes.memory.hypervisor import Hypervisor
from lateack.nodes.memory.pages import HeadSlab, Memory, PagePool
from lateack.nodes.messages import Frames, Message, Noticed, Notify, Xenbus
from lateack.nodes.nfs import nfs
from lateack.nodes.nfs.nfs_client import NfsClient, NfsMount, NfsWrite
from lateack.nodes.nfs.rpc_client import RpcTimeouts
from lateack.nodes.node import Audit, Boot, Effect, Event, Received, Send, SetTimer, Time, TimerFired, send_frames
from lateack.nodes.records import Record
from lateack.nodes.rules import Rule
from lateack.nodes.split.blkback import BlkWrite, DiskImage, Vbd
from lateack.nodes.split.nfs_disk import NfsDisk
from lateack.nodes.split.vbd import GRANT_FRAME, backend_features
from lateack.nodes.split.xenbus import DOMAIN_0, INIT_WAIT
from lateack.nodes.stack.egress import PLAIN, DriverConfig, Egress
from lateack.nodes.stack.host import HostAddress, IpStack
from lateack.nodes.stack.tcp import TcpParameters
from lateack.nodes.strategies.guest import GuestStrategy, Write

RPC_TIMER = "rpc"
XIDS_PER_DISK = 0x0100_0000
"""Each disk's calls have xids of their own, since they come from one address."""


class BlockBackendConfig(Record):
    """What the backend is told at boot: its guests by name and domid, the image of each, and where these lie."""

    name: str
    network: str
    guests: dict[str, int]
    files: dict[str, str]
    address: HostAddress
    server: int
    neighbours: dict[int, bytes]
    addresses: dict[int, str]
    tcp: TcpParameters
    rpc: RpcTimeouts
    root: bytes
    mtu: int = 1500
    transport: str = "tcp"
    unmount: bool = True
    abort: bool = False
    stable: int = nfs.FILE_SYNC
    queue_frames: int = 1000
    driver: DriverConfig = PLAIN
    gso: bool = True
    pages: int = 2048
    first_xid: int = 1
    isn: int = 1
    reconnect: str = "never"
    releases_early: bool = False
    rules: tuple[Rule, ...] = ()


class BlockBackend:
    """The machine; it is also what its strategy knows of its host (`GuestKernel`)."""

    def __init__(self, config: BlockBackendConfig, memories: dict[str, Memory], strategy: type[GuestStrategy]) -> None:
        self.config = config
        self.name = config.name
        self.effects: list[Effect] = []
        self.memory = Memory(DOMAIN_0, config.pages)
        self.kernel_pages = PagePool(self.memory, 0, config.pages)
        self.transport = config.transport
        self.slab = HeadSlab(self.memory, self.kernel_pages)
        self.hypervisor = Hypervisor()
        self.egress = Egress(
            config.name, self.effects, pool=self.kernel_pages, queue_max=config.queue_frames, driver=config.driver
        )
        self.nic = self.egress.nic
        self.stack = IpStack(
            config.address, config.neighbours, slab=self.slab, pool=self.kernel_pages, effects=self.effects,
            parameters=config.tcp, mtu=config.mtu, gso=config.gso, isn=config.isn,
        )  # fmt: skip
        self.stack.device = self.egress
        self.strategy = strategy(self)
        if self.strategy.watches_clones:
            self.stack.clone_hook = self.strategy
        self.disks = {guest: self._disk(guest, memories[guest]) for guest in config.guests}
        self.gates = Gates(config.rules, self._switches(), self.effects, owner=config.name, addresses=config.addresses)
        if config.rules:
            self.nic.watch = self.gates
        self.completed: list[NfsWrite] = []
        self.rpc_armed: int | None = None
        self.copied_bytes = 0
        self.pinned_page_ns = 0
        self.now = 0

    def _disk(self, guest: str, memory: Memory) -> NfsDisk:
        """Make a guest's disk; its image is created when the machine boots."""
        config = self.config
        domid = config.guests[guest]
        self.hypervisor.add_domain(memory, GRANT_FRAME)
        image = DiskImage(config.files[guest], memory, self.effects)
        first_xid = (config.first_xid + domid * XIDS_PER_DISK) & 0x7FFF_FFFF
        mount = NfsMount(
            config.name, config.server, config.root, config.transport, config.rpc, config.stable, first_xid,
            config.unmount, aborts=config.abort, reconnect=config.reconnect,
            releases_early=config.releases_early,
        )  # fmt: skip
        return NfsDisk(Vbd(guest, domid, image, self.hypervisor), NfsClient(mount, self.stack, image, self.strategy))

    def _switches(self) -> dict[str, Switch]:
        """Return what rules can switch here, by place."""
        return dict(egress_switches(self.egress))

    # --- what the strategy may ask (GuestKernel) ----------------------------------------------------------------------

    def complete(self, write: Write) -> None:
        """The asynchronous write is done: blkback unmaps its pages and answers, at the end of this very event."""
        assert isinstance(write, NfsWrite) and not write.done, "a write was completed twice"
        write.done = True
        self.completed.append(write)

    def copied(self, count: int) -> None:
        """Charge the backend for payload bytes that it copied."""
        self.copied_bytes += count

    # --- events -------------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Take one event at `now`; see `Node`."""
        self._count_pins(now)
        match event:
            case Received():
                self._received(event.source, event.message, now)
            case TimerFired():
                self._timer(event.name, now)
            case Boot():
                self._boot(now)
            case Audit():
                self._audit()
        seen = 0
        self._settle(now)
        while self.gates.waits_for_itself and seen < len(self.effects):
            seen = self.gates.own_facts(self.name, seen)
            self._settle(now)
        self._arm_rpc_timer()
        if self.nic.frames:
            self.effects += send_frames(self.config.network, self.nic.take_frames())
        effects = self.effects
        done = effects.copy()
        effects.clear()
        return done

    def pending(self) -> int:
        """Requests of guests that are not answered yet, and what TCP has not heard back about."""
        return sum([len(disk.vbd.writes) for disk in self.disks.values()]) + self.stack.pending()

    def close(self) -> None:
        """Let go of the machine's memory; see `Node`."""
        self.memory.close()
        self.kernel_pages.pages.clear()
        self.stack.forget_sockets()
        self.nic.watch = None
        vars(self.strategy).clear()

    def _boot(self, now: Time) -> None:
        self.gates.start()
        for guest, disk in self.disks.items():
            disk.nfs.connect(now)
            self.effects.append(Send(guest, Xenbus(INIT_WAIT, backend_features())))

    def _received(self, source: str, message: Message, now: Time) -> None:
        match message:
            case Notify():
                self.disks[source].take_requests(now)
            case Frames():
                self.stack.receive_burst(message.frames, now)
                for disk in self.disks.values():
                    disk.nfs.received(now)
            case Xenbus():
                self.disks[source].frontend_changed(message.state, message.keys)
            case Noticed():
                self.gates.fact_occurred(message.node, message.fact)

    def _timer(self, name: str, now: Time) -> None:
        """Take a timer of the RPC clients or of the stack."""
        if name != RPC_TIMER:
            self.stack.timer_fired(name, now)
        else:
            self.rpc_armed = None
        for disk in self.disks.values():
            if name == RPC_TIMER:
                disk.nfs.timed_out(now)
            else:
                disk.nfs.watch(now)

    def _arm_rpc_timer(self) -> None:
        """Wake up at the earliest timeout of a call; an earlier wake-up that is on its way does as well."""
        deadlines = [disk.nfs.next_deadline() for disk in self.disks.values()]
        deadline = min([each for each in deadlines if each is not None], default=None)
        if deadline is not None and (self.rpc_armed is None or deadline < self.rpc_armed):
            self.rpc_armed = deadline
            self.effects.append(SetTimer(RPC_TIMER, deadline))

    def _count_pins(self, now: Time) -> None:
        """Add up how long guests' pages have been mapped here, in page-nanoseconds; the rings count, too."""
        self.pinned_page_ns += self.hypervisor.mapped_by(DOMAIN_0) * (now - self.now)
        self.now = now

    # --- requests -----------------------------------------------------------------------------------------------------

    def _settle(self, now: Time) -> None:
        """Do what the event has made possible, until nothing more is: a packet that leaves may complete a write."""
        while True:
            self._answer(now)
            for disk in self.disks.values():
                disk.go_on(now)
            if self.stack.touched:
                self.stack.flush(now)
            if not self.completed:
                break
        for disk in self.disks.values():
            disk.vbd.push()

    def _answer(self, now: Time) -> None:
        """Let each disk answer the writes that the strategy has called done."""
        completed, self.completed = self.completed, []
        for write in completed:
            taken = write.buffer
            assert isinstance(taken, BlkWrite)
            self.disks[taken.vbd.guest].complete(write, now)

    # --- audit --------------------------------------------------------------------------------------------------------

    def _audit(self) -> None:
        """Record what was never given back and what the run cost."""
        disks = self.disks.values()
        rings = sum([disk.vbd.ring is not None for disk in disks])
        left = {f"unanswered requests of {guest}": len(disk.vbd.writes) for guest, disk in self.disks.items()}
        left["packets in the transmit queue"] = self.egress.waiting()
        left["grant pins"] = sum(self.hypervisor.pins().values()) - rings
        left["socket buffers"] = self.slab.outstanding
        left["backend pages"] = self.kernel_pages.outstanding - len(self.slab.pages)
        left["calls without a reply"] = sum([len(disk.nfs.rpc.pending) for disk in disks])
        self.effects += [LeftOver(what, count) for what, count in left.items() if count]
        hypervisor = self.hypervisor
        counted = {
            "copied_bytes": self.copied_bytes + self.egress.copied_bytes,
            "payload_bytes": sum([disk.nfs.payload_bytes for disk in disks]),
            "rpc_retransmissions": sum([disk.nfs.rpc.retransmissions for disk in disks]),
            "unmatched_replies": sum([disk.nfs.rpc.unmatched_replies for disk in disks]),
            "failed_requests": sum([disk.vbd.failed for disk in disks]),
            "grant_maps": hypervisor.maps,
            "grant_unmaps": hypervisor.unmaps,
            "tlb_flushes": hypervisor.tlb_flushes,
            "pinned_page_us": self.pinned_page_ns // 1000,
            "notifications": sum([disk.vbd.notifications for disk in disks]),
        }
        self.effects += [Counted(name, amount) for name, amount in counted.items()]
