"""Decoded headers of a frame, for rules and people: who, what, which bytes of the stream, and which NFS call it begins.

A frame is looked at as a sniffer would, without verifying it: whatever does not decode is left unnamed.
"""

from struct import Struct

import msgspec

from lateack.nodes.stack.packets import IPPROTO_TCP, IPPROTO_UDP, TCP, TCP_HLEN, UDP, flow_name

NFS_PROGRAM = 100003
NFS_PROCEDURES = (
    "NULL", "GETATTR", "SETATTR", "LOOKUP", "ACCESS", "READLINK", "READ", "WRITE", "CREATE", "MKDIR", "SYMLINK",
    "MKNOD", "REMOVE", "RMDIR", "RENAME", "LINK", "READDIR", "READDIRPLUS", "FSSTAT", "FSINFO", "PATHCONF", "COMMIT",
)  # fmt: skip
RPC_HEADER = Struct("!IIIIII")
IP_ADDRESSES = Struct("!II")


class Dissection(msgspec.Struct, gc=False):
    """What a sniffer reads off one frame: machine names where addresses are known, positions in bytes."""

    source: str = ""
    target: str = ""
    protocol: str = ""
    flow: str = ""
    seq: int = 0
    ack: int = 0
    flags: int = 0
    length: int = 0
    kind: str = ""
    rpc: str = ""
    xid: int = 0


def dissect(frame: bytes, names: dict[int, str], more: int = 0) -> Dissection:
    """Decode *frame* (or its first 128 bytes, with *more* bytes to follow); *names* maps IPv4 addresses to machines."""
    if len(frame) < 42 or frame[12:14] != b"\x08\x00":
        return Dissection(length=len(frame) + more)
    source, target = IP_ADDRESSES.unpack_from(frame, 26)
    seen = Dissection(names.get(source, ""), names.get(target, ""))
    if frame[23] == IPPROTO_TCP and len(frame) >= 34 + TCP_HLEN:
        _dissect_tcp(seen, frame, source, target, more)
    elif frame[23] == IPPROTO_UDP:
        sport, dport, _, _ = UDP.unpack_from(frame, 34)
        seen.protocol, seen.flow = "udp", flow_name(source, sport, target, dport)
        seen.length = len(frame) - 42 + more
        _dissect_rpc(seen, frame, 42)
    return seen


def _dissect_tcp(seen: Dissection, frame: bytes, source: int, target: int, more: int) -> None:
    sport, dport, seen.seq, seen.ack, offset_flags, *_ = TCP.unpack_from(frame, 34)
    seen.protocol, seen.flow = "tcp", flow_name(source, sport, target, dport)
    start = 34 + (offset_flags >> 12) * 4
    seen.flags = offset_flags & 0x3F
    seen.length = len(frame) - start + more
    if seen.length:
        _dissect_rpc(seen, frame, start + 4)
    else:
        seen.kind = "ack"


def _dissect_rpc(seen: Dissection, frame: bytes, start: int) -> None:
    """Recognise an ONC RPC message at *start*; the emulator's senders begin every record in a segment of its own."""
    if len(frame) < start + 8:
        return
    seen.xid = int.from_bytes(frame[start : start + 4], "big")
    message_type = int.from_bytes(frame[start + 4 : start + 8], "big")
    if message_type == 1:
        seen.kind = "reply"
    elif message_type == 0 and len(frame) >= start + RPC_HEADER.size:
        _, _, rpc_version, program, _, procedure = RPC_HEADER.unpack_from(frame, start)
        if rpc_version == 2 and program == NFS_PROGRAM and procedure < len(NFS_PROCEDURES):
            seen.kind, seen.rpc = "call", NFS_PROCEDURES[procedure]
