"""Socket buffers: one header per user, one data block per content, and three counts that are never the same thing.

    skb.users       references to one header                      skb_get / kfree_skb
    shinfo.dataref  headers that share one data block             skb_clone / skb_release_data
    page.refs       data blocks (and others) that show one page   frag_ref / frag_unref, in lifetime.py

Here is what a packet is, how it is filled and read, and how it ends; skb_copy.py makes second ones, skb_cut.py makes
them shorter.

Source: net/core/skbuff.c and include/linux/skbuff.h. Where we differ: there is no frag_list, and the linear area is one
cell of a slab, so that a guest's headers lie in grantable memory as its pages do.
"""

from collections.abc import Callable

from lateack.nodes.memory.pages import PAGE_SIZE, HeadSlab, PagePool, put_page
from lateack.nodes.stack.lifetime import Frag, PageDestructor, UbufInfo, frag_view

MAX_SKB_FRAGS = 17
"""65536 / 4096 + 1 (include/linux/skbuff.h); older kernels had 18, which lives on as XEN_NETIF_NR_SLOTS_MIN."""

HEADROOM = 96
"""Bytes kept free in front of the data for Ethernet, IPv4 and TCP headers (MAX_TCP_HEADER is larger; 66 are used)."""


class SharedInfo:
    """The data block that clones share: the head's cell, the fragments, and who is to be told (`skb_shared_info`)."""

    __slots__ = (
        "dataref", "frags", "gso_size", "head", "page_destructor", "payload_refs", "shared_frag", "slab", "ubuf",
    )  # fmt: skip

    def __init__(self, slab: HeadSlab) -> None:
        self.slab = slab
        cells = slab.free_cells
        self.head = cells.pop() if cells else slab.alloc()
        self.dataref = 1
        self.payload_refs = 0
        self.frags: list[Frag] = []
        self.gso_size = 0
        self.ubuf: UbufInfo | None = None
        self.page_destructor: PageDestructor | None = None
        self.shared_frag = False


class SkBuff:
    """One header: where its data begins and ends in the head, and what its owner keeps about it (`skb->cb`).

    `data` and `tail` are byte addresses in the slab's memory; `seq` and `end_seq` are unwrapped stream positions.
    """

    __slots__ = (
        "cloned", "data", "destructor", "digests", "end_seq", "fclone", "flags", "lost", "needs_checksum", "no_clone",
        "nohdr", "sent_at", "seq", "shinfo", "socket", "summed", "tail", "transmissions", "users", "witness",
    )  # fmt: skip
    # The transport's own part (`skb->cb`), set by whoever queues the packet.
    seq: int
    end_seq: int
    flags: int
    lost: bool
    transmissions: int
    sent_at: int
    witness: bytes
    digests: tuple[int, ...] | None
    fclone: "SkBuff | None"  # the first clone below TCP, while somebody asks for it

    def __init__(self, shinfo: SharedInfo, data: int, tail: int) -> None:
        self.shinfo = shinfo
        self.data = data
        self.tail = tail
        self.users = 1
        self.cloned = False
        self.nohdr = False
        self.no_clone = False
        self.needs_checksum = True
        self.summed: int | None = None  # the payload's sum, where it was made in software
        self.destructor: Callable[[SkBuff], None] | None = None
        self.socket: object | None = None


def alloc_skb(slab: HeadSlab) -> SkBuff:
    """Return a new socket buffer with an empty linear area behind `HEADROOM` bytes of headroom."""
    shinfo = SharedInfo(slab)
    start = shinfo.head + HEADROOM
    return SkBuff(shinfo, start, start)


def skb_put(skb: SkBuff, data: bytes) -> None:
    """Append *data* to the linear area; it must fit the head's cell."""
    start = skb.tail
    tail = skb.tail = start + len(data)
    shinfo = skb.shinfo
    slab = shinfo.slab
    assert tail <= shinfo.head + slab.size, "the linear area is full"
    slab.memory.view[start:tail] = data


def skb_push(skb: SkBuff, header: bytes) -> None:
    """Put *header* in front of the linear area.

    On a clone this writes into the head that the original shares, which is legal while the original has promised never
    to look at its headers (`nohdr`: TCP's queue does).
    """
    end = skb.data
    start = skb.data = end - len(header)
    shinfo = skb.shinfo
    assert start >= shinfo.head, "no headroom left"
    shinfo.slab.memory.view[start:end] = header


def add_frag(skb: SkBuff, frag: Frag) -> None:
    """Append a fragment, taking over the reference that the caller holds."""
    assert len(skb.shinfo.frags) < MAX_SKB_FRAGS, "too many fragments"
    skb.shinfo.frags.append(frag)


def pages_holding(data: bytes | memoryview, pool: PagePool) -> list[Frag]:
    """Copy *data* into fresh pages of *pool* and return them as fragments that own one reference each."""
    frags: list[Frag] = []
    for start in range(0, len(data), PAGE_SIZE):
        piece = data[start : start + PAGE_SIZE]
        page = pool.alloc()
        page.memory.write(page.frame, 0, piece)
        frags.append(Frag(page, 0, len(piece)))
    return frags


def skb_length(skb: SkBuff) -> int:
    """Return all bytes of the packet, linear and paged."""
    length = skb.tail - skb.data
    for frag in skb.shinfo.frags:
        length += frag.size
    return length


def skb_linear(skb: SkBuff) -> bytes:
    """Return the linear bytes as they are now."""
    return bytes(skb.shinfo.slab.memory.view[skb.data : skb.tail])


def read_frags(skb: SkBuff) -> list[memoryview]:
    """Return windows on the paged bytes as they are now: the moment at which content is fixed. Use them at once."""
    return [frag_view(frag) for frag in skb.shinfo.frags]


def skb_cloned(skb: SkBuff) -> bool:
    """Say whether another header shares this data block."""
    return skb.cloned and skb.shinfo.dataref != 1


def skb_header_cloned(skb: SkBuff) -> bool:
    """Say whether another header that may look at the headers shares this data block."""
    return skb.cloned and skb.shinfo.dataref - skb.shinfo.payload_refs != 1


def skb_header_release(skb: SkBuff) -> None:
    """Promise that this header looks at the payload only (`__skb_header_release`)."""
    skb.nohdr = True
    skb.shinfo.payload_refs += 1


def skb_get(skb: SkBuff) -> SkBuff:
    """Take a reference on the header itself."""
    skb.users += 1
    return skb


def skb_orphan(skb: SkBuff) -> None:
    """Run the destructor now and forget the socket; the data lives on."""
    destructor = skb.destructor
    skb.destructor = None
    skb.socket = None
    if destructor is not None:
        destructor(skb)


def kfree_skb(skb: SkBuff) -> None:
    """Drop a reference on the header; the last one runs the destructor and then lets go of the data block."""
    users = skb.users = skb.users - 1
    if users:
        assert users > 0, "a socket buffer was freed twice"
        return
    destructor = skb.destructor
    if destructor is not None:
        skb.destructor = None
        destructor(skb)
    skb_release_data(skb)


def skb_release_data(skb: SkBuff) -> None:
    """Let go of the data block: the owner's callback and the pages go with the last header, and not before."""
    shinfo = skb.shinfo
    dataref = shinfo.dataref = shinfo.dataref - 1
    if skb.nohdr:
        shinfo.payload_refs -= 1
    if dataref:
        return
    ubuf = shinfo.ubuf
    if ubuf is not None:
        shinfo.ubuf = None
        ubuf.put(True)
    frags = shinfo.frags
    if frags:
        shinfo.frags = []
        if shinfo.page_destructor is not None:
            shinfo.page_destructor.frags_let_go(frags)
        for frag in frags:
            if frag.destructor is None:
                put_page(frag.page)
            else:
                frag.destructor.put()
    shinfo.slab.free_cells.append(shinfo.head)
