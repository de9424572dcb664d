"""How a sniffer names what Ceph's messenger sends (version 1): by the type of the message behind its tag."""

from struct import Struct

PORT = 6800
TAG_MSG, TAG_ACK = 7, 8
HEADER = Struct("<QQH")
TYPES = {42: ("call", "OSD_OP"), 43: ("reply", "OSD_OPREPLY")}
NAMES = ("OSD_OP", "OSD_OPREPLY")
ACK_BYTES = 9


def recognise_ceph(frame: bytes, start: int, stream: bool) -> tuple[str, str, int]:
    """Recognise the message at *start*, or behind an acknowledgement there, with the number of its request."""
    if stream and len(frame) > start and frame[start] == TAG_ACK:
        start += ACK_BYTES
    if not stream or len(frame) < start + 1 + HEADER.size or frame[start] != TAG_MSG:
        return "", "", 0
    _, number, kind = HEADER.unpack_from(frame, start + 1)
    named = TYPES.get(kind)
    return (*named, number) if named else ("", "", 0)
