"""Claims about guest memory, the counts on its pages, and its allocators."""

import copy
import mmap
import pickle

import pytest

from lateack.nodes.errors import LateackError, MemoryExhausted
from lateack.nodes.memory.pages import PAGE_SIZE, HeadSlab, Memory, Page, PagePool, get_page, put_page, windows_between


def test_what_was_written_is_read() -> None:
    """Bytes written into a frame come back from that frame, by copy and by window, and from no other."""
    memory = Memory(1, 3)

    memory.write(1, 100, b"late")

    assert memory.read(1, 100, 4) == b"late"
    assert bytes(memory.window(1, 98, 8)) == b"\0\0late\0\0"
    assert memory.read(0, 0, PAGE_SIZE) == memory.read(2, 0, PAGE_SIZE) == bytes(PAGE_SIZE)


def test_a_read_never_crosses_a_frame() -> None:
    """Frames that lie side by side in the buffer are strangers to each other."""
    memory = Memory(1, 2)

    with pytest.raises(AssertionError):
        memory.read(0, PAGE_SIZE - 1, 2)


def test_words_and_halves_are_the_same_little_endian_bytes() -> None:
    """Index cells are views of the frame bytes, not copies."""
    memory = Memory(1, 2)

    memory.words[1024] = 0x11223344
    memory.halves[2050] = 0xABCD

    assert memory.read(1, 0, 6) == bytes.fromhex("44332211cdab")


def test_a_deep_copy_shares_no_bytes() -> None:
    """A copied machine's memory goes its own way, and two users of one memory still share it after the copy."""
    memory = Memory(7, 1)
    memory.write(0, 0, b"old")

    first, second = copy.deepcopy([memory, memory])
    memory.write(0, 0, b"new")

    assert first is second
    assert (first.domid, first.frames, first.read(0, 0, 3)) == (7, 1, b"old")


def test_a_pickled_memory_comes_back_with_its_bytes() -> None:
    """Pickling drops the views and keeps the bytes, and the result can be written."""
    memory = Memory(7, 2)
    memory.write(1, 5, b"kept")

    restored = pickle.loads(pickle.dumps(memory))
    restored.words[0] = 9

    assert (restored.domid, restored.frames, restored.read(1, 5, 4)) == (7, 2, b"kept")
    assert memory.words[0] == 0


def test_a_shared_buffer_can_be_closed_after_its_memory() -> None:
    """Closing the memory lets go of every view, and a copy of shared memory is private."""
    buffer = mmap.mmap(-1, 2 * PAGE_SIZE)
    memory = Memory(1, 2, buffer, shared=True)
    memory.write(0, 0, b"x")

    private = copy.deepcopy(memory)
    memory.close()
    buffer.close()

    assert private.read(0, 0, 1) == b"x"
    assert not private.shared


def test_the_last_user_sends_the_page_home() -> None:
    """A page returns to its pool when, and only when, the last reference is put."""
    pool = PagePool(Memory(1, 4), 1, 3)
    page = pool.alloc()
    get_page(page)

    put_page(page)
    held = pool.outstanding
    put_page(page)

    assert (held, pool.outstanding, pool.free_count) == (1, 0, 3)


def test_a_page_put_too_often_is_our_bug() -> None:
    """A count below zero, or a page revived from zero, stops the run at once."""
    page = Page(Memory(1, 1), 0)
    put_page(page)

    with pytest.raises(AssertionError):
        put_page(page)
    with pytest.raises(AssertionError):
        get_page(page)


@pytest.mark.parametrize(
    ("start", "size", "shown"),
    [
        (0, 300, [(0, 50, 100), (1, 0, 200)]),
        (10, 20, [(0, 60, 20)]),
        (90, 20, [(0, 140, 10), (1, 0, 10)]),
        (100, 5, [(1, 0, 5)]),
        (299, 9, [(1, 199, 1)]),
        (300, 9, []),
        (0, 0, []),
    ],
)
def test_a_part_of_what_is_shown_is_shown_in_the_same_order(
    start: int, size: int, shown: list[tuple[int, int, int]]
) -> None:
    """Across the edge of two windows, and never beyond the end."""
    pool = PagePool(Memory(1, 2), 0, 2)
    first, second = sorted((pool.alloc(), pool.alloc()), key=lambda page: page.frame)

    part = windows_between([(first, 50, 100), (second, 0, 200)], start, size)

    assert [(page.frame, offset, length) for page, offset, length in part] == shown


def test_the_frame_freed_last_is_reused_first() -> None:
    """The pool hands out hot frames again, with the same page object and the old bytes still in them."""
    memory = Memory(1, 8)
    pool = PagePool(memory, 2, 6)
    first, second = pool.alloc(), pool.alloc()
    memory.write(second.frame, 0, b"stale")
    put_page(first)
    put_page(second)

    again = pool.alloc()

    assert again is second
    assert again.refs == 1
    assert memory.read(again.frame, 0, 5) == b"stale"


def test_an_empty_pool_says_what_to_do() -> None:
    """Running out of frames is a told error of the family, and a returned frame ends it."""
    pool = PagePool(Memory(3, 2), 0, 2)
    page, _ = pool.alloc(), pool.alloc()

    with pytest.raises(MemoryExhausted, match=r"domain 3 has all 2 frames.*give it more"):
        pool.alloc()
    put_page(page)

    assert pool.alloc() is page
    assert issubclass(MemoryExhausted, LateackError)


def test_head_cells_never_overlap_or_cross_a_frame() -> None:
    """Cells tile the pool's frames exactly, and freed cells are used again before a new frame is taken."""
    memory = Memory(1, 4)
    slab = HeadSlab(memory, PagePool(memory, 1, 2), size=512)

    cells = [slab.alloc() for _ in range(16)]
    slab.free(cells[3])

    assert sorted(cells) == list(range(PAGE_SIZE, 3 * PAGE_SIZE, 512))
    assert slab.outstanding == 15
    assert slab.alloc() == cells[3]


def test_a_slab_without_frames_says_what_to_do() -> None:
    """A slab runs out when its pool does."""
    memory = Memory(1, 1)
    slab = HeadSlab(memory, PagePool(memory, 0, 1), size=2048)
    slab.alloc(), slab.alloc()

    with pytest.raises(MemoryExhausted):
        slab.alloc()
