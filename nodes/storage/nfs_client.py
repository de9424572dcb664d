"""A guest's NFS client: it mounts the server's root, makes one file, writes it, and judges what a reply means.

It is a part: its guest tells it the time, says when frames have come and when `rpc.deadline` has passed, and gives it
buffers to write; the application (`Copier`) hears from it that the copy is finished or has failed. The strategy says
which fragments of a WRITE may go down (`take`) and learns of the reply (`replied`).

Source: RFC 1813, net/sunrpc/clnt.c, fs/nfs/write.c and fs/nfs/direct.c. What carries the calls is `rpc_transport`.
"""

from lateack.nodes.application import Copier, PageBuffer
from lateack.nodes.facts import (
    CallAborted,
    CallTimedOut,
    CallTransmitted,
    CompletionDeferred,
    ReplyMatched,
    VerifierChanged,
    WriteIssued,
    WriteReissued,
)
from lateack.nodes.node import Time
from lateack.nodes.stack.host import IpStack
from lateack.nodes.stack.packets import digest_of
from lateack.nodes.stack.udp import udp_send_skb
from lateack.nodes.storage import nfs, nfs_calls, nfs_replies
from lateack.nodes.storage.nfs import SetAttributes
from lateack.nodes.storage.nfs_mount import NfsMount as NfsMount
from lateack.nodes.storage.nfs_write import NfsWrite as NfsWrite
from lateack.nodes.storage.page_write import PageWrite
from lateack.nodes.storage.rpc import AuthSys, decode_reply, encode_auth_sys, encode_call
from lateack.nodes.storage.rpc_client import FAILED, RpcRequest
from lateack.nodes.storage.rpc_transport import RpcTransport
from lateack.nodes.storage.xdr import XdrError
from lateack.nodes.strategies.guest import GuestStrategy

PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class NfsClient(RpcTransport):
    """One mount with one file on it."""

    __slots__ = ("credential", "file", "strategy")

    def __init__(self, mount: NfsMount, stack: IpStack, copier: Copier, strategy: GuestStrategy) -> None:
        super().__init__(mount, stack, copier)
        self.strategy = strategy
        self.credential = encode_auth_sys(AuthSys(0, mount.client.encode(), 0, 0))
        self.file = b""

    # --- the mount ----------------------------------------------------------------------------------------------------

    def finish(self, now: Time) -> None:
        """Every byte is written: close the connection once no call waits, and finish the copy when it is closed."""
        self.finishing = True
        if not self.rpc.pending:
            self._disconnect(now)
        # Else the strategy has believed somebody else than the server, whose replies are still to come.

    def writes_in_flight(self) -> list[PageWrite]:
        """Return the writes whose WRITE or COMMIT has not been answered."""
        contexts = [request.context for request in self.rpc.pending.values()]
        return [context for context in contexts if isinstance(context, NfsWrite)]

    # --- calls --------------------------------------------------------------------------------------------------------

    def write(self, buffer: PageBuffer, now: Time) -> NfsWrite:
        """Write what lies in *buffer* to where it belongs in the file; return the write, which is under way now."""
        write = NfsWrite(buffer, self.mount.stable, now)
        if self.mount.pins:
            write.pin()
        write.xid = self.rpc.next_xid
        self.payload_bytes += write.count
        self.effects.append(
            WriteIssued(
                write.xid, self.copier.file, write.offset, write.count, buffer.digest, buffer.index, buffer.frames
            )
        )
        self._call_write(write, now)
        return write

    def timed_out(self, now: Time) -> None:
        """Connect anew if it is time to; send again what waited too long, or give up where the mount is soft."""
        self._reconnect_when_due(now)
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
            if not write.replied:
                self.strategy.aborted(write)
            if not write.done:
                self.effects.append(CompletionDeferred(write.xid))
        if self.finishing and not self.rpc.pending:
            self._disconnect(now)

    def _open(self, now: Time) -> None:
        """Make the guest's folder, if it has one, and create the file."""
        folder, _, name = self.copier.file.rpartition("/")
        if folder:
            arguments = nfs_calls.encode_mkdir(self.mount.root, folder.encode(), SetAttributes())
            self._call(nfs.MKDIR, arguments, None, now)
        else:
            self._create(self.mount.root, name, now)

    def _create(self, directory: bytes, name: str, now: Time) -> None:
        arguments = nfs_calls.encode_create(directory, name.encode(), SetAttributes(size=0))
        self._call(nfs.CREATE, arguments, None, now)

    def _call_write(self, write: NfsWrite, now: Time) -> None:
        """Call WRITE for what the server has not acknowledged of a write: all of it, but after a short WRITE."""
        arguments = nfs_calls.encode_write_head(self.file, write.offset + write.start, write.left(), write.stable)
        self._call(nfs.WRITE, arguments, write, now)

    def _call(self, procedure: int, arguments: bytes, context: object, now: Time) -> None:
        head = encode_call(self.rpc.next_xid, nfs.PROGRAM, nfs.VERSION, procedure, self.credential) + arguments
        padding = PADDING[context.left() & 3] if isinstance(context, NfsWrite) and procedure == nfs.WRITE else b""
        request = self.rpc.start(procedure, head, None, padding, context, now)
        self._transmit(request, now)

    def _send_pending(self, now: Time) -> None:
        """Send every call again that has no reply, in the order in which they were made."""
        for request in list(self.rpc.pending.values()):
            self._transmit(request, now)

    def _transmit(self, request: RpcRequest, now: Time) -> None:
        """Hand a call to the transport; every transmission asks the strategy anew what of the pages may go down."""
        if not self._may_send():
            return
        self.rpc.transmitted(request, now)
        self.effects.append(CallTransmitted(request.xid, request.proc, request.transmissions))
        write = request.context if request.proc == nfs.WRITE else None
        frags = []
        data = b""
        if isinstance(write, NfsWrite):
            write.transmissions += 1
            frags = self.strategy.take(write)
            data = write.data[write.start :] if write.start else write.data
        skbs = self._queue(request.head, frags, data, request.tail)
        if isinstance(write, NfsWrite):
            self.strategy.queued(write, skbs)
        if self.socket is not None:
            self.stack.send_queued(self.socket, now)
        else:
            assert self.udp is not None
            udp_send_skb(self.udp, skbs, now)

    # --- replies ------------------------------------------------------------------------------------------------------

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
        elif result.count != write.left():
            self._written_in_part(write, result, now)
        elif result.committed == nfs.UNSTABLE:
            # O_DIRECT must be able to send the pages again until the server has committed them (RFC 1813 3.3.7).
            write.verifier = result.verifier
            arguments = nfs_calls.encode_range(self.file, write.offset + write.start, write.left())
            self._call(nfs.COMMIT, arguments, write, now)
            if self.mount.releases_early and not write.replied:
                self._give_back(write)
        else:
            self._answered(write)

    def _written_in_part(self, write: NfsWrite, result: nfs_replies.WriteResult, now: Time) -> None:
        """Write the rest; what is not stable all once more, stably, lest a crash complicates it (nfs_writeback_result).

        A server that wrote nothing at all has failed.
        """
        if not 0 < result.count < write.left():
            self.copier.fail(f"the server wrote {result.count} of {write.left()} bytes")
            return
        former = write.xid
        write.xid = self.rpc.next_xid
        self.effects.append(WriteReissued(former, write.xid))
        if result.committed == nfs.UNSTABLE:
            write.stable = nfs.FILE_SYNC
        else:
            write.go_on(result.count)
            rest = write.data[write.start :]
            self.effects.append(
                WriteIssued(
                    write.xid, self.copier.file, write.offset + write.start, len(rest), digest_of(rest),
                    write.buffer.index, write.buffer.frames,
                )
            )  # fmt: skip
        self._call_write(write, now)

    def _committed(self, write: NfsWrite, result: nfs_replies.CommitResult, now: Time) -> None:
        if result.status:
            self.copier.fail(f"COMMIT failed with NFS status {result.status}")
        elif result.verifier != write.verifier:
            self._write_again(write, now)
        else:
            self._answered(write)

    def _write_again(self, write: NfsWrite, now: Time) -> None:
        """The server restarted in between, and may have lost the bytes: write them anew (nfs_direct_write_reschedule).

        It is another call, with an xid of its own, and what a strategy does for a repeated call does not apply to it.
        """
        self.effects.append(VerifierChanged(write.xid, write.offset, write.count))
        former = write.xid
        write.xid = self.rpc.next_xid
        write.transmissions = 0
        if write.replied:
            write.token = None  # the strategy is through with it, and is not asked again
        self.effects.append(WriteReissued(former, write.xid))
        self._call_write(write, now)

    def _answered(self, write: NfsWrite) -> None:
        """The server has the bytes for good."""
        if self.mount.pins:
            write.unpin()
        if not write.replied:
            self._give_back(write)

    def _give_back(self, write: NfsWrite) -> None:
        """The application may have its buffer, as soon as the strategy agrees."""
        write.replied = True
        self.strategy.replied(write)
        if not write.done:
            self.effects.append(CompletionDeferred(write.xid))
