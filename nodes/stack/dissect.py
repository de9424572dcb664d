"""Decoded headers of a frame, for rules and people: who, what, which bytes of the stream, and which NFS call it begins.

A frame is looked at as a sniffer would, without verifying it: whatever does not decode is left unnamed.
"""

from struct import Struct

from lateack.nodes.records import LightState
from lateack.nodes.stack.lifetime import frag_view
from lateack.nodes.stack.packets import IPPROTO_TCP, IPPROTO_UDP, datagram_key, flow_name, fragment_flow_name
from lateack.nodes.stack.recognise import UNNAMED, Recogniser, recogniser_of
from lateack.nodes.stack.skb import SkBuff, skb_linear

FLOW = Struct("!IIHH")
TCP_HEAD = Struct("!12x2s9xB2x12sIIH")
"""What a sniffer reads of a frame's first 48 bytes: type, protocol, addresses and ports, seq, ack, offset and flags."""
TCP_FRAME_MIN = 54
ETHERTYPE_IPV4 = b"\x08\x00"
NOTHING_BUT_ACK = ("ack", "", 0)

FIRST_BYTES = 128
"""What is enough to decode a frame, up to the procedure of an RPC call."""

FLOWS_MAX = 4096
"""Flows whose names are remembered before the memory is emptied."""

_flows: dict[bytes, tuple[int, int, str, Recogniser]] = {}


class Dissection(LightState):
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
    size = len(frame)
    if size < TCP_FRAME_MIN:
        return _dissect_other(frame, names, more)
    kind_of_frame, protocol, key, seq, ack, offset_flags = TCP_HEAD.unpack_from(frame)
    if protocol != IPPROTO_TCP or kind_of_frame != ETHERTYPE_IPV4:
        return _dissect_other(frame, names, more)
    source, target, flow, recognise = _flows.get(key) or _learn(key)
    start = 34 + (offset_flags >> 10 & 0x3C)
    length = size - start + more
    kind, rpc, xid = recognise(frame, start, True) if length else NOTHING_BUT_ACK
    return Dissection(
        names.get(source, ""), names.get(target, ""), "tcp", flow, seq, ack, offset_flags & 0x3F, length, kind, rpc, xid
    )


def first_bytes(skb: SkBuff) -> bytes:
    """Return a packet's first bytes, in its linear area or in fragments; nothing is moved, nobody is charged."""
    seen = skb_linear(skb)
    for frag in skb.shinfo.frags:
        if len(seen) >= FIRST_BYTES:
            break
        seen += bytes(frag_view(frag)[: FIRST_BYTES - len(seen)])
    return seen


def _dissect_other(frame: bytes, names: dict[int, str], more: int) -> Dissection:
    """Decode what is not a TCP segment with a whole header: a datagram, or less."""
    size = len(frame)
    if size < 42 or frame[12:14] != ETHERTYPE_IPV4:
        return Dissection(length=size + more)
    key = frame[26:38]
    source, target, flow, recognise = _flows.get(key) or _learn(key)
    if frame[23] != IPPROTO_UDP:
        return Dissection(names.get(source, ""), names.get(target, ""), length=size + more)
    key, seq, start = datagram_key(frame)
    if len(key) == 8:
        flow = fragment_flow_name(source, target)
    # Only a datagram's first packet begins with its ports; of any other nothing but the addresses is known.
    kind, rpc, xid = recognise(frame, 42, False) if start == 42 or not seq & 0xFFFF else UNNAMED
    return Dissection(
        names.get(source, ""), names.get(target, ""), "udp", flow, seq, 0, 0, size - start + more, kind, rpc, xid
    )


def _learn(key: bytes) -> tuple[int, int, str, Recogniser]:
    """Name the flow of these addresses and ports, once."""
    source, target, sport, dport = FLOW.unpack(key)
    if len(_flows) >= FLOWS_MAX:
        _flows.clear()
    flow = flow_name(source, sport, target, dport)
    known = _flows[key] = (source, target, flow, recogniser_of(sport, dport))
    return known
