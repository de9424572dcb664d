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
    VerifierChanged,
    WriteReissued,
)
from lateack.nodes.nfs import nfs, nfs_calls, nfs_replies
from lateack.nodes.nfs.nfs_file import PADDING, NfsFile
from lateack.nodes.nfs.nfs_mount import NfsMount
from lateack.nodes.nfs.rpc_client import FAILED, RpcRequest
from lateack.nodes.nfs.xdr import XdrError
from lateack.nodes.node import Time
from lateack.nodes.rdma.connector import CONNECTED, Connector
from lateack.nodes.rdma.lending import Lending, PostedSend, PostedWrite
from lateack.nodes.rdma.queue_pair import READY
from lateack.nodes.rdma.rpc_rdma import ReadChunk, decode_header, encode_header
from lateack.nodes.rdma.work import Completion, Incoming, Part
from lateack.nodes.strategies.rdma import RdmaStrategy

CREDITS: Final = 32
"""Calls at once that the client asks for (RPCRDMA_DEF_SLOT_TABLE is 128 in Linux)."""


class NfsRdmaClient(NfsFile):
    """One mount with one file on it, over one connection at a time."""

    __slots__ = ("connector", "inline_bytes", "lending", "strategy")

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
        super().__init__(mount, copier, connector.effects)
        self.connector = connector
        self.strategy = strategy
        self.inline_bytes = inline_bytes
        self.lending = Lending(connector.adapter.regions, strategy, connector.effects, retired_max=retired_max)

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
        if self.rpc.pending:
            self._send_pending(now)
        elif not self.file:
            self._open(now)

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

    # --- calls --------------------------------------------------------------------------------------------------------

    def write(self, buffer: PageBuffer, now: Time) -> PostedWrite:
        """Write what lies in *buffer* to where it belongs in the file; return the write, which is under way now."""
        write = PostedWrite(buffer, now)
        self._issue(write)
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

    def _transmit(self, request: RpcRequest, now: Time) -> None:
        """Post a call's Send; without a connection, or on one that has failed, it is posted when there is another."""
        pair = self.connector.pair
        if self.connector.state != CONNECTED or pair is None or pair.state != READY:
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

    def _written(self, request: RpcRequest, result: nfs_replies.WriteResult, now: Time) -> None:
        write: PostedWrite = request.context
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

    def _committed(self, request: RpcRequest, result: nfs_replies.CommitResult, now: Time) -> None:
        write: PostedWrite = request.context
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
