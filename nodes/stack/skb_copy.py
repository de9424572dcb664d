"""Second headers and second bytes: what a clone shares, what a copy has for itself, and whose owner must be copied out.

    skb_clone    a header of its own     over the same data block
    pskb_copy    a data block of its own over the same pages
    skb_copy     pages of its own

Source: net/core/skbuff.c. Pages of an owner who does not count those who share them are copied into pages of a pool
before anybody else may have them.
"""

from lateack.nodes.memory.pages import PagePool
from lateack.nodes.stack.lifetime import frag_ref, frag_unref
from lateack.nodes.stack.skb import (
    SharedInfo,
    SkBuff,
    pages_holding,
    read_frags,
    skb_cloned,
    skb_header_release,
    skb_release_data,
)

NO_POOL = "pages can be copied only where there is a pool to copy them into"


def must_copy(skb: SkBuff) -> bool:
    """Say whether the pages of a packet have to be copied before other packets may show them (skb_orphan_frags)."""
    ubuf = skb.shinfo.ubuf
    return ubuf is not None and not ubuf.refcounted


def clone_copies(skb: SkBuff) -> bool:
    """Say whether cloning this packet copies its pages, which somebody has to be charged for."""
    return skb.no_clone or must_copy(skb)


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
    if skb.no_clone:
        return skb_copy(skb, pool)
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


def _leave_block(skb: SkBuff) -> None:
    """Move *skb* alone into a new data block that shows the same pages."""
    old = skb.shinfo
    shinfo = _new_head(skb)
    if old.dataref == 1:  # then the fragments just move, and a destructor in the block moves with them
        shinfo.page_destructor, old.page_destructor = old.page_destructor, None
    skb_release_data(skb)
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


def _copy_pages(skb: SkBuff, pool: PagePool | None) -> None:
    assert pool is not None, NO_POOL
    shinfo = skb.shinfo
    data = b"".join(read_frags(skb))
    mine = pages_holding(data, pool)
    for frag in shinfo.frags:
        frag_unref(frag)
    shinfo.frags = mine
    shinfo.shared_frag = False  # nobody else can rewrite the copies
    if shinfo.ubuf is not None:
        ubuf = shinfo.ubuf
        shinfo.ubuf = None
        ubuf.put(success=False)
