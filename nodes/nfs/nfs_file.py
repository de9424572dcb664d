"""The one file that an NFS client makes and writes, whatever carries its calls: sockets or an RDMA adapter.

Here calls become bytes and replies become results; what a WRITE lends, and what its reply gives back, is in the two
clients that are made of this (`nfs_client`, and `nfs_rdma` of the RDMA adapter).

Source: RFC 1813; fs/nfs/proc.c.
"""

from lateack.nodes.application import Copier
from lateack.nodes.facts import ReplyMatched, WriteIssued
from lateack.nodes.nfs import nfs, nfs_calls, nfs_replies
from lateack.nodes.nfs.nfs import SetAttributes
from lateack.nodes.nfs.nfs_mount import NfsMount
from lateack.nodes.nfs.rpc import AuthSys, decode_reply, encode_auth_sys, encode_call
from lateack.nodes.nfs.rpc_client import RpcClient, RpcRequest
from lateack.nodes.nfs.xdr import XdrError
from lateack.nodes.node import Effect, Time
from lateack.nodes.storage.page_write import PageWrite
from lateack.nodes.storage.remote import RemoteStorage

PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
"""What makes a payload's length a multiple of four, by the length's last two bits."""


class NfsFile(RemoteStorage):
    """A mount with one file on it; `file` is the handle, once it has been made."""

    __slots__ = ("copier", "credential", "effects", "file", "mount", "rpc")

    def __init__(self, mount: NfsMount, copier: Copier, effects: list[Effect]) -> None:
        super().__init__()
        self.mount = mount
        self.copier = copier
        self.effects = effects
        self.rpc = RpcClient(mount.first_xid, mount.timeouts)
        self.credential = encode_auth_sys(AuthSys(0, mount.client.encode(), 0, 0))
        self.file = b""

    # --- what a client of these says ----------------------------------------------------------------------------------

    def _transmit(self, request: RpcRequest, now: Time) -> None:
        """Send a call, now or when there is a connection."""
        raise NotImplementedError

    def _written(self, request: RpcRequest, result: nfs_replies.WriteResult, now: Time) -> None:
        """A WRITE has been answered."""
        raise NotImplementedError

    def _committed(self, request: RpcRequest, result: nfs_replies.CommitResult, now: Time) -> None:
        """A COMMIT has been answered."""
        raise NotImplementedError

    def _all_answered(self, now: Time) -> None:
        """Every byte is written, and no call waits any more."""

    # --- calls --------------------------------------------------------------------------------------------------------

    def outstanding(self) -> int:
        """Return how many calls have no reply."""
        return len(self.rpc.pending)

    def writes_in_flight(self) -> list[PageWrite]:
        """Return the writes whose WRITE or COMMIT has not been answered."""
        contexts = [request.context for request in self.rpc.pending.values()]
        return [context for context in contexts if isinstance(context, PageWrite)]

    def counted(self) -> dict[str, int]:
        """Return what RPC has counted."""
        return {
            "rpc_retransmissions": self.rpc.retransmissions,
            "unmatched_replies": self.rpc.unmatched_replies,
        }

    def _issue(self, write: PageWrite) -> None:
        """Give a write the number of the next call, and record it."""
        write.xid = self.rpc.next_xid
        self.payload_bytes += write.count
        buffer = write.buffer
        self.effects.append(
            WriteIssued(
                write.xid, self.copier.file, write.offset, write.count, buffer.digest, buffer.index, buffer.frames
            )
        )

    def _call(self, procedure: int, arguments: bytes, context: object, now: Time, *, tail: bytes = b"") -> None:
        head = encode_call(self.rpc.next_xid, nfs.PROGRAM, nfs.VERSION, procedure, self.credential) + arguments
        self._transmit(self.rpc.start(procedure, head, None, tail, context, now), now)

    def _send_pending(self, now: Time) -> None:
        """Send every call again that has no reply, in the order in which they were made."""
        for request in list(self.rpc.pending.values()):
            self._transmit(request, now)

    def _open(self, now: Time) -> None:
        """Make the client's folder, if it has one, and create the file."""
        folder, _, name = self.copier.file.rpartition("/")
        if folder:
            arguments = nfs_calls.encode_mkdir(self.mount.root, folder.encode(), SetAttributes())
            self._call(nfs.MKDIR, arguments, None, now)
        else:
            self._create(self.mount.root, name, now)

    def _create(self, directory: bytes, name: str, now: Time) -> None:
        arguments = nfs_calls.encode_create(directory, name.encode(), SetAttributes(size=0))
        self._call(nfs.CREATE, arguments, None, now)

    # --- replies ------------------------------------------------------------------------------------------------------

    def _reply(self, record: bytes, now: Time) -> None:
        """Take one reply."""
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
            self._all_answered(now)

    def _result(self, request: RpcRequest, record: bytes, at: int, now: Time) -> None:
        match request.proc:
            case nfs.WRITE:
                self._written(request, nfs_replies.decode_write_result(record, at), now)
            case nfs.COMMIT:
                self._committed(request, nfs_replies.decode_commit(record, at), now)
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
