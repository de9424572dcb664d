"""What a RoCEv2 packet is, for rules and people: its opcode's name, or the NFS procedure whose call it begins.

A Send that begins an RPC message is named as that would be over TCP: a call by its procedure, a reply not at all. Any
other is a SEND, and the last of several a SEND-LAST. The number is the PSN, or the xid of an RPC message.
"""

from struct import Struct

MANAGEMENT = {
    0x0010: "CONNECT-REQUEST", 0x0013: "CONNECT-REPLY", 0x0014: "READY-TO-USE", 0x0015: "DISCONNECT-REQUEST",
    0x0016: "DISCONNECT-REPLY",
}  # fmt: skip
PLAIN = {
    0x01: ("", "SEND"),
    0x02: ("", "SEND-LAST"),
    0x16: ("", "SEND-LAST"),
    0x0C: ("call", "RDMA-READ-REQUEST"),
    0x0D: ("reply", "RDMA-READ-RESPONSE"),
    0x0E: ("reply", "RDMA-READ-RESPONSE"),
    0x0F: ("reply", "RDMA-READ-RESPONSE"),
    0x10: ("reply", "RDMA-READ-RESPONSE"),
}
BEGINS_SEND = {0x00: 12, 0x04: 12, 0x17: 16}
"""Where a message starts behind the BTH's first byte, by the opcodes with which one begins."""
ACKNOWLEDGE, UD_SEND = 0x11, 0x64
NAMES = ("SEND", "SEND-LAST", "RDMA-READ-REQUEST", "RDMA-READ-RESPONSE", "ACK", "NAK", *MANAGEMENT.values())

PORT = 4791
CHUNK_BYTES = 24
FIXED_BYTES = 16
_WORD = Struct("!I")
_CALL = Struct("!6I")
NFS_PROGRAM = 100003
Named = tuple[str, str, int]


def recognise_rdma(frame: bytes, start: int, stream: bool, procedures: tuple[str, ...]) -> Named:
    """Recognise the packet at *start*; *procedures* are the names of NFS's calls."""
    if stream or len(frame) < start + 12:
        return "", "", 0
    opcode, psn = frame[start], int.from_bytes(frame[start + 9 : start + 12], "big")
    if opcode in BEGINS_SEND:
        return _message(frame, start + BEGINS_SEND[opcode], procedures) or ("", "SEND", psn)
    if opcode == ACKNOWLEDGE and len(frame) > start + 12:
        return "ack", "ACK" if frame[start + 12] < 0x20 else "NAK", psn
    if opcode == UD_SEND and len(frame) >= start + 38:
        return "", MANAGEMENT.get(int.from_bytes(frame[start + 36 : start + 38], "big"), ""), psn
    kind, name = PLAIN.get(opcode, ("", ""))
    return kind, name, psn


def _message(frame: bytes, start: int, procedures: tuple[str, ...]) -> Named | None:
    """Recognise an RPC message behind its RPC-over-RDMA header (RFC 8166); None where there is none."""
    at = start + FIXED_BYTES
    while len(frame) >= at + 4 and _WORD.unpack_from(frame, at)[0] == 1:
        at += CHUNK_BYTES
    at += 12
    if len(frame) < at + 8:
        return None
    if int.from_bytes(frame[at + 4 : at + 8], "big") == 1:
        return "reply", "", int.from_bytes(frame[at : at + 4], "big")
    if len(frame) < at + _CALL.size:
        return None
    xid, kind, version, program, _, procedure = _CALL.unpack_from(frame, at)
    if (kind, version, program) != (0, 2, NFS_PROGRAM) or procedure >= len(procedures):
        return None
    return "call", procedures[procedure], xid
