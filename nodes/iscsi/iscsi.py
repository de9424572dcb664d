"""iSCSI's protocol data units as bytes: headers of 48 bytes, data segments padded to words, and their digests.

A PDU is a basic header segment, additional ones (which nobody here sends), a digest over these, the data segment, and a
digest over that. Digests are CRC32C, its least significant byte first, and are there from the end of the login on if
both sides want them. Source: RFC 7143 section 11 for the layouts, section 13.1 and RFC 3720 appendix B.4 for digests.
"""

from collections.abc import Iterable
from struct import Struct

import crc32c

from lateack.nodes.records import Record
from lateack.nodes.storage.stream_client import ByteStream, ProtocolError

PORT = 3260
BHS_BYTES = 48
DIGEST_BYTES = 4
NO_TAG = 0xFFFF_FFFF
"""The tag that stands for none (a target transfer tag of unsolicited data, a task tag of what is no task)."""

# What initiators send, and what targets do (section 11.2.1.2).
NOP_OUT, SCSI_COMMAND, TASK_REQUEST, LOGIN_REQUEST, TEXT_REQUEST, DATA_OUT, LOGOUT_REQUEST = range(7)
NOP_IN, SCSI_RESPONSE, TASK_RESPONSE, LOGIN_RESPONSE, TEXT_RESPONSE, DATA_IN, LOGOUT_RESPONSE = range(0x20, 0x27)
R2T, ASYNC_MESSAGE, REJECT = 0x31, 0x32, 0x3F
IMMEDIATE = 0x40
"""The bit beside an opcode: deliver at once, whatever its place among the commands is."""

FINAL = 0x80
READS, WRITES, SIMPLE = 0x40, 0x20, 0x01
"""Bits beside FINAL in a SCSI Command: data is expected from the target, or for it; a task that may be reordered."""
UNDERFLOW, OVERFLOW, STATUS = 0x02, 0x04, 0x01
"""Bits beside FINAL in what answers a command: the residual's direction, and that a Data-In carries the status."""

_BHS = Struct(">BBHI8s8I")
_WORD = Struct(">I")
_CRC = Struct("<I")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
NO_LUN = bytes(8)


class Digests(Record):
    """Which digests a connection's PDUs carry."""

    header: bool = False
    data: bool = False


NO_DIGESTS = Digests()


class Pdu(Record):
    """One PDU that has come; `damaged` names the part whose digest was wrong, "header" or "data", if one was."""

    header: bytes
    data: bytes = b""
    damaged: str = ""

    @property
    def opcode(self) -> int:
        """What it is, without the bit for immediate delivery."""
        return self.header[0] & 0x3F

    @property
    def immediate(self) -> bool:
        """Whether it is delivered at once."""
        return bool(self.header[0] & IMMEDIATE)

    @property
    def flags(self) -> int:
        """The second byte: FINAL, and what else the opcode defines."""
        return self.header[1]

    @property
    def tag(self) -> int:
        """The initiator task tag."""
        return self.word(16)

    def word(self, at: int) -> int:
        """Return the 32-bit number at a byte of the header."""
        number: int = _WORD.unpack_from(self.header, at)[0]
        return number


def bhs(
    opcode: int, flags: int, words: Iterable[int], *,
    specific: int = 0, length: int = 0, lun: bytes = NO_LUN, tag: int = NO_TAG,
) -> bytes:  # fmt: skip
    """Return a basic header segment.

    *specific* is what bytes 2 and 3 hold, *length* counts the data segment's bytes, *tag* is the initiator's, and
    *words* are the seven numbers behind it, from byte 20 on.
    """
    return _BHS.pack(opcode, flags, specific, length, lun, tag, *words)


def segment_head(header: bytes, digests: Digests) -> bytes:
    """Return what goes before a data segment: the header, and the digest over it."""
    return header + _CRC.pack(crc32c.crc32c(header)) if digests.header else header


def segment_tail(length: int, crc: int, digests: Digests) -> bytes:
    """Return what goes behind a data segment of *length* bytes whose CRC32C is *crc*: padding, and a digest over both.

    No segment, no digest (section 11.2.4).
    """
    padding = _PADDING[length & 3]
    if not (digests.data and length):
        return padding
    return padding + _CRC.pack(crc32c.crc32c(padding, crc) if padding else crc)


def whole_pdu(header: bytes, data: bytes, digests: Digests) -> bytes:
    """Return a PDU as it goes out whose data lie here."""
    tail = segment_tail(len(data), crc32c.crc32c(data) if digests.data else 0, digests)
    return b"".join((segment_head(header, digests), data, tail))


def next_pdu(stream: ByteStream, digests: Digests, segment_max: int) -> Pdu | None:
    """Take the next PDU off a stream; None while it is not whole.

    A header whose digest is wrong is given at once, and what follows it has no beginning any more. Raises ProtocolError
    where a data segment is longer than *segment_max* bytes.
    """
    data = stream.data
    if len(data) < BHS_BYTES:
        return None
    length = int.from_bytes(data[5:8], "big")
    too_long = length > segment_max
    if too_long and not digests.header:  # with a digest it may be the length itself that is damaged
        raise _refused(length, segment_max)
    header_bytes = BHS_BYTES + 4 * data[4]
    start = header_bytes + DIGEST_BYTES * digests.header
    if len(data) < start:
        return None
    header = bytes(data[:header_bytes])
    if digests.header and _CRC.unpack_from(data, header_bytes)[0] != crc32c.crc32c(header):
        stream.data.clear()
        return Pdu(header, b"", "header")
    if too_long:
        raise _refused(length, segment_max)
    padded = length + (-length & 3)
    whole = stream.take(start + padded + (DIGEST_BYTES if digests.data and length else 0))
    if whole is None:
        return None
    segment = whole[start : start + padded]
    good = not (digests.data and length) or _CRC.unpack_from(whole, start + padded)[0] == crc32c.crc32c(segment)
    return Pdu(header, segment[:length], "" if good else "data")


def _refused(length: int, most: int) -> ProtocolError:
    return ProtocolError(f"a data segment of {length} bytes, where {most} is the most")
