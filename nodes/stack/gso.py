"""Segmentation by the kernel: a packet longer than the MTU becomes packets of one segment each, over the same pages.

Whoever owns the pages is asked first. An owner who counts those who share them (a `UbufInfo` that is `refcounted`) is
told of one more packet, any other's pages are copied out of the packet (skb_orphan_frags). Bare references and
`FragDestructor`s are counted once for every segment that shows a part of the page. What stood in the packet's own data
block or header stays with it: a `PageDestructor` or a third party's `skb.destructor` hears that the packet is freed,
which is at once, while its segments have yet to leave.

Source: skb_segment (net/core/skbuff.c), tcp_gso_segment (net/ipv4/tcp_offload.c).
"""

from lateack.nodes.memory.pages import PAGE_SIZE, PagePool
from lateack.nodes.stack.packets import (
    ETH_IP,
    FIN,
    IPPROTO_TCP,
    M32,
    PSH,
    TCP,
    TCP_FRAME,
    TCP_HLEN,
    ip_checksum,
    pseudo_sum,
)
from lateack.nodes.stack.skb import SkBuff, alloc_skb, kfree_skb, skb_length, skb_linear, skb_push, skb_put
from lateack.nodes.stack.skb_copy import must_copy, skb_copy_ubufs
from lateack.nodes.stack.skb_cut import share_frags
from lateack.nodes.stack.tcp import TcpSocket

HEADER_BYTES = 54
"""Ethernet, IPv4 and TCP headers; what is cut carries no TCP options here."""


def is_cut(skb: SkBuff) -> bool:
    """Say whether a packet is longer than one segment."""
    mss = skb.shinfo.gso_size
    return mss > 0 and skb_length(skb) - HEADER_BYTES > mss


def affords(skb: SkBuff, pool: PagePool, copies: int = 1) -> bool:
    """Say whether there are pages to cut a packet, and to copy it so often; without, the kernel drops it (ENOMEM)."""
    length = skb_length(skb) - HEADER_BYTES
    size = skb.shinfo.gso_size or length
    pieces = max(1, -(-length // max(1, size)))
    cells = PAGE_SIZE // skb.shinfo.slab.size
    return pool.free_count > copies * pieces * -(-size // PAGE_SIZE) + pieces // cells


def skb_gso_segment(skb: SkBuff, pool: PagePool) -> list[SkBuff]:
    """Cut a TCP packet at its `gso_size` and free it; return the segments in their order.

    The segments' checksums are left open (CHECKSUM_PARTIAL). Pages are copied into *pool* where `must_copy` says so.
    """
    if must_copy(skb):
        skb_copy_ubufs(skb, pool)
    linear = skb_linear(skb)
    mss, length = skb.shinfo.gso_size, skb_length(skb) - HEADER_BYTES
    segments = [_segment(skb, linear, start, min(mss, length - start)) for start in range(0, length, mss)]
    _keep_charged(skb, segments[-1])
    kfree_skb(skb)
    return segments


def _segment(skb: SkBuff, linear: bytes, start: int, size: int) -> SkBuff:
    """Return the segment of *size* payload bytes from *start* on; *linear* are the linear bytes of the whole packet."""
    whole = skb.shinfo
    segment = alloc_skb(whole.slab)
    segment.no_clone = skb.no_clone
    last = start + size == skb_length(skb) - HEADER_BYTES
    copied = linear[HEADER_BYTES + start : HEADER_BYTES + start + size]
    skb_put(segment, copied)
    # In front of it, as TCP does it: a linear area that is full of payload has no room for headers besides.
    skb_push(segment, _headers(linear, start, size, number=start // whole.gso_size, last=last))
    shinfo = segment.shinfo
    share_frags(segment, whole.frags, max(0, start - (len(linear) - HEADER_BYTES)), size - len(copied))
    shinfo.shared_frag = whole.shared_frag
    if whole.ubuf is not None and shinfo.frags:
        whole.ubuf.get()
        shinfo.ubuf = whole.ubuf
    return segment


def _headers(linear: bytes, start: int, size: int, *, number: int, last: bool) -> bytes:
    """Return the headers of one segment: numbers counted on, flags that close a record on the last one only."""
    *ethernet, _, ident, fragment, ttl, protocol, _, source, target = ETH_IP.unpack_from(linear)
    sport, dport, seq, ack, offset_flags, window, _, urgent = TCP.unpack_from(linear, 34)
    assert offset_flags >> 12 == TCP_HLEN // 4, "data segments carry no TCP options here"
    total, ident = 40 + size, (ident + number) & 0xFFFF
    return TCP_FRAME.pack(
        *ethernet, total, ident, fragment, ttl, protocol,
        ip_checksum(total, ident, fragment, protocol, source, target), source, target,
        sport, dport, (seq + start) & M32, ack, offset_flags if last else offset_flags & ~(PSH | FIN), window,
        pseudo_sum(source, target, IPPROTO_TCP, TCP_HLEN + size) % 0xFFFF, urgent,
    )  # fmt: skip


def _keep_charged(skb: SkBuff, last: SkBuff) -> None:
    """Let the socket that is charged for the packet pay for its last segment (d6a4a1041176, 2013).

    The kernel knows TCP's own destructor and no other. Up to then the whole packet was kept until all of its segments
    had been given to the driver, and freed there: for our purpose the same moment.
    """
    socket = skb.socket
    if isinstance(socket, TcpSocket) and skb.destructor == socket.wfree:
        last.socket, last.destructor = socket, skb.destructor
        last.seq, last.end_seq = skb.seq, skb.end_seq
        skb.socket = skb.destructor = None
