"""Ceph's messenger, version 1: the greeting, and messages with a header, three parts and a footer of sums.

Source: include/linux/ceph/msgr.h, net/ceph/messenger_v1.c; the two messages are those of net/ceph/osd_client.c in the
encodings of OSD_OP version 4 and OSD_OPREPLY version 6. All numbers are little-endian. Sums are crc32c begun with zero
and not inverted, as the kernel's `crc32c(0, ...)`. Nothing is signed, and nobody is authenticated.
"""

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

import crc32c

from lateack.nodes.storage.stream_client import ByteStream, ProtocolError

PORT = 6800
BANNER = b"ceph v027"
ADDRESS = Struct("<IIH")
ADDRESS_BYTES = 136
AF_INET = b"\0\2"
CONNECT = Struct("<QIIIIIIB")
CONNECT_REPLY = Struct("<BQIIIIB")
FEATURE_MSG_AUTH = 1 << 23
OSD_PROTOCOL = 24
TYPE_CLIENT, TYPE_OSD = 8, 4
TAG_READY, TAG_CLOSE, TAG_MSG, TAG_ACK, TAG_KEEPALIVE = 1, 6, 7, 8, 9
LOSSY = 1

HEADER = Struct("<QQHHHIIIHBQHH")
CRC = Struct("<I")
FOOTER = Struct("<IIIQB")
HEADER_BYTES = HEADER.size + CRC.size
FOOTER_COMPLETE, FOOTER_NO_CRC = 1, 2
SEQUENCE = Struct("<Q")
SIGNS_OF_LIFE = {TAG_ACK: 1 + SEQUENCE.size, TAG_KEEPALIVE: 1}
"""What carries no message, and how many bytes it has with its tag."""
OSD_OP, OSD_OP_REPLY = 42, 43
PRIORITY = 127
PART_MAX = 1 << 24
"""Bytes of one part of a message; a longer one ends the connection."""

OP_WRITE = 0x2201
FLAGS = 0x04 | 0x20  # CEPH_OSD_FLAG_ONDISK, CEPH_OSD_FLAG_WRITE
OP = Struct("<HIQQQII")
REQUEST_START = Struct("<IIIIIIQ")
LOCATOR = Struct("<BBIQiI")
PLACEMENT = Struct("<BQIi")
LENGTH = Struct("<I")
OPERATIONS = Struct("<H")
SNAPSHOTS = Struct("<QQII")
NO_SNAPSHOT = 2**64 - 2  # CEPH_NOSNAP
REPLY_MIDDLE = Struct("<QiIQII")
REPLY_END = Struct("<IiIQQ")
REDIRECT = Struct("<BBI")


class Message(NamedTuple):
    """A message that came whole: its header's numbers, and the parts."""

    sequence: int
    number: int
    kind: int
    front: bytes
    data: bytes
    data_sum: int
    """The sum that the sender made over `data`."""
    summed: bool


class Sums(Exception):
    """A message's header or front is not what its sum says: the connection is given up."""


def raw_sum(data: bytes | memoryview, total: int = 0) -> int:
    """Return the crc32c that goes on from *total*, neither begun nor ended with an inversion."""
    return int(crc32c.crc32c(data, total ^ 0xFFFF_FFFF)) ^ 0xFFFF_FFFF


# --- the greeting -----------------------------------------------------------------------------------------------------


def entity_address(address: int, port: int) -> bytes:
    """Return where an entity is found, as `ceph_entity_addr`."""
    sockaddr = AF_INET + port.to_bytes(2) + address.to_bytes(4)
    return bytes(8) + sockaddr.ljust(128, b"\0")


def connect_request(connects: int) -> bytes:
    """Return what a client wants after the banners: a new session, the *connects*-th of this host."""
    return CONNECT.pack(FEATURE_MSG_AUTH, TYPE_CLIENT, connects, 0, OSD_PROTOCOL, 0, 0, 0)


def connect_reply(connects: int) -> bytes:
    """Return the answer of an OSD: the session is ready, and what is lost with it will not be asked for again."""
    return CONNECT_REPLY.pack(TAG_READY, FEATURE_MSG_AUTH, connects, 1, OSD_PROTOCOL, 0, LOSSY)


# --- messages ---------------------------------------------------------------------------------------------------------


def message_head(kind: int, sequence: int, number: int, *, front: bytes, data_bytes: int) -> bytes:
    """Return everything of a message that goes before its data: tag, header with its sum, and front."""
    source, entity, version = (TYPE_CLIENT, 4100, 4) if kind == OSD_OP else (TYPE_OSD, 0, 6)
    header = HEADER.pack(sequence, number, kind, PRIORITY, version, len(front), 0, data_bytes, 0, source, entity, 1, 0)
    return bytes((TAG_MSG,)) + header + CRC.pack(raw_sum(header)) + front


def message_tail(front: bytes, data_sum: int | None) -> bytes:
    """Return a message's footer; *data_sum* is None where data is not summed."""
    flags = FOOTER_COMPLETE | (FOOTER_NO_CRC if data_sum is None else 0)
    return FOOTER.pack(raw_sum(front), 0, data_sum or 0, 0, flags)


def next_message(stream: ByteStream) -> Message | None:
    """Return the message that begins behind a tag, or None while it is not whole; raises ProtocolError or Sums."""
    if len(stream.data) < HEADER_BYTES:
        return None
    head = bytes(stream.data[:HEADER_BYTES])
    if CRC.unpack_from(head, HEADER.size)[0] != raw_sum(head[: HEADER.size]):
        raise Sums("bad hdr crc")
    sequence, number, kind, _, _, front_bytes, middle_bytes, data_bytes, *_ = HEADER.unpack_from(head)
    if max(front_bytes, middle_bytes, data_bytes) > PART_MAX:
        raise ProtocolError("a message's part is too long")
    whole = stream.take(HEADER_BYTES + front_bytes + middle_bytes + data_bytes + FOOTER.size)
    if whole is None:
        return None
    front = whole[HEADER_BYTES : HEADER_BYTES + front_bytes]
    start = HEADER_BYTES + front_bytes + middle_bytes
    front_sum, _, data_sum, _, flags = FOOTER.unpack_from(whole, start + data_bytes)
    if front_sum != raw_sum(front):
        raise Sums("bad front crc")
    data = whole[start : start + data_bytes]
    return Message(sequence, number, kind, front, data, data_sum, not flags & FOOTER_NO_CRC)


def whole_messages(stream: ByteStream) -> Iterator[Message]:
    """Take what is whole of an open session's stream and yield its messages; the rest only says that somebody is there.

    Raises ProtocolError, and Sums where a message's is wrong.
    """
    while stream.data:
        tag = stream.data[0]
        if tag in SIGNS_OF_LIFE:
            if stream.take(SIGNS_OF_LIFE[tag]) is None:
                return
            continue
        if tag != TAG_MSG:
            raise ProtocolError(f"no use for tag {tag}")
        head = stream.take(1)
        assert head is not None
        message = next_message(stream)
        if message is None:
            stream.data[:0] = head
            return
        yield message


def acknowledgement(sequence: int) -> bytes:
    """Return the tag that says up to which message everything came."""
    return bytes((TAG_ACK,)) + SEQUENCE.pack(sequence)


# --- a write, and its answer ------------------------------------------------------------------------------------------


def write_request(name: bytes, offset: int, count: int, *, attempt: int) -> bytes:
    """Return the front of an OSD_OP that writes *count* bytes into an object; *attempt* counts what was sent before."""
    return b"".join(
        (
            REQUEST_START.pack(1, 1, FLAGS, 0, 0, 0, 0),
            LOCATOR.pack(4, 4, 16, 1, -1, 0),
            PLACEMENT.pack(1, 1, 0, -1),
            LENGTH.pack(len(name)) + name,
            OPERATIONS.pack(1) + OP.pack(OP_WRITE, 0, offset, count, 0, 0, count),
            SNAPSHOTS.pack(NO_SNAPSHOT, 0, 0, attempt),
        )
    )


def decode_write_request(front: bytes) -> tuple[str, int, int]:
    """Return the object's name, the offset and the count of a write; raises ProtocolError for anything else."""
    at = REQUEST_START.size + LOCATOR.size + PLACEMENT.size
    if len(front) < at + LENGTH.size:
        raise ProtocolError("an OSD_OP that is cut short")
    length = LENGTH.unpack_from(front, at)[0]
    at += LENGTH.size
    name, at = front[at : at + length], at + length
    if len(front) != at + OPERATIONS.size + OP.size + SNAPSHOTS.size or OPERATIONS.unpack_from(front, at)[0] != 1:
        raise ProtocolError("an OSD_OP of another form")
    operation, _, offset, count, *_ = OP.unpack_from(front, at + OPERATIONS.size)
    if operation != OP_WRITE:
        raise ProtocolError("an OSD that knows nothing but writes")
    try:
        return name.decode(), offset, count
    except UnicodeDecodeError as error:
        raise ProtocolError("an object's name that is no text") from error


def write_reply(name: bytes, offset: int, count: int) -> bytes:
    """Return the front of the OSD_OPREPLY to a write that is on disk."""
    return b"".join(
        (
            LENGTH.pack(len(name)) + name,
            PLACEMENT.pack(1, 1, 0, -1),
            REPLY_MIDDLE.pack(FLAGS, 0, 0, 0, 1, 1),
            OP.pack(OP_WRITE, 0, offset, count, 0, 0, 0),
            REPLY_END.pack(0, 0, 0, 0, 0),
            REDIRECT.pack(1, 1, LOCATOR.size + 8) + LOCATOR.pack(4, 3, 16, 1, -1, 0) + bytes(8),  # to nowhere
        )
    )
