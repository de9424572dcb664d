"""A frontend guest: an application that copies a file to the NFS server, and everything below it down to the ring.

    application -> NFS client -> RPC -> TCP or UDP -> netfront -> ring        and the replies the same way back

What decides the story is one line, `strategy.replied(write)`: the reply is in, may the application have its buffer
back?
"""

from collections.abc import Sequence

import msgspec

from lateack.nodes.application import Copier, PageBuffer, Source
from lateack.nodes.facts import (
    CallTimedOut,
    CallTransmitted,
    CompletionDeferred,
    CopyFailed,
    CopyFinished,
    Counted,
    LeftOver,
    ReplyMatched,
    WriteCompleted,
    WriteIssued,
)
from lateack.nodes.memory.grants import GrantTable
from lateack.nodes.memory.pages import PAGE_SIZE, HeadSlab, Memory, Page, PagePool
from lateack.nodes.messages import Message, Notify, Xenbus
from lateack.nodes.node import Audit, Effect, Event, Received, Send, SetTimer, Time, TimerFired
from lateack.nodes.split.netfront import Netfront
from lateack.nodes.split.xenbus import CONNECTED, FIRST_FREE_FRAME, GRANT_FRAME, INIT_WAIT
from lateack.nodes.stack.host import HostAddress, IpStack
from lateack.nodes.stack.tcp import CLOSE_WAIT, CLOSED, ESTABLISHED, MAY_SEND, TIME_WAIT, TcpParameters, TcpSocket
from lateack.nodes.stack.tcp_output import tcp_sendmsg
from lateack.nodes.stack.udp import UdpSocket, udp_sendmsg
from lateack.nodes.storage import nfs, nfs_calls, nfs_replies
from lateack.nodes.storage.nfs import SetAttributes
from lateack.nodes.storage.rpc import (
    AuthSys,
    RecordReader,
    RecordTooLong,
    decode_reply,
    encode_auth_sys,
    encode_call,
    record_mark,
)
from lateack.nodes.storage.rpc_client import FAILED, RpcClient, RpcRequest, RpcTimeouts
from lateack.nodes.storage.xdr import XdrError
from lateack.nodes.strategies.guest import GuestStrategy, Write

NFS_PORT = 2049
RPC_TIMER = "rpc"
PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class GuestConfig(msgspec.Struct, frozen=True):
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


class NfsWrite:
    """One WRITE of the application, from its call to its completion."""

    __slots__ = (
        "buffer", "count", "data", "done", "issued_at", "offset", "replied", "token", "transmissions", "verifier",
        "xid",
    )  # fmt: skip

    def __init__(self, buffer: PageBuffer, now: Time) -> None:
        self.buffer = buffer
        self.offset = buffer.offset
        self.count = buffer.count
        self.data = buffer.data
        self.issued_at = now
        self.xid = 0
        self.transmissions = 0
        self.replied = False
        self.done = False
        self.token: object | None = None
        self.verifier = b""

    def windows(self) -> list[tuple[Page, int, int]]:
        """Return the (page, offset, size) windows that hold the write's bytes, in file order."""
        return self.buffer.windows()


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
        self.copier = Copier(source, memory, self.effects, first_buffer, config.buffers, config.write_size)
        self.strategy = strategy(self)
        if self.strategy.watches_clones:
            self.stack.clone_hook = self.strategy
        self.rpc = RpcClient(config.first_xid, config.rpc)
        self.credential = encode_auth_sys(AuthSys(0, config.name.encode(), 0, 0))
        self.reader = RecordReader()
        self.socket: TcpSocket | None = None
        self.udp: UdpSocket | None = None
        self.file = b""
        self.completed: list[NfsWrite] = []
        self.rpc_armed: int | None = None
        self.over = False
        self.closing = False
        self.copied_bytes = 0
        self.payload_bytes = 0

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Take one event at `now`; see `Node`."""
        if isinstance(event, Received):
            message = event.message
            if isinstance(message, Notify):
                self._interrupt(now)
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
        deadline = self.rpc.deadline
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
        vars(self.stack).clear()
        vars(self).clear()

    def pending(self) -> int:
        """Whether the copy is still under way, and what TCP has not heard back about."""
        return (not self.over) + self.stack.pending()

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
        completed, self.completed = self.completed, []
        for write in completed:
            self.effects.append(
                WriteCompleted(write.xid, self.config.file, write.offset, write.count, now - write.issued_at)
            )
            if not self.over and self.copier.refill(write.buffer):
                self._write(write.buffer, now)
        if self.copier.finished() and not self.closing and not self.over:
            self._finish(now)

    def _write(self, buffer: PageBuffer, now: Time) -> None:
        write = NfsWrite(buffer, now)
        arguments = nfs_calls.encode_write_head(self.file, write.offset, write.count, self.config.stable)
        write.xid = self.rpc.next_xid
        self.payload_bytes += write.count
        self.effects.append(
            WriteIssued(
                write.xid, self.config.file, write.offset, write.count, buffer.digest, buffer.index, buffer.frames
            )
        )
        self._call(nfs.WRITE, arguments, write, now)

    def _finish(self, now: Time) -> None:
        self.closing = True
        if self.socket is not None and self.config.unmount:
            self.stack.close(self.socket, now)
        else:
            self._copy_finished()

    def _copy_finished(self) -> None:
        self.over = True
        self.effects.append(CopyFinished(self.config.file, self.copier.source.size))

    def _fail(self, reason: str) -> None:
        if not self.over:
            self.over = True
            self.effects.append(CopyFailed(self.config.file, reason))

    # --- NFS and RPC --------------------------------------------------------------------------------------------------

    def _call(self, procedure: int, arguments: bytes, context: object, now: Time) -> None:
        head = encode_call(self.rpc.next_xid, nfs.PROGRAM, nfs.VERSION, procedure, self.credential) + arguments
        padding = PADDING[context.count & 3] if isinstance(context, NfsWrite) and procedure == nfs.WRITE else b""
        request = self.rpc.start(procedure, head, None, padding, context, now)
        self._transmit(request, now)

    def _transmit(self, request: RpcRequest, now: Time) -> None:
        """Hand a call to the transport; every transmission asks the strategy anew what of the pages may go down."""
        if self.socket is not None and self.socket.state not in MAY_SEND:
            return  # Linux would connect anew (xprt_connect); this guest gives up, see `_watch_connection`
        self.rpc.transmitted(request, now)
        self.effects.append(CallTransmitted(request.xid, request.proc, request.transmissions))
        head, tail = request.head, request.tail
        write = request.context if request.proc == nfs.WRITE else None
        frags = []
        data = b""
        if isinstance(write, NfsWrite):
            write.transmissions += 1
            frags = self.strategy.take(write)
            data = write.data
        if self.socket is None:
            assert self.udp is not None
            witness = head + data + tail
            udp_sendmsg(self.udp, (self.config.server, NFS_PORT), head, frags, tail, witness, now)
            return
        head = record_mark(len(head) + len(data) + len(tail)) + head
        skbs = tcp_sendmsg(self.socket, head, frags, tail, b"".join((head, data, tail)))
        if isinstance(write, NfsWrite):
            self.strategy.queued(write, skbs)
        self.stack.send_queued(self.socket, now)

    def _reply(self, record: bytes, now: Time) -> None:
        request = self.rpc.reply(record, now)
        if request is None:
            return
        self.effects.append(ReplyMatched(request.xid, request.proc))
        try:
            reply = decode_reply(record)
            if not reply.succeeded():
                self._fail(f"the server refused a call (accept_stat {reply.status})")
            else:
                self._result(request, record, reply.results, now)
        except XdrError as reason:
            self._fail(f"the server's reply does not decode: {reason}")

    def _result(self, request: RpcRequest, record: bytes, at: int, now: Time) -> None:
        match request.proc:
            case nfs.WRITE:
                self._written(request.context, nfs_replies.decode_write_result(record, at), now)
            case nfs.COMMIT:
                self._committed(request.context, nfs_replies.decode_commit(record, at), now)
            case nfs.MKDIR:
                result = nfs_replies.decode_create(record, at)
                if result.file is None:
                    self._fail(f"MKDIR failed with NFS status {result.status}")
                else:
                    self._create(result.file, self.config.file.rpartition("/")[2], now)
            case nfs.CREATE:
                self._created(nfs_replies.decode_create(record, at), now)
            case _:
                raise AssertionError(f"no reply to procedure {request.proc} is expected")

    def _open_file(self, now: Time) -> None:
        """Make the guest's folder, if it has one, and create the file."""
        folder, _, name = self.config.file.rpartition("/")
        if folder:
            arguments = nfs_calls.encode_mkdir(self.config.root, folder.encode(), SetAttributes())
            self._call(nfs.MKDIR, arguments, None, now)
        else:
            self._create(self.config.root, name, now)

    def _create(self, directory: bytes, name: str, now: Time) -> None:
        arguments = nfs_calls.encode_create(directory, name.encode(), SetAttributes(size=0))
        self._call(nfs.CREATE, arguments, None, now)

    def _created(self, result: nfs_replies.FileResult, now: Time) -> None:
        if result.file is None:
            self._fail(f"CREATE failed with NFS status {result.status}")
            return
        self.file = result.file
        for buffer in self.copier.first_fill():
            self._write(buffer, now)
        if self.copier.finished():
            self._finish(now)

    def _written(self, write: NfsWrite, result: nfs_replies.WriteResult, now: Time) -> None:
        if result.status:
            self._fail(f"WRITE failed with NFS status {result.status}")
        elif result.count != write.count:
            self._fail(f"the server wrote {result.count} of {write.count} bytes")
        elif result.committed == nfs.UNSTABLE:
            # O_DIRECT must be able to send the pages again until the server has committed them (RFC 1813 3.3.7).
            write.verifier = result.verifier
            arguments = nfs_calls.encode_range(self.file, write.offset, write.count)
            self._call(nfs.COMMIT, arguments, write, now)
        else:
            self._answered(write)

    def _committed(self, write: NfsWrite, result: nfs_replies.CommitResult, now: Time) -> None:
        if result.status:
            self._fail(f"COMMIT failed with NFS status {result.status}")
        elif result.verifier != write.verifier:
            arguments = nfs_calls.encode_write_head(self.file, write.offset, write.count, self.config.stable)
            self._call(nfs.WRITE, arguments, write, now)  # the server restarted in between: it may have lost the bytes
        else:
            self._answered(write)

    def _answered(self, write: NfsWrite) -> None:
        write.replied = True
        self.strategy.replied(write)
        if not write.done:
            self.effects.append(CompletionDeferred(write.xid))

    # --- events from below --------------------------------------------------------------------------------------------

    def _backend_changed(self, state: int, keys: dict[str, str | int], now: Time) -> None:
        if state == INIT_WAIT:
            self.stack.gso = bool(keys.get("feature-gso-tcpv4"))
            mine = self.netfront.connect(self.config.address.mac)
            self.effects.append(Send(self.config.backend, Xenbus(CONNECTED, mine)))
        elif state == CONNECTED:
            if self.config.transport == "udp":
                self.udp = self.stack.bind_udp()
                self._open_file(now)
            else:
                self.socket = self.stack.connect(self.config.server, NFS_PORT, now)

    def _interrupt(self, now: Time) -> None:
        frames = self.netfront.interrupt(now)
        if not frames:
            return
        sk = self.socket
        before = None if sk is None else sk.state
        self.stack.receive_burst(frames, now)
        if sk is not None:
            if before != ESTABLISHED and sk.state == ESTABLISHED:
                self._open_file(now)
            if sk.received:
                self._read_replies(sk, now)
            if sk.state != ESTABLISHED:
                self._watch_connection(sk, now)
        elif self.udp is not None:
            for _, _, record in self.udp.take_received():
                self._reply(record, now)

    def _read_replies(self, sk: TcpSocket, now: Time) -> None:
        try:
            for chunk in sk.take_received():
                for record in self.reader.feed(chunk):
                    self._reply(record, now)
        except RecordTooLong as reason:
            self.stack.abort(sk, str(reason), now)
            self._fail(str(reason))

    def _watch_connection(self, sk: TcpSocket, now: Time) -> None:
        if self.over:
            return
        if self.closing and sk.state in (TIME_WAIT, CLOSED):
            self._copy_finished()
        elif sk.state == CLOSED:
            self._fail("the connection to the server was lost")
        elif sk.state == CLOSE_WAIT:
            self.stack.close(sk, now)
            self._fail("the server closed the connection")

    def _timer(self, name: str, now: Time) -> None:
        if name != RPC_TIMER:
            self.stack.timer_fired(name, now)
            if self.socket is not None:
                self._watch_connection(self.socket, now)
            return
        self.rpc_armed = None
        for request, wants in self.rpc.expired(now):
            # A minor timeout counts up, a major one starts the count again.
            self.effects.append(CallTimedOut(request.xid, wants == FAILED or not request.retries))
            if wants == FAILED:
                self._fail("a call timed out (soft mount)")
            else:
                self._transmit(request, now)

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
            "calls without a reply": len(self.rpc.pending),
        }
        if netfront.tx.req_prod_pvt:
            for what, count in left.items():
                if count:
                    self.effects.append(LeftOver(what, count))
        counted = {
            "copied_bytes": self.copied_bytes,
            "payload_bytes": self.payload_bytes,
            "notifications": netfront.notifications,
            "rpc_retransmissions": self.rpc.retransmissions,
            "unmatched_replies": self.rpc.unmatched_replies,
        }
        for name, amount in counted.items():
            self.effects.append(Counted(name, amount))
