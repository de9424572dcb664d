"""What a sniffer calls iSCSI's PDUs, and that it does not take data for headers."""

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.iscsi import iscsi_pdus, scsi
from lateack.nodes.iscsi.iscsi import FINAL, READS, WRITES
from lateack.nodes.iscsi.iscsi_pdus import Numbers
from lateack.nodes.stack.recognise import MESSAGES, UNNAMED, recogniser_of
from lateack.nodes.stack.recognise_iscsi import NAMES

NUMBERS = Numbers(1, 2, 3)


def command(flags: int, descriptor: bytes) -> bytes:
    """Return a SCSI command."""
    return iscsi_pdus.scsi_command(flags, 7, 512, descriptor, command_number=1, expected_status=1)


PDUS = [
    (
        iscsi_pdus.login_request(0x81, bytes.fromhex("8000000100000000"), 7, 1, expected_status=0, length=9),
        "call",
        "LOGIN",
    ),
    (iscsi_pdus.login_response(0x81, bytes.fromhex("8000000100000001"), 7, NUMBERS), "reply", "LOGIN-RESPONSE"),
    (command(FINAL | WRITES, scsi.write(0, 1)), "call", "SCSI-WRITE"),
    (command(WRITES, scsi.write(1 << 40, 1)), "call", "SCSI-WRITE"),
    (command(FINAL, scsi.test_unit_ready()), "call", "TEST-UNIT-READY"),
    (command(FINAL | READS, scsi.read_capacity()), "call", "READ-CAPACITY"),
    (command(FINAL | READS, b"\x42".ljust(16, b"\0")), "call", "SCSI-COMMAND"),
    (iscsi_pdus.data_out(7, 1, 1, 0, offset=0, length=512, final=False), "call", "DATA-OUT"),
    (iscsi_pdus.logout_request(7, 1, 1), "call", "LOGOUT"),
    (iscsi_pdus.ready_to_transfer(7, 1, NUMBERS, 0, offset=0, length=512), "reply", "R2T"),
    (iscsi_pdus.scsi_response(7, 2, NUMBERS, residual=(2, 9)), "reply", "SCSI-RESPONSE"),
    (iscsi_pdus.data_in(0x83, 7, NUMBERS, 0, offset=0, length=36, residual=9), "reply", "DATA-IN"),
    (iscsi_pdus.data_in(0, 7, NUMBERS, 0, offset=0, length=36), "reply", "DATA-IN"),
    (iscsi_pdus.logout_response(7, NUMBERS), "reply", "LOGOUT-RESPONSE"),
]


@pytest.mark.parametrize(("header", "kind", "name"), PDUS)
def test_pdus_are_named_by_their_headers(header: bytes, kind: str, name: str) -> None:
    """By opcode or command, with the task tag; and rules may name every one of them."""
    frame = bytes(54) + header

    assert recogniser_of(700, 3260)(frame, 54, True) == (kind, name, 7)
    assert set(NAMES) <= set(MESSAGES)


@pytest.mark.parametrize("data", [bytes(60), b"\x01" * 60, b"\xff" * 60, bytes(range(60)), b"\x05" + bytes(40)])
def test_data_is_not_taken_for_a_header(data: bytes) -> None:
    """A segment in the middle of a PDU begins with anything."""
    assert recogniser_of(700, 3260)(bytes(54) + data, 54, True) == UNNAMED


@given(st.binary(min_size=48, max_size=60))
def test_noise_is_not_taken_for_a_header(data: bytes) -> None:
    """Where eight bytes that must be zero are not, nothing else is looked at; a login has no unit, and other signs."""
    named = recogniser_of(700, 3260)(bytes(54) + data, 54, True)

    assert named == UNNAMED or data[8:16] == bytes(8) or data[0] & 0x3F in (0x03, 0x23)
