"""The few SCSI commands that a disk needs: their descriptor blocks, what they answer, what is wrong (SBC-3, SPC-4)."""

from struct import Struct

from lateack.nodes.records import Record

BLOCK_BYTES = 512

TEST_UNIT_READY, INQUIRY, READ_CAPACITY_10, REPORT_LUNS = 0x00, 0x12, 0x25, 0xA0
READ_10, WRITE_10, SYNCHRONIZE_CACHE_10 = 0x28, 0x2A, 0x35
READ_16, WRITE_16, SYNCHRONIZE_CACHE_16, SERVICE_ACTION_IN_16 = 0x88, 0x8A, 0x91, 0x9E
READ_CAPACITY_16 = 0x10
"""The service action of SERVICE ACTION IN(16) that asks for the capacity."""

READ_COMMANDS = (READ_10, READ_16)
WRITE_COMMANDS = (WRITE_10, WRITE_16)
SYNCHRONIZE_COMMANDS = (SYNCHRONIZE_CACHE_10, SYNCHRONIZE_CACHE_16)

GOOD, CHECK_CONDITION = 0x00, 0x02
INQUIRY_BYTES, CAPACITY_16_BYTES = 36, 32

_TEN = Struct(">BBIBHB6x")
_SIXTEEN = Struct(">BBQIBB")
_CAPACITY_10 = Struct(">II")
_CAPACITY_16 = Struct(">QI20x")
_LBA_10, _COUNT_10, _LBA_16, _COUNT_16 = Struct(">I"), Struct(">H"), Struct(">Q"), Struct(">I")


class Sense(Record):
    """Why a command ended with CHECK CONDITION: the sense key, and the additional code with its qualifier."""

    key: int
    code: int
    text: str


NOT_SUPPORTED = Sense(0x05, 0x2000, "the command is not supported")
OUT_OF_RANGE = Sense(0x05, 0x2100, "a block beyond the end of the disk")
NO_SUCH_UNIT = Sense(0x05, 0x2500, "there is no such logical unit")
WRONG_FIELD = Sense(0x05, 0x2400, "a field of the command has no meaning")
WRITE_FAILED = Sense(0x03, 0x0C00, "the disk could not write")
NO_SPACE = Sense(0x07, 0x2707, "the disk has no more space")
SENSES = {(sense.key, sense.code): sense for sense in (
    NOT_SUPPORTED, OUT_OF_RANGE, NO_SUCH_UNIT, WRONG_FIELD, WRITE_FAILED, NO_SPACE,
)}  # fmt: skip


class ScsiError(Exception):
    """A command cannot be done, for the reason that `sense` gives."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(sense.text)
        self.sense = sense


def blocks_of(count: int) -> int:
    """Return how many blocks that many bytes need."""
    return -(-count // BLOCK_BYTES)


# --- command descriptor blocks, padded to 16 bytes as iSCSI carries them ----------------------------------------------


def inquiry() -> bytes:
    """Ask what the unit is."""
    return bytes((INQUIRY, 0, 0, 0, INQUIRY_BYTES)).ljust(16, b"\0")


def test_unit_ready() -> bytes:
    """Ask whether the unit takes commands."""
    return bytes(16)


def read_capacity() -> bytes:
    """Ask how many blocks the unit has, and how long they are."""
    return _SIXTEEN.pack(SERVICE_ACTION_IN_16, READ_CAPACITY_16, 0, CAPACITY_16_BYTES, 0, 0)


def synchronize_cache() -> bytes:
    """Have everything that was written put onto the medium."""
    return _TEN.pack(SYNCHRONIZE_CACHE_10, 0, 0, 0, 0, 0)


def write(block: int, count: int) -> bytes:
    """Write *count* blocks from *block* on; in the longer form where the shorter cannot say it (sd.c)."""
    if block + count <= 0xFFFF_FFFF and count <= 0xFFFF:
        return _TEN.pack(WRITE_10, 0, block, 0, count, 0)
    return _SIXTEEN.pack(WRITE_16, 0, block, count, 0, 0)


def extent_of(descriptor: bytes) -> tuple[int, int]:
    """Return the first block of a READ or WRITE, and how many it is about."""
    if descriptor[0] in (READ_10, WRITE_10):
        return _LBA_10.unpack_from(descriptor, 2)[0], _COUNT_10.unpack_from(descriptor, 7)[0]
    return _LBA_16.unpack_from(descriptor, 2)[0], _COUNT_16.unpack_from(descriptor, 10)[0]


# --- what is answered -------------------------------------------------------------------------------------------------


def inquiry_data() -> bytes:
    """Return the standard INQUIRY data: a disk that answers by SPC-3 and takes queued commands."""
    head = bytes((0x00, 0x00, 0x05, 0x02, INQUIRY_BYTES - 5, 0x00, 0x00, 0x02))
    return head + b"lateack ".ljust(8) + b"file".ljust(16) + b"0001"


def capacity_10(blocks: int) -> bytes:
    """Return READ CAPACITY(10)'s answer: the last block's number, all ones where that does not fit."""
    return _CAPACITY_10.pack(min(blocks - 1, 0xFFFF_FFFF), BLOCK_BYTES)


def capacity_16(blocks: int) -> bytes:
    """Return READ CAPACITY(16)'s answer."""
    return _CAPACITY_16.pack(blocks - 1, BLOCK_BYTES)


def blocks_in(capacity: bytes) -> int:
    """Return how many blocks READ CAPACITY(16) told of."""
    last: int = _LBA_16.unpack_from(capacity)[0]
    return last + 1


def one_unit() -> bytes:
    """Return REPORT LUNS' answer: there is unit 0."""
    return (8).to_bytes(4, "big") + bytes(12)


def sense_data(sense: Sense) -> bytes:
    """Return fixed-format sense data (SPC-4 section 4.5.3)."""
    return bytes((0x70, 0, sense.key, 0, 0, 0, 0, 10, 0, 0, 0, 0, sense.code >> 8, sense.code & 0xFF, 0, 0, 0, 0))


def sense_text(data: bytes) -> str:
    """Say what fixed-format sense data means."""
    if len(data) < 14:
        return "the target gives no reason"
    key, code = data[2] & 0x0F, data[12] << 8 | data[13]
    known = SENSES.get((key, code))
    return known.text if known else f"sense key {key:#x}, code {code:#06x}"
