"""What an iSCSI PDU is, for rules and people: the name of its opcode, or of the SCSI command that it gives.

Our senders begin every PDU in a segment of its own, but a PDU of several segments has some that begin with data, and
data may look like anything: a header is believed only if whatever it must have zero is zero. The number is the
initiator task tag.
"""

from struct import Struct

PORT = 3260
COMMANDS = {
    0x00: "TEST-UNIT-READY", 0x12: "INQUIRY", 0x25: "READ-CAPACITY", 0x9E: "READ-CAPACITY", 0xA0: "REPORT-LUNS",
    0x28: "SCSI-READ", 0x88: "SCSI-READ", 0x2A: "SCSI-WRITE", 0x8A: "SCSI-WRITE", 0x35: "SYNCHRONIZE-CACHE",
    0x91: "SYNCHRONIZE-CACHE",
}  # fmt: skip
SCSI_COMMAND, LOGIN_REQUEST, LOGIN_RESPONSE = 0x01, 0x03, 0x23
REQUESTS = {0x00: "NOP-OUT", 0x02: "TASK-REQUEST", LOGIN_REQUEST: "LOGIN", 0x05: "DATA-OUT", 0x06: "LOGOUT"}
RESPONSES = {
    0x20: "NOP-IN", 0x21: "SCSI-RESPONSE", 0x22: "TASK-RESPONSE", LOGIN_RESPONSE: "LOGIN-RESPONSE", 0x25: "DATA-IN",
    0x26: "LOGOUT-RESPONSE", 0x31: "R2T", 0x3F: "REJECT",
}  # fmt: skip
NAMES = tuple(sorted({*COMMANDS.values(), *REQUESTS.values(), *RESPONSES.values(), "SCSI-COMMAND"}))

BHS_BYTES = 48
_TAG = Struct("!I")
NO_LUN = bytes(8)
FLAGS_OF_RESPONSES = {0x21: 0x1E, 0x25: 0x47}
"""Bits beside FINAL that may be set; nothing may be, in any other response but a login's."""
Named = tuple[str, str, int]
NOTHING: Named = ("", "", 0)


def recognise_iscsi(frame: bytes, start: int, stream: bool) -> Named:
    """Recognise a PDU whose header begins at *start*."""
    if not stream or len(frame) < start + BHS_BYTES or frame[start + 4]:
        return NOTHING
    opcode, flags = frame[start] & 0x3F, frame[start + 1]
    tag: int = _TAG.unpack_from(frame, start + 16)[0]
    if frame[start] & 0x80 or not _plausible(frame, start, opcode, flags):
        return NOTHING
    if opcode == SCSI_COMMAND:
        return "call", COMMANDS.get(frame[start + 32], "SCSI-COMMAND"), tag
    if opcode in REQUESTS:
        return "call", REQUESTS[opcode], tag
    return ("reply", RESPONSES[opcode], tag) if opcode in RESPONSES else NOTHING


def _plausible(frame: bytes, start: int, opcode: int, flags: int) -> bool:
    """Say whether what a header of this kind must have zero is zero (RFC 7143 section 11)."""
    if opcode in (LOGIN_REQUEST, LOGIN_RESPONSE):
        return not flags & 0x30 and frame[start + 2] == 0 and frame[start + 3] == 0
    if frame[start + 8 : start + 16] != NO_LUN:
        return False
    if opcode >= 0x20:
        return bool(flags & 0x80 or opcode == 0x25) and not flags & 0x7F & ~FLAGS_OF_RESPONSES.get(opcode, 0)
    if frame[start + 2] or frame[start + 3]:
        return False
    if opcode == SCSI_COMMAND:
        return flags & 0x18 == 0
    return bool(flags & 0x80) or (opcode == 0x05 and not flags)
