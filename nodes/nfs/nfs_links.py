"""READLINK, SYMLINK, LINK and MKNOD as bytes (RFC 1813 sections 3.3.5, 3.3.10, 3.3.11, 3.3.15)."""

from __future__ import annotations

from typing import Final

from lateack.nodes.nfs.nfs import (
    HANDLE_BYTES_MAX,
    NF3BLK,
    NF3CHR,
    NF3FIFO,
    NF3SOCK,
    Attributes,
    SetAttributes,
    pack_post_op,
    pack_set_attributes,
    pack_wcc,
    unpack_post_op,
    unpack_set_attributes,
    unpack_wcc,
)
from lateack.nodes.nfs.nfs_calls import NAME_WIRE_MAX
from lateack.nodes.nfs.xdr import Packer, Unpacker
from lateack.nodes.records import LightRecord

PATH_BYTES_MAX: Final = 4096
"""The longest text of a symbolic link (NFS3_MAXPATHLEN in include/uapi/linux/nfs3.h)."""

_OK = bytes(4)


class SymlinkArguments(LightRecord):
    """SYMLINK: a name in a directory and what the link says."""

    directory: bytes
    name: bytes
    changes: SetAttributes
    target: bytes


class LinkArguments(LightRecord):
    """LINK: a file and the name that it gets in a directory."""

    file: bytes
    directory: bytes
    name: bytes


class MknodArguments(LightRecord):
    """MKNOD: a name in a directory and the kind of file (ftype3) that it is to be; `device` is major and minor."""

    directory: bytes
    name: bytes
    kind: int
    changes: SetAttributes
    device: tuple[int, int]


class ReadlinkResult(LightRecord):
    """What a symbolic link says."""

    status: int
    target: bytes = b""


class LinkResult(LightRecord):
    """What a file is that has one more name."""

    status: int
    attributes: Attributes | None = None


def encode_symlink(directory: bytes, name: bytes, target: bytes, changes: SetAttributes | None = None) -> bytes:
    """SYMLINK's arguments."""
    packer = Packer()
    packer.opaque(directory)
    packer.opaque(name)
    pack_set_attributes(packer, changes or SetAttributes())
    packer.opaque(target)
    return packer.finish()


def decode_symlink(record: bytes, position: int) -> SymlinkArguments:
    """Read SYMLINK's arguments; raises XdrError."""
    unpacker = Unpacker(record, position)
    directory = unpacker.opaque(HANDLE_BYTES_MAX)
    name = unpacker.opaque(NAME_WIRE_MAX)
    changes = unpack_set_attributes(unpacker)
    return SymlinkArguments(directory, name, changes, unpacker.opaque(PATH_BYTES_MAX))


def encode_link(file: bytes, directory: bytes, name: bytes) -> bytes:
    """LINK's arguments."""
    packer = Packer()
    packer.opaque(file)
    packer.opaque(directory)
    packer.opaque(name)
    return packer.finish()


def decode_link(record: bytes, position: int) -> LinkArguments:
    """Read LINK's arguments; raises XdrError."""
    unpacker = Unpacker(record, position)
    file, directory = unpacker.opaque(HANDLE_BYTES_MAX), unpacker.opaque(HANDLE_BYTES_MAX)
    return LinkArguments(file, directory, unpacker.opaque(NAME_WIRE_MAX))


def encode_mknod(directory: bytes, name: bytes, kind: int, device: tuple[int, int] = (0, 0)) -> bytes:
    """MKNOD's arguments, with no attributes set."""
    packer = Packer()
    packer.opaque(directory)
    packer.opaque(name)
    packer.uint(kind)
    if kind in (NF3CHR, NF3BLK, NF3SOCK, NF3FIFO):
        pack_set_attributes(packer, SetAttributes())
    if kind in (NF3CHR, NF3BLK):
        packer.uint(device[0])
        packer.uint(device[1])
    return packer.finish()


def decode_mknod(record: bytes, position: int) -> MknodArguments:
    """Read MKNOD's arguments, which end after the kind where it is none that can be made; raises XdrError."""
    unpacker = Unpacker(record, position)
    directory = unpacker.opaque(HANDLE_BYTES_MAX)
    name = unpacker.opaque(NAME_WIRE_MAX)
    kind = unpacker.uint()
    made = kind in (NF3CHR, NF3BLK, NF3SOCK, NF3FIFO)
    changes = unpack_set_attributes(unpacker) if made else SetAttributes()
    device = (unpacker.uint(), unpacker.uint()) if kind in (NF3CHR, NF3BLK) else (0, 0)
    return MknodArguments(directory, name, kind, changes, device)


def encode_readlink_result(attributes: Attributes, target: bytes) -> bytes:
    """READLINK's success."""
    packer = Packer()
    packer.fixed(_OK + pack_post_op(attributes))
    packer.opaque(target)
    return packer.finish()


def decode_readlink_result(record: bytes, position: int) -> ReadlinkResult:
    """Read READLINK's results."""
    unpacker = Unpacker(record, position)
    status = unpacker.uint()
    unpack_post_op(unpacker)
    return ReadlinkResult(status, b"" if status else unpacker.opaque(PATH_BYTES_MAX))


def encode_link_result(attributes: Attributes, before: Attributes | None, directory: Attributes) -> bytes:
    """LINK's success."""
    return _OK + pack_post_op(attributes) + pack_wcc(before, directory)


def decode_link_result(record: bytes, position: int) -> LinkResult:
    """Read LINK's results."""
    unpacker = Unpacker(record, position)
    status = unpacker.uint()
    attributes = unpack_post_op(unpacker)
    unpack_wcc(unpacker)
    return LinkResult(status, attributes)
