"""MOUNT version 3, by which an NFS client learns the handle of an exported directory (RFC 1813 appendix I).

Where a real server has a program of its own for it (mountd), on a port that the portmapper knows, this one answers on
the port of NFS: a client that is told both ports needs no portmapper.
"""

from __future__ import annotations

import struct
from typing import Final

from lateack.nodes.nfs import rpc
from lateack.nodes.nfs.drc import Client
from lateack.nodes.nfs.nfs import HANDLE_BYTES_MAX, NF3DIR, NFS3ERR_NOTDIR, NfsError, status_of_oserror
from lateack.nodes.nfs.xdr import Packer, Unpacker, XdrError
from lateack.nodes.storage.store import Store

PROGRAM: Final = 100005
VERSION: Final = 3

NULL: Final = 0
MNT: Final = 1
DUMP: Final = 2
UMNT: Final = 3
UMNTALL: Final = 4
EXPORT: Final = 5
PROCEDURES: Final = 6

PATH_BYTES_MAX: Final = 1024
"""The longest path that a client may name (MNTPATHLEN)."""
NAME_BYTES_MAX: Final = 255
"""The longest name of a client (MNTNAMLEN)."""
FLAVORS_MAX: Final = 16
MOUNTS_MAX: Final = 256
"""How many mounts are remembered for DUMP; the oldest go first, for the list is for people to read and for no more."""

MNT3_OK: Final = 0
MNT3ERR_PERM: Final = 1
MNT3ERR_NOENT: Final = 2
MNT3ERR_IO: Final = 5
MNT3ERR_ACCES: Final = 13
MNT3ERR_NOTDIR: Final = 20
MNT3ERR_INVAL: Final = 22
MNT3ERR_NAMETOOLONG: Final = 63
MNT3ERR_NOTSUPP: Final = 10004
MNT3ERR_SERVERFAULT: Final = 10006

ROOT: Final = b"/"
FLAVORS: Final = (rpc.AUTH_SYS, rpc.AUTH_NONE)
"""What a mounted directory may be used with, the best first."""

_STATUSES = frozenset({
    MNT3ERR_PERM, MNT3ERR_NOENT, MNT3ERR_IO, MNT3ERR_ACCES, MNT3ERR_NOTDIR, MNT3ERR_INVAL, MNT3ERR_NAMETOOLONG,
    MNT3ERR_NOTSUPP,
})  # fmt: skip
_UINT = struct.Struct(">I")


class MountServer:
    """Program 100005 version 3 over a store, whose root is exported as "/".

    `own_path` is a second name for the root, such as the path of a real directory; directories below either name can
    be mounted, too. Nobody is refused: who must not come in is kept out by the address that the server listens on.
    """

    __slots__ = ("mounts", "own_path", "store")

    def __init__(self, store: Store, own_path: bytes = ROOT) -> None:
        self.store = store
        self.own_path = _parts(own_path)
        self.mounts: dict[tuple[str, bytes], None] = {}

    def answer(self, call: rpc.Call, record: bytes, client: Client) -> bytes:
        """Execute one call whose program is 100005 and give its whole reply."""
        if call.version != VERSION:  # version 1 gives handles of version 2's 32 bytes, and is of no use to us
            return rpc.encode_program_mismatch(call.xid, VERSION, VERSION)
        if call.procedure >= PROCEDURES:
            return rpc.encode_refusal(call.xid, rpc.PROC_UNAVAIL)
        try:
            return rpc.encode_success(call.xid, self._results(call, record, client[0]))
        except XdrError:
            return rpc.encode_refusal(call.xid, rpc.GARBAGE_ARGS)

    def _results(self, call: rpc.Call, record: bytes, address: str) -> bytes:
        if call.procedure == MNT:
            return self._mount(decode_path(record, call.arguments), address)
        if call.procedure == UMNT:
            self.mounts.pop((address, decode_path(record, call.arguments)), None)
        elif call.procedure == UMNTALL:
            self.mounts = {each: None for each in self.mounts if each[0] != address}
        elif call.procedure == DUMP:
            return encode_dump(list(self.mounts))
        elif call.procedure == EXPORT:
            return encode_exports([ROOT])  # a second name of the same would look like another one to be mounted
        return b""

    def _mount(self, path: bytes, address: str) -> bytes:
        try:
            handle = self._directory(path)
        except NfsError as error:
            return encode_mount_failure(error.status)
        except OSError as error:
            return encode_mount_failure(status_of_oserror(error))
        key = (address, path)
        self.mounts.pop(key, None)
        self.mounts[key] = None
        if len(self.mounts) > MOUNTS_MAX:
            del self.mounts[next(iter(self.mounts))]
        return encode_mount_result(handle)

    def _directory(self, path: bytes) -> bytes:
        """The handle of a directory by its path; NfsError or OSError where there is none."""
        store, parts = self.store, _parts(path)
        if self.own_path and parts[: len(self.own_path)] == self.own_path:
            parts = parts[len(self.own_path) :]
        handle = store.root
        for part in parts:  # ".." is no name, and a symbolic link no directory
            handle = store.lookup(handle, part)
        if store.getattr(handle).kind != NF3DIR:
            raise NfsError(NFS3ERR_NOTDIR)
        return handle


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part]


def encode_path(path: bytes) -> bytes:
    """The arguments of MNT and UMNT."""
    packer = Packer()
    packer.opaque(path)
    return packer.finish()


def decode_path(record: bytes, position: int) -> bytes:
    """Read the arguments of MNT or UMNT; raises XdrError."""
    return Unpacker(record, position).opaque(PATH_BYTES_MAX)


def encode_mount_result(handle: bytes) -> bytes:
    """What MNT answers: the directory's handle, and what it may be used with."""
    packer = Packer()
    packer.uint(MNT3_OK)
    packer.opaque(handle)
    packer.uint(len(FLAVORS))
    for flavor in FLAVORS:
        packer.uint(flavor)
    return packer.finish()


def encode_mount_failure(status: int) -> bytes:
    """What MNT answers where it fails; an nfsstat3 that is no mountstat3 becomes MNT3ERR_SERVERFAULT."""
    return _UINT.pack(status if status in _STATUSES else MNT3ERR_SERVERFAULT)


def decode_mount_result(results: bytes) -> tuple[int, bytes, tuple[int, ...]]:
    """Read MNT's results as (mountstat3, handle, flavors); raises XdrError."""
    unpacker = Unpacker(results)
    status = unpacker.uint()
    if status != MNT3_OK:
        return status, b"", ()
    handle = unpacker.opaque(HANDLE_BYTES_MAX)
    count = unpacker.uint()
    if count > FLAVORS_MAX:
        raise XdrError(f"{count} flavors, where {FLAVORS_MAX} are allowed")
    return status, handle, tuple(unpacker.uint() for _ in range(count))


def encode_dump(mounts: list[tuple[str, bytes]]) -> bytes:
    """What DUMP answers: each client's address and the path that it has mounted."""
    packer = Packer()
    for address, path in mounts:
        packer.uint(1)
        packer.opaque(address.encode()[:NAME_BYTES_MAX])
        packer.opaque(path)
    packer.uint(0)
    return packer.finish()


def decode_dump(results: bytes) -> list[tuple[str, bytes]]:
    """Read DUMP's results; raises XdrError."""
    unpacker = Unpacker(results)
    mounts = []
    while unpacker.boolean():
        name = unpacker.opaque(NAME_BYTES_MAX)
        mounts.append((name.decode("utf-8", "backslashreplace"), unpacker.opaque(PATH_BYTES_MAX)))
    return mounts


def encode_exports(paths: list[bytes]) -> bytes:
    """What EXPORT answers: each exported path, with no groups, which means that everybody may mount it."""
    packer = Packer()
    for path in paths:
        packer.uint(1)
        packer.opaque(path)
        packer.uint(0)
    packer.uint(0)
    return packer.finish()


def decode_exports(results: bytes) -> list[bytes]:
    """Read EXPORT's results and give the paths; raises XdrError."""
    unpacker = Unpacker(results)
    paths = []
    while unpacker.boolean():
        paths.append(unpacker.opaque(PATH_BYTES_MAX))
        while unpacker.boolean():
            unpacker.opaque(NAME_BYTES_MAX)  # a group
    return paths
