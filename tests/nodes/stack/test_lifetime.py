"""Claims about the one room where references to fragments are taken, dropped and answered for."""

import copy

import pytest

from lateack.nodes.memory.pages import POISON, Memory, Page, PagePool
from lateack.nodes.stack.lifetime import (
    Frag,
    FragDestructor,
    UbufInfo,
    frag_ref,
    frag_unref,
    frag_view,
    unmap_page,
    unmapped,
)


class Owner:
    """Lends pages and writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def frags_released(self, token: object) -> None:
        """Note that the last fragment under *token* is gone."""
        self.told.append(token)

    def zerocopy_complete(self, token: object, success: bool) -> None:
        """Note that the data block under *token* is gone."""
        self.told.append((token, success))


def test_a_bare_fragment_counts_on_its_page_and_tells_nobody() -> None:
    """get and put go to the page; at zero it goes home, and that is all that happens."""
    pool = PagePool(Memory(1, 2), 0, 2)
    frag = Frag(pool.alloc(), 0, 10)

    frag_ref(frag)
    refs = frag.page.refs
    frag_unref(frag)
    frag_unref(frag)

    assert (refs, frag.page.refs, pool.outstanding) == (2, 0, 0)


def test_a_fragment_with_a_destructor_leaves_the_page_count_alone() -> None:
    """Under a frag destructor the owner's count takes the place of the page's (skb_frag_ref of the 2012 series)."""
    owner = Owner()
    page = Page(Memory(1, 1), 0)
    destructor = FragDestructor(owner, "loan")
    frag = Frag(page, 0, 10, destructor)

    destructor.get()
    frag_ref(frag)
    destructor.put()
    frag_unref(frag)
    before = list(owner.told)
    frag_unref(frag)

    assert (before, owner.told, page.refs) == ([], ["loan"], 1)


def test_a_destructor_cannot_be_told_twice() -> None:
    """A reference dropped too often is a bug of ours and stops the run."""
    destructor = FragDestructor(Owner(), "loan")
    destructor.put()

    with pytest.raises(AssertionError, match="returned twice"):
        destructor.put()


def test_the_last_data_block_tells_a_zero_copy_owner_once() -> None:
    """Two data blocks share one owner; it hears when the second is gone, and of a copy made by either."""
    owner = Owner()
    ubuf = UbufInfo(owner, 7, refcounted=True)

    ubuf.get()
    ubuf.put(success=False)
    before = list(owner.told)
    ubuf.put(success=True)

    assert (before, owner.told) == ([], [(7, False)])
    with pytest.raises(AssertionError, match="told twice"):
        ubuf.put(success=True)


def test_a_fragment_shows_the_bytes_of_now() -> None:
    """A view is made at the moment of reading: what was written since is what it shows."""
    memory = Memory(1, 1)
    frag = Frag(Page(memory, 0), 4, 4)

    memory.write(0, 0, b"....new!....")

    assert bytes(frag_view(frag)) == b"new!"


def test_an_unmapped_page_shows_poison_for_every_fragment_of_it() -> None:
    """Whoever still holds an unmapped page reads the slab's poison, also after the machine has been copied."""
    page = Page(Memory(3, 2), 1)
    frag = Frag(page, 4000, 96)
    before = unmapped(page)

    unmap_page(page)
    copied = copy.deepcopy(frag)

    assert not before
    for seen in (frag, copied):
        assert unmapped(seen.page)
        assert bytes(frag_view(seen)) == bytes([POISON]) * 96
