"""What each NFSv3 procedure does to a store and what it answers (RFC 1813 section 3.3).

An executor takes an admitted call and gives the whole results of a success; a failure is an NfsError or OSError, for
which `failure` makes the results.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import msgspec
import xxhash

from lateack.nodes.storage import nfs, nfs_calls, nfs_replies
from lateack.nodes.storage.drc import CacheEntry, Client
from lateack.nodes.storage.nfs import NfsError
from lateack.nodes.storage.rpc import Call
from lateack.nodes.storage.server_events import CommitExecuted, OperationFailed, ServerEvent, WriteExecuted
from lateack.nodes.storage.store import Store

LINKS_MAX: Final = 32000
READDIR_ENTRY_BYTES: Final = 24
"""What an entry of READDIR takes besides its name and padding: two marks, a fileid, a length and a cookie, rounded."""
TRANSFER_DEFAULT: Final = 65536
"""The longest READ or WRITE that a server takes in one call unless told otherwise."""

_UINT = struct.Struct(">I")
_FILE_ACCESS = nfs.ACCESS_READ | nfs.ACCESS_MODIFY | nfs.ACCESS_EXTEND | nfs.ACCESS_EXECUTE
_DIRECTORY_ACCESS = nfs.ACCESS_READ | nfs.ACCESS_LOOKUP | nfs.ACCESS_MODIFY | nfs.ACCESS_EXTEND | nfs.ACCESS_DELETE
# Bytes of the results after the status where an operation failed: attributes that we do not give, each a zero.
_POST_OP, _WCC = 4, 8
_FAILURE_BYTES = {
    nfs.GETATTR: 0,
    nfs.SETATTR: _WCC,
    nfs.WRITE: _WCC,
    nfs.CREATE: _WCC,
    nfs.MKDIR: _WCC,
    nfs.SYMLINK: _WCC,
    nfs.MKNOD: _WCC,
    nfs.REMOVE: _WCC,
    nfs.RMDIR: _WCC,
    nfs.RENAME: _WCC + _WCC,
    nfs.LINK: _POST_OP + _WCC,
    nfs.COMMIT: _WCC,
}


class AdmittedCall:
    """A call that is decoded and will be executed: a machine may keep it while its disk is busy."""

    __slots__ = ("arguments", "call", "client", "entry", "record")

    def __init__(self, call: Call, record: bytes, client: Client, arguments: Any) -> None:
        self.call = call
        self.record = record
        self.client = client
        self.arguments = arguments
        self.entry: CacheEntry | None = None


class NfsProcedures:
    """One server instance's procedures: a store, a write verifier and a list of what happened."""

    __slots__ = ("events", "store", "transfer_max", "verifier")

    def __init__(self, store: Store, verifier: bytes, transfer_max: int) -> None:
        assert len(verifier) == nfs.VERIFIER_BYTES and 0 < transfer_max <= nfs.TRANSFER_BYTES_MAX
        self.store = store
        self.verifier = verifier
        self.transfer_max = transfer_max
        self.events: list[ServerEvent] = []

    def null(self, admitted: AdmittedCall, now: int) -> bytes:
        """NULL."""
        return b""

    def getattr(self, admitted: AdmittedCall, now: int) -> bytes:
        """GETATTR."""
        return nfs_replies.encode_getattr(self.store.getattr(admitted.arguments.file))

    def setattr(self, admitted: AdmittedCall, now: int) -> bytes:
        """SETATTR, which a guard may refuse with NFS3ERR_NOT_SYNC."""
        arguments: nfs_calls.SetattrArguments = admitted.arguments
        before = self.store.getattr(arguments.file)
        if arguments.guard is not None and arguments.guard != before.ctime:
            raise NfsError(nfs.NFS3ERR_NOT_SYNC)
        self.store.setattr(arguments.file, arguments.changes, now)
        return nfs_replies.encode_changed(before, self.store.getattr(arguments.file))

    def lookup(self, admitted: AdmittedCall, now: int) -> bytes:
        """LOOKUP."""
        arguments: nfs_calls.NameArguments = admitted.arguments
        store = self.store
        file = store.lookup(arguments.directory, arguments.name)
        return nfs_replies.encode_lookup(file, store.getattr(file), store.getattr(arguments.directory))

    def access(self, admitted: AdmittedCall, now: int) -> bytes:
        """ACCESS: everything that makes sense for the kind of file, for this server asks nobody who he is."""
        arguments: nfs_calls.AccessArguments = admitted.arguments
        attributes = self.store.getattr(arguments.file)
        granted = _DIRECTORY_ACCESS if attributes.kind == nfs.NF3DIR else _FILE_ACCESS
        return nfs_replies.encode_access(attributes, arguments.access & granted)

    def read(self, admitted: AdmittedCall, now: int) -> bytes:
        """READ."""
        arguments: nfs_calls.RangeArguments = admitted.arguments
        data = self.store.read(arguments.file, arguments.offset, min(arguments.count, self.transfer_max))
        attributes = self.store.getattr(arguments.file)
        return nfs_replies.encode_read(attributes, data, arguments.offset + len(data) >= attributes.size)

    def write(self, admitted: AdmittedCall, now: int) -> bytes:
        """WRITE, stable where asked; a payload beyond `transfer_max` is written in part, as a short count tells."""
        arguments: nfs_calls.WriteArguments = admitted.arguments
        store = self.store
        file, stable = arguments.file, arguments.stable
        payload = arguments.payload(admitted.record)
        if arguments.count > self.transfer_max:
            payload = payload[: self.transfer_max]
        before = store.getattr(file)
        count = store.write(file, arguments.offset, payload, now)
        digest = xxhash.xxh3_64_intdigest(payload if count == arguments.count else payload[:count])
        self.events.append(
            WriteExecuted(admitted.call.xid, admitted.client, store.path(file), arguments.offset, count, stable, digest)
        )
        if stable != nfs.UNSTABLE:
            self._make_stable(file)
        return nfs_replies.encode_write(before, store.getattr(file), count, stable, self.verifier)

    def create(self, admitted: AdmittedCall, now: int) -> bytes:
        """CREATE in its three modes; an EXCLUSIVE one that comes again finds its own verifier and succeeds."""
        arguments: nfs_calls.CreateArguments = admitted.arguments
        try:
            file = self.store.lookup(arguments.directory, arguments.name)
        except (NfsError, OSError) as error:
            if _status_of(error) != nfs.NFS3ERR_NOENT:
                raise
            return self._made(arguments, self._create_new(arguments, now), now)
        attributes = self.store.getattr(file)
        exclusive_again = arguments.mode == nfs.EXCLUSIVE and _exclusive_times(arguments.verifier) == (
            attributes.mtime // nfs.SECOND,
            attributes.atime // nfs.SECOND,
        )
        if attributes.kind != nfs.NF3REG or (arguments.mode != nfs.UNCHECKED and not exclusive_again):
            raise NfsError(nfs.NFS3ERR_EXIST)
        # An UNCHECKED one that finds the file sets its size alone, as Linux's server does.
        if arguments.changes.size is not None:
            self.store.setattr(file, nfs.SetAttributes(size=arguments.changes.size), now)
        return self._created(arguments, file)

    def mkdir(self, admitted: AdmittedCall, now: int) -> bytes:
        """MKDIR."""
        arguments: nfs_calls.CreateArguments = admitted.arguments
        mode = arguments.changes.mode
        file = self.store.mkdir(arguments.directory, arguments.name, 0o755 if mode is None else mode, now)
        return self._made(arguments, file, now)

    def remove(self, admitted: AdmittedCall, now: int) -> bytes:
        """REMOVE."""
        arguments: nfs_calls.NameArguments = admitted.arguments
        self.store.remove(arguments.directory, arguments.name, now)
        return nfs_replies.encode_changed(None, self.store.getattr(arguments.directory))

    def rmdir(self, admitted: AdmittedCall, now: int) -> bytes:
        """RMDIR."""
        arguments: nfs_calls.NameArguments = admitted.arguments
        self.store.rmdir(arguments.directory, arguments.name, now)
        return nfs_replies.encode_changed(None, self.store.getattr(arguments.directory))

    def rename(self, admitted: AdmittedCall, now: int) -> bytes:
        """RENAME."""
        a: nfs_calls.RenameArguments = admitted.arguments
        self.store.rename(a.from_directory, a.from_name, a.to_directory, a.to_name, now)
        return nfs_replies.encode_rename(self.store.getattr(a.from_directory), self.store.getattr(a.to_directory))

    def readdir(self, admitted: AdmittedCall, now: int) -> bytes:
        """READDIR; a cookie is an entry's place in the sorted list."""
        arguments: nfs_calls.ReaddirArguments = admitted.arguments
        attributes = self.store.getattr(arguments.directory)
        names = [(b".", attributes.fileid), (b"..", attributes.fileid), *self.store.readdir(arguments.directory)]
        left = min(arguments.count, self.transfer_max) - 128
        entries: list[tuple[int, bytes, int]] = []
        for cookie, (name, fileid) in enumerate(names[arguments.cookie :], arguments.cookie + 1):
            left -= READDIR_ENTRY_BYTES + len(name) + 4
            if left < 0:
                break
            entries.append((fileid, name, cookie))
        if not entries and arguments.cookie < len(names):
            raise NfsError(nfs.NFS3ERR_TOOSMALL)
        return nfs_replies.encode_readdir(attributes, entries, bytes(8), arguments.cookie + len(entries) >= len(names))

    def fsstat(self, admitted: AdmittedCall, now: int) -> bytes:
        """FSSTAT."""
        return nfs_replies.encode_fsstat(self.store.getattr(admitted.arguments.file), self.store.capacity())

    def fsinfo(self, admitted: AdmittedCall, now: int) -> bytes:
        """FSINFO."""
        attributes = self.store.getattr(admitted.arguments.file)
        return nfs_replies.encode_fsinfo(attributes, self.transfer_max, self.store.file_bytes_max)

    def pathconf(self, admitted: AdmittedCall, now: int) -> bytes:
        """PATHCONF."""
        attributes = self.store.getattr(admitted.arguments.file)
        return nfs_replies.encode_pathconf(attributes, LINKS_MAX, nfs.NAME_BYTES_MAX)

    def commit(self, admitted: AdmittedCall, now: int) -> bytes:
        """COMMIT."""
        arguments: nfs_calls.RangeArguments = admitted.arguments
        store = self.store
        before = store.getattr(arguments.file)
        self._make_stable(arguments.file)
        path = store.path(arguments.file)
        self.events.append(CommitExecuted(admitted.call.xid, admitted.client, path, arguments.offset, arguments.count))
        return nfs_replies.encode_commit(before, store.getattr(arguments.file), self.verifier)

    def unsupported(self, admitted: AdmittedCall, now: int) -> bytes:
        """READLINK, SYMLINK, MKNOD, LINK and READDIRPLUS, which no workload here needs."""
        raise NfsError(nfs.NFS3ERR_NOTSUPP)

    def failure(self, admitted: AdmittedCall, error: NfsError | OSError) -> bytes:
        """The results of a call that failed."""
        status = _status_of(error)
        call = admitted.call
        self.events.append(OperationFailed(call.xid, admitted.client, call.procedure, status))
        return _UINT.pack(status) + bytes(_FAILURE_BYTES.get(call.procedure, _POST_OP))

    def _make_stable(self, file: bytes) -> None:
        try:
            self.store.commit(file)
        except OSError:
            # Bytes that a client believes written may be lost: a new verifier makes it send them again, as Linux does.
            self.verifier = ((int.from_bytes(self.verifier, "big") + 1) % (1 << 64)).to_bytes(8, "big")
            raise

    def _create_new(self, arguments: nfs_calls.CreateArguments, now: int) -> bytes:
        mode = arguments.changes.mode
        return self.store.create(arguments.directory, arguments.name, 0o644 if mode is None else mode, now)

    def _made(self, arguments: nfs_calls.CreateArguments, file: bytes, now: int) -> bytes:
        """Set what a new file is to have besides its mode, and answer."""
        changes = arguments.changes
        if arguments.mode == nfs.EXCLUSIVE:
            # As Linux does, the verifier lies in the file's times until the client sets them.
            mtime, atime = _exclusive_times(arguments.verifier)
            changes = nfs.SetAttributes(atime=atime * nfs.SECOND, mtime=mtime * nfs.SECOND)
        elif changes.mode is not None:
            changes = msgspec.structs.replace(changes, mode=None)
        if changes != _NO_CHANGES:
            self.store.setattr(file, changes, now)
        return self._created(arguments, file)

    def _created(self, arguments: nfs_calls.CreateArguments, file: bytes) -> bytes:
        store = self.store
        return nfs_replies.encode_create(file, store.getattr(file), store.getattr(arguments.directory))


_NO_CHANGES = nfs.SetAttributes()

Executor = Callable[[NfsProcedures, AdmittedCall, int], bytes]
Decoder = Callable[[bytes, int], Any]


def _decode_nothing(record: bytes, position: int) -> None:
    return None


def _status_of(error: NfsError | OSError) -> int:
    return error.status if isinstance(error, NfsError) else nfs.status_of_oserror(error)


def _exclusive_times(verifier: bytes) -> tuple[int, int]:
    """EXCLUSIVE's verifier as mtime and atime in seconds; some file systems lose the high bit (nfsd_create_v3)."""
    high, low = struct.unpack(">2I", verifier)
    return high & 0x7FFFFFFF, low & 0x7FFFFFFF


# By procedure number: the decoder of its arguments, its executor, and whether its reply is cached (pc_cachetype in
# fs/nfsd/nfs3proc.c: RC_REPLBUFF for what modifies, RC_NOCACHE for the rest).
PROCEDURES: Final[tuple[tuple[Decoder, Executor, bool], ...]] = (
    (_decode_nothing, NfsProcedures.null, False),
    (nfs_calls.decode_file, NfsProcedures.getattr, False),
    (nfs_calls.decode_setattr, NfsProcedures.setattr, True),
    (nfs_calls.decode_name, NfsProcedures.lookup, False),
    (nfs_calls.decode_access, NfsProcedures.access, False),
    (nfs_calls.decode_file, NfsProcedures.unsupported, False),
    (nfs_calls.decode_range, NfsProcedures.read, False),
    (nfs_calls.decode_write, NfsProcedures.write, True),
    (nfs_calls.decode_create, NfsProcedures.create, True),
    (nfs_calls.decode_mkdir, NfsProcedures.mkdir, True),
    (nfs_calls.decode_name, NfsProcedures.unsupported, True),
    (nfs_calls.decode_name, NfsProcedures.unsupported, True),
    (nfs_calls.decode_name, NfsProcedures.remove, True),
    (nfs_calls.decode_name, NfsProcedures.rmdir, True),
    (nfs_calls.decode_rename, NfsProcedures.rename, True),
    (nfs_calls.decode_file, NfsProcedures.unsupported, True),
    (nfs_calls.decode_readdir, NfsProcedures.readdir, False),
    (nfs_calls.decode_file, NfsProcedures.unsupported, False),
    (nfs_calls.decode_file, NfsProcedures.fsstat, False),
    (nfs_calls.decode_file, NfsProcedures.fsinfo, False),
    (nfs_calls.decode_file, NfsProcedures.pathconf, False),
    (nfs_calls.decode_range, NfsProcedures.commit, False),
)
