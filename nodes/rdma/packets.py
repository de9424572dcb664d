"""Packets of a reliable connection on Ethernet: RoCEv2, an InfiniBand packet in a UDP datagram to port 4791.

    Ethernet | IPv4 | UDP | BTH | DETH or RETH or AETH or IETH | payload | pad | ICRC

Source: the InfiniBand Architecture Specification, volume 1 (9.2 BTH, 9.3 extended headers, 9.4 opcodes, 7.8.1 ICRC) and
its annex A17; for how the ICRC covers IP and UDP, rxe_icrc_hdr (drivers/infiniband/sw/rxe/rxe_icrc.c). Where we differ:
no GRH, partition keys other than the default one, congestion marks or atomic operations.
"""

from struct import Struct
from typing import Final
from zlib import crc32

from lateack.nodes.records import LightRecord
from lateack.nodes.stack.host import HostAddress
from lateack.nodes.stack.packets import (
    ETH_IP,
    ETH_P_IP,
    IP_DF,
    IPPROTO_UDP,
    UDP,
    Malformed,
    flow_name,
    ip_checksum,
)

ROCE_PORT: Final = 4791
SOURCE_PORTS: Final = 0xC000
"""The lowest UDP source port: a queue pair's number chooses among those above, for the sake of the network's hashes."""
DEFAULT_PARTITION: Final = 0xFFFF
MANAGEMENT_QP: Final = 1
MANAGEMENT_KEY: Final = 0x8001_0000
"""The queue pair of management datagrams, and the Q_Key that all of them have."""

SEND_FIRST: Final = 0x00
SEND_MIDDLE: Final = 0x01
SEND_LAST: Final = 0x02
SEND_ONLY: Final = 0x04
READ_REQUEST: Final = 0x0C
READ_RESPONSE_FIRST: Final = 0x0D
READ_RESPONSE_MIDDLE: Final = 0x0E
READ_RESPONSE_LAST: Final = 0x0F
READ_RESPONSE_ONLY: Final = 0x10
ACKNOWLEDGE: Final = 0x11
SEND_LAST_INVALIDATE: Final = 0x16
SEND_ONLY_INVALIDATE: Final = 0x17
UD_SEND_ONLY: Final = 0x64

READ_RESPONSES: Final = (READ_RESPONSE_FIRST, READ_RESPONSE_MIDDLE, READ_RESPONSE_LAST, READ_RESPONSE_ONLY)
ENDS_SEND: Final = (SEND_LAST, SEND_ONLY, SEND_LAST_INVALIDATE, SEND_ONLY_INVALIDATE)
BEGINS_SEND: Final = (SEND_FIRST, SEND_ONLY, SEND_ONLY_INVALIDATE)
SENDS: Final = (SEND_FIRST, SEND_MIDDLE, SEND_LAST, SEND_ONLY, SEND_LAST_INVALIDATE, SEND_ONLY_INVALIDATE)
INVALIDATING: Final = {SEND_LAST: SEND_LAST_INVALIDATE, SEND_ONLY: SEND_ONLY_INVALIDATE}

ACK: Final = 0x1F
"""The syndrome of a positive acknowledgement that grants no end of credits."""
NAK_SEQUENCE: Final = 0x60
NAK_INVALID: Final = 0x61
NAK_ACCESS: Final = 0x62

PSN_MASK: Final = 0xFFFFFF
PSN_HALF: Final = 0x800000
PSN_SHIFT: Final = 12
"""A packet's place in its flow's sequence numbers is its PSN, shifted by what a path MTU of 4096 takes."""

BTH = Struct("!BBHII")
RETH = Struct("!QII")
AETH = Struct("!I")
IETH = Struct("!I")
DETH = Struct("!II")
ICRC = Struct("<I")
BTH_AT: Final = 42
BTH_BYTES: Final = 12
HEADROOM: Final = 28 + BTH_BYTES + RETH.size + ICRC.size
"""Bytes that a packet's headers, from IPv4 on, and its ICRC add to the path MTU at most."""
SOLICITED_MIGRATED: Final = 0x40  # MigReq; a packet of a queue pair that has never failed over
ACK_REQUEST: Final = 0x8000_0000
TRANSPORT_BYTES: Final = {
    READ_REQUEST: RETH.size,
    READ_RESPONSE_FIRST: AETH.size,
    READ_RESPONSE_LAST: AETH.size,
    READ_RESPONSE_ONLY: AETH.size,
    ACKNOWLEDGE: AETH.size,
    SEND_LAST_INVALIDATE: IETH.size,
    SEND_ONLY_INVALIDATE: IETH.size,
    UD_SEND_ONLY: DETH.size,
}
OPCODES: Final = frozenset([*TRANSPORT_BYTES, SEND_FIRST, SEND_MIDDLE, SEND_LAST, SEND_ONLY, READ_RESPONSE_MIDDLE])

# What a router may change counts as ones, and so do the 64 bits of the local route header that RoCE does not have.
_MASKED_START = crc32(b"\xff" * 8)


class RocePacket(LightRecord):
    """One received packet, its headers decoded: who sent it, to which queue pair, and what it carries.

    `transport` is the extended header's bytes; its meaning is the opcode's.
    """

    source: int
    source_port: int
    opcode: int
    target_qp: int
    psn: int
    wants_ack: bool
    transport: bytes
    payload: bytes

    def remote_range(self) -> tuple[int, int, int]:
        """Return (virtual address, rkey, length) of an RDMA READ request (RETH)."""
        address, rkey, length = RETH.unpack(self.transport)
        return address, rkey, length

    def syndrome(self) -> int:
        """Return the syndrome of an acknowledgement (AETH)."""
        return self.transport[0]

    def invalidated(self) -> int:
        """Return the rkey that a Send with Invalidate takes back (IETH)."""
        return int.from_bytes(self.transport, "big")


def sequence_of(psn: int) -> int:
    """Return the sequence number under which facts know the packet with this PSN."""
    return psn << PSN_SHIFT & 0xFFFFFFFF


def source_port_of(qpn: int) -> int:
    """Return the UDP source port of a queue pair's packets."""
    return SOURCE_PORTS | (qpn & 0x3FFF)


def flow_of(source: int, qpn: int, target: int) -> str:
    """Name what a queue pair of the host with IPv4 address *source* sends to another host."""
    return flow_name(source, source_port_of(qpn), target, ROCE_PORT)


def acknowledgement(syndrome: int, msn: int) -> bytes:
    """Return an AETH: the syndrome, and how many messages were taken (modulo 2**24)."""
    return AETH.pack(syndrome << 24 | msn & PSN_MASK)


def icrc_of(frame: bytes) -> bytes:
    """Return the invariant CRC of a frame whose last four bytes are to hold it."""
    head = bytearray(frame[14 : BTH_AT + BTH_BYTES])
    head[1] = head[8] = 0xFF  # type of service, time to live
    head[10:12] = head[26:28] = b"\xff\xff"  # checksums of IPv4 and UDP
    head[32] = 0xFF  # the BTH's FECN, BECN and reserved bits
    return ICRC.pack(crc32(frame[BTH_AT + BTH_BYTES : -4], crc32(head, _MASKED_START)))


def encode(
    own: HostAddress,
    peer: HostAddress,
    *,
    source_port: int,
    opcode: int,
    target_qp: int,
    psn: int,
    transport: bytes = b"",
    payload: bytes = b"",
    wants_ack: bool = False,
) -> bytes:
    """Return a whole Ethernet frame with one packet, its payload padded to four bytes and its ICRC right."""
    pad = -len(payload) & 3
    datagram = 8 + BTH_BYTES + len(transport) + len(payload) + pad + ICRC.size
    total, ident = 20 + datagram, psn & 0xFFFF
    frame = b"".join(
        (
            ETH_IP.pack(
                peer.mac, own.mac, ETH_P_IP, 0x45, 0, total, ident, IP_DF, 64, IPPROTO_UDP,
                ip_checksum(total, ident, IP_DF, IPPROTO_UDP, own.ip, peer.ip), own.ip, peer.ip,
            ),
            UDP.pack(source_port, ROCE_PORT, datagram, 0),  # no UDP checksum: the ICRC covers more
            BTH.pack(
                opcode, SOLICITED_MIGRATED | pad << 4, DEFAULT_PARTITION, target_qp,
                (ACK_REQUEST if wants_ack else 0) | psn,
            ),
            transport,
            payload,
            bytes(pad + ICRC.size),
        )
    )  # fmt: skip
    return frame[:-4] + icrc_of(frame)


def decode(frame: bytes) -> RocePacket:
    """Decode a frame; raises `Malformed` on whatever is no packet of RoCEv2, or whose ICRC is wrong."""
    if len(frame) < BTH_AT + BTH_BYTES + ICRC.size or frame[12:15] != b"\x08\x00\x45" or frame[23] != IPPROTO_UDP:
        raise Malformed("not a RoCEv2 packet")
    source_port, target_port, length, _ = UDP.unpack_from(frame, 34)
    end = 34 + length
    if target_port != ROCE_PORT or end > len(frame) or end < BTH_AT + BTH_BYTES + ICRC.size:
        raise Malformed("not a RoCEv2 packet")
    frame = frame[:end]
    if frame[-4:] != icrc_of(frame):
        raise Malformed("bad ICRC")
    opcode, flags, _, target_qp, psn = BTH.unpack_from(frame, BTH_AT)
    if opcode not in OPCODES:
        raise Malformed(f"an opcode that is not supported: {opcode:#04x}")
    start = BTH_AT + BTH_BYTES + TRANSPORT_BYTES.get(opcode, 0)
    stop = end - ICRC.size - (flags >> 4 & 3)
    if stop < start:
        raise Malformed("a RoCEv2 packet cut short")
    return RocePacket(
        int.from_bytes(frame[26:30], "big"), source_port, opcode, target_qp & PSN_MASK, psn & PSN_MASK,
        bool(psn & ACK_REQUEST), frame[BTH_AT + BTH_BYTES : start], frame[start:stop],
    )  # fmt: skip
