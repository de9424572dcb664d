"""Claims about packets that are made shorter: what comes back at once, what is shown twice, and who is told."""

from __future__ import annotations

import pytest

from lateack.nodes.stack.lifetime import Frag, FragDestructor, UbufInfo
from lateack.nodes.stack.skb import add_frag, alloc_skb, kfree_skb, skb_header_release, skb_put
from lateack.nodes.stack.skb_copy import skb_clone, skb_unclone
from lateack.nodes.stack.skb_cut import pskb_pull_tail, pskb_trim, skb_pull_front, skb_split
from tests.nodes.stack.owner import Owner, content, counts


def test_a_page_that_was_pulled_is_missed_by_the_destructor() -> None:
    """Pull over two fragments (a tenth of the size: heads are small): the first page is gone before the destructor."""
    owner = Owner()
    pages = [owner.page(b"a"), owner.page(b"b")]
    skb = owner.packet(pages, size=100, offset=200)
    skb.destructor = owner.destructed
    assert counts(skb, pages) == (1, (1, 1))

    pskb_pull_tail(skb, 120)

    assert counts(skb, pages) == (1, (0, 1))
    assert skb.shinfo.frags == [Frag(pages[1], 220, 80)]
    assert content(skb) == b"a" * 100 + b"b" * 100

    kfree_skb(skb)
    assert owner.told == [(pages[1].frame,)]
    assert counts(skb, pages) == (0, (0, 0))


def test_a_pull_on_a_clone_expands_first() -> None:
    """The clone gets a data block of its own, both show both pages, and only the clone's eats."""
    owner = Owner()
    pages = [owner.page(), owner.page()]
    skb = owner.packet(pages, size=100)
    clone = skb_clone(skb)
    assert counts(skb, pages) == (2, (1, 1))

    skb_unclone(clone)
    assert (skb.shinfo.dataref, counts(clone, pages)) == (1, (1, (2, 2)))

    pskb_pull_tail(clone, 120)
    assert (skb.shinfo.dataref, counts(clone, pages)) == (1, (1, (1, 2)))
    assert len(skb.shinfo.frags) == 2


def test_a_queued_packet_is_fragmented_while_its_clone_is_below() -> None:
    """tcp_fragment with C1 in flight: the page that the cut goes through is shown three times, and all come home."""
    owner = Owner()
    pages = [owner.page(), owner.page()]
    queued = owner.packet(pages)
    skb_header_release(queued)
    below = skb_clone(queued)
    assert counts(queued, pages) == (2, (1, 1))

    skb_unclone(queued)
    assert (below.shinfo.dataref, counts(queued, pages)) == (1, (1, (2, 2)))

    rest = alloc_skb(owner.slab)
    skb_split(queued, rest, 1500)
    assert counts(queued, pages) == (1, (2, 3))
    assert queued.shinfo.frags == [Frag(pages[0], 0, 1000), Frag(pages[1], 0, 500)]
    assert rest.shinfo.frags == [Frag(pages[1], 500, 500)]

    kfree_skb(below)
    assert counts(queued, pages) == (1, (1, 2))

    kfree_skb(queued)
    assert counts(rest, pages) == (1, (0, 1))

    kfree_skb(rest)
    assert counts(rest, pages) == (0, (0, 0))
    assert owner.slab.outstanding == 0


def test_a_counted_zero_copy_owner_hears_when_the_last_data_block_dies() -> None:
    """MSG_ZEROCOPY: one for sendmsg, one for Q's block, none for clones, one more for a block made by expanding."""
    owner = Owner()
    pages = [owner.page(), owner.page()]
    ubuf = UbufInfo(owner, "send", refcounted=True)
    queued = owner.packet(pages)
    ubuf.get()
    queued.shinfo.ubuf = ubuf
    assert ubuf.refs == 2

    ubuf.put(success=True)  # sendmsg returns
    clone = skb_clone(queued)
    assert ubuf.refs == 1

    skb_unclone(queued)
    assert (ubuf.refs, counts(queued, pages)) == (2, (1, (2, 2)))
    rest = alloc_skb(owner.slab)
    skb_split(queued, rest, 1500)
    assert (ubuf.refs, counts(queued, pages)) == (3, (1, (2, 3)))

    kfree_skb(queued)
    kfree_skb(clone)
    assert (ubuf.refs, counts(rest, pages), owner.told) == (1, (1, (0, 1)), [])

    kfree_skb(rest)
    assert (counts(rest, pages), owner.told) == ((0, (0, 0)), [("send", True)])


def test_a_pull_returns_the_eaten_fragment_at_once() -> None:
    """A pull under a frag destructor: two references become one when the first is eaten, none at the free."""
    owner = Owner()
    pages = [owner.page(), owner.page()]
    destructor = FragDestructor(owner, "loan")
    skb = alloc_skb(owner.slab)
    for page in pages:
        destructor.get()
        add_frag(skb, Frag(page, 0, 100, destructor))
    destructor.put()

    pskb_pull_tail(skb, 120)
    assert (destructor.refs, owner.told) == (1, [])

    kfree_skb(skb)
    assert (destructor.refs, owner.told) == (0, ["loan"])


def test_a_trim_returns_what_lies_behind_the_cut() -> None:
    """___pskb_trim drops tail fragments at once and shortens the one that the cut goes through."""
    owner = Owner()
    pages = [owner.page(b"a"), owner.page(b"b"), owner.page(b"c")]
    skb = owner.packet(pages, size=10)
    skb_put(skb, b"line")

    pskb_trim(skb, 19)

    assert content(skb) == b"line" + b"a" * 10 + b"b" * 5
    assert counts(skb, pages) == (1, (1, 1, 0))


@pytest.mark.parametrize("cut", ["trim", "split", "front"])
def test_losing_pages_uncopied_is_a_success(cut: str) -> None:
    """Only a pull copies bytes; trimming, splitting and dropping the front give pages back that were never copied."""
    owner = Owner()
    skb = owner.packet([owner.page()], size=10)
    skb_put(skb, b"line")
    skb.shinfo.ubuf = UbufInfo(owner, "loan", refcounted=True)
    rest = alloc_skb(owner.slab)

    if cut == "trim":
        pskb_trim(skb, 4)
    elif cut == "split":
        skb_split(skb, rest, 4)
    else:
        skb_pull_front(skb, 14)
    kfree_skb(rest)

    assert owner.told == [("loan", True)]


def test_a_pull_of_everything_tells_the_owner_that_it_was_copied() -> None:
    """Once nothing paged remains, the owner is told, and that its bytes were copied (__pskb_pull_tail)."""
    owner = Owner()
    skb = owner.packet([owner.page()], size=10)
    skb.shinfo.ubuf = UbufInfo(owner, "loan", refcounted=True)

    pskb_pull_tail(skb, 10)

    assert owner.told == [("loan", False)]


def test_a_split_carries_its_marks_along() -> None:
    """SHARED_FRAG and no_clone hold for both halves; the plain destructor stays with the first."""
    owner = Owner()
    skb = owner.packet([owner.page(), owner.page()])
    skb.shinfo.shared_frag = skb.no_clone = True
    skb.destructor = owner.destructed
    rest = alloc_skb(owner.slab)

    skb_split(skb, rest, 1000)

    assert rest.shinfo.shared_frag and rest.no_clone
    assert rest.destructor is None


def test_a_split_inside_the_linear_area_moves_linear_bytes() -> None:
    """What lies behind the cut moves, linear bytes first, then all fragments."""
    owner = Owner()
    skb = owner.packet([owner.page(b"p")], size=5)
    skb_put(skb, b"headtail")
    rest = alloc_skb(owner.slab)

    skb_split(skb, rest, 4)

    assert (content(skb), content(rest)) == (b"head", b"tailppppp")
