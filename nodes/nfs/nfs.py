"""The words of NFS version 3 (RFC 1813): its numbers, its records and how attributes are laid out."""

from __future__ import annotations

import errno
import struct
from typing import Final

from lateack.nodes.nfs.xdr import Packer, Unpacker, XdrError
from lateack.nodes.records import LightRecord

PORT: Final = 2049
PROGRAM: Final = 100003
VERSION: Final = 3

NULL: Final = 0
GETATTR: Final = 1
SETATTR: Final = 2
LOOKUP: Final = 3
ACCESS: Final = 4
READLINK: Final = 5
READ: Final = 6
WRITE: Final = 7
CREATE: Final = 8
MKDIR: Final = 9
SYMLINK: Final = 10
MKNOD: Final = 11
REMOVE: Final = 12
RMDIR: Final = 13
RENAME: Final = 14
LINK: Final = 15
READDIR: Final = 16
READDIRPLUS: Final = 17
FSSTAT: Final = 18
FSINFO: Final = 19
PATHCONF: Final = 20
COMMIT: Final = 21
PROCEDURES: Final = 22

# nfsstat3 (section 2.6)
NFS3_OK: Final = 0
NFS3ERR_PERM: Final = 1
NFS3ERR_NOENT: Final = 2
NFS3ERR_IO: Final = 5
NFS3ERR_NXIO: Final = 6
NFS3ERR_ACCES: Final = 13
NFS3ERR_EXIST: Final = 17
NFS3ERR_XDEV: Final = 18
NFS3ERR_NODEV: Final = 19
NFS3ERR_NOTDIR: Final = 20
NFS3ERR_ISDIR: Final = 21
NFS3ERR_INVAL: Final = 22
NFS3ERR_FBIG: Final = 27
NFS3ERR_NOSPC: Final = 28
NFS3ERR_ROFS: Final = 30
NFS3ERR_MLINK: Final = 31
NFS3ERR_NAMETOOLONG: Final = 63
NFS3ERR_NOTEMPTY: Final = 66
NFS3ERR_DQUOT: Final = 69
NFS3ERR_STALE: Final = 70
NFS3ERR_BADHANDLE: Final = 10001
NFS3ERR_NOT_SYNC: Final = 10002
NFS3ERR_BAD_COOKIE: Final = 10003
NFS3ERR_NOTSUPP: Final = 10004
NFS3ERR_TOOSMALL: Final = 10005
NFS3ERR_SERVERFAULT: Final = 10006
NFS3ERR_BADTYPE: Final = 10007

# ftype3
NF3REG: Final = 1
NF3DIR: Final = 2
NF3BLK: Final = 3
NF3CHR: Final = 4
NF3LNK: Final = 5
NF3SOCK: Final = 6
NF3FIFO: Final = 7

# stable_how
UNSTABLE: Final = 0
DATA_SYNC: Final = 1
FILE_SYNC: Final = 2

# createmode3
UNCHECKED: Final = 0
GUARDED: Final = 1
EXCLUSIVE: Final = 2

# access bits
ACCESS_READ: Final = 0x01
ACCESS_LOOKUP: Final = 0x02
ACCESS_MODIFY: Final = 0x04
ACCESS_EXTEND: Final = 0x08
ACCESS_DELETE: Final = 0x10
ACCESS_EXECUTE: Final = 0x20

# time_how
_DONT_CHANGE = 0
_SET_TO_SERVER_TIME = 1
_SET_TO_CLIENT_TIME = 2

HANDLE_BYTES_MAX: Final = 64
NAME_BYTES_MAX: Final = 255
VERIFIER_BYTES: Final = 8
TRANSFER_BYTES_MAX: Final = 1 << 20
"""The longest READ or WRITE that Linux's server takes (RPCSVC_MAXPAYLOAD)."""

SECOND: Final = 1_000_000_000
SERVER_TIME: Final = -1
"""In `SetAttributes`: the server's own time, whatever it is then."""

_ATTRIBUTES = struct.Struct(">5I2Q2I2Q6I")
_WCC = struct.Struct(">Q4I")
_PRE_OP = struct.Struct(">IQ4I")
_TIME = struct.Struct(">2I")
ATTRIBUTES_BYTES: Final = _ATTRIBUTES.size
WCC_BYTES: Final = _WCC.size

_STATUS_OF_ERRNO = {
    errno.EPERM: NFS3ERR_PERM,
    errno.ENOENT: NFS3ERR_NOENT,
    errno.EIO: NFS3ERR_IO,
    errno.ENXIO: NFS3ERR_NXIO,
    errno.EACCES: NFS3ERR_ACCES,
    errno.EBADF: NFS3ERR_ACCES,  # a file that could only be opened for reading
    errno.EEXIST: NFS3ERR_EXIST,
    errno.EXDEV: NFS3ERR_XDEV,
    errno.ENODEV: NFS3ERR_NODEV,
    errno.ENOTDIR: NFS3ERR_NOTDIR,
    errno.EISDIR: NFS3ERR_ISDIR,
    errno.EINVAL: NFS3ERR_INVAL,
    errno.ELOOP: NFS3ERR_INVAL,  # a symbolic link where O_NOFOLLOW forbids one
    errno.EFBIG: NFS3ERR_FBIG,
    errno.ENOSPC: NFS3ERR_NOSPC,
    errno.EROFS: NFS3ERR_ROFS,
    errno.EMLINK: NFS3ERR_MLINK,
    errno.ENAMETOOLONG: NFS3ERR_NAMETOOLONG,
    errno.ENOTEMPTY: NFS3ERR_NOTEMPTY,
    errno.EDQUOT: NFS3ERR_DQUOT,
    errno.ESTALE: NFS3ERR_STALE,
}


class NfsError(Exception):
    """An NFS operation that failed with an nfsstat3, which is what its reply will say."""

    def __init__(self, status: int) -> None:
        super().__init__(f"nfsstat3 {status}")
        self.status = status


def status_of_oserror(error: OSError) -> int:
    """The nfsstat3 that tells of a system's error (nfserrno in fs/nfsd/nfsproc.c); NFS3ERR_IO where none fits."""
    return _STATUS_OF_ERRNO.get(error.errno or 0, NFS3ERR_IO)


class Attributes(LightRecord):
    """What a file is (fattr3); times in nanoseconds since the epoch, `rdev` as major and minor."""

    kind: int
    mode: int
    links: int
    uid: int
    gid: int
    size: int
    used: int
    fsid: int
    fileid: int
    atime: int
    mtime: int
    ctime: int
    rdev: tuple[int, int] = (0, 0)


class SetAttributes(LightRecord):
    """What SETATTR or CREATE is to set (sattr3); None leaves it alone, SERVER_TIME sets a time to the server's."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime: int | None = None
    mtime: int | None = None


class Capacity(LightRecord):
    """How much a store holds and has left (FSSTAT3resok)."""

    total_bytes: int
    free_bytes: int
    available_bytes: int
    total_files: int
    free_files: int
    available_files: int


def pack_attributes(attributes: Attributes) -> bytes:
    """The 84 bytes of an fattr3."""
    a = attributes
    major, minor = a.rdev
    atime, mtime, ctime = a.atime, a.mtime, a.ctime
    return _ATTRIBUTES.pack(
        a.kind,
        a.mode,
        a.links,
        a.uid,
        a.gid,
        a.size,
        a.used,
        major,
        minor,
        a.fsid,
        a.fileid,
        atime // SECOND & 0xFFFFFFFF,
        atime % SECOND,
        mtime // SECOND & 0xFFFFFFFF,
        mtime % SECOND,
        ctime // SECOND & 0xFFFFFFFF,
        ctime % SECOND,
    )


def unpack_attributes(unpacker: Unpacker) -> Attributes:
    """Take an fattr3."""
    (kind, mode, links, uid, gid, size, used, major, minor, fsid, fileid,
     atime_s, atime_ns, mtime_s, mtime_ns, ctime_s, ctime_ns) = unpacker.take(_ATTRIBUTES)  # fmt: skip
    atime, mtime, ctime = atime_s * SECOND + atime_ns, mtime_s * SECOND + mtime_ns, ctime_s * SECOND + ctime_ns
    return Attributes(kind, mode, links, uid, gid, size, used, fsid, fileid, atime, mtime, ctime, (major, minor))


_NO = bytes(4)
_YES = struct.pack(">I", 1)


def pack_post_op(attributes: Attributes | None) -> bytes:
    """A post_op_attr: attributes, where there are any."""
    return _NO if attributes is None else _YES + pack_attributes(attributes)


def unpack_post_op(unpacker: Unpacker) -> Attributes | None:
    """Take a post_op_attr."""
    return unpack_attributes(unpacker) if unpacker.boolean() else None


def pack_wcc(before: Attributes | None, after: Attributes | None) -> bytes:
    """A wcc_data: size and times before an operation, and all attributes after it (weak cache consistency)."""
    if before is None:
        return _NO + pack_post_op(after)
    mtime, ctime = before.mtime, before.ctime
    pre_op = _PRE_OP.pack(
        1,
        before.size,
        mtime // SECOND & 0xFFFFFFFF,
        mtime % SECOND,
        ctime // SECOND & 0xFFFFFFFF,
        ctime % SECOND,
    )
    return pre_op + pack_post_op(after)


def unpack_wcc(unpacker: Unpacker) -> Attributes | None:
    """Take a wcc_data and give the attributes after the operation."""
    if unpacker.boolean():
        unpacker.take(_WCC)
    return unpack_post_op(unpacker)


_EMPTIED = SetAttributes(size=0)
_EMPTIED_BYTES = struct.pack(">4IQ2I", 0, 0, 0, 1, 0, _DONT_CHANGE, _DONT_CHANGE)
"""What nearly every CREATE sets, an empty file and nothing else, and its bytes."""


def pack_set_attributes(packer: Packer, changes: SetAttributes) -> None:
    """Append an sattr3."""
    if changes.size == 0 and changes == _EMPTIED:
        packer.fixed(_EMPTIED_BYTES)
        return
    for value in (changes.mode, changes.uid, changes.gid):
        packer.uint(value is not None)
        if value is not None:
            packer.uint(value)
    packer.uint(changes.size is not None)
    if changes.size is not None:
        packer.uhyper(changes.size)
    for time in (changes.atime, changes.mtime):
        if time is None or time == SERVER_TIME:
            packer.uint(_DONT_CHANGE if time is None else _SET_TO_SERVER_TIME)
        else:
            packer.uint(_SET_TO_CLIENT_TIME)
            packer.fixed(_TIME.pack(time // SECOND & 0xFFFFFFFF, time % SECOND))


def unpack_set_attributes(unpacker: Unpacker) -> SetAttributes:
    """Take an sattr3."""
    start = unpacker.position
    if unpacker.data[start : start + len(_EMPTIED_BYTES)] == _EMPTIED_BYTES:
        unpacker.position = start + len(_EMPTIED_BYTES)
        return _EMPTIED
    mode = unpacker.uint() if unpacker.boolean() else None
    uid = unpacker.uint() if unpacker.boolean() else None
    gid = unpacker.uint() if unpacker.boolean() else None
    size = unpacker.uhyper() if unpacker.boolean() else None
    return SetAttributes(mode, uid, gid, size, _unpack_set_time(unpacker), _unpack_set_time(unpacker))


def _unpack_set_time(unpacker: Unpacker) -> int | None:
    how = unpacker.uint()
    if how == _DONT_CHANGE:
        return None
    if how == _SET_TO_SERVER_TIME:
        return SERVER_TIME
    if how != _SET_TO_CLIENT_TIME:
        raise XdrError(f"time_how {how}")
    seconds, nanoseconds = unpacker.take(_TIME)
    return int(seconds) * SECOND + int(nanoseconds)
