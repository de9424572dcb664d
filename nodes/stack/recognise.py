"""Which message a payload begins, for rules and people: what a sniffer would name it by its port.

A recogniser is given a frame's first bytes, where its payload starts, and whether a stream carries it (TCP); it answers
(kind, name, number): "call" or
"reply" (a request or an answer), the message's name where it has one, and the number that the protocol gave it.
"""

from collections.abc import Callable
from struct import Struct

from lateack.nodes.stack import recognise_ceph, recognise_drbd, recognise_iscsi, recognise_rdma

Recognised = tuple[str, str, int]
Recogniser = Callable[[bytes, int, bool], Recognised]

UNNAMED: Recognised = ("", "", 0)
NFS_PROGRAM = 100003
NFS_PROCEDURES = (
    "NULL", "GETATTR", "SETATTR", "LOOKUP", "ACCESS", "READLINK", "READ", "WRITE", "CREATE", "MKDIR", "SYMLINK",
    "MKNOD", "REMOVE", "RMDIR", "RENAME", "LINK", "READDIR", "READDIRPLUS", "FSSTAT", "FSINFO", "PATHCONF", "COMMIT",
)  # fmt: skip
RPC_HEADER = Struct("!IIIIII")
RPC_START = Struct("!II")


def recognise_rpc(frame: bytes, start: int, stream: bool) -> Recognised:
    """Recognise an ONC RPC message at *start*; the emulator's senders begin every record in a segment of its own."""
    if stream:
        start += 4  # a record's mark
    if len(frame) < start + RPC_HEADER.size:
        return _short_rpc(frame, start)
    xid, message_type, rpc_version, program, _, procedure = RPC_HEADER.unpack_from(frame, start)
    if message_type == 1:
        return "reply", "", xid
    if message_type == 0 and rpc_version == 2 and program == NFS_PROGRAM and procedure < len(NFS_PROCEDURES):
        return "call", NFS_PROCEDURES[procedure], xid
    return UNNAMED


def _short_rpc(frame: bytes, start: int) -> tuple[str, str, int]:
    """Recognise a reply of which too little is here for a call's header."""
    if len(frame) >= start + 8:
        xid, message_type = RPC_START.unpack_from(frame, start)
        if message_type == 1:
            return "reply", "", xid
    return UNNAMED


def recognise_roce(frame: bytes, start: int, stream: bool) -> Recognised:
    """Recognise a packet of RoCEv2 at *start*, or the RPC message that it begins."""
    return recognise_rdma.recognise_rdma(frame, start, stream, NFS_PROCEDURES)


BY_PORT: dict[int, Recogniser] = {
    recognise_drbd.PORT: recognise_drbd.recognise_drbd,
    recognise_ceph.PORT: recognise_ceph.recognise_ceph,
    recognise_iscsi.PORT: recognise_iscsi.recognise_iscsi,
    recognise_rdma.PORT: recognise_roce,
}
"""Who recognises what is sent to or from a port; everything else is looked at as RPC."""

MESSAGES: tuple[str, ...] = (
    *NFS_PROCEDURES, *recognise_drbd.NAMES, *recognise_ceph.NAMES, *recognise_iscsi.NAMES, *recognise_rdma.NAMES,
)  # fmt: skip
"""Every name that a recogniser gives."""


def recogniser_of(source_port: int, target_port: int) -> Recogniser:
    """Return who recognises the messages between two ports."""
    return BY_PORT.get(target_port) or BY_PORT.get(source_port) or recognise_rpc
