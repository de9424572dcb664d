"""Claims about clones and copies: what each shares, what it has for itself, and who is copied out first."""

from __future__ import annotations

import pytest

from lateack.nodes.stack.lifetime import UbufInfo
from lateack.nodes.stack.skb import kfree_skb, skb_header_cloned, skb_header_release, skb_push, skb_put
from lateack.nodes.stack.skb_copy import (
    pskb_copy,
    pskb_expand_head,
    skb_clone,
    skb_copy,
    skb_copy_ubufs,
    skb_orphan_frags,
    skb_unclone,
)
from tests.nodes.stack.owner import Owner, content, counts


def test_an_expanded_clone_keeps_the_pages() -> None:
    """After the clone's head was expanded, freeing the original runs the destructor and leaves one reference a page."""
    owner = Owner()
    pages = [owner.page(), owner.page()]
    skb = owner.packet(pages)
    skb.destructor = owner.destructed
    clone = skb_clone(skb)
    assert counts(skb, pages) == (2, (1, 1))

    old = skb.shinfo
    pskb_expand_head(clone)
    assert (old.dataref, counts(clone, pages)) == (1, (1, (2, 2)))

    kfree_skb(skb)
    assert (old.dataref, counts(clone, pages)) == (0, (1, (1, 1)))
    assert len(owner.told) == 1  # premature

    kfree_skb(clone)
    assert counts(clone, pages) == (0, (0, 0))


@pytest.mark.parametrize("separate", [skb_unclone, skb_copy_ubufs])
def test_a_separated_queue_still_looks_at_payload_only(separate: object) -> None:
    """However the queued packet gets a data block of its own, its promise about headers goes with it."""
    owner = Owner()
    queued = owner.packet([owner.page()])
    skb_header_release(queued)
    below = skb_clone(queued)

    separate(queued, owner.pool)  # type: ignore[operator]
    next_below = skb_clone(queued)

    assert queued.nohdr
    assert not skb_header_cloned(next_below)
    for skb in (below, next_below, queued):
        kfree_skb(skb)
    assert owner.slab.outstanding == 0


def test_a_copied_header_is_private_and_the_pages_are_shared() -> None:
    """pskb_copy: new head, D=1, one more reference a page; headers pushed onto it do not show in the original."""
    owner = Owner()
    pages = [owner.page(b"p")]
    skb = owner.packet(pages, size=10)
    skb_put(skb, b"line")

    copied = pskb_copy(skb)
    skb_push(copied, b"head")

    assert counts(copied, pages) == (1, (2,))
    assert content(copied) == b"headline" + b"p" * 10
    assert content(skb) == b"line" + b"p" * 10


def test_a_full_copy_shares_nothing_and_tells_nobody() -> None:
    """skb_copy: the original keeps its pages and its owner hears nothing, counted or not; later writes do not show."""
    for refcounted in (False, True):
        owner = Owner()
        pages = [owner.page(b"o")]
        skb = owner.packet(pages, size=10)
        skb.shinfo.ubuf = UbufInfo(owner, "loan", refcounted=refcounted)

        copied = skb_copy(skb, owner.pool)
        owner.memory.write(pages[0].frame, 0, b"n" * 10)

        assert content(copied) == b"o" * 10
        assert (counts(skb, pages), owner.told, skb.shinfo.ubuf is not None) == ((1, (1,)), [], True)
        kfree_skb(skb)
        assert owner.told == [("loan", True)]


def test_no_clone_makes_every_clone_a_copy() -> None:
    """A packet marked no_clone never shares its data block."""
    owner = Owner()
    pages = [owner.page()]
    skb = owner.packet(pages)
    skb.no_clone = True

    other = skb_clone(skb, owner.pool)

    assert other.shinfo is not skb.shinfo
    assert counts(skb, pages) == (1, (1,))


def test_an_uncounted_owner_is_copied_out_before_a_clone_may_share() -> None:
    """DEV_ZEROCOPY: a clone first copies the pages; the owner hears at once, and that it was a copy."""
    owner = Owner()
    pages = [owner.page(b"x")]
    skb = owner.packet(pages, size=10)
    skb.shinfo.ubuf = UbufInfo(owner, "loan")

    clone = skb_clone(skb, owner.pool)
    owner.memory.write(pages[0].frame, 0, b"y" * 10)

    assert owner.told == [("loan", False)]
    assert pages[0].refs == 1
    assert content(clone) == content(skb) == b"x" * 10


def test_orphaning_frags_copies_even_from_a_counted_owner() -> None:
    """A packet that may loop to a local receiver is copied whoever owns its pages (skb_orphan_frags_rx)."""
    owner = Owner()
    pages = [owner.page()]
    skb = owner.packet(pages)
    skb.shinfo.ubuf = UbufInfo(owner, "loan", refcounted=True)
    skb.shinfo.shared_frag = True

    skb_orphan_frags(skb, owner.pool)

    assert owner.told == [("loan", False)]
    assert pages[0].refs == 1
    assert not skb.shinfo.shared_frag  # the copies belong to nobody else
