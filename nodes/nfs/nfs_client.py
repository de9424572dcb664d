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
    VerifierChanged,
    WriteIssued,
    WriteReissued,
)
from lateack.nodes.nfs import nfs, nfs_calls, nfs_replies
from lateack.nodes.nfs.nfs_file import PADDING
from lateack.nodes.nfs.nfs_mount import NfsMount as NfsMount
from lateack.nodes.nfs.nfs_write import NfsWrite as NfsWrite
from lateack.nodes.nfs.rpc_client import FAILED, RpcRequest
from lateack.nodes.nfs.rpc_transport import RpcTransport
from lateack.nodes.node import Time
from lateack.nodes.stack.host import IpStack
from lateack.nodes.stack.packets import digest_of
from lateack.nodes.stack.udp import udp_send_skb
from lateack.nodes.strategies.guest import GuestStrategy


class NfsClient(RpcTransport):
    """One mount with one file on it."""

    __slots__ = ("strategy",)

    def __init__(self, mount: NfsMount, stack: IpStack, copier: Copier, strategy: GuestStrategy) -> None:
        super().__init__(mount, stack, copier)
        self.strategy = strategy

    # --- the mount ----------------------------------------------------------------------------------------------------

    def finish(self, now: Time) -> None:
        """Every byte is written: close the connection once no call waits, and finish the copy when it is closed."""
        self.finishing = True
        if not self.rpc.pending:
            self._disconnect(now)
        # Else the strategy has believed somebody else than the server, whose replies are still to come.

    # --- calls --------------------------------------------------------------------------------------------------------

    def write(self, buffer: PageBuffer, now: Time) -> NfsWrite:
        """Write what lies in *buffer* to where it belongs in the file; return the write, which is under way now."""
        write = NfsWrite(buffer, self.mount.stable, now)
        if self.mount.pins:
            write.pin()
        self._issue(write)
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

    def _call_write(self, write: NfsWrite, now: Time) -> None:
        """Call WRITE for what the server has not acknowledged of a write: all of it, but after a short WRITE."""
        arguments = nfs_calls.encode_write_head(self.file, write.offset + write.start, write.left(), write.stable)
        self._call(nfs.WRITE, arguments, write, now, tail=PADDING[write.left() & 3])

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

    # --- replies ------------------------------------------------------------------------------------------------------

    def _all_answered(self, now: Time) -> None:
        self._disconnect(now)

    def _written(self, request: RpcRequest, result: nfs_replies.WriteResult, now: Time) -> None:
        write: NfsWrite = request.context
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

    def _committed(self, request: RpcRequest, result: nfs_replies.CommitResult, now: Time) -> None:
        write: NfsWrite = request.context
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
