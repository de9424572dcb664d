"""RPC over RDMA version 1 (RFC 8166): the header in front of every RPC message, and the chunks that it names.

Only what NFS needs to write: a message comes whole in a Send (RDMA_MSG), and one data item of a call may be left out of
it, to be read by the server from where the header says (section 3.4.4, a Read chunk).
"""

from struct import Struct, error
from typing import Final

from lateack.nodes.nfs.xdr import XdrError
from lateack.nodes.records import LightRecord

VERSION: Final = 1
RDMA_MSG: Final = 0
CHUNKS_MAX: Final = 1
"""Segments of Read chunks that one message may name here."""

_FIXED = Struct("!4I")
_SEGMENT = Struct("!4IQ")
_END = Struct("!I")
NO_CHUNKS: Final = bytes(12)
"""Empty lists of Read chunks and Write chunks, and no Reply chunk."""


class ReadChunk(LightRecord):
    """Data that was left out of a message, *position* bytes into it, and where the other side may read it."""

    position: int
    rkey: int
    length: int
    address: int


class RdmaHeader(LightRecord):
    """The header of one message; the RPC message begins at byte `message` of the Send."""

    xid: int
    credits: int
    chunks: tuple[ReadChunk, ...]
    message: int


def encode_header(xid: int, credit: int, chunk: ReadChunk | None = None) -> bytes:
    """Return the header of a message that asks for, or grants, *credit* calls at once."""
    fixed = _FIXED.pack(xid, VERSION, credit, RDMA_MSG)
    if chunk is None:
        return fixed + NO_CHUNKS
    return fixed + _SEGMENT.pack(1, chunk.position, chunk.rkey, chunk.length, chunk.address) + NO_CHUNKS


def decode_header(message: bytes) -> RdmaHeader:
    """Read a header; raises XdrError on one that this side has no use for."""
    try:
        xid, version, credit, kind = _FIXED.unpack_from(message)
        if version != VERSION or kind != RDMA_MSG:
            raise XdrError(f"a message of kind {kind}, version {version}")
        at = _FIXED.size
        chunks: list[ReadChunk] = []
        while _END.unpack_from(message, at)[0]:
            if len(chunks) >= CHUNKS_MAX:
                raise XdrError("too many chunks")
            _, position, rkey, length, address = _SEGMENT.unpack_from(message, at)
            chunks.append(ReadChunk(position, rkey, length, address))
            at += _SEGMENT.size
        write_chunks, reply_chunk = _END.unpack_from(message, at + 4)[0], _END.unpack_from(message, at + 8)[0]
    except error:
        raise XdrError("a header of RPC over RDMA cut short") from None
    if write_chunks or reply_chunk:
        raise XdrError("chunks to write to, which nobody here has a use for")
    return RdmaHeader(xid, credit, tuple(chunks), at + 12)
