"""The arguments of NFSv3 calls as bytes: what a client encodes and a server decodes (RFC 1813 section 3.3)."""

from __future__ import annotations

import struct
from typing import Final

from lateack.nodes.nfs.nfs import (
    EXCLUSIVE,
    HANDLE_BYTES_MAX,
    SECOND,
    TRANSFER_BYTES_MAX,
    UNCHECKED,
    VERIFIER_BYTES,
    SetAttributes,
    pack_set_attributes,
    unpack_set_attributes,
)
from lateack.nodes.nfs.xdr import Packer, Unpacker, XdrError
from lateack.nodes.records import LightRecord

NAME_WIRE_MAX: Final = 4096
"""The longest name that is decoded at all; whether it is too long for a file is the store's to say."""

_UINT = struct.Struct(">I")
_TIME = struct.Struct(">2I")
_RANGE = struct.Struct(">QI")
_WRITE = struct.Struct(">QIII")
_READDIR = struct.Struct(">Q8sI")
# One layout for each length of a handle. An `s` field pads itself with zero bytes, which is XDR's padding.
_WRITE_HEADS = tuple(struct.Struct(f">I{(size + 3) & ~3}sQIII") for size in range(HANDLE_BYTES_MAX + 1))
_RANGE_CALLS = tuple(struct.Struct(f">I{(size + 3) & ~3}sQI") for size in range(HANDLE_BYTES_MAX + 1))


class FileArguments(LightRecord):
    """A call about one file: GETATTR, READLINK, FSSTAT, FSINFO, PATHCONF."""

    file: bytes


class SetattrArguments(LightRecord):
    """SETATTR; where `guard` (nanoseconds) is given, only if the file's ctime is still that."""

    file: bytes
    changes: SetAttributes
    guard: int | None


class NameArguments(LightRecord):
    """A name in a directory: LOOKUP, REMOVE, RMDIR."""

    directory: bytes
    name: bytes


class AccessArguments(LightRecord):
    """ACCESS: which of these bits are granted."""

    file: bytes
    access: int


class RangeArguments(LightRecord):
    """A range of a file: READ, COMMIT."""

    file: bytes
    offset: int
    count: int


class WriteArguments(LightRecord):
    """WRITE; its payload is the `count` bytes from byte `start` of the record on, which nothing has copied."""

    file: bytes
    offset: int
    count: int
    stable: int
    start: int

    def payload(self, record: bytes) -> memoryview:
        """The payload, as a window on the record that was decoded."""
        return memoryview(record)[self.start : self.start + self.count]


class CreateArguments(LightRecord):
    """CREATE, and MKDIR without a mode; `verifier` is EXCLUSIVE's eight bytes."""

    directory: bytes
    name: bytes
    mode: int
    changes: SetAttributes
    verifier: bytes = b""


class RenameArguments(LightRecord):
    """RENAME."""

    from_directory: bytes
    from_name: bytes
    to_directory: bytes
    to_name: bytes


class ReaddirArguments(LightRecord):
    """READDIR: entries after `cookie`, in at most `count` bytes."""

    directory: bytes
    cookie: int
    verifier: bytes
    count: int


Arguments = (
    FileArguments
    | SetattrArguments
    | NameArguments
    | AccessArguments
    | RangeArguments
    | WriteArguments
    | CreateArguments
    | RenameArguments
    | ReaddirArguments
)


def encode_write_head(file: bytes, offset: int, count: int, stable: int) -> bytes:
    """WRITE's arguments up to and including the payload's length; payload and padding follow it."""
    return _WRITE_HEADS[len(file)].pack(len(file), file, offset, count, stable, count)


def decode_write(record: bytes, position: int) -> WriteArguments:
    """Read WRITE's arguments from `position` of a record on; raises XdrError."""
    try:
        (size,) = _UINT.unpack_from(record, position)
        if size > HANDLE_BYTES_MAX:
            raise XdrError(f"a file handle of {size} bytes")
        after = position + 4 + ((size + 3) & ~3)
        offset, count, stable, length = _WRITE.unpack_from(record, after)
    except struct.error:
        raise XdrError("a WRITE cut short") from None
    start = after + 20
    # Linux, too, takes a WRITE whose two counts differ for garbage (nfs3svc_decode_writeargs).
    if length != count or stable > 2 or length > TRANSFER_BYTES_MAX or start + ((length + 3) & ~3) > len(record):
        raise XdrError("a WRITE whose payload is not what its header says")
    return WriteArguments(record[position + 4 : position + 4 + size], offset, count, stable, start)


def encode_file(file: bytes) -> bytes:
    """The arguments of GETATTR, FSSTAT, FSINFO and PATHCONF."""
    packer = Packer()
    packer.opaque(file)
    return packer.finish()


def decode_file(record: bytes, position: int) -> FileArguments:
    """Read a lone file handle; raises XdrError."""
    return FileArguments(Unpacker(record, position).opaque(HANDLE_BYTES_MAX))


def encode_setattr(file: bytes, changes: SetAttributes, guard: int | None = None) -> bytes:
    """SETATTR's arguments; `guard` is a ctime in nanoseconds."""
    packer = Packer()
    packer.opaque(file)
    pack_set_attributes(packer, changes)
    packer.uint(guard is not None)
    if guard is not None:
        packer.fixed(_TIME.pack(guard // SECOND, guard % SECOND))
    return packer.finish()


def decode_setattr(record: bytes, position: int) -> SetattrArguments:
    """Read SETATTR's arguments; raises XdrError."""
    unpacker = Unpacker(record, position)
    file = unpacker.opaque(HANDLE_BYTES_MAX)
    changes = unpack_set_attributes(unpacker)
    if not unpacker.boolean():
        return SetattrArguments(file, changes, None)
    seconds, nanoseconds = unpacker.take(_TIME)
    return SetattrArguments(file, changes, seconds * SECOND + nanoseconds)


def encode_name(directory: bytes, name: bytes) -> bytes:
    """The arguments of LOOKUP, REMOVE and RMDIR."""
    packer = Packer()
    packer.opaque(directory)
    packer.opaque(name)
    return packer.finish()


def decode_name(record: bytes, position: int) -> NameArguments:
    """Read a directory's handle and a name; raises XdrError."""
    unpacker = Unpacker(record, position)
    return NameArguments(unpacker.opaque(HANDLE_BYTES_MAX), unpacker.opaque(NAME_WIRE_MAX))


def encode_access(file: bytes, access: int) -> bytes:
    """ACCESS's arguments; `access` is a set of ACCESS_* bits."""
    return encode_file(file) + _UINT.pack(access)


def decode_access(record: bytes, position: int) -> AccessArguments:
    """Read ACCESS's arguments; raises XdrError."""
    unpacker = Unpacker(record, position)
    return AccessArguments(unpacker.opaque(HANDLE_BYTES_MAX), unpacker.uint())


def encode_range(file: bytes, offset: int, count: int) -> bytes:
    """The arguments of READ and COMMIT."""
    return _RANGE_CALLS[len(file)].pack(len(file), file, offset, count)


def decode_range(record: bytes, position: int) -> RangeArguments:
    """Read the arguments of READ or COMMIT; raises XdrError."""
    unpacker = Unpacker(record, position)
    file = unpacker.opaque(HANDLE_BYTES_MAX)
    offset, count = unpacker.take(_RANGE)
    return RangeArguments(file, offset, count)


def encode_create(
    directory: bytes, name: bytes, changes: SetAttributes, mode: int = UNCHECKED, verifier: bytes = b""
) -> bytes:
    """CREATE's arguments; EXCLUSIVE carries a verifier of eight bytes in place of the attributes."""
    packer = Packer()
    packer.opaque(directory)
    packer.opaque(name)
    packer.uint(mode)
    if mode == EXCLUSIVE:
        assert len(verifier) == VERIFIER_BYTES
        packer.fixed(verifier)
    else:
        pack_set_attributes(packer, changes)
    return packer.finish()


def decode_create(record: bytes, position: int) -> CreateArguments:
    """Read CREATE's arguments; raises XdrError."""
    unpacker = Unpacker(record, position)
    directory = unpacker.opaque(HANDLE_BYTES_MAX)
    name = unpacker.opaque(NAME_WIRE_MAX)
    mode = unpacker.uint()
    if mode == EXCLUSIVE:
        return CreateArguments(directory, name, mode, SetAttributes(), unpacker.fixed(VERIFIER_BYTES))
    if mode > EXCLUSIVE:
        raise XdrError(f"createmode3 {mode}")
    return CreateArguments(directory, name, mode, unpack_set_attributes(unpacker))


def encode_mkdir(directory: bytes, name: bytes, changes: SetAttributes) -> bytes:
    """MKDIR's arguments."""
    packer = Packer()
    packer.opaque(directory)
    packer.opaque(name)
    pack_set_attributes(packer, changes)
    return packer.finish()


def decode_mkdir(record: bytes, position: int) -> CreateArguments:
    """Read MKDIR's arguments; raises XdrError."""
    unpacker = Unpacker(record, position)
    directory = unpacker.opaque(HANDLE_BYTES_MAX)
    name = unpacker.opaque(NAME_WIRE_MAX)
    return CreateArguments(directory, name, UNCHECKED, unpack_set_attributes(unpacker))


def encode_rename(from_directory: bytes, from_name: bytes, to_directory: bytes, to_name: bytes) -> bytes:
    """RENAME's arguments."""
    return encode_name(from_directory, from_name) + encode_name(to_directory, to_name)


def decode_rename(record: bytes, position: int) -> RenameArguments:
    """Read RENAME's arguments; raises XdrError."""
    unpacker = Unpacker(record, position)
    handle, name = HANDLE_BYTES_MAX, NAME_WIRE_MAX
    return RenameArguments(
        unpacker.opaque(handle), unpacker.opaque(name), unpacker.opaque(handle), unpacker.opaque(name)
    )


def encode_readdir(directory: bytes, cookie: int, verifier: bytes, count: int) -> bytes:
    """READDIR's arguments; the first call has cookie 0 and a verifier of eight zero bytes."""
    return encode_file(directory) + _READDIR.pack(cookie, verifier, count)


def decode_readdir(record: bytes, position: int) -> ReaddirArguments:
    """Read READDIR's arguments; raises XdrError."""
    unpacker = Unpacker(record, position)
    directory = unpacker.opaque(HANDLE_BYTES_MAX)
    cookie, verifier, count = unpacker.take(_READDIR)
    return ReaddirArguments(directory, cookie, verifier, count)
