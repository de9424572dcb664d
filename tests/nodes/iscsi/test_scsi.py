"""SCSI's command descriptor blocks, and what a disk says of itself."""

import pytest

from lateack.nodes.iscsi import scsi


@pytest.mark.parametrize(
    ("block", "count", "descriptor"),
    [
        (8, 8, "2a000000000800000800000000000000"),
        (0xFFFF_FF00, 0xFF, "2a00ffffff000000ff00000000000000"),
        (8, 0x10000, "8a000000000000000008000100000000"),
        (1 << 32, 1, "8a000000000100000000000000010000"),
    ],
)
def test_a_write_is_as_short_as_it_can_be(block: int, count: int, descriptor: str) -> None:
    """WRITE(10) up to two terabytes, WRITE(16) beyond (SBC-3 sections 5.32 and 5.34); and it can be read back."""
    written = scsi.write(block, count)

    assert written.hex() == descriptor
    assert scsi.extent_of(written) == (block, count)


def test_a_disk_says_what_it_is_and_how_long() -> None:
    """Standard INQUIRY data of 36 bytes, and the last block's number."""
    assert scsi.inquiry_data()[:16] == bytes.fromhex("00000502 1f000002") + b"lateack "
    assert len(scsi.inquiry_data()) == 36
    assert scsi.blocks_in(scsi.capacity_16(17)) == 17
    assert scsi.capacity_10(1 << 33) == bytes.fromhex("ffffffff 00000200")


def test_sense_is_told_in_words_where_they_are_known() -> None:
    """What comes from another target is told as numbers."""
    assert scsi.sense_text(scsi.sense_data(scsi.OUT_OF_RANGE)) == "a block beyond the end of the disk"
    assert scsi.sense_text(scsi.sense_data(scsi.Sense(6, 0x2900, ""))) == "sense key 0x6, code 0x2900"
    assert scsi.sense_text(b"") == "the target gives no reason"
