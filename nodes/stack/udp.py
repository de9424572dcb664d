"""UDP over IPv4, with fragmentation of datagrams that exceed the MTU and their reassembly (RFC 768, RFC 791, RFC 815).

A datagram that fits the MTU leaves its checksum to the device, which sums what it reads at DMA. One that does not is
summed here, when it is cut (`ip_append_data`: no device can sum what it never sees whole), so a page that changes later
spoils the sum and the receiver drops the datagram.
"""

from collections.abc import Sequence
from struct import Struct

from lateack.nodes.facts import SegmentTransmitted
from lateack.nodes.stack.lifetime import Frag
from lateack.nodes.stack.packets import (
    IP_HLEN,
    IP_MF,
    IPPROTO_UDP,
    UDP,
    UDP_HLEN,
    Malformed,
    checksum_of,
    digest_of,
    flow_name,
    fragment_flow_name,
    ip_checksum,
    ones_sum,
    pseudo_sum,
)
from lateack.nodes.stack.skb import HEADROOM, SkBuff, alloc_skb, kfree_skb, pages_holding, read_frags, skb_push, skb_put
from lateack.nodes.stack.skb_cut import share_frags
from lateack.nodes.stack.tcp import Stack

ETH_IPV4 = Struct("!6s6sHBBHHHBBHII")
REASSEMBLIES_MAX = 64
"""Datagrams that may be incomplete at once (ipfrag_high_thresh is Linux's bound, in bytes); the oldest goes first."""
DATAGRAM_MAX = 65_507


class UdpSocket:
    """A bound UDP port and the datagrams that it has received: (address, port, bytes)."""

    __slots__ = ("local_port", "received", "stack")

    def __init__(self, stack: Stack, local_port: int) -> None:
        self.stack = stack
        self.local_port = local_port
        self.received: list[tuple[int, int, bytes]] = []

    def take_received(self) -> list[tuple[int, int, bytes]]:
        """Return the datagrams that arrived since the last call."""
        received = self.received
        self.received = []
        return received


def udp_sendmsg(
    sk: UdpSocket, to: tuple[int, int], head: bytes, frags: Sequence[Frag], tail: bytes, witness: bytes, now: int
) -> None:
    """Send one datagram: *head* and *tail* are copied, *frags* are taken over by reference; *witness* as in TCP.

    *to* is an IPv4 address and a port. In the facts the IPv4 identification stands where TCP has a sequence number.
    """
    udp_send_skb(sk, ip_make_skb(sk, to, head, frags, tail, witness), now)


def udp_send_skb(sk: UdpSocket, skbs: Sequence[SkBuff], now: int) -> None:
    """Hand the packets of a datagram to the device."""
    for skb in skbs:
        sk.stack.device.xmit(skb, now)


def ip_make_skb(
    sk: UdpSocket, to: tuple[int, int], head: bytes, frags: Sequence[Frag], tail: bytes, witness: bytes
) -> list[SkBuff]:
    """Return the packets of one datagram, one for each fragment of it, as `udp_sendmsg` would send them."""
    stack = sk.stack
    if tail:
        frags = [*frags, *pages_holding(tail, stack.pool)]
    length = UDP_HLEN + len(witness)
    assert len(witness) <= DATAGRAM_MAX, "a datagram holds at most 65,507 bytes (EMSGSIZE)"
    if length <= stack.mtu - IP_HLEN:
        _meant(stack, flow_name(stack.address, sk.local_port, *to), stack.ident, witness)
        skb = _whole(sk, to, head, frags, length)
        skb_push(skb, _ip_header(stack, to[0], length, 0))
        skbs = [skb]
    else:
        skbs = _fragmented(sk, to, head, list(frags), witness)
    stack.ident = (stack.ident + 1) & 0xFFFF
    return skbs


def _whole(sk: UdpSocket, to: tuple[int, int], head: bytes, frags: Sequence[Frag], length: int) -> SkBuff:
    skb = alloc_skb(sk.stack.slab)
    room = sk.stack.slab.size - HEADROOM - UDP_HLEN
    skb_put(skb, head[:room])
    if len(head) > room:
        skb.shinfo.frags.extend(pages_holding(head[room:], sk.stack.pool))
    skb.shinfo.frags.extend(frags)
    skb.shinfo.shared_frag = any(frag.page.pool is not sk.stack.pool for frag in frags)
    partial = pseudo_sum(sk.stack.address, to[0], IPPROTO_UDP, length) % 0xFFFF
    skb_push(skb, UDP.pack(sk.local_port, to[1], length, partial))
    return skb


def _fragmented(sk: UdpSocket, to: tuple[int, int], head: bytes, frags: list[Frag], witness: bytes) -> list[SkBuff]:
    """Cut the datagram into packets of the MTU whose fragments share its pages (`ip_append_data`, `ip_fragment`)."""
    stack = sk.stack
    flow = fragment_flow_name(stack.address, to[0])
    length = UDP_HLEN + len(witness)
    whole = _whole(sk, to, head, frags, length)
    data = bytes(stack.slab.memory.view[whole.data : whole.tail]) + b"".join(read_frags(whole))
    data = data[:6] + checksum_of(ones_sum(data)).to_bytes(2, "big") + data[8:]
    linear = data[: whole.tail - whole.data]
    meant = data[:UDP_HLEN] + witness
    step = (stack.mtu - IP_HLEN) // 8 * 8
    skbs = []
    for start in range(0, length, step):
        size = min(step, length - start)
        skb = alloc_skb(stack.slab)
        skb.needs_checksum = False
        skb.shinfo.shared_frag = whole.shinfo.shared_frag
        skb_put(skb, linear[start : start + size])
        skip = start - len(linear)
        room = size - len(linear[start : start + size])
        share_frags(skb, whole.shinfo.frags, max(0, skip), room)
        more = IP_MF if start + size < length else 0
        skb_push(skb, _ip_header(stack, to[0], size, more | start >> 3))
        _meant(stack, flow, stack.ident << 16 | start, meant[start : start + size])
        skbs.append(skb)
    kfree_skb(whole)
    return skbs


def _meant(stack: Stack, flow: str, position: int, data: bytes) -> None:
    stack.effects.append(SegmentTransmitted(flow, position, len(data), max(1, len(data)), 1, (digest_of(data),)))


def _ip_header(stack: Stack, target: int, length: int, fragment: int) -> bytes:
    target_mac, own_mac = stack.macs_to(target)
    total = IP_HLEN + length
    check = ip_checksum(total, stack.ident, fragment, IPPROTO_UDP, stack.address, target)
    return ETH_IPV4.pack(
        target_mac, own_mac, 0x0800, 0x45, 0, total, stack.ident, fragment, 64, IPPROTO_UDP, check,
        stack.address, target,
    )  # fmt: skip


class Reassembly:
    """Collects the fragments of datagrams by (source, target, identification, protocol) (RFC 791 3.2)."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: dict[tuple[int, int, int, int], dict[int, bytes]] = {}

    def take(self, frame: bytes) -> bytes | None:
        """Take one fragment's frame; return the whole datagram as an unfragmented frame once it is complete.

        Raises `Malformed` for a fragment whose IPv4 header is not believed. A datagram whose fragments overlap is
        thrown away whole, as Linux does.
        """
        if frame[14] != 0x45 or ones_sum(frame[14:34]) % 0xFFFF:
            raise Malformed("bad IPv4 header checksum")
        fields = ETH_IPV4.unpack_from(frame)
        total, ident, fragment, protocol, source, target = fields[5], fields[6], fields[7], fields[9], *fields[11:]
        if not IP_HLEN < total <= len(frame) - 14:
            raise Malformed("the IPv4 length does not fit the frame")
        key = (source, target, ident, protocol)
        parts = self.parts.setdefault(key, {})
        offset = (fragment & 0x1FFF) * 8
        parts[offset] = frame[34 : 14 + total]
        if not fragment & IP_MF:
            parts[-1] = (offset + total - IP_HLEN).to_bytes(4, "big")
        if len(self.parts) > REASSEMBLIES_MAX:
            del self.parts[next(iter(self.parts))]
        return self._complete(key, parts, fields)

    def _complete(self, key: tuple[int, int, int, int], parts: dict[int, bytes], fields: tuple) -> bytes | None:  # type: ignore[type-arg]
        if -1 not in parts:
            return None
        length = int.from_bytes(parts[-1], "big")
        data, position = [], 0
        while position < length:
            part = parts.get(position)
            if not part:
                return None
            data.append(part)
            position += len(part)
        del self.parts[key]
        if position != length or len(data) != len(parts) - 1 or length > DATAGRAM_MAX + UDP_HLEN:
            return None
        source, target = fields[11:]
        check = ip_checksum(IP_HLEN + length, fields[6], 0, fields[9], source, target)
        header = ETH_IPV4.pack(*fields[:5], IP_HLEN + length, fields[6], 0, 64, fields[9], check, source, target)
        return header + b"".join(data)
