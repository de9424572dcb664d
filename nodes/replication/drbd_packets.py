"""DRBD's packets (drivers/block/drbd/drbd_protocol.h): a header, a fixed part by command, a digest, and the payload.

All numbers are in network byte order but `block_id`, which is an address at the sender and only comes back. Headers are
those of protocol version 95 (8 bytes, in two forms by size); the digest is crc32c as the kernel's crypto API stores it.
"""

from struct import Struct
from typing import NamedTuple

from lateack.nodes.storage.stream_client import ByteStream, ProtocolError

PORT = 7788
VERSION_MIN, VERSION_MAX = 86, 95

P_DATA, P_RS_DATA_REPLY, P_BARRIER, P_PROTOCOL = 0x00, 0x02, 0x03, 0x0B
P_RECV_ACK, P_WRITE_ACK, P_RS_WRITE_ACK, P_BARRIER_ACK = 0x15, 0x16, 0x17, 0x1C
P_PING, P_PING_ACK = 0x13, 0x14
P_CONNECTION_FEATURES = 0xFFFE

MAGIC = 0x8374_0267
MAGIC_BIG = 0x835A
SMALL_MAX = 1 << 15
"""DRBD_MAX_SIZE_H80_PACKET: what is longer needs the header whose length has 32 bits."""
PAYLOAD_MAX = 1 << 24

HEADER_BYTES = 8
HEADER_80 = Struct("!IHH")
HEADER_95 = Struct("!HHI")
DATA = Struct("!Q8sII")
BLOCK_ACK = Struct("!Q8sII")
BARRIER = Struct("!I4x")
BARRIER_ACK = Struct("!II")
FEATURES = Struct("!III4x56x")
PROTOCOL = Struct("!IIIIII")
BLOCK_ID = Struct("<Q")
DIGEST = Struct("<I")

SECTOR_BYTES = 512
DP_SEND_RECEIVE_ACK, DP_SEND_WRITE_ACK = 128, 256
WIRE_PROTOCOLS = {"A": 1, "B": 2, "C": 3}
DIGEST_NAME = b"crc32c"

ANSWERS = {P_PING_ACK, P_RECV_ACK, P_WRITE_ACK, P_RS_WRITE_ACK, P_BARRIER_ACK}


class Packet(NamedTuple):
    """A packet as it came: its command, and what followed its header."""

    command: int
    body: bytes


class Block(NamedTuple):
    """A block that is written: where (bytes), under which number, what the peer is to answer, digest and payload."""

    offset: int
    number: int
    flags: int
    digest: int | None
    payload: bytes


def header(command: int, length: int) -> bytes:
    """Return the header of a packet with *length* bytes behind it."""
    if length > SMALL_MAX:
        return HEADER_95.pack(MAGIC_BIG, command, length)
    return HEADER_80.pack(MAGIC, command, length)


def next_packet(stream: ByteStream, waiting: list[tuple[int, int]]) -> Packet | None:
    """Return the next whole packet of a stream, or None; *waiting* keeps a header whose body is still to come.

    Raises ProtocolError where no header stands ("magic?? on data" of drbd_receiver.c).
    """
    if not waiting:
        head = stream.take(HEADER_BYTES)
        if head is None:
            return None
        waiting.append(_decode_header(head))
    command, length = waiting[0]
    body = stream.take(length)
    if body is None:
        return None
    waiting.clear()
    return Packet(command, body)


def _decode_header(head: bytes) -> tuple[int, int]:
    magic, command, length = HEADER_80.unpack(head)
    if magic != MAGIC:
        big, command, length = HEADER_95.unpack(head)
        if big != MAGIC_BIG:
            raise ProtocolError("no DRBD packet begins here")
    if length > PAYLOAD_MAX:
        raise ProtocolError(f"a DRBD packet of {length} bytes is too long")
    return command, length


def features() -> bytes:
    """Return the first packet of either side: the protocol versions that it speaks."""
    return header(P_CONNECTION_FEATURES, FEATURES.size) + FEATURES.pack(VERSION_MIN, 0, VERSION_MAX)


def check_features(body: bytes) -> None:
    """Raise ProtocolError unless the other side speaks one of our versions."""
    if len(body) != FEATURES.size:
        raise ProtocolError("P_CONNECTION_FEATURES of another length")
    lowest, _, highest = FEATURES.unpack(body)
    if highest < VERSION_MIN or lowest > VERSION_MAX:
        raise ProtocolError("no DRBD protocol version in common")


def protocol(wire: str, *, digest: bool) -> bytes:
    """Return P_PROTOCOL: wire protocol A, B or C, no automatic recovery of split brains, and the digest's name."""
    name = (DIGEST_NAME if digest else b"") + b"\0"
    return header(P_PROTOCOL, PROTOCOL.size + len(name)) + PROTOCOL.pack(WIRE_PROTOCOLS[wire], 0, 0, 0, 0, 0) + name


def decode_protocol(body: bytes) -> tuple[str, bool]:
    """Return the wire protocol and whether data is summed; raises ProtocolError for what we do not speak."""
    names = {number: name for name, number in WIRE_PROTOCOLS.items()}
    if len(body) < PROTOCOL.size or PROTOCOL.unpack_from(body)[0] not in names:
        raise ProtocolError("no wire protocol that DRBD has")
    algorithm = body[PROTOCOL.size :].partition(b"\0")[0]
    if algorithm not in (b"", DIGEST_NAME):
        raise ProtocolError("another data-integrity-alg")
    return names[PROTOCOL.unpack_from(body)[0]], bool(algorithm)


def data_head(command: int, block: Block, sequence: int) -> bytes:
    """Return everything of P_DATA or P_RS_DATA_REPLY that goes before the payload."""
    digest = b"" if block.digest is None else DIGEST.pack(block.digest)
    part = DATA.pack(block.offset // SECTOR_BYTES, BLOCK_ID.pack(block.number), sequence, block.flags)
    return header(command, len(part) + len(digest) + len(block.payload)) + part + digest


def decode_data(body: bytes, *, digest: bool) -> Block:
    """Return the block that P_DATA or P_RS_DATA_REPLY carries; raises ProtocolError where it is cut short."""
    start = DATA.size + (DIGEST.size if digest else 0)
    if len(body) <= start:
        raise ProtocolError("a block without bytes")
    sector, block_id, _, flags = DATA.unpack_from(body)
    told = DIGEST.unpack_from(body, DATA.size)[0] if digest else None
    return Block(sector * SECTOR_BYTES, BLOCK_ID.unpack(block_id)[0], flags, told, body[start:])


def block_ack(command: int, block: Block) -> bytes:
    """Return the acknowledgement of a block."""
    part = BLOCK_ACK.pack(block.offset // SECTOR_BYTES, BLOCK_ID.pack(block.number), len(block.payload), 0)
    return header(command, len(part)) + part


def decode_ack(body: bytes) -> int:
    """Return the number of the block that is acknowledged; raises ProtocolError."""
    if len(body) != BLOCK_ACK.size:
        raise ProtocolError("an acknowledgement of another length")
    return int(BLOCK_ID.unpack(BLOCK_ACK.unpack(body)[1])[0])


def ping() -> bytes:
    """Return P_PING, by which one asks whether the other is there."""
    return header(P_PING, 0)


def ping_ack() -> bytes:
    """Return the answer to a P_PING."""
    return header(P_PING_ACK, 0)


def barrier(number: int) -> bytes:
    """Return P_BARRIER, which ends an epoch of writes."""
    return header(P_BARRIER, BARRIER.size) + BARRIER.pack(number)


def barrier_ack(body: bytes) -> bytes:
    """Return the answer to a P_BARRIER: its epoch, of one write, is on disk; raises ProtocolError."""
    if len(body) != BARRIER.size:
        raise ProtocolError("a barrier of another length")
    return header(P_BARRIER_ACK, BARRIER_ACK.size) + BARRIER_ACK.pack(BARRIER.unpack(body)[0], 1)


def decode_barrier_ack(body: bytes) -> int:
    """Return the epoch that is on disk; raises ProtocolError."""
    if len(body) != BARRIER_ACK.size:
        raise ProtocolError("a barrier's answer of another length")
    return int(BARRIER_ACK.unpack(body)[0])
