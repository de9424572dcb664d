"""Socket buffers: one header per user, one data block per content, and three counts that are never the same thing.

    skb.users       references to one header                      skb_get / kfree_skb
    shinfo.dataref  headers that share one data block             skb_clone / skb_release_data
    page.refs       data blocks (and others) that show one page   frag_ref / frag_unref, in lifetime.py

Source: net/core/skbuff.c and include/linux/skbuff.h. Where we differ: there is no frag_list, and the linear area is one
cell of a slab, so that a guest's headers lie in grantable memory as its pages do.
"""

from collections.abc import Callable

from lateack.nodes.memory.pages import PAGE_SIZE, HeadSlab, PagePool, put_page
from lateack.nodes.stack.lifetime import Frag, UbufInfo, frag_ref, frag_unref, frag_view

MAX_SKB_FRAGS = 17
"""65536 / 4096 + 1 (include/linux/skbuff.h); older kernels had 18, which lives on as XEN_NETIF_NR_SLOTS_MIN."""

NO_POOL = "pages can be copied only where there is a pool to copy them into"

HEADROOM = 96
"""Bytes kept free in front of the data for Ethernet, IPv4 and TCP headers (MAX_TCP_HEADER is larger; 66 are used)."""


class SharedInfo:
    """The data block that clones share: the head's cell, the fragments, and who is to be told (`skb_shared_info`)."""

    __slots__ = ("dataref", "frags", "gso_size", "head", "payload_refs", "shared_frag", "slab", "ubuf")

    def __init__(self, slab: HeadSlab) -> None:
        self.slab = slab
        cells = slab.free_cells
        self.head = cells.pop() if cells else slab.alloc()
        self.dataref = 1
        self.payload_refs = 0
        self.frags: list[Frag] = []
        self.gso_size = 0
        self.ubuf: UbufInfo | None = None
        self.shared_frag = False


class SkBuff:
    """One header: where its data begins and ends in the head, and what its owner keeps about it (`skb->cb`).

    `data` and `tail` are byte addresses in the slab's memory; `seq` and `end_seq` are unwrapped stream positions.
    """

    __slots__ = (
        "cloned", "data", "destructor", "digests", "end_seq", "flags", "lost", "needs_checksum", "no_clone", "nohdr",
        "sent_at", "seq", "shinfo", "socket", "tail", "transmissions", "users", "witness",
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

    def __init__(self, shinfo: SharedInfo, data: int, tail: int) -> None:
        self.shinfo = shinfo
        self.data = data
        self.tail = tail
        self.users = 1
        self.cloned = False
        self.nohdr = False
        self.no_clone = False
        self.needs_checksum = True
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


def skb_length(skb: SkBuff) -> int:
    """Return all bytes of the packet, linear and paged."""
    length = skb.tail - skb.data
    for frag in skb.shinfo.frags:
        length += frag.size
    return length


def add_frag(skb: SkBuff, frag: Frag) -> None:
    """Append a fragment, taking over the reference that the caller holds."""
    assert len(skb.shinfo.frags) < MAX_SKB_FRAGS, "too many fragments"
    skb.shinfo.frags.append(frag)


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


def skb_clone(skb: SkBuff, pool: PagePool | None = None) -> SkBuff:
    """Return a second header over the same data block: dataref rises, page references do not.

    The clone has no destructor and no socket. Pages of an owner who does not count its sharers are copied first, into
    pages of *pool*.
    """
    if skb.no_clone:
        return skb_copy(skb, pool)
    shinfo = skb.shinfo
    ubuf = shinfo.ubuf
    if ubuf is not None and not ubuf.refcounted:
        skb_copy_ubufs(skb, pool)
        shinfo = skb.shinfo
    clone = SkBuff(shinfo, skb.data, skb.tail)
    shinfo.dataref += 1
    skb.cloned = clone.cloned = True
    clone.needs_checksum = skb.needs_checksum
    return clone


def pskb_copy(skb: SkBuff, pool: PagePool | None = None) -> SkBuff:
    """Return a header with its own head and linear bytes, and references on the same pages."""
    if skb.shinfo.ubuf is not None and not skb.shinfo.ubuf.refcounted:
        skb_copy_ubufs(skb, pool)
    copy = SkBuff(_new_head(skb), 0, 0)
    _place(copy, skb)
    copy.needs_checksum = skb.needs_checksum
    return copy


def skb_copy(skb: SkBuff, pool: PagePool | None) -> SkBuff:
    """Return a packet that shares nothing with *skb*: its linear bytes and its pages are copied; no owner is told."""
    assert pool is not None, NO_POOL
    old = skb.shinfo
    shinfo = SharedInfo(old.slab)
    shinfo.gso_size = old.gso_size
    shinfo.frags = pages_holding(b"".join(read_frags(skb)), pool)
    copy = SkBuff(shinfo, 0, 0)
    _place(copy, skb)
    copy.needs_checksum = skb.needs_checksum
    return copy


def pskb_expand_head(skb: SkBuff, pool: PagePool | None = None) -> None:
    """Give *skb* a data block of its own: if it was shared, both blocks now hold references on the same pages."""
    old = skb.shinfo
    if skb_cloned(skb) and old.ubuf is not None and not old.ubuf.refcounted:
        skb_copy_ubufs(skb, pool)
    else:
        _leave_block(skb)


def skb_unclone(skb: SkBuff, pool: PagePool | None = None) -> None:
    """Make sure that no other header shares the data block."""
    if skb_cloned(skb):
        nohdr = skb.nohdr
        pskb_expand_head(skb, pool)
        if nohdr and not skb.nohdr:
            skb_header_release(skb)


def pskb_pull_tail(skb: SkBuff, count: int, pool: PagePool | None = None) -> None:
    """Move *count* bytes from the fragments into the linear area; a fragment wholly eaten is returned at once."""
    skb_unclone(skb, pool)
    skb_put(skb, b"".join([frag_view(frag) for frag in skb.shinfo.frags])[:count])
    _eat_front(skb.shinfo, count, copied=True)


def skb_pull_front(skb: SkBuff, count: int) -> None:
    """Drop *count* payload bytes from the front: linear first, then fragments (`__pskb_trim_head`)."""
    linear = min(count, skb.tail - skb.data)
    skb.data += linear
    if count > linear:
        _eat_front(skb.shinfo, count - linear, copied=False)


def pskb_trim(skb: SkBuff, length: int, pool: PagePool | None = None) -> None:
    """Cut the packet to *length* bytes; fragments behind the cut are returned at once (`___pskb_trim`)."""
    skb_unclone(skb, pool)
    shinfo = skb.shinfo
    room = length - (skb.tail - skb.data)
    if room < 0:
        skb.tail += room
        room = 0
    kept: list[Frag] = []
    for frag in shinfo.frags:
        if room >= frag.size:
            kept.append(frag)
        elif room > 0:
            kept.append(Frag(frag.page, frag.offset, room, frag.destructor))
        else:
            frag_unref(frag)
        room -= frag.size
    shinfo.frags = kept
    _settle_ubuf(shinfo, success=True)


def skb_split(skb: SkBuff, rest: SkBuff, length: int) -> None:
    """Keep *length* bytes in *skb* and move what follows into the empty *rest*; both refer to a page cut in two."""
    room = length - (skb.tail - skb.data)
    if room < 0:
        skb_put(rest, bytes(skb.shinfo.slab.memory.view[skb.tail + room : skb.tail]))
        skb.tail += room
        room = 0
    kept: list[Frag] = []
    moved = rest.shinfo.frags
    for frag in skb.shinfo.frags:
        if room >= frag.size:
            kept.append(frag)
        elif room <= 0:
            moved.append(frag)
        else:
            frag_ref(frag)
            kept.append(Frag(frag.page, frag.offset, room, frag.destructor))
            moved.append(Frag(frag.page, frag.offset + room, frag.size - room, frag.destructor))
        room -= frag.size
    skb.shinfo.frags = kept
    rest.shinfo.shared_frag = skb.shinfo.shared_frag
    rest.no_clone = skb.no_clone
    if skb.shinfo.ubuf is not None and moved:
        skb.shinfo.ubuf.get()
        rest.shinfo.ubuf = skb.shinfo.ubuf
        _settle_ubuf(skb.shinfo, success=True)


def skb_orphan(skb: SkBuff) -> None:
    """Run the destructor now and forget the socket; the data lives on."""
    destructor = skb.destructor
    skb.destructor = None
    skb.socket = None
    if destructor is not None:
        destructor(skb)


def skb_orphan_frags(skb: SkBuff, pool: PagePool | None) -> None:
    """Copy the pages of an owner who cannot tolerate that the packet lives long (`skb_orphan_frags_rx`)."""
    if skb.shinfo.ubuf is not None:
        skb_copy_ubufs(skb, pool)


def skb_copy_ubufs(skb: SkBuff, pool: PagePool | None) -> None:
    """Replace the owner's pages by private copies and tell the owner that it was a copy (`skb_copy_ubufs`)."""
    if skb_cloned(skb):
        nohdr = skb.nohdr
        _leave_block(skb)
        if nohdr:
            skb_header_release(skb)
    _copy_pages(skb, pool)


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
    _release_block(skb)


def skb_linear(skb: SkBuff) -> bytes:
    """Return the linear bytes as they are now."""
    return bytes(skb.shinfo.slab.memory.view[skb.data : skb.tail])


def read_frags(skb: SkBuff) -> list[memoryview]:
    """Return windows on the paged bytes as they are now: the moment at which content is fixed. Use them at once."""
    return [frag_view(frag) for frag in skb.shinfo.frags]


def _release_block(skb: SkBuff) -> None:
    """`skb_release_data`: the owner's callback and the pages go when the last header lets go, and not before."""
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
        for frag in frags:
            if frag.destructor is None:
                put_page(frag.page)
            else:
                frag.destructor.put()
    shinfo.slab.free_cells.append(shinfo.head)


def _leave_block(skb: SkBuff) -> None:
    """Move *skb* alone into a new data block that shows the same pages."""
    old = skb.shinfo
    shinfo = _new_head(skb)
    _release_block(skb)
    skb.shinfo = shinfo
    _place(skb, skb, old)
    skb.cloned = skb.nohdr = False


def _new_head(skb: SkBuff) -> SharedInfo:
    """Return a new data block that shows the same pages as *skb*'s, each with a reference of its own."""
    old = skb.shinfo
    shinfo = SharedInfo(old.slab)
    shinfo.gso_size = old.gso_size
    shinfo.shared_frag = old.shared_frag
    shinfo.frags = old.frags.copy()
    for frag in shinfo.frags:
        frag_ref(frag)
    if old.ubuf is not None:
        old.ubuf.get()
        shinfo.ubuf = old.ubuf
    return shinfo


def _place(skb: SkBuff, source: SkBuff, old: SharedInfo | None = None) -> None:
    """Copy the linear bytes of *source* into *skb*'s new head, at the same distance from its start."""
    old = old or source.shinfo
    view = old.slab.memory.view
    data, tail = source.data, source.tail
    base = skb.shinfo.head - old.head
    skb.shinfo.slab.memory.view[data + base : tail + base] = view[data:tail]
    skb.data, skb.tail = data + base, tail + base


def _eat_front(shinfo: SharedInfo, count: int, *, copied: bool) -> None:
    frags = shinfo.frags
    while count and frags and frags[0].size <= count:
        count -= frags[0].size
        frag_unref(frags.pop(0))
    if count:
        first = frags[0]
        frags[0] = Frag(first.page, first.offset + count, first.size - count, first.destructor)
    _settle_ubuf(shinfo, success=not copied)


def _settle_ubuf(shinfo: SharedInfo, *, success: bool) -> None:
    """Once nothing paged remains, the owner has nothing in this packet any more (`__pskb_pull_tail` clears it)."""
    if shinfo.ubuf is not None and not shinfo.frags:
        ubuf = shinfo.ubuf
        shinfo.ubuf = None
        ubuf.put(success)


def _copy_pages(skb: SkBuff, pool: PagePool | None) -> None:
    assert pool is not None, NO_POOL
    shinfo = skb.shinfo
    data = b"".join([frag_view(frag) for frag in shinfo.frags])
    mine = pages_holding(data, pool)
    for frag in shinfo.frags:
        frag_unref(frag)
    shinfo.frags = mine
    shinfo.shared_frag = False  # nobody else can rewrite the copies
    if shinfo.ubuf is not None:
        ubuf = shinfo.ubuf
        shinfo.ubuf = None
        ubuf.put(success=False)


def pages_holding(data: bytes | memoryview, pool: PagePool) -> list[Frag]:
    """Copy *data* into fresh pages of *pool* and return them as fragments that own one reference each."""
    frags: list[Frag] = []
    for start in range(0, len(data), PAGE_SIZE):
        piece = data[start : start + PAGE_SIZE]
        page = pool.alloc()
        page.memory.write(page.frame, 0, piece)
        frags.append(Frag(page, 0, len(piece)))
    return frags
