"""An NFS client over RDMA: calls go as Sends, the payload of a long WRITE stays where it is and is read by the server.

It is a part, as `storage.nfs_client` is: its host tells it the time, says when the adapter has something for it, and
gives it buffers to write. The strategy says which windows of memory the adapters may read, and learns of replies and of
Send completions. What a queue pair could not finish when it failed is posted again on a new one.

Source: RFC 8166 and 8267, net/sunrpc/xprtrdma. Where we differ: the credits of a connection are taken to suffice.
"""

from typing import Final

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
from lateack.nodes.rdma.connector import CONNECTED, Connector
from lateack.nodes.rdma.lending import Lending, PostedSend, PostedWrite
from lateack.nodes.rdma.rpc_rdma import ReadChunk, decode_header, encode_header
from lateack.nodes.rdma.work import Completion, Incoming, Part
from lateack.nodes.storage import nfs, nfs_calls, nfs_replies
from lateack.nodes.storage.nfs import SetAttributes
from lateack.nodes.storage.nfs_mount import NfsMount
from lateack.nodes.storage.page_write import PageWrite
from lateack.nodes.storage.remote import RemoteStorage
from lateack.nodes.storage.rpc import AuthSys, decode_reply, encode_auth_sys, encode_call
from lateack.nodes.storage.rpc_client import FAILED, RpcClient, RpcRequest
from lateack.nodes.storage.xdr import XdrError
from lateack.nodes.strategies.rdma import RdmaStrategy

CREDITS: Final = 32
"""Calls at once that the client asks for (RPCRDMA_DEF_SLOT_TABLE is 128 in Linux)."""
PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class NfsRdmaClient(RemoteStorage):
    """One mount with one file on it, over one connection at a time."""

    __slots__ = (
        "connector", "copier", "credential", "effects", "file", "inline_bytes", "lending", "mount", "rpc", "strategy",
    )  # fmt: skip

    def __init__(
        self,
        mount: NfsMount,
        connector: Connector,
        copier: Copier,
        strategy: RdmaStrategy,
        *,
        inline_bytes: int,
        retired_max: int,
    ) -> None:
        super().__init__()
        self.mount = mount
        self.connector = connector
        self.effects = connector.effects
        self.copier = copier
        self.strategy = strategy
        self.inline_bytes = inline_bytes
        self.rpc = RpcClient(mount.first_xid, mount.timeouts)
        self.credential = encode_auth_sys(AuthSys(0, mount.client.encode(), 0, 0))
        self.lending = Lending(connector.adapter.regions, strategy, connector.effects, retired_max=retired_max)
        self.file = b""

    # --- the connection -----------------------------------------------------------------------------------------------

    def connect(self, now: Time) -> None:
        """Connect; once that is done the file is made, and then written."""
        self.connector.connect(now)

    def received(self, now: Time) -> None:
        """The adapter has taken frames, or something became of what it was asked: look at all of that."""
        connector = self.connector
        for pair, outcome in connector.outcomes(now):
            if isinstance(outcome, Completion):
                self.lending.send_over(outcome)
            elif isinstance(outcome, Incoming) and pair is connector.pair:
                self._incoming(outcome, now)
        if connector.established:
            connector.established = False
            self._start_or_resume(now)
        if connector.reason and not self.copier.over:
            self.copier.fail(connector.reason)
        if self.finishing and not self.copier.over:
            self._end(now)

    def _start_or_resume(self, now: Time) -> None:
        """A connection is there: begin with the file, or send again whatever was not answered."""
        waiting = list(self.rpc.pending.values())
        for request in waiting:
            self._transmit(request, now)
        if not waiting and not self.file:
            self._open_file(now)

    def finish(self, now: Time) -> None:
        """Every byte is written: disconnect once no call and no Send waits, and finish the copy then."""
        self.finishing = True
        self._end(now)

    def _end(self, now: Time) -> None:
        connector = self.connector
        if self.rpc.pending or connector.busy():
            return
        self.lending.settle()
        if not self.mount.unmount or connector.disconnected(now):
            self.copier.finish()

    # --- what the host asks -------------------------------------------------------------------------------------------

    def next_deadline(self) -> Time | None:
        """Return when a call, or a message of the connection manager, runs out of patience."""
        deadlines = [at for at in (self.rpc.deadline, self.connector.deadline) if at is not None]
        return min(deadlines) if deadlines else None

    def timed_out(self, now: Time) -> None:
        """Give up what waited too long, where it may be; else give up the connection and send everything again."""
        self.connector.timed_out(now)
        for request, wants in self.rpc.expired(now):
            self.effects.append(CallTimedOut(request.xid, wants == FAILED or not request.retries))
            if self.mount.aborts and isinstance(request.context, PostedWrite):
                self._abort(request, request.context)
            elif wants == FAILED:
                self.copier.fail("a call timed out (soft mount)")
            else:
                self.connector.give_up("a call was not answered in time")
        self.received(now)

    def writes_in_flight(self) -> list[PageWrite]:
        """Return the writes that have not been answered yet."""
        contexts = [request.context for request in self.rpc.pending.values()]
        return [context for context in contexts if isinstance(context, PostedWrite)]

    def outstanding(self) -> int:
        """Return how many calls have no reply."""
        return len(self.rpc.pending)

    def counted(self) -> dict[str, int]:
        """Return what RPC has counted."""
        return {"rpc_retransmissions": self.rpc.retransmissions, "unmatched_replies": self.rpc.unmatched_replies}

    # --- calls --------------------------------------------------------------------------------------------------------

    def write(self, buffer: PageBuffer, now: Time) -> PostedWrite:
        """Write what lies in *buffer* to where it belongs in the file; return the write, which is under way now."""
        write = PostedWrite(buffer, now)
        write.xid = self.rpc.next_xid
        self.payload_bytes += write.count
        self.effects.append(
            WriteIssued(
                write.xid, self.copier.file, write.offset, write.count, buffer.digest, buffer.index, buffer.frames
            )
        )
        self._call_write(write, now)
        return write

    def _call_write(self, write: PostedWrite, now: Time) -> None:
        arguments = nfs_calls.encode_write_head(self.file, write.offset, write.count, self.mount.stable)
        self._call(nfs.WRITE, arguments, write, now)

    def _abort(self, request: RpcRequest, write: PostedWrite) -> None:
        """The application gives up on a write: a reply will find nobody, but what was sent was sent."""
        if request.xid in self.rpc.pending:
            self.rpc.abandon(request)
        write.aborted = True
        self.effects.append(CallAborted(write.xid))
        if not write.done:
            self.strategy.aborted(write)
            if not write.done:
                self.effects.append(CompletionDeferred(write.xid))
        self.lending.release(write)

    def _open_file(self, now: Time) -> None:
        """Make the host's folder, if it has one, and create the file."""
        folder, _, name = self.copier.file.rpartition("/")
        if folder:
            arguments = nfs_calls.encode_mkdir(self.mount.root, folder.encode(), SetAttributes())
            self._call(nfs.MKDIR, arguments, None, now)
        else:
            self._create(self.mount.root, name, now)

    def _create(self, directory: bytes, name: str, now: Time) -> None:
        self._call(nfs.CREATE, nfs_calls.encode_create(directory, name.encode(), SetAttributes(size=0)), None, now)

    def _call(self, procedure: int, arguments: bytes, context: object, now: Time) -> None:
        head = encode_call(self.rpc.next_xid, nfs.PROGRAM, nfs.VERSION, procedure, self.credential) + arguments
        self._transmit(self.rpc.start(procedure, head, None, b"", context, now), now)

    def _transmit(self, request: RpcRequest, now: Time) -> None:
        """Post a call's Send; without a connection it is posted when there is one."""
        pair = self.connector.pair
        if self.connector.state != CONNECTED or pair is None:
            return
        self.rpc.transmitted(request, now)
        self.effects.append(CallTransmitted(request.xid, request.proc, request.transmissions))
        write = request.context if request.proc == nfs.WRITE else None
        parts: list[Part] = [encode_header(request.xid, CREDITS) + request.head]
        if not isinstance(write, PostedWrite):
            pair.post_send(PostedSend(request.xid, None, []), parts, parts[0], now)  # type: ignore[arg-type]
            return
        write.transmissions += 1
        write.sends += 1
        if write.count > self.inline_bytes:
            head = encode_header(request.xid, CREDITS, self._chunk(write, len(request.head))) + request.head
            pair.post_send(PostedSend(request.xid, write, []), [head], head, now)
            return
        windows = self.strategy.take(write)
        padding = PADDING[write.count & 3]
        head = encode_header(request.xid, CREDITS) + request.head
        meant = head + write.data + padding
        pair.post_send(PostedSend(request.xid, write, windows), [head, *windows, padding], meant, now)

    def _chunk(self, write: PostedWrite, position: int) -> ReadChunk:
        """Let the server read the write's payload, and return what to tell it; the padding is left out (3.4.5.2)."""
        region = self.lending.lend(write)
        return ReadChunk(position, region.rkey, region.length, region.address)

    # --- replies ------------------------------------------------------------------------------------------------------

    def _incoming(self, incoming: Incoming, now: Time) -> None:
        try:
            record = incoming.message[decode_header(incoming.message).message :]
        except XdrError as reason:
            self.connector.give_up(f"the server's message does not decode: {reason}")
            return
        if incoming.invalidated:
            self.lending.revoked(self.writes_in_flight(), incoming.invalidated)
        self._reply(record, now)

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

    def _written(self, write: PostedWrite, result: nfs_replies.WriteResult, now: Time) -> None:
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

    def _committed(self, write: PostedWrite, result: nfs_replies.CommitResult, now: Time) -> None:
        if result.status:
            self.copier.fail(f"COMMIT failed with NFS status {result.status}")
        elif result.verifier != write.verifier:
            # The server restarted in between: it may have lost the bytes.
            self.effects.append(VerifierChanged(write.xid, write.offset, write.count))
            former, write.xid = write.xid, self.rpc.next_xid
            self.effects.append(WriteReissued(former, write.xid))
            self._call_write(write, now)
        else:
            self._answered(write)

    def _answered(self, write: PostedWrite) -> None:
        write.replied = True
        self.strategy.replied(write)
        self.lending.release(write)
        if not write.done:
            self.effects.append(CompletionDeferred(write.xid))
