"""Claims about socket buffers: the golden counter traces, what every operation does to the counts, and all weather."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lateack.nodes.memory.pages import HeadSlab, Memory, Page, PagePool
from lateack.nodes.stack.lifetime import Frag, FragDestructor, UbufInfo
from lateack.nodes.stack.skb import (
    MAX_SKB_FRAGS,
    SkBuff,
    add_frag,
    alloc_skb,
    kfree_skb,
    pages_holding,
    pskb_copy,
    pskb_expand_head,
    pskb_pull_tail,
    pskb_trim,
    read_frags,
    skb_clone,
    skb_cloned,
    skb_copy,
    skb_copy_ubufs,
    skb_get,
    skb_header_cloned,
    skb_header_release,
    skb_length,
    skb_linear,
    skb_orphan,
    skb_orphan_frags,
    skb_pull_front,
    skb_push,
    skb_put,
    skb_split,
    skb_unclone,
)


class Owner:
    """Owns pages, lends them under any mechanism, and writes down everything that it is told."""

    def __init__(self, frames: int = 256) -> None:
        self.memory = Memory(1, frames)
        self.pool = PagePool(self.memory, 0, frames)
        self.slab = HeadSlab(self.memory, self.pool)
        self.told: list[object] = []

    def frags_released(self, token: object) -> None:
        """Note that the last fragment under *token* is gone."""
        self.told.append(token)

    def zerocopy_complete(self, token: object, success: bool) -> None:
        """Note that the last data block under *token* is gone."""
        self.told.append((token, success))

    def destructed(self, skb: SkBuff) -> None:
        """Note that a header's destructor ran, and which pages it could see."""
        self.told.append(tuple(frag.page.frame for frag in skb.shinfo.frags))

    def page(self, fill: bytes = b"?") -> Page:
        """Return a page of one repeated byte, with the owner's own reference."""
        page = self.pool.alloc()
        page.memory.write(page.frame, 0, fill * 4096)
        return page

    def packet(self, pages: list[Page], size: int = 1000, offset: int = 0) -> SkBuff:
        """Return a packet that shows *size* bytes of each page, each with a reference beside the owner's."""
        skb = alloc_skb(self.slab)
        for page in pages:
            page.refs += 1
            add_frag(skb, Frag(page, offset, size))
        return skb

    def home(self) -> bool:
        """Say whether every head and page has come back."""
        return self.slab.outstanding == 0 and self.pool.outstanding == len(self.slab.pages)


def counts(skb: SkBuff, pages: list[Page]) -> tuple[int, tuple[int, ...]]:
    """Return (D, P): the data block's headers, and each page's references beside its owner's."""
    return skb.shinfo.dataref, tuple(page.refs - 1 for page in pages)


def content(skb: SkBuff) -> bytes:
    """Return every byte of the packet as it is now."""
    return skb_linear(skb) + b"".join(read_frags(skb))


# --- the golden traces ------------------------------------------------------------------------------------------------


def test_trace_1_a_destructor_runs_while_a_clone_still_shows_the_pages() -> None:
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


def test_trace_2_a_page_that_was_pulled_is_missed_by_the_destructor() -> None:
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


def test_trace_2b_a_pull_on_a_clone_expands_first() -> None:
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


def test_trace_3_an_expanded_clone_keeps_the_pages() -> None:
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


def test_trace_4_a_queued_packet_is_fragmented_while_its_clone_is_below() -> None:
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


def test_trace_5_a_late_ack_frees_the_queue_and_not_the_clone() -> None:
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


def test_trace_6_a_counted_zero_copy_owner_hears_when_the_last_data_block_dies() -> None:
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


def test_trace_7_a_frag_destructor_tells_at_the_true_last_use() -> None:
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


def test_trace_7_a_pull_returns_the_eaten_fragment_at_once() -> None:
    """The pull of trace 2 under a frag destructor: two become one when the first is eaten, none at the free."""
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


# --- single operations ------------------------------------------------------------------------------------------------


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
