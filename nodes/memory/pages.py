"""Guest-physical memory, its frames, and the count of who still refers to each frame.

The bytes live in `Memory`; the counts live in `Page`, which is private to the kernel that owns the frame, as
`struct page` is. A view of the bytes is made only at the moment of reading, so that a machine can be copied together
with its memory.
"""

import mmap
import sys
from collections.abc import Sequence
from typing import Protocol

from lateack.nodes.errors import MemoryExhausted

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
PAGE_MASK = PAGE_SIZE - 1
WORDS_PER_PAGE = PAGE_SIZE // 4
HALVES_PER_PAGE = PAGE_SIZE // 2

# What a reader gets where the kernel would fault: the slab's use-after-free byte (POISON_FREE, linux/poison.h).
POISON = 0x6B
POISON_PAGE = bytes([POISON]) * PAGE_SIZE

# Xen's structures are little-endian, and an index word must be one native store, so both must agree.
assert sys.byteorder == "little", "Xen's shared structures are little-endian; run on a little-endian machine"

WritableBuffer = bytearray | mmap.mmap


class Memory:
    """The guest-physical memory of one domain: an array of 4096-byte frames.

    `buffer` holds the bytes (private by default; a `mmap` of a memfd where processes share it, then `shared` is True).
    `view` sees them as bytes, `halves` and `words` as aligned 16-bit and 32-bit cells. A store to `words[i]` is one
    machine store; `struct.pack_into` clears its target first, and a concurrent reader sees that, so indices go through
    `words`. Making a memory clears it (5 us for 64 frames, 18 us for 256), so give a domain what it needs and no more.
    """

    __slots__ = ("buffer", "domid", "frames", "halves", "own", "shared", "view", "words")

    def __init__(self, domid: int, frames: int, buffer: WritableBuffer | None = None, shared: bool = False) -> None:
        """Take `buffer`, or make a zeroed private one, for `frames` frames of domain `domid`."""
        self.domid = domid
        self.frames = frames
        self.own = buffer is None
        self.buffer: WritableBuffer = _cleared(frames * PAGE_SIZE) if buffer is None else buffer
        self.shared = shared
        self.view = memoryview(self.buffer)
        self.halves = self.view.cast("H")
        self.words = self.view.cast("I")
        assert self.view.nbytes == frames * PAGE_SIZE, "the buffer must hold exactly its frames"

    def read(self, frame: int, offset: int, length: int) -> bytes:
        """Copy `length` bytes out of one frame, from `offset` on."""
        assert 0 <= offset <= offset + length <= PAGE_SIZE and frame >= 0
        start = (frame << PAGE_SHIFT) + offset
        return self.view[start : start + length].tobytes()

    def write(self, frame: int, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Copy `data` into one frame, from `offset` on."""
        assert 0 <= offset <= offset + len(data) <= PAGE_SIZE and frame >= 0
        start = (frame << PAGE_SHIFT) + offset
        self.view[start : start + len(data)] = data

    def window(self, frame: int, offset: int, length: int) -> memoryview:
        """Show bytes of one frame without copying them; let it go before the event is handled.

        A view that outlives the event can be neither copied nor pickled, and keeps `close` from closing.
        """
        assert 0 <= offset <= offset + length <= PAGE_SIZE and frame >= 0
        start = (frame << PAGE_SHIFT) + offset
        return self.view[start : start + length]

    def close(self) -> None:
        """Let the views and the buffer go, so that a shared one can be closed; the memory is unusable afterwards."""
        self.words.release()
        self.halves.release()
        self.view.release()
        if self.own and isinstance(self.buffer, bytearray):
            _keep(self.buffer)
        self.buffer = bytearray()

    def __deepcopy__(self, memo: dict[int, object]) -> "Memory":
        """Copy the bytes; the copy is private even where the original is shared."""
        return Memory(self.domid, self.frames, bytearray(self.view))

    def __reduce__(self) -> tuple[type["Memory"], tuple[int, int, bytearray]]:
        """Pickle the bytes without the views; what comes back is private, as a deep copy is."""
        return Memory, (self.domid, self.frames, bytearray(self.view))


SPARE_BUFFERS_MAX = 16
SPARE_BYTES_MAX = 1 << 22
"""How many closed memories are kept for the next, and how large each may be.

A search builds and drops thousands of machines a second; memory fresh from the system costs a page fault per frame,
many times what clearing a warm one does.
"""

_spare: list[bytearray] = []
_zeros = memoryview(bytes(1 << 18))


def _cleared(size: int) -> bytearray:
    """Return *size* zeroed bytes, in a spare buffer if there is one of that size."""
    for place, buffer in enumerate(_spare):
        if len(buffer) == size:
            del _spare[place]
            _clear(buffer, size)
            return buffer
    return bytearray(size)


def _clear(buffer: bytearray, size: int) -> None:
    # From view to view: a store of bytes into a bytearray makes a bytearray of them first.
    with memoryview(buffer) as view:
        for start in range(0, size, len(_zeros)):
            view[start : start + len(_zeros)] = _zeros[: size - start]


def _keep(buffer: bytearray) -> None:
    if len(_spare) < SPARE_BUFFERS_MAX and len(buffer) <= SPARE_BYTES_MAX:
        _spare.append(buffer)


class PageOwner(Protocol):
    """Where a page goes when its last user puts it: an allocator, or a backend that must answer its guest."""

    def free(self, page: "Page") -> None:
        """Take the page back; nobody refers to it any more."""


class Page:
    """One frame and the count of who refers to it, as `struct page` (kernel private, never in shared memory)."""

    __slots__ = ("frame", "lost", "memory", "pool", "refs")
    lost: tuple[int, int]
    """Whose frame it showed before it was unmapped, (domid, frame); set by then only."""

    def __init__(self, memory: Memory, frame: int, pool: PageOwner | None = None, refs: int = 1) -> None:
        """Describe `frame` of `memory`; `pool` is told when the count reaches zero."""
        self.memory = memory
        self.frame = frame
        self.refs = refs
        self.pool = pool


Window = tuple[Page, int, int]
"""What is shown of a page: from which byte on, and how many."""


def windows_between(windows: Sequence[Window], start: int, size: int) -> list[Window]:
    """Return the windows of *size* bytes from byte *start* on of what *windows* show one after the other."""
    part: list[Window] = []
    for page, offset, length in windows:
        if size <= 0:
            break
        if start >= length:
            start -= length
            continue
        taken = min(length - start, size)
        part.append((page, offset + start, taken))
        size -= taken
        start = 0
    return part


def get_page(page: Page) -> None:
    """Refer to the page once more (`get_page`, linux/mm.h)."""
    assert page.refs > 0, "a page that nobody refers to was taken again"
    page.refs += 1


def put_page(page: Page) -> None:
    """Refer to the page once less; the last user sends the page home (`put_page`, linux/mm.h)."""
    refs = page.refs = page.refs - 1
    if refs:
        assert refs > 0, "a page was put more often than it was taken"
    elif page.pool is not None:
        page.pool.free(page)


class PagePool:
    """An allocator of the frames `first_frame` to `first_frame + nr_frames - 1`, last freed first.

    Last in, first out as the kernel's per-CPU lists are: the frame just freed is the one refilled next, which is
    what makes a late reader see other bytes. `Page` objects are made once per frame and used again.
    """

    __slots__ = ("first_frame", "free_pages", "memory", "nr_frames", "pages")

    def __init__(self, memory: Memory, first_frame: int, nr_frames: int) -> None:
        """Own a range of frames; nothing is built until a frame is first needed."""
        assert first_frame >= 0 and first_frame + nr_frames <= memory.frames
        self.memory = memory
        self.first_frame = first_frame
        self.nr_frames = nr_frames
        self.pages: list[Page] = []
        self.free_pages: list[Page] = []

    def alloc(self) -> Page:
        """Hand out a page with one reference; raises MemoryExhausted when every frame is in use."""
        if self.free_pages:
            page = self.free_pages.pop()
            page.refs = 1
            return page
        used = len(self.pages)
        if used == self.nr_frames:
            raise self._exhausted()
        page = Page(self.memory, self.first_frame + used, self)
        self.pages.append(page)
        return page

    def free(self, page: Page) -> None:
        """Take back a page whose last user has gone (`put_page` calls this)."""
        assert page.refs == 0 and page.memory is self.memory
        self.free_pages.append(page)

    @property
    def outstanding(self) -> int:
        """How many frames somebody refers to."""
        return len(self.pages) - len(self.free_pages)

    @property
    def free_count(self) -> int:
        """How many frames can still be handed out."""
        return self.nr_frames - self.outstanding

    def _exhausted(self) -> MemoryExhausted:
        return MemoryExhausted(
            f"domain {self.memory.domid} has all {self.nr_frames} frames of a pool in use: "
            "give it more frames, a smaller window, or find who never puts its pages"
        )


class HeadSlab:
    """An allocator of small cells for the linear part of socket buffers (`kmalloc` for `skb->head`).

    Cells are absolute byte addresses in the memory: frame `address >> 12`, offset `address & 4095`. A cell never
    crosses a frame. Freed cells keep their bytes and are handed out last freed first.
    """

    __slots__ = ("free_cells", "memory", "pages", "pool", "size")

    def __init__(self, memory: Memory, pool: PagePool, size: int = 512) -> None:
        """Carve frames of `pool` into cells of `size` bytes; frames once taken stay with the slab."""
        assert PAGE_SIZE % size == 0 and pool.memory is memory
        self.memory = memory
        self.pool = pool
        self.size = size
        self.pages: list[Page] = []
        self.free_cells: list[int] = []

    def alloc(self) -> int:
        """Hand out a cell's byte address; raises MemoryExhausted when the pool has no frame for more."""
        if not self.free_cells:
            self._carve()
        return self.free_cells.pop()

    def free(self, address: int) -> None:
        """Take a cell back by its byte address."""
        self.free_cells.append(address)

    @property
    def outstanding(self) -> int:
        """How many cells are in use."""
        return len(self.pages) * (PAGE_SIZE // self.size) - len(self.free_cells)

    def _carve(self) -> None:
        page = self.pool.alloc()
        self.pages.append(page)
        base = page.frame << PAGE_SHIFT
        self.free_cells.extend(range(base + PAGE_SIZE - self.size, base - 1, -self.size))
