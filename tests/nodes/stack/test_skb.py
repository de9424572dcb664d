"""Claims about socket buffers: what each of the three counts counts, who hears of an end, and all weather."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from lateack.nodes.memory.pages import Page
from lateack.nodes.stack.lifetime import Frag, FragDestructor, UbufInfo
from lateack.nodes.stack.skb import (
    MAX_SKB_FRAGS,
    SkBuff,
    add_frag,
    alloc_skb,
    kfree_skb,
    pages_holding,
    skb_cloned,
    skb_get,
    skb_header_cloned,
    skb_header_release,
    skb_length,
    skb_orphan,
    skb_put,
)
from lateack.nodes.stack.skb_copy import pskb_copy, pskb_expand_head, skb_clone, skb_copy, skb_orphan_frags, skb_unclone
from lateack.nodes.stack.skb_cut import pskb_pull_tail, pskb_trim, skb_pull_front, skb_split
from tests.nodes.stack.owner import Owner, content, counts


def test_a_destructor_runs_while_a_clone_still_shows_the_pages() -> None:
    """Clone, free the original: its destructor runs with the pages still referenced; the true last use is silent."""
    owner = Owner()
    pages = [owner.page(), owner.page()]
    skb = owner.packet(pages)
    skb.destructor = owner.destructed
    assert counts(skb, pages) == (1, (1, 1))

    clone = skb_clone(skb)
    assert counts(skb, pages) == (2, (1, 1))

    kfree_skb(skb)
    assert counts(clone, pages) == (1, (1, 1))
    assert len(owner.told) == 1  # premature

    kfree_skb(clone)
    assert counts(clone, pages) == (0, (0, 0))
    assert len(owner.told) == 1  # nobody was told of the true last use


def test_a_late_ack_frees_the_queue_and_not_the_clone() -> None:
    """C1 leaves, the timeout makes C2, the ACK frees Q: C2 alone still shows the pages, and only its end is the end."""
    owner = Owner()
    pages = [owner.page(), owner.page()]
    queued = owner.packet(pages)
    skb_header_release(queued)

    first = skb_clone(queued)
    assert counts(queued, pages) == (2, (1, 1))
    kfree_skb(first)
    assert counts(queued, pages) == (1, (1, 1))
    second = skb_clone(queued)
    assert counts(queued, pages) == (2, (1, 1))

    kfree_skb(queued)  # the ACK: under the bug the owner completes here
    assert counts(second, pages) == (1, (1, 1))

    kfree_skb(second)
    assert counts(second, pages) == (0, (0, 0))


def test_a_frag_destructor_tells_at_the_true_last_use() -> None:
    """Two fragments and the builder make three; the ACK leaves two with the clone below; its end tells the owner."""
    owner = Owner()
    pages = [owner.page(), owner.page()]
    destructor = FragDestructor(owner, "loan")
    queued = alloc_skb(owner.slab)
    for page in pages:
        destructor.get()
        add_frag(queued, Frag(page, 0, 1000, destructor))
    assert destructor.refs == 3

    destructor.put()
    second = skb_clone(queued)
    assert destructor.refs == 2

    kfree_skb(queued)
    assert (destructor.refs, owner.told) == (2, [])

    kfree_skb(second)
    assert (destructor.refs, owner.told, counts(second, pages)) == (0, ["loan"], (0, (0, 0)))


def test_users_count_one_header_and_nothing_else() -> None:
    """skb_get keeps the header alive; dataref and page references do not move."""
    owner = Owner()
    pages = [owner.page()]
    skb = owner.packet(pages)
    skb.destructor = owner.destructed

    kfree_skb(skb_get(skb))
    assert (counts(skb, pages), owner.told) == ((1, (1,)), [])

    kfree_skb(skb)
    assert (counts(skb, pages), len(owner.told)) == ((0, (0,)), 1)
    with pytest.raises(AssertionError, match="freed twice"):
        kfree_skb(skb)


def test_headers_may_be_written_below_a_queue_that_looks_at_payload_only() -> None:
    """`nohdr` of the queued packet makes the clone's headers its own although the data block is shared."""
    owner = Owner()
    queued = owner.packet([owner.page()])
    skb_header_release(queued)

    clone = skb_clone(queued)

    assert skb_cloned(clone) and skb_cloned(queued)
    assert not skb_header_cloned(clone)
    other = skb_clone(clone)
    assert skb_header_cloned(clone)
    kfree_skb(other)
    kfree_skb(queued)
    assert not skb_cloned(clone)
    kfree_skb(clone)
    assert owner.slab.outstanding == 0


def test_an_orphan_lives_on_after_its_destructor() -> None:
    """skb_orphan runs the destructor now; the data stays, and the free runs it no second time."""
    owner = Owner()
    pages = [owner.page()]
    skb = owner.packet(pages)
    skb.destructor = owner.destructed
    skb.socket = owner

    skb_orphan(skb)
    assert (len(owner.told), counts(skb, pages)) == (1, (1, (1,)))
    assert not skb.socket

    kfree_skb(skb)
    assert len(owner.told) == 1


def test_the_kernel_bounds_the_fragments_of_a_packet() -> None:
    """The eighteenth fragment does not fit."""
    owner = Owner()
    skb = owner.packet([owner.page() for _ in range(MAX_SKB_FRAGS)], size=1)

    with pytest.raises(AssertionError, match="too many"):
        add_frag(skb, Frag(owner.page(), 0, 1))


def test_pages_holding_cuts_at_pages() -> None:
    """Copied bytes lie in fresh pages, full but for the last."""
    owner = Owner()
    data = bytes(range(256)) * 33

    frags = pages_holding(data, owner.pool)

    assert [frag.size for frag in frags] == [4096, 4096, 256]
    assert b"".join(owner.memory.read(frag.page.frame, 0, frag.size) for frag in frags) == data


# --- all weather ------------------------------------------------------------------------------------------------------


class Herd:
    """Live headers under random operations, with what each must hold, and every invariant that must always be true."""

    def __init__(self) -> None:
        self.owner = Owner(frames=1024)
        self.skbs: list[tuple[SkBuff, bytes]] = []
        self.loans: dict[object, FragDestructor | UbufInfo] = {}
        self.pages: list[Page] = []
        self.destructors_set = 0
        self.fill = 0

    def make(self, linear: int, sizes: list[int], mechanism: str) -> None:
        """Build a packet whose pages are lent under one mechanism."""
        skb = alloc_skb(self.owner.slab)
        skb_put(skb, bytes(range(linear)))
        destructor = FragDestructor(self.owner, len(self.loans)) if mechanism == "frag" else None
        for size in sizes:
            self.fill = self.fill % 255 + 1
            page = self.owner.page(bytes([self.fill]))
            self.pages.append(page)
            if destructor is None:
                page.refs += 1
            else:
                destructor.get()
            add_frag(skb, Frag(page, self.fill, size, destructor))
        if destructor is not None:
            self.loans[len(self.loans)] = destructor
            destructor.put()
        elif mechanism != "bare":
            ubuf = UbufInfo(self.owner, len(self.loans), refcounted=mechanism == "counted")
            self.loans[len(self.loans)] = ubuf
            skb.shinfo.ubuf = ubuf
        self.skbs.append((skb, content(skb)))

    def apply(self, operation: str, which: int, amount: int) -> None:
        """Do one operation to one live header."""
        if not self.skbs:
            return
        skb, held = self.skbs[which % len(self.skbs)]
        at = which % len(self.skbs)
        pool = self.owner.pool
        match operation:
            case "clone":
                self.skbs.append((skb_clone(skb, pool), held))
            case "pskb_copy":
                self.skbs.append((pskb_copy(skb, pool), held))
            case "copy":
                self.skbs.append((skb_copy(skb, pool), held))
            case "expand":
                pskb_expand_head(skb, pool)
            case "unclone":
                skb_unclone(skb, pool)
            case "orphan":
                skb_orphan_frags(skb, pool)
            case "destructor":
                if skb.destructor is None:
                    skb.destructor = self.note
                    self.destructors_set += 1
            case "orphan-skb":
                skb_orphan(skb)
            case "get":
                kfree_skb(skb_get(skb))
            case "free":
                del self.skbs[at]
                kfree_skb(skb)
            case _:
                self.cut(operation, at, amount)

    def cut(self, operation: str, at: int, amount: int) -> None:
        """Do one operation that takes bytes away from a header or moves them."""
        skb, held = self.skbs[at]
        pool = self.owner.pool
        length = amount % (len(held) + 1)
        match operation:
            case "pull":
                room = skb.shinfo.head + skb.shinfo.slab.size - skb.tail
                paged = skb_length(skb) - (skb.tail - skb.data)
                pskb_pull_tail(skb, min(amount, paged, room), pool)
            case "trim":
                pskb_trim(skb, length, pool)
                self.skbs[at] = (skb, held[:length])
            case "front":
                skb_unclone(skb, pool)
                skb_pull_front(skb, length)
                self.skbs[at] = (skb, held[length:])
            case "split":
                skb_unclone(skb, pool)
                rest = alloc_skb(self.owner.slab)
                skb_split(skb, rest, length)
                self.skbs[at] = (skb, held[:length])
                self.skbs.append((rest, held[length:]))
            case _:
                raise AssertionError(f"nobody knows how to {operation}")

    def note(self, skb: SkBuff) -> None:
        """A destructor ran."""
        self.destructors_set -= 1

    def check(self) -> None:
        """Assert every invariant over the live headers."""
        for skb, held in self.skbs:
            assert content(skb) == held
            assert skb_length(skb) == len(held)
        blocks = {id(skb.shinfo): skb.shinfo for skb, _ in self.skbs}
        for key, block in blocks.items():
            assert block.dataref == sum(id(skb.shinfo) == key for skb, _ in self.skbs)
            assert block.payload_refs == sum(id(skb.shinfo) == key and skb.nohdr for skb, _ in self.skbs)
        assert self.owner.slab.outstanding == len(blocks)
        frags = [frag for block in blocks.values() for frag in block.frags]
        for page in self.pages:
            assert page.refs - 1 == sum(frag.page is page and frag.destructor is None for frag in frags)
        private = {id(f.page): f.page for f in frags if f.destructor is None and f.page not in self.pages}
        for page in private.values():
            assert page.refs == sum(frag.page is page for frag in frags)
        for token, loan in self.loans.items():
            told = sum(entry == token or (isinstance(entry, tuple) and entry[0] == token) for entry in self.owner.told)
            if isinstance(loan, FragDestructor):
                alive = sum(frag.destructor is loan for frag in frags)
            else:
                alive = sum(block.ubuf is loan for block in blocks.values())
            assert loan.refs == alive
            assert told == (alive == 0)

    def finish(self) -> None:
        """Free everything and assert that it all came home."""
        while self.skbs:
            kfree_skb(self.skbs.pop()[0])
            self.check()
        for page in self.pages:
            assert page.refs == 1
            page.refs = 0
            self.owner.pool.free(page)
        assert self.owner.home()
        assert self.destructors_set == 0


OPERATIONS = (
    "clone", "pskb_copy", "copy", "expand", "unclone", "orphan", "destructor", "orphan-skb", "get", "pull", "trim",
    "front", "split", "free",
)  # fmt: skip
PACKET = st.tuples(
    st.integers(0, 60), st.lists(st.integers(1, 90), max_size=4), st.sampled_from(("bare", "frag", "ubuf", "counted"))
)
STEP = st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 7), st.integers(0, 300))


@settings(max_examples=150)
@given(st.lists(PACKET, min_size=1, max_size=2), st.lists(STEP, max_size=14))
def test_counts_content_and_callbacks_hold_in_all_weather(
    packets: list[tuple[int, list[int], str]], steps: list[tuple[str, int, int]]
) -> None:
    """Whatever is cloned, copied, expanded, pulled, trimmed, split, orphaned and freed, in whatever order:

    each count equals what it counts, each owner is told exactly once and only when nothing of its loan is alive, the
    bytes stay the same, and in the end everything is home.
    """
    herd = Herd()
    for linear, sizes, mechanism in packets:
        herd.make(linear, sizes, mechanism)

    for step in steps:
        herd.apply(*step)
        herd.check()

    herd.finish()
