"""A client's side of a conversation with an NFS server, for tests."""

from __future__ import annotations

from lateack.nodes.nfs import nfs, nfs_calls, nfs_replies, rpc
from lateack.nodes.nfs.nfs_server import NfsServer

GUEST = ("10.0.0.2", 800)
CREDENTIAL = rpc.encode_auth_sys(rpc.AuthSys(0, b"guest", 0, 0))


def call_record(procedure: int, arguments: bytes, xid: int) -> bytes:
    """A whole call."""
    return rpc.encode_call(xid, nfs.PROGRAM, nfs.VERSION, procedure, CREDENTIAL) + arguments


def write_arguments(file: bytes, offset: int, data: bytes, stable: int = nfs.FILE_SYNC) -> bytes:
    """WRITE's arguments with their payload."""
    head = nfs_calls.encode_write_head(file, offset, len(data), stable)
    return head + data + bytes(-len(data) % 4)


class Conversation:
    """A client that numbers its calls and reads the results."""

    def __init__(self, server: NfsServer) -> None:
        self.server = server
        self.xid = 0
        self.now = 1_000_000_000

    def call(self, procedure: int, arguments: bytes) -> bytes:
        """Make a call, expect that it was executed and give its results."""
        self.xid += 1
        self.now += 1000
        reply = self.server.handle_call(call_record(procedure, arguments, self.xid), GUEST, self.now)
        assert reply is not None
        header = rpc.decode_reply(reply)
        assert header.succeeded(), header
        return reply[header.results :]

    def create(self, name: bytes, directory: bytes | None = None, **more: int | bytes) -> nfs_replies.FileResult:
        """Create a file, UNCHECKED unless told otherwise."""
        mode = more.get("mode", nfs.UNCHECKED)
        verifier = more.get("verifier", b"")
        assert isinstance(mode, int)
        assert isinstance(verifier, bytes)
        arguments = nfs_calls.encode_create(
            directory or self.server.root_handle, name, nfs.SetAttributes(mode=0o640), mode, verifier
        )
        return nfs_replies.decode_create(self.call(nfs.CREATE, arguments), 0)

    def made(self, name: bytes, directory: bytes | None = None) -> bytes:
        """Create a file and give its handle."""
        file = self.create(name, directory).file
        assert file is not None
        return file

    def made_directory(self, name: bytes) -> bytes:
        """Make a directory in the root and give its handle."""
        arguments = nfs_calls.encode_mkdir(self.server.root_handle, name, nfs.SetAttributes())
        file = nfs_replies.decode_create(self.call(nfs.MKDIR, arguments), 0).file
        assert file is not None
        return file

    def lookup(self, name: bytes, directory: bytes | None = None) -> nfs_replies.FileResult:
        """Look a name up."""
        arguments = nfs_calls.encode_name(directory or self.server.root_handle, name)
        return nfs_replies.decode_lookup(self.call(nfs.LOOKUP, arguments), 0)

    def write(self, file: bytes, offset: int, data: bytes, stable: int = nfs.FILE_SYNC) -> nfs_replies.WriteResult:
        """Write."""
        return nfs_replies.decode_write_result(self.call(nfs.WRITE, write_arguments(file, offset, data, stable)), 0)

    def read(self, file: bytes, offset: int, count: int) -> nfs_replies.ReadResult:
        """Read."""
        return nfs_replies.decode_read(self.call(nfs.READ, nfs_calls.encode_range(file, offset, count)), 0)

    def commit(self, file: bytes) -> nfs_replies.CommitResult:
        """Commit a whole file."""
        return nfs_replies.decode_commit(self.call(nfs.COMMIT, nfs_calls.encode_range(file, 0, 0)), 0)

    def attributes(self, file: bytes) -> nfs.Attributes:
        """What a file is."""
        found = nfs_replies.decode_getattr(self.call(nfs.GETATTR, nfs_calls.encode_file(file)), 0).attributes
        assert found is not None
        return found

    def status(self, procedure: int, arguments: bytes) -> int:
        """Make a call of which the status alone matters."""
        return nfs_replies.decode_status(self.call(procedure, arguments), 0).status
