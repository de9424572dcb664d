"""A guest's NFS client: it mounts the server's root, makes one file, writes it, and judges what a reply means.

It is a part: its guest tells it the time, says when frames have come and when `rpc.deadline` has passed, and gives it
buffers to write; the application (`Copier`) hears from it that the copy is finished or has failed. The strategy says
which fragments of a WRITE may go down (`take`) and learns of the reply (`replied`).

Source: RFC 1813, net/sunrpc/clnt.c and fs/nfs/direct.c. Where we differ: a lost connection ends the copy.
"""

from lateack.nodes.application import Copier, PageBuffer
from lateack.nodes.facts import (
    CallAborted,
    CallTimedOut,
    CallTransmitted,
    CompletionDeferred,
    ReplyMatched,
    WriteIssued,
)
from lateack.nodes.node import Time
from lateack.nodes.stack.host import IpStack
from lateack.nodes.stack.tcp import CLOSE_WAIT, CLOSED, ESTABLISHED, MAY_SEND, TIME_WAIT, TcpSocket
from lateack.nodes.stack.tcp_output import tcp_sendmsg
from lateack.nodes.stack.udp import UdpSocket, ip_make_skb, udp_send_skb
from lateack.nodes.storage import nfs, nfs_calls, nfs_replies
from lateack.nodes.storage.nfs import SetAttributes
from lateack.nodes.storage.nfs_mount import NfsMount as NfsMount
from lateack.nodes.storage.nfs_write import NfsWrite as NfsWrite
from lateack.nodes.storage.page_write import PageWrite
from lateack.nodes.storage.remote import RemoteStorage
from lateack.nodes.storage.rpc import (
    AuthSys,
    RecordReader,
    RecordTooLong,
    decode_reply,
    encode_auth_sys,
    encode_call,
    record_mark,
)
from lateack.nodes.storage.rpc_client import FAILED, RpcClient, RpcRequest
from lateack.nodes.storage.xdr import XdrError
from lateack.nodes.strategies.guest import GuestStrategy

PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class NfsClient(RemoteStorage):
    """One mount with one file on it; `socket` is None until it is mounted, and always over UDP."""

    __slots__ = (
        "copier", "credential", "effects", "file", "mount", "opened", "reader", "rpc", "socket", "stack", "strategy",
        "udp",
    )  # fmt: skip

    def __init__(self, mount: NfsMount, stack: IpStack, copier: Copier, strategy: GuestStrategy) -> None:
        super().__init__()
        self.mount = mount
        self.stack = stack
        self.effects = stack.effects
        self.copier = copier
        self.strategy = strategy
        self.rpc = RpcClient(mount.first_xid, mount.timeouts)
        self.credential = encode_auth_sys(AuthSys(0, mount.client.encode(), 0, 0))
        self.reader = RecordReader()
        self.socket: TcpSocket | None = None
        self.udp: UdpSocket | None = None
        self.file = b""
        self.opened = False

    # --- the connection -----------------------------------------------------------------------------------------------

    def connect(self, now: Time) -> None:
        """Open the transport; once it is open the file is made, and then written."""
        if self.mount.transport == "udp":
            self.udp = self.stack.bind_udp()
            self._open_file(now)
        else:
            self.socket = self.stack.connect(self.mount.server, nfs.PORT, now)

    def finish(self, now: Time) -> None:
        """Every byte is written: close the connection once no call waits, and finish the copy when it is closed."""
        self.finishing = True
        if not self.rpc.pending:
            self._disconnect(now)
        # Else the strategy has believed somebody else than the server, whose replies are still to come.

    def _disconnect(self, now: Time) -> None:
        if self.socket is not None and self.mount.unmount:
            self.stack.close(self.socket, now)
        else:
            self.copier.finish()

    def received(self, now: Time) -> None:
        """A burst of frames has gone through the stack: look at the connection and take what came for the mount."""
        sk = self.socket
        if sk is not None:
            if not self.opened and sk.state == ESTABLISHED:
                self._open_file(now)
            if sk.received:
                self._read_replies(sk, now)
            if sk.state != ESTABLISHED:
                self.watch(now)
        elif self.udp is not None:
            for _, _, record in self.udp.take_received():
                self._reply(record, now)

    def watch(self, now: Time) -> None:
        """Tell the application what the end of the connection means, whichever side has ended it."""
        sk = self.socket
        if sk is None or self.copier.over:
            return
        if self.finishing and sk.state in (TIME_WAIT, CLOSED):
            self.copier.finish()
        elif sk.state == CLOSED:
            self.copier.fail("the connection to the server was lost")
        elif sk.state == CLOSE_WAIT:
            self.stack.close(sk, now)
            self.copier.fail("the server closed the connection")

    def next_deadline(self) -> Time | None:
        """Return when the first call runs out of patience."""
        return self.rpc.deadline

    def writes_in_flight(self) -> list[PageWrite]:
        """Return the writes whose WRITE or COMMIT has not been answered."""
        contexts = [request.context for request in self.rpc.pending.values()]
        return [context for context in contexts if isinstance(context, NfsWrite)]

    def outstanding(self) -> int:
        """Return how many calls have no reply."""
        return len(self.rpc.pending)

    def counted(self) -> dict[str, int]:
        """Return what RPC has counted."""
        return {
            "rpc_retransmissions": self.rpc.retransmissions,
            "unmatched_replies": self.rpc.unmatched_replies,
        }

    # --- calls --------------------------------------------------------------------------------------------------------

    def write(self, buffer: PageBuffer, now: Time) -> NfsWrite:
        """Write what lies in *buffer* to where it belongs in the file; return the write, which is under way now."""
        write = NfsWrite(buffer, now)
        if self.mount.pins:
            write.pin()
        arguments = nfs_calls.encode_write_head(self.file, write.offset, write.count, self.mount.stable)
        write.xid = self.rpc.next_xid
        self.payload_bytes += write.count
        self.effects.append(
            WriteIssued(
                write.xid, self.copier.file, write.offset, write.count, buffer.digest, buffer.index, buffer.frames
            )
        )
        self._call(nfs.WRITE, arguments, write, now)
        return write

    def timed_out(self, now: Time) -> None:
        """Send again what waited too long, or give up where the mount is soft."""
        for request, wants in self.rpc.expired(now):
            # A minor timeout counts up, a major one starts the count again.
            self.effects.append(CallTimedOut(request.xid, wants == FAILED or not request.retries))
            if self.mount.aborts and isinstance(request.context, NfsWrite):
                self._abort(request, request.context, now)
            elif wants == FAILED:
                self.copier.fail("a call timed out (soft mount)")
            elif self.socket is None or not self.socket.write_queue:
                self._transmit(request, now)
            # Else the transport still has unsent bytes, and a call waits for room before it is queued once more
            # (xprt_wait_for_buffer_space); the next timeout asks again.

    def _abort(self, request: RpcRequest, write: NfsWrite, now: Time) -> None:
        """The application gives up on a write: a reply will find nobody, but what was queued goes out all the same."""
        if request.xid in self.rpc.pending:
            self.rpc.abandon(request)
        write.aborted = True
        self.effects.append(CallAborted(write.xid))  # whichever of its calls it was: a WRITE, or a COMMIT
        if self.mount.pins:
            write.unpin()
        if not write.done:
            self.strategy.aborted(write)
            if not write.done:
                self.effects.append(CompletionDeferred(write.xid))
        if self.finishing and not self.rpc.pending:
            self._disconnect(now)

    def _open_file(self, now: Time) -> None:
        """Make the guest's folder, if it has one, and create the file."""
        self.opened = True
        folder, _, name = self.copier.file.rpartition("/")
        if folder:
            arguments = nfs_calls.encode_mkdir(self.mount.root, folder.encode(), SetAttributes())
            self._call(nfs.MKDIR, arguments, None, now)
        else:
            self._create(self.mount.root, name, now)

    def _create(self, directory: bytes, name: str, now: Time) -> None:
        arguments = nfs_calls.encode_create(directory, name.encode(), SetAttributes(size=0))
        self._call(nfs.CREATE, arguments, None, now)

    def _call(self, procedure: int, arguments: bytes, context: object, now: Time) -> None:
        head = encode_call(self.rpc.next_xid, nfs.PROGRAM, nfs.VERSION, procedure, self.credential) + arguments
        padding = PADDING[context.count & 3] if isinstance(context, NfsWrite) and procedure == nfs.WRITE else b""
        request = self.rpc.start(procedure, head, None, padding, context, now)
        self._transmit(request, now)

    def _transmit(self, request: RpcRequest, now: Time) -> None:
        """Hand a call to the transport; every transmission asks the strategy anew what of the pages may go down."""
        if self.socket is not None and self.socket.state not in MAY_SEND:
            return  # Linux would connect anew (xprt_connect); this guest gives up, see `watch`
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
            skbs = ip_make_skb(self.udp, (self.mount.server, nfs.PORT), head, frags, tail, head + data + tail)
            if isinstance(write, NfsWrite):
                self.strategy.queued(write, skbs)
            udp_send_skb(self.udp, skbs, now)
            return
        head = record_mark(len(head) + len(data) + len(tail)) + head
        skbs = tcp_sendmsg(self.socket, head, frags, tail, b"".join((head, data, tail)))
        if isinstance(write, NfsWrite):
            self.strategy.queued(write, skbs)
        self.stack.send_queued(self.socket, now)

    # --- replies ------------------------------------------------------------------------------------------------------

    def _read_replies(self, sk: TcpSocket, now: Time) -> None:
        try:
            for chunk in sk.take_received():
                for record in self.reader.feed(chunk):
                    self._reply(record, now)
        except RecordTooLong as reason:
            self.stack.abort(sk, str(reason), now)
            self.copier.fail(str(reason))

    def _reply(self, record: bytes, now: Time) -> None:
        request = self.rpc.reply(record, now)
        if request is None:
            return
        self.effects.append(ReplyMatched(request.xid, request.proc))
        try:
            reply = decode_reply(record)
            if not reply.succeeded():
                self.copier.fail(f"the server refused a call (accept_stat {reply.status})")
            else:
                self._result(request, record, reply.results, now)
        except XdrError as reason:
            self.copier.fail(f"the server's reply does not decode: {reason}")
        if self.finishing and not self.rpc.pending:
            self._disconnect(now)

    def _result(self, request: RpcRequest, record: bytes, at: int, now: Time) -> None:
        match request.proc:
            case nfs.WRITE:
                self._written(request.context, nfs_replies.decode_write_result(record, at), now)
            case nfs.COMMIT:
                self._committed(request.context, nfs_replies.decode_commit(record, at), now)
            case nfs.MKDIR:
                result = nfs_replies.decode_create(record, at)
                if result.file is None:
                    self.copier.fail(f"MKDIR failed with NFS status {result.status}")
                else:
                    self._create(result.file, self.copier.file.rpartition("/")[2], now)
            case nfs.CREATE:
                self._created(nfs_replies.decode_create(record, at), now)
            case _:
                raise AssertionError(f"no reply to procedure {request.proc} is expected")

    def _created(self, result: nfs_replies.FileResult, now: Time) -> None:
        if result.file is None:
            self.copier.fail(f"CREATE failed with NFS status {result.status}")
            return
        self.file = result.file
        for buffer in self.copier.first_fill():
            self.write(buffer, now)
        if self.copier.finished():
            self.finish(now)

    def _written(self, write: NfsWrite, result: nfs_replies.WriteResult, now: Time) -> None:
        if result.status:
            self.copier.fail(f"WRITE failed with NFS status {result.status}")
        elif result.count != write.count:
            self.copier.fail(f"the server wrote {result.count} of {write.count} bytes")
        elif result.committed == nfs.UNSTABLE:
            # O_DIRECT must be able to send the pages again until the server has committed them (RFC 1813 3.3.7).
            write.verifier = result.verifier
            arguments = nfs_calls.encode_range(self.file, write.offset, write.count)
            self._call(nfs.COMMIT, arguments, write, now)
        else:
            self._answered(write)

    def _committed(self, write: NfsWrite, result: nfs_replies.CommitResult, now: Time) -> None:
        if result.status:
            self.copier.fail(f"COMMIT failed with NFS status {result.status}")
        elif result.verifier != write.verifier:
            arguments = nfs_calls.encode_write_head(self.file, write.offset, write.count, self.mount.stable)
            self._call(nfs.WRITE, arguments, write, now)  # the server restarted in between: it may have lost the bytes
        else:
            self._answered(write)

    def _answered(self, write: NfsWrite) -> None:
        write.replied = True
        if self.mount.pins:
            write.unpin()
        self.strategy.replied(write)
        if not write.done:
            self.effects.append(CompletionDeferred(write.xid))
