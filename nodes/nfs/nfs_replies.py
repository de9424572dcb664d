"""The results of NFSv3 calls as bytes: what a server encodes and a client decodes (RFC 1813 section 3.3).

Every `decode_` takes a record and the position where its results begin, and raises XdrError. A result whose status is
not NFS3_OK has its other fields at their defaults.
"""

from __future__ import annotations

import struct

import msgspec

from lateack.nodes.nfs.nfs import (
    ATTRIBUTES_BYTES,
    HANDLE_BYTES_MAX,
    NAME_BYTES_MAX,
    TRANSFER_BYTES_MAX,
    VERIFIER_BYTES,
    WCC_BYTES,
    Attributes,
    Capacity,
    pack_attributes,
    pack_post_op,
    pack_wcc,
    unpack_attributes,
    unpack_post_op,
    unpack_wcc,
)
from lateack.nodes.nfs.xdr import PADDING, Packer, Unpacker, XdrError
from lateack.nodes.records import LightRecord

ENTRIES_MAX = 65536
"""The most entries of a directory that one READDIR reply may carry."""

_OK = bytes(4)
_UINT = struct.Struct(">I")
_TWO = struct.Struct(">2I")
_READ = struct.Struct(">3I")
_WRITE = struct.Struct(">2I8s")
_FSSTAT = struct.Struct(">6QI")
_FSINFO = struct.Struct(">7IQ3I")
_PATHCONF = struct.Struct(">6I")
_FSF3_LINK = 0x0001
_FSF3_SYMLINK = 0x0002
_FSF3_HOMOGENEOUS = 0x0008
_FSF3_CANSETTIME = 0x0010


class Result(LightRecord):
    """A status and nothing else of interest: NULL, SETATTR, REMOVE, RMDIR, RENAME."""

    status: int


class GetattrResult(LightRecord):
    """What GETATTR found."""

    status: int
    attributes: Attributes | None = None


class FileResult(LightRecord):
    """The file that LOOKUP found or that CREATE or MKDIR made."""

    status: int
    file: bytes | None = None
    attributes: Attributes | None = None


class AccessResult(LightRecord):
    """The bits that ACCESS grants."""

    status: int
    access: int = 0


class ReadResult(LightRecord):
    """The bytes that READ found, and whether the file ends with them."""

    status: int
    data: bytes = b""
    eof: bool = False


class WriteResult(LightRecord):
    """How much WRITE wrote, how firmly (`committed`), and the server's verifier."""

    status: int
    count: int = 0
    committed: int = 0
    verifier: bytes = b""


class CommitResult(LightRecord):
    """The verifier under which COMMIT made everything stable."""

    status: int
    verifier: bytes = b""


class ReaddirResult(LightRecord):
    """Entries (fileid, name, cookie) of a directory, and whether they were the last."""

    status: int
    entries: tuple[tuple[int, bytes, int], ...] = ()
    verifier: bytes = b""
    eof: bool = False


class FsinfoResult(LightRecord):
    """The sizes that a server likes and can take, and what its file system can do (FSF3_ bits)."""

    status: int
    read_max: int = 0
    write_max: int = 0
    file_bytes_max: int = 0
    properties: int = 0


class FsstatResult(LightRecord):
    """How full the file system is."""

    status: int
    capacity: Capacity | None = None


class PathconfResult(LightRecord):
    """How names behave."""

    status: int
    links_max: int = 0
    name_max: int = 0


def encode_getattr(attributes: Attributes) -> bytes:
    """GETATTR's success."""
    return _OK + pack_attributes(attributes)


def decode_getattr(record: bytes, position: int) -> GetattrResult:
    """Read GETATTR's results."""
    unpacker = Unpacker(record, position)
    status = unpacker.uint()
    return GetattrResult(status, None if status else unpack_attributes(unpacker))


def encode_changed(before: Attributes | None, after: Attributes | None) -> bytes:
    """The success of SETATTR, REMOVE and RMDIR."""
    return _OK + pack_wcc(before, after)


def decode_status(record: bytes, position: int) -> Result:
    """Read no more than the status of SETATTR, REMOVE, RMDIR or RENAME."""
    return Result(Unpacker(record, position).uint())


def encode_rename(from_after: Attributes, to_after: Attributes) -> bytes:
    """RENAME's success."""
    return _OK + pack_wcc(None, from_after) + pack_wcc(None, to_after)


def encode_lookup(file: bytes, attributes: Attributes, directory: Attributes) -> bytes:
    """LOOKUP's success."""
    return b"".join((_OK, _opaque(file), pack_post_op(attributes), pack_post_op(directory)))


def decode_lookup(record: bytes, position: int) -> FileResult:
    """Read LOOKUP's results."""
    unpacker = Unpacker(record, position)
    status = unpacker.uint()
    if status:
        return FileResult(status)
    return FileResult(status, unpacker.opaque(HANDLE_BYTES_MAX), unpack_post_op(unpacker))


def encode_access(attributes: Attributes, access: int) -> bytes:
    """ACCESS's success."""
    return _OK + pack_post_op(attributes) + _UINT.pack(access)


def decode_access(record: bytes, position: int) -> AccessResult:
    """Read ACCESS's results."""
    unpacker = Unpacker(record, position)
    status = unpacker.uint()
    unpack_post_op(unpacker)
    return AccessResult(status, 0 if status else unpacker.uint())


def encode_read(attributes: Attributes, data: bytes, eof: bool) -> bytes:
    """READ's success."""
    head = _READ.pack(len(data), eof, len(data))
    return b"".join((_OK, pack_post_op(attributes), head, data, PADDING[len(data) & 3]))


def decode_read(record: bytes, position: int) -> ReadResult:
    """Read READ's results."""
    unpacker = Unpacker(record, position)
    status = unpacker.uint()
    unpack_post_op(unpacker)
    if status:
        return ReadResult(status)
    count = unpacker.uint()
    eof = unpacker.boolean()
    data = unpacker.opaque(TRANSFER_BYTES_MAX)
    if count != len(data):
        raise XdrError("a READ whose two counts differ")
    return ReadResult(status, data, eof)


def encode_write(before: Attributes, after: Attributes, count: int, committed: int, verifier: bytes) -> bytes:
    """WRITE's success."""
    return _OK + pack_wcc(before, after) + _WRITE.pack(count, committed, verifier)


def decode_write_result(record: bytes, position: int) -> WriteResult:
    """Read WRITE's results; the attributes are passed over."""
    try:
        status, before = _TWO.unpack_from(record, position)
        if status:
            return WriteResult(status)
        position += 8 + WCC_BYTES if before else 8
        (after,) = _UINT.unpack_from(record, position)
        position += 4 + ATTRIBUTES_BYTES if after else 4
        if before > 1 or after > 1:
            raise XdrError("a bool is 0 or 1")
        return WriteResult(0, *_WRITE.unpack_from(record, position))
    except struct.error:
        raise XdrError("WRITE's results cut short") from None


def encode_create(file: bytes, attributes: Attributes, directory: Attributes) -> bytes:
    """The success of CREATE and MKDIR."""
    return b"".join((_OK, _UINT.pack(1), _opaque(file), pack_post_op(attributes), pack_wcc(None, directory)))


def decode_create(record: bytes, position: int) -> FileResult:
    """Read the results of CREATE or MKDIR; a server may leave the handle out, and then it must be looked up."""
    unpacker = Unpacker(record, position)
    status = unpacker.uint()
    if status:
        return FileResult(status)
    file = unpacker.opaque(HANDLE_BYTES_MAX) if unpacker.boolean() else None
    return FileResult(status, file, unpack_post_op(unpacker))


def encode_commit(before: Attributes, after: Attributes, verifier: bytes) -> bytes:
    """COMMIT's success."""
    return _OK + pack_wcc(before, after) + verifier


def decode_commit(record: bytes, position: int) -> CommitResult:
    """Read COMMIT's results."""
    unpacker = Unpacker(record, position)
    status = unpacker.uint()
    unpack_wcc(unpacker)
    return CommitResult(status, b"" if status else unpacker.fixed(VERIFIER_BYTES))


def encode_readdir(directory: Attributes, entries: list[tuple[int, bytes, int]], verifier: bytes, eof: bool) -> bytes:
    """READDIR's success; entries are (fileid, name, cookie)."""
    packer = Packer()
    packer.fixed(_OK + pack_post_op(directory) + verifier)
    for fileid, name, cookie in entries:
        packer.uint(1)
        packer.uhyper(fileid)
        packer.opaque(name)
        packer.uhyper(cookie)
    packer.uint(0)
    packer.uint(eof)
    return packer.finish()


def decode_readdir(record: bytes, position: int) -> ReaddirResult:
    """Read READDIR's results."""
    unpacker = Unpacker(record, position)
    status = unpacker.uint()
    unpack_post_op(unpacker)
    if status:
        return ReaddirResult(status)
    verifier = unpacker.fixed(VERIFIER_BYTES)
    entries: list[tuple[int, bytes, int]] = []
    while unpacker.boolean():
        if len(entries) == ENTRIES_MAX:
            raise XdrError(f"more than {ENTRIES_MAX} entries")
        entries.append((unpacker.uhyper(), unpacker.opaque(NAME_BYTES_MAX), unpacker.uhyper()))
    return ReaddirResult(status, tuple(entries), verifier, unpacker.boolean())


def encode_fsinfo(attributes: Attributes, transfer_max: int, file_bytes_max: int) -> bytes:
    """FSINFO's success: one size for reading and writing, and times to the nanosecond."""
    sizes = (transfer_max, transfer_max, 4096, transfer_max, transfer_max, 4096, transfer_max, file_bytes_max)
    properties = _FSF3_LINK | _FSF3_SYMLINK | _FSF3_HOMOGENEOUS | _FSF3_CANSETTIME
    return _OK + pack_post_op(attributes) + _FSINFO.pack(*sizes, 0, 1, properties)


def decode_fsinfo(record: bytes, position: int) -> FsinfoResult:
    """Read FSINFO's results."""
    unpacker = Unpacker(record, position)
    status = unpacker.uint()
    unpack_post_op(unpacker)
    if status:
        return FsinfoResult(status)
    read_max, _, _, write_max, _, _, _, file_bytes_max, _, _, properties = unpacker.take(_FSINFO)
    return FsinfoResult(status, read_max, write_max, file_bytes_max, properties)


def encode_fsstat(attributes: Attributes, capacity: Capacity) -> bytes:
    """FSSTAT's success."""
    return _OK + pack_post_op(attributes) + _FSSTAT.pack(*msgspec.structs.astuple(capacity), 0)


def decode_fsstat(record: bytes, position: int) -> FsstatResult:
    """Read FSSTAT's results."""
    unpacker = Unpacker(record, position)
    status = unpacker.uint()
    unpack_post_op(unpacker)
    return FsstatResult(status, None if status else Capacity(*unpacker.take(_FSSTAT)[:6]))


def encode_pathconf(attributes: Attributes, links_max: int, name_max: int) -> bytes:
    """PATHCONF's success: names too long are refused, and case is kept and matters."""
    return _OK + pack_post_op(attributes) + _PATHCONF.pack(links_max, name_max, 1, 1, 0, 1)


def decode_pathconf(record: bytes, position: int) -> PathconfResult:
    """Read PATHCONF's results."""
    unpacker = Unpacker(record, position)
    status = unpacker.uint()
    unpack_post_op(unpacker)
    return PathconfResult(status) if status else PathconfResult(status, *unpacker.take(_PATHCONF)[:2])


def _opaque(data: bytes) -> bytes:
    return _UINT.pack(len(data)) + data + PADDING[len(data) & 3]
