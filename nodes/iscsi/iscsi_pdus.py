"""The headers of the PDUs that our initiator and our target send, one function for each (RFC 7143 sections 11.3 on).

Sequence numbers: commands are counted by CmdSN, which the target admits up to MaxCmdSN; statuses by StatSN, which the
initiator acknowledges with ExpStatSN. What a target sends carries all three of its numbers (`Numbers`).
"""

from lateack.nodes.iscsi import iscsi
from lateack.nodes.iscsi.iscsi import FINAL, IMMEDIATE, NO_TAG, bhs
from lateack.nodes.records import Record

CONNECTION = 1 << 16
"""Our only connection of a session has the identifier (CID) 1; it stands in the upper half of a word."""


class Numbers(Record):
    """The target's sequence numbers as a PDU carries them; `status` is 0 where it carries none."""

    status: int
    expected_command: int
    max_command: int


# --- from the initiator -----------------------------------------------------------------------------------------------


def login_request(
    stages: int, session: bytes, tag: int, command_number: int, *, expected_status: int, length: int
) -> bytes:
    """Ask to go from one stage of the login to another; *session* is ISID and TSIH, which is 0 for a new session."""
    words = (CONNECTION, command_number, expected_status, 0, 0, 0, 0)
    return bhs(iscsi.LOGIN_REQUEST | IMMEDIATE, stages, words, length=length, lun=session, tag=tag)


def scsi_command(
    flags: int, tag: int, expected_bytes: int, descriptor: bytes, *, command_number: int, expected_status: int,
    length: int = 0,
) -> bytes:  # fmt: skip
    """Give a command; *expected_bytes* is what it moves in all, *length* what of it comes along."""
    block = [int.from_bytes(descriptor[at : at + 4], "big") for at in (0, 4, 8, 12)]
    words = (expected_bytes, command_number, expected_status, *block)
    return bhs(iscsi.SCSI_COMMAND, flags | iscsi.SIMPLE, words, length=length, tag=tag)


def data_out(
    tag: int, transfer_tag: int, expected_status: int, number: int, *, offset: int, length: int, final: bool
) -> bytes:
    """Send *length* bytes of a command's data, the PDU *number* of its burst, from *offset* of all of it on."""
    words = (transfer_tag, 0, expected_status, 0, number, offset, 0)
    return bhs(iscsi.DATA_OUT, FINAL if final else 0, words, length=length, tag=tag)


def nop_out(transfer_tag: int, command_number: int, expected_status: int) -> bytes:
    """Answer a ping of the target's."""
    return bhs(iscsi.NOP_OUT | IMMEDIATE, FINAL, (transfer_tag, command_number, expected_status, 0, 0, 0, 0))


def ping(tag: int, command_number: int, expected_status: int) -> bytes:
    """Ask the target for a sign of life (RFC 7143 section 11.18)."""
    words = (NO_TAG, command_number, expected_status, 0, 0, 0, 0)
    return bhs(iscsi.NOP_OUT | IMMEDIATE, FINAL, words, tag=tag)


def logout_request(tag: int, command_number: int, expected_status: int) -> bytes:
    """Ask to close the session (reason 0)."""
    words = (CONNECTION, command_number, expected_status, 0, 0, 0, 0)
    return bhs(iscsi.LOGOUT_REQUEST | IMMEDIATE, FINAL, words, tag=tag)


# --- from the target --------------------------------------------------------------------------------------------------


def login_response(
    stages: int, session: bytes, tag: int, numbers: Numbers, *, status: int = 0, length: int = 0
) -> bytes:
    """Answer a login; *status* is class and detail, 0 where all is well (section 11.13.5)."""
    words = (0, *_said(numbers), status << 16, 0, 0)
    return bhs(iscsi.LOGIN_RESPONSE, stages, words, length=length, lun=session, tag=tag)


def scsi_response(
    tag: int, status: int, numbers: Numbers, *, residual: tuple[int, int] = (0, 0), data_count: int = 0, length: int = 0
) -> bytes:
    """Say how a command ended: its SCSI status, the *residual* as flag and bytes, and how many R2Ts went before."""
    words = (0, *_said(numbers), data_count, 0, residual[1])
    return bhs(iscsi.SCSI_RESPONSE, FINAL | residual[0], words, specific=status, length=length, tag=tag)


def data_in(
    flags: int, tag: int, numbers: Numbers, number: int, *, offset: int, length: int, residual: int = 0
) -> bytes:
    """Send *length* bytes of what a command reads."""
    words = (NO_TAG, *_said(numbers), number, offset, residual)
    return bhs(iscsi.DATA_IN, flags, words, length=length, tag=tag)


def ready_to_transfer(tag: int, transfer_tag: int, numbers: Numbers, number: int, *, offset: int, length: int) -> bytes:
    """Ask for the next burst of a command's data."""
    words = (transfer_tag, *_said(numbers), number, offset, length)
    return bhs(iscsi.R2T, FINAL, words, tag=tag)


def nop_in(tag: int, numbers: Numbers, length: int) -> bytes:
    """Answer a ping of the initiator's."""
    return bhs(iscsi.NOP_IN, FINAL, (NO_TAG, *_said(numbers), 0, 0, 0), length=length, tag=tag)


def task_response(tag: int, numbers: Numbers, response: int) -> bytes:
    """Answer a task management request."""
    return bhs(iscsi.TASK_RESPONSE, FINAL, (0, *_said(numbers), 0, 0, 0), specific=response << 8, tag=tag)


def logout_response(tag: int, numbers: Numbers) -> bytes:
    """Say that the session is closed."""
    return bhs(iscsi.LOGOUT_RESPONSE, FINAL, (0, *_said(numbers), 0, 0, 0), tag=tag)


def reject(reason: int, numbers: Numbers, length: int) -> bytes:
    """Refuse a PDU, whose header is this one's data."""
    return bhs(iscsi.REJECT, FINAL, (0, *_said(numbers), 0, 0, 0), specific=reason << 8, length=length)


def _said(numbers: Numbers) -> tuple[int, int, int]:
    return numbers.status, numbers.expected_command, numbers.max_command
