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

from lateack.nodes.nfs import nfs, nfs_calls, nfs_links, nfs_listing, nfs_replies
from lateack.nodes.nfs.drc import CacheEntry, Client
from lateack.nodes.nfs.nfs import NfsError
from lateack.nodes.nfs.rpc import Call
from lateack.nodes.nfs.server_events import CommitExecuted, OperationFailed, ServerEvent, WriteExecuted
from lateack.nodes.storage.memory_file import LINKS_MAX
from lateack.nodes.storage.store import Store
from lateack.nodes.storage.write_back import WriteBackStore

TRANSFER_DEFAULT: Final = 65536
"""The longest READ or WRITE that a server takes in one call unless told otherwise."""
LOSS_STEP: Final = 1 << 32
"""By how much a failed write-back moves the verifier; a restart moves it by one, so that no two causes ever meet."""

_UINT = struct.Struct(">I")
_COOKIE_VERIFIER = bytes(nfs.VERIFIER_BYTES)
_FILE_ACCESS = nfs.ACCESS_READ | nfs.ACCESS_MODIFY | nfs.ACCESS_EXTEND | nfs.ACCESS_EXECUTE
_DIRECTORY_ACCESS = nfs.ACCESS_READ | nfs.ACCESS_LOOKUP | nfs.ACCESS_MODIFY | nfs.ACCESS_EXTEND | nfs.ACCESS_DELETE
_CHANGING = nfs.ACCESS_MODIFY | nfs.ACCESS_EXTEND | nfs.ACCESS_DELETE
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

    __slots__ = ("cached", "events", "store", "transfer_max", "verifier", "write_back")

    def __init__(self, store: Store, verifier: bytes, transfer_max: int, write_back: bool = False) -> None:
        assert len(verifier) == nfs.VERIFIER_BYTES and 0 < transfer_max <= nfs.TRANSFER_BYTES_MAX
        self.store = store
        self.write_back = write_back  # whether UNSTABLE bytes may stay in memory until they are committed
        self.cached: WriteBackStore | None = None
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
        file = nfs_listing.lookup(store, arguments.directory, arguments.name)
        return nfs_replies.encode_lookup(file, store.getattr(file), store.getattr(arguments.directory))

    def access(self, admitted: AdmittedCall, now: int) -> bytes:
        """ACCESS: everything that makes sense for the kind of file, for this server asks nobody who he is.

        Of what may only be read, nothing that would change it (`nfsd_access`, where EROFS clears the bit).
        """
        arguments: nfs_calls.AccessArguments = admitted.arguments
        attributes = self.store.getattr(arguments.file)
        granted = _DIRECTORY_ACCESS if attributes.kind == nfs.NF3DIR else _FILE_ACCESS
        if self.store.read_only:
            granted &= ~_CHANGING
        return nfs_replies.encode_access(attributes, arguments.access & granted)

    def read(self, admitted: AdmittedCall, now: int) -> bytes:
        """READ."""
        arguments: nfs_calls.RangeArguments = admitted.arguments
        data = self.store.read(arguments.file, arguments.offset, min(arguments.count, self.transfer_max))
        attributes = self.store.getattr(arguments.file)
        return nfs_replies.encode_read(attributes, data, arguments.offset + len(data) >= attributes.size)

    def write(self, admitted: AdmittedCall, now: int) -> bytes:
        """WRITE, stable where asked; a payload beyond `transfer_max` is written in part, as a short count tells.

        DATA_SYNC gets what FILE_SYNC gets, and is answered as what it asked for.
        """
        arguments: nfs_calls.WriteArguments = admitted.arguments
        file, stable = arguments.file, arguments.stable
        if stable == nfs.UNSTABLE and self.write_back and self.cached is None:
            self.cached = self.store = WriteBackStore(self.store)  # who only writes stable never pays for it
        store = self.store
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
        """READDIR."""
        arguments: nfs_calls.ReaddirArguments = admitted.arguments
        attributes = self.store.getattr(arguments.directory)
        left = nfs_listing.entries_after(self.store, arguments.directory, arguments.cookie)
        room = min(arguments.count, self.transfer_max) - nfs_listing.RESULT_BYTES
        taken = nfs_listing.fitting(left, room)
        if left and not taken:
            raise NfsError(nfs.NFS3ERR_TOOSMALL)
        entries = [(entry.fileid, entry.name, entry.cookie) for entry in taken]
        return nfs_replies.encode_readdir(attributes, entries, _COOKIE_VERIFIER, len(taken) == len(left))

    def readdirplus(self, admitted: AdmittedCall, now: int) -> bytes:
        """READDIRPLUS: as READDIR, with attributes and handles."""
        arguments: nfs_listing.ReaddirplusArguments = admitted.arguments
        store, directory = self.store, arguments.directory
        attributes = store.getattr(directory)
        left = nfs_listing.entries_after(store, directory, arguments.cookie)
        names = nfs_listing.fitting(left, arguments.names_max)
        room = min(arguments.count, self.transfer_max) - nfs_listing.RESULT_BYTES
        # Linux's server passes dircount over; a client that cannot take one name gets one nevertheless.
        taken = nfs_listing.found_entries(store, directory, names or left[:1], room)
        if left and not taken:
            raise NfsError(nfs.NFS3ERR_TOOSMALL)
        return nfs_listing.encode_readdirplus_result(attributes, taken, _COOKIE_VERIFIER, len(taken) == len(left))

    def readlink(self, admitted: AdmittedCall, now: int) -> bytes:
        """READLINK: the text of a symbolic link, which is the client's to follow and never ours."""
        file = admitted.arguments.file
        return nfs_links.encode_readlink_result(self.store.getattr(file), self.store.readlink(file))

    def symlink(self, admitted: AdmittedCall, now: int) -> bytes:
        """SYMLINK; the attributes are passed over, as on any UNIX, where nothing asks for those of a link."""
        arguments: nfs_links.SymlinkArguments = admitted.arguments
        store, directory = self.store, arguments.directory
        if not arguments.target or b"\0" in arguments.target:
            raise NfsError(nfs.NFS3ERR_INVAL)
        file = store.symlink(directory, arguments.name, arguments.target, now)
        return nfs_replies.encode_create(file, store.getattr(file), store.getattr(directory))

    def link(self, admitted: AdmittedCall, now: int) -> bytes:
        """LINK."""
        arguments: nfs_links.LinkArguments = admitted.arguments
        store, directory = self.store, arguments.directory
        before = store.getattr(directory)
        store.link(arguments.file, directory, arguments.name, now)
        return nfs_links.encode_link_result(store.getattr(arguments.file), before, store.getattr(directory))

    def mknod(self, admitted: AdmittedCall, now: int) -> bytes:
        """MKNOD, which makes nothing here.

        A device in an exported directory would be one of the server's own host. A pipe or socket would serve those
        clients alone that have it open, without the server, and no store opens one: opening could block it for ever.
        """
        arguments: nfs_links.MknodArguments = admitted.arguments
        self.store.getattr(arguments.directory)
        made = arguments.kind in (nfs.NF3CHR, nfs.NF3BLK, nfs.NF3SOCK, nfs.NF3FIFO)
        raise NfsError(nfs.NFS3ERR_NOTSUPP if made else nfs.NFS3ERR_BADTYPE)

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
            self._lost()
            raise
        except NfsError as error:
            if error.status in _LOSSES:
                self._lost()
            raise

    def _lost(self) -> None:
        """Bytes that a client believes written may be lost: a new verifier makes it send them again, as Linux does."""
        changed = (int.from_bytes(self.verifier, "big") + LOSS_STEP) % (1 << (8 * nfs.VERIFIER_BYTES))
        self.verifier = changed.to_bytes(nfs.VERIFIER_BYTES, "big")

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


_LOSSES = (nfs.NFS3ERR_IO, nfs.NFS3ERR_NOSPC, nfs.NFS3ERR_DQUOT, nfs.NFS3ERR_FBIG, nfs.NFS3ERR_ROFS)
"""With these a commit says that bytes are lost; with others it was none."""
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
    (nfs_calls.decode_file, NfsProcedures.readlink, False),
    (nfs_calls.decode_range, NfsProcedures.read, False),
    (nfs_calls.decode_write, NfsProcedures.write, True),
    (nfs_calls.decode_create, NfsProcedures.create, True),
    (nfs_calls.decode_mkdir, NfsProcedures.mkdir, True),
    (nfs_links.decode_symlink, NfsProcedures.symlink, True),
    (nfs_links.decode_mknod, NfsProcedures.mknod, True),
    (nfs_calls.decode_name, NfsProcedures.remove, True),
    (nfs_calls.decode_name, NfsProcedures.rmdir, True),
    (nfs_calls.decode_rename, NfsProcedures.rename, True),
    (nfs_links.decode_link, NfsProcedures.link, True),
    (nfs_calls.decode_readdir, NfsProcedures.readdir, False),
    (nfs_listing.decode_readdirplus, NfsProcedures.readdirplus, False),
    (nfs_calls.decode_file, NfsProcedures.fsstat, False),
    (nfs_calls.decode_file, NfsProcedures.fsinfo, False),
    (nfs_calls.decode_file, NfsProcedures.pathconf, False),
    (nfs_calls.decode_range, NfsProcedures.commit, False),
)
