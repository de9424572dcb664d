"""How a sniffer names DRBD's packets: by the command behind the magic number, for rules and people."""

from struct import Struct

HEADER = Struct("!IHH")
HEADER_BIG = Struct("!HHI")
MAGIC, MAGIC_BIG = 0x8374_0267, 0x835A
BLOCK_ID = Struct("<Q")
BLOCK_ID_AT = 16
"""Where a packet of a block has its id: behind the header and the sector."""

PORT = 7788
REQUESTS = {0x00: "P_DATA", 0x02: "P_RS_DATA_REPLY", 0x03: "P_BARRIER", 0x0B: "P_PROTOCOL", 0x13: "P_PING"}
ANSWERS = {
    0x14: "P_PING_ACK", 0x15: "P_RECV_ACK", 0x16: "P_WRITE_ACK", 0x17: "P_RS_WRITE_ACK", 0x1C: "P_BARRIER_ACK",
}  # fmt: skip
NAMES = (*REQUESTS.values(), *ANSWERS.values())
WITH_BLOCK = ("P_DATA", "P_RS_DATA_REPLY", "P_RECV_ACK", "P_WRITE_ACK", "P_RS_WRITE_ACK")


def recognise_drbd(frame: bytes, start: int, stream: bool) -> tuple[str, str, int]:
    """Recognise the packet at *start*, with the number of its block where it has one."""
    if not stream or len(frame) < start + HEADER.size:
        return "", "", 0
    magic, command, _ = HEADER.unpack_from(frame, start)
    if magic != MAGIC:
        big, command, _ = HEADER_BIG.unpack_from(frame, start)
        if big != MAGIC_BIG:
            return "", "", 0
    kind = "reply" if command in ANSWERS else "call"
    name = REQUESTS.get(command) or ANSWERS.get(command) or ""
    at = start + BLOCK_ID_AT
    number = BLOCK_ID.unpack_from(frame, at)[0] if name in WITH_BLOCK and len(frame) >= at + 8 else 0
    return (kind, name, number) if name else ("", "", 0)
