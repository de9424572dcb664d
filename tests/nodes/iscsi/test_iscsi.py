"""iSCSI's PDUs byte by byte, against the standard's own examples, and what is told of damaged ones."""

import crc32c
import pytest

from lateack.nodes.iscsi import iscsi, iscsi_pdus
from lateack.nodes.iscsi.iscsi import Digests, next_pdu, whole_pdu
from lateack.nodes.iscsi.iscsi_pdus import Numbers
from lateack.nodes.storage.stream_client import ByteStream, ProtocolError

BOTH = Digests(header=True, data=True)
EVERY_KIND = [Digests(header, data) for header in (False, True) for data in (False, True)]
EXAMPLE = bytes.fromhex(
    "01c00000 00000000 00000000 00000000 14000000 00000400 00000014 0000001828000000 00000000 02000000 00000000"
)


def stream_of(data: bytes) -> ByteStream:
    """Return a stream of which these bytes have come."""
    stream = ByteStream()
    stream.feed(data)
    return stream


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (bytes(32), "aa36918a"),
        (b"\xff" * 32, "43aba862"),
        (bytes(range(32)), "4e79dd46"),
        (bytes(range(31, -1, -1)), "5cdb3f11"),
        (EXAMPLE, "563a96d9"),
    ],
)
def test_digests_are_those_of_the_standard(data: bytes, digest: str) -> None:
    """RFC 3720, appendix B.4: the vectors of CRC32C with the order of their bytes on the wire."""
    tail = iscsi.segment_tail(len(data), crc32c.crc32c(data), BOTH)

    assert tail.hex() == digest
    assert iscsi.segment_head(data, BOTH).hex() == data.hex() + digest


def test_a_command_has_every_field_in_its_place() -> None:
    """The SCSI Command PDU of RFC 7143 section 11.3, a WRITE(10) with immediate data that nothing follows."""
    descriptor = bytes.fromhex("2a00 00000008 00 0008 00").ljust(16, b"\0")

    header = iscsi_pdus.scsi_command(
        iscsi.FINAL | iscsi.WRITES, 0x11223344, 4096, descriptor, command_number=7, expected_status=9, length=4096
    )

    assert header.hex() == ("01a1000000001000000000000000000011223344000010000000000700000009" + descriptor.hex())


def test_answers_carry_the_numbers_of_the_target() -> None:
    """SCSI Response and R2T, sections 11.4 and 11.8."""
    numbers = Numbers(3, 8, 39)

    response = iscsi_pdus.scsi_response(5, 2, numbers, length=20)
    asking = iscsi_pdus.ready_to_transfer(5, 1, numbers, 0, offset=8192, length=4096)

    assert response.hex() == (
        "218000020000001400000000000000000000000500000000000000030000000800000027000000000000000000000000"
    )
    assert asking.hex() == (
        "318000000000000000000000000000000000000500000001000000030000000800000027000000000000200000001000"
    )


@pytest.mark.parametrize("digests", EVERY_KIND)
@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 1001])
def test_what_is_sent_comes_back_however_it_is_cut(digests: Digests, length: int) -> None:
    """Two PDUs in a stream that comes byte by byte; padding and digests are taken off."""
    data = bytes(range(256)) * 4
    header = iscsi_pdus.nop_in(1, Numbers(1, 2, 3), length)
    sent = whole_pdu(header, data[:length], digests) * 2
    stream, taken = ByteStream(), []

    for at in range(len(sent)):
        stream.feed(sent[at : at + 1])
        pdu = next_pdu(stream, digests, 2000)
        if pdu is not None:
            taken.append(pdu)

    assert len(sent) % 4 == 0
    assert [(pdu.header, pdu.data, pdu.damaged) for pdu in taken] == [(header, data[:length], "")] * 2


@pytest.mark.parametrize("at", range(48 + 4 + 8 + 4))
def test_one_wrong_bit_is_seen_wherever_it_is(at: int) -> None:
    """In the header or its digest, in the data, its padding or its digest."""
    sent = bytearray(whole_pdu(iscsi_pdus.nop_in(1, Numbers(1, 2, 3), 5), b"abcde", BOTH))
    sent[at] ^= 0x10
    stream = stream_of(bytes(sent) + bytes(1024))

    pdu = next_pdu(stream, BOTH, 2000)

    assert pdu is not None
    assert pdu.damaged == ("header" if at < 52 else "data")


def test_a_longer_segment_than_was_agreed_on_is_refused() -> None:
    """Before it has come: nobody keeps bytes for it."""
    sent = whole_pdu(iscsi_pdus.nop_in(1, Numbers(1, 2, 3), 1001), bytes(1001), BOTH)

    with pytest.raises(ProtocolError, match="1001 bytes, where 1000 is the most"):
        next_pdu(stream_of(sent[:60]), BOTH, 1000)
