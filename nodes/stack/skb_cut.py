"""Packets made shorter, at the front, at the end or in two, and what that gives back of the pages they showed.

A fragment that nothing shows any more is returned at once, and not when the packet is freed: a destructor that looks at
the fragments then never sees it.

Source: net/core/skbuff.c.
"""

from collections.abc import Sequence

from lateack.nodes.memory.pages import PagePool
from lateack.nodes.stack.lifetime import Frag, frag_ref, frag_unref
from lateack.nodes.stack.skb import SharedInfo, SkBuff, read_frags, skb_put
from lateack.nodes.stack.skb_copy import skb_unclone


def pskb_pull_tail(skb: SkBuff, count: int, pool: PagePool | None = None) -> None:
    """Move *count* bytes from the fragments into the linear area; a fragment wholly eaten is returned at once."""
    skb_unclone(skb, pool)
    skb_put(skb, b"".join(read_frags(skb))[:count])
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


def share_frags(skb: SkBuff, frags: Sequence[Frag], skip: int, room: int) -> None:
    """Let *skb* show *room* bytes of *frags* after the first *skip*, with a reference of its own on each fragment."""
    for frag in frags:
        if skip >= frag.size:
            skip -= frag.size
            continue
        if room <= 0:
            return
        size = min(frag.size - skip, room)
        frag_ref(frag)
        skb.shinfo.frags.append(Frag(frag.page, frag.offset + skip, size, frag.destructor))
        room -= size
        skip = 0


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
