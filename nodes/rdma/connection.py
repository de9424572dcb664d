"""How two adapters come to know each other's queue pairs: the messages of the connection manager, as datagrams.

    client: ConnectRequest(queue pair, first PSN) ->    <- ConnectReply(queue pair, first PSN)    ReadyToUse ->
    either: DisconnectRequest ->    <- DisconnectReply

Source: InfiniBand Architecture Specification volume 1, 12.6 (messages) and 13.4.3 (header of a MAD), as laid out in
drivers/infiniband/core/cm_msgs.h; the service identifier and the private data of a TCP-like port are RDMA IP CM's
(annex A11). Where we differ: a request carries what a connection needs and leaves the path's other properties zero.
"""

from struct import Struct
from typing import Final

from lateack.nodes.records import Record

CONNECT_REQUEST: Final = 0x0010
CONNECT_REPLY: Final = 0x0013
READY_TO_USE: Final = 0x0014
DISCONNECT_REQUEST: Final = 0x0015
DISCONNECT_REPLY: Final = 0x0016
NAMES: Final = {
    CONNECT_REQUEST: "CONNECT-REQUEST",
    CONNECT_REPLY: "CONNECT-REPLY",
    READY_TO_USE: "READY-TO-USE",
    DISCONNECT_REQUEST: "DISCONNECT-REQUEST",
    DISCONNECT_REPLY: "DISCONNECT-REPLY",
}

NFS_RDMA_PORT: Final = 20049
"""The port on which NFS listens over RDMA (RFC 8267 section 6)."""
CM_TIMEOUT: Final = 1_000_000_000
"""ns until a message of the connection manager that was not answered is sent again."""
CM_RETRIES: Final = 15
"""So often (CMA_MAX_CM_RETRIES)."""

MAD_BYTES: Final = 256
_MAD = Struct("!BBBBHHQHHI")
_CM_CLASS, _CM_CLASS_VERSION, _SEND_METHOD = 0x07, 2, 0x03
_SERVICE_PREFIX = 0x0000_0000_0106_0000  # RDMA_PS_TCP; the port is the low half
_COMMUNICATION = Struct("!II")
_HEAD_BYTES = 24
_FIRST_HOPS = 64
_PATH_MTU = {256: 1, 512: 2, 1024: 3, 2048: 4, 4096: 5}


class ConnectionMessage(Record):
    """One message: who it is from and for (communication identifiers), and the queue pair that its sender offers."""

    kind: int
    local: int
    remote: int = 0
    qpn: int = 0
    psn: int = 0


class Malformed(ValueError):
    """A datagram is no message of the connection manager."""


def encode(message: ConnectionMessage, *, own: int = 0, peer: int = 0, path_mtu: int = 1024) -> bytes:
    """Return the management datagram of a message; *own* and *peer* are the hosts' IPv4 addresses, for a request."""
    body = bytearray(MAD_BYTES - _HEAD_BYTES)
    if message.kind == CONNECT_REQUEST:
        _pack_request(body, message, own, peer, path_mtu)
    else:
        _COMMUNICATION.pack_into(body, 0, message.local, message.remote)
        if message.kind == CONNECT_REPLY:
            body[12:15] = message.qpn.to_bytes(3, "big")
            body[20:23] = message.psn.to_bytes(3, "big")
            body[24:26] = b"\x01\x01"  # responder resources and initiator depth: one READ at a time
        elif message.kind == DISCONNECT_REQUEST:
            body[8:11] = message.qpn.to_bytes(3, "big")
    head = _MAD.pack(1, _CM_CLASS, _CM_CLASS_VERSION, _SEND_METHOD, 0, 0, message.local, message.kind, 0, 0)
    return head + bytes(body)


def _pack_request(body: bytearray, message: ConnectionMessage, own: int, peer: int, path_mtu: int) -> None:
    _COMMUNICATION.pack_into(body, 0, message.local, 0)
    body[8:16] = (_SERVICE_PREFIX | NFS_RDMA_PORT).to_bytes(8, "big")
    body[32:36] = message.qpn.to_bytes(3, "big") + b"\x01"
    body[36:40] = b"\x00\x00\x00\x01"
    body[44:47] = message.psn.to_bytes(3, "big")
    body[47] = 0x07  # retry count
    body[48:50] = b"\xff\xff"
    body[50] = _PATH_MTU[path_mtu] << 4
    body[51] = CM_RETRIES << 4
    mapped = bytes(10) + b"\xff\xff"
    body[56:72] = mapped + own.to_bytes(4, "big")
    body[72:88] = mapped + peer.to_bytes(4, "big")
    body[93] = _FIRST_HOPS
    # The private data of RDMA IP CM: version 0, IPv4, the source's port and both addresses.
    body[140:144] = bytes((0x00, 0x40)) + NFS_RDMA_PORT.to_bytes(2, "big")
    body[156:160] = own.to_bytes(4, "big")
    body[172:176] = peer.to_bytes(4, "big")


def decode(datagram: bytes) -> ConnectionMessage:
    """Read a management datagram; raises `Malformed` on whatever is no message of the connection manager."""
    if len(datagram) != MAD_BYTES:
        raise Malformed("a management datagram has 256 bytes")
    _, management_class, _, _, _, _, _, kind, _, _ = _MAD.unpack_from(datagram)
    if management_class != _CM_CLASS or kind not in NAMES:
        raise Malformed("not a message of the connection manager")
    body = datagram[_HEAD_BYTES:]
    local, remote = _COMMUNICATION.unpack_from(body)
    if kind == CONNECT_REQUEST:
        return ConnectionMessage(kind, local, 0, int.from_bytes(body[32:35], "big"), int.from_bytes(body[44:47], "big"))
    if kind == CONNECT_REPLY:
        qpn, psn = int.from_bytes(body[12:15], "big"), int.from_bytes(body[20:23], "big")
        return ConnectionMessage(kind, local, remote, qpn, psn)
    return ConnectionMessage(kind, local, remote)
