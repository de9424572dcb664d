"""The guest's application: it copies a file through a few page buffers, O_DIRECT style, and uses each again.

Only reuse *in place* can show what the stack still reads, and that is what the application does unless it is told
otherwise: every buffer is then the same frames from beginning to end. A page that is freed instead (`reallocated`), or
first written to after a fork (`copy-on-write`), is protected by its reference count.
"""

from typing import Protocol

from lateack.nodes.facts import BufferRefilled, BufferRetired, BufferRewritten, CopyFailed, CopyFinished
from lateack.nodes.memory.pages import PAGE_SHIFT, PAGE_SIZE, Memory, Page, PagePool, put_page
from lateack.nodes.node import Effect
from lateack.nodes.stack.packets import digest_of

IN_PLACE, HALF, REALLOCATED, COPY_ON_WRITE = "in-place", "half", "reallocated", "copy-on-write"
"""What the application does with a buffer that it gets back: it fills the same frames, or half of them, or frees them
and allocates others, or writes to them after a fork."""

SPARE_FRAMES = 4
"""How often the frames of all buffers fit into the pool of an application that takes other ones: what it lets go of is
free only when the stack has let go of it, too."""

FLIPPED = bytes(range(255, -1, -1))


def frames_needed(buffers: int, write_size: int, reuse: str = IN_PLACE) -> int:
    """Return how many frames the application needs for its buffers."""
    frames = buffers * -(-write_size // PAGE_SIZE)
    return frames * SPARE_FRAMES if reuse in (REALLOCATED, COPY_ON_WRITE) else frames


class Source(Protocol):
    """The file that the application was asked to copy."""

    size: int

    def read(self, offset: int, count: int) -> bytes:
        """Return *count* bytes from *offset*, fewer only at the end of the file."""
        ...


class PageBuffer:
    """One buffer of the pool: consecutive frames of the guest's memory, and the file range that lies in them now."""

    __slots__ = ("count", "data", "digest", "frames", "index", "offset", "pages", "start")

    def __init__(self, index: int, memory: Memory, first_frame: int, nr_pages: int) -> None:
        self.index = index
        self.frames = tuple(range(first_frame, first_frame + nr_pages))
        self.pages = [Page(memory, frame) for frame in self.frames]
        self.start = first_frame << PAGE_SHIFT
        self.offset = 0
        self.count = 0
        self.data = b""
        self.digest = 0

    def fill(self, memory: Memory, offset: int, data: bytes) -> None:
        """Write *data*, the file's bytes at *offset*, into the frames."""
        memory.view[self.start : self.start + len(data)] = data
        self.offset, self.count, self.data = offset, len(data), data
        self.digest = digest_of(data)

    def windows(self) -> list[tuple[Page, int, int]]:
        """Return the (page, offset, size) windows that hold the bytes."""
        count = self.count
        if count == len(self.pages) * PAGE_SIZE:
            return [(page, 0, PAGE_SIZE) for page in self.pages]
        return [
            (page, 0, min(PAGE_SIZE, count - at))
            for page, at in zip(self.pages, range(0, count, PAGE_SIZE), strict=False)
        ]


class PooledBuffer(PageBuffer):
    """A buffer whose frames change: they come from a pool, and go back when the last who refers to them puts them."""

    __slots__ = ("pool",)

    def __init__(self, index: int, pool: PagePool, nr_pages: int) -> None:
        super().__init__(index, pool.memory, 0, 0)
        self.pool = pool
        self.pages = [pool.alloc() for _ in range(nr_pages)]
        self.frames = tuple([page.frame for page in self.pages])

    def fill(self, memory: Memory, offset: int, data: bytes) -> None:
        """Write *data*, the file's bytes at *offset*, into the frames, which need not be neighbours."""
        for page, start in zip(self.pages, range(0, len(data), PAGE_SIZE), strict=False):
            memory.write(page.frame, 0, data[start : start + PAGE_SIZE])
        self.offset, self.count, self.data = offset, len(data), data
        self.digest = digest_of(data)

    def reallocate(self) -> None:
        """Free the pages and allocate as many: the same ones, if nobody else refers to them."""
        for page in reversed(self.pages):
            put_page(page)
        self._take([self.pool.alloc() for _ in self.pages])

    def unshare(self) -> None:
        """Write to pages that were shared by a fork: whatever others refer to stays as it is, for them.

        Since 09854ba94c6a (2020) `do_wp_page` asks whether anybody else refers to the page; before, whether anybody
        else has it mapped, and then the stack's reference did not count once the child was gone.
        """
        old = self.pages
        self._take([self.pool.alloc() if page.refs > 1 else page for page in old])
        for page, new in zip(old, self.pages, strict=True):
            if page is not new:
                put_page(page)

    def _take(self, pages: list[Page]) -> None:
        self.pages = pages
        self.frames = tuple([page.frame for page in pages])


class Copier:
    """The copying itself: which ranges are written, which are left, and which buffers are free to take the next one.

    It is `over` once, finished or failed; the effects tell of that, and of every buffer that is refilled.
    """

    __slots__ = (
        "buffers", "effects", "file", "memory", "next_offset", "over", "passes_left", "pool", "reuse", "source",
        "unfinished", "write_size",
    )  # fmt: skip

    def __init__(
        self, source: Source, file: str, memory: Memory, effects: list[Effect], *,
        first_frame: int, buffers: int, write_size: int, reuse: str = IN_PLACE, passes: int = 1,
    ) -> None:  # fmt: skip
        """Keep the frames from *first_frame* on, as many as `frames_needed` says; write the file *passes* times."""
        pages = -(-write_size // PAGE_SIZE)
        self.source = source
        self.file = file
        self.memory = memory
        self.effects = effects
        self.write_size = write_size
        self.reuse = reuse
        self.pool: PagePool | None = None
        self.buffers: list[PageBuffer] = []
        if reuse in (REALLOCATED, COPY_ON_WRITE):
            pool = self.pool = PagePool(memory, first_frame, frames_needed(buffers, write_size, reuse))
            self.buffers += [PooledBuffer(index, pool, pages) for index in range(buffers)]
        else:
            self.buffers += [PageBuffer(index, memory, first_frame + index * pages, pages) for index in range(buffers)]
        self.next_offset = 0
        self.passes_left = passes - 1 if source.size else 0
        self.unfinished = 0
        self.over = False

    def first_fill(self) -> list[PageBuffer]:
        """Fill the buffers for the first time and return those that hold something to write."""
        return [buffer for buffer in self.buffers if self._take_next(buffer)]

    def refill(self, buffer: PageBuffer) -> bool:
        """The write from *buffer* is done: put the next bytes of the file into it, if there are any."""
        self.unfinished -= 1
        held = buffer.digest
        if not self._take_next(buffer):
            if not self.passes_left:
                self.effects.append(BufferRetired(buffer.index))
            return False
        self.effects.append(BufferRefilled(buffer.index, buffer.frames, buffer.offset, held, buffer.digest))
        return True

    def next_pass(self) -> list[PageBuffer]:
        """If one pass over the file is wholly done and another is to follow, fill the buffers for it, and return them.

        No range is written again before the application has been told that its former write is done.
        """
        if self.over or self.unfinished or not self.passes_left or self.next_offset < self.source.size:
            return []
        self.passes_left -= 1
        self.next_offset = 0
        filled = []
        for buffer in self.buffers:
            used, held = buffer.count > 0, buffer.digest
            if not self._take_next(buffer):
                break
            if used:
                self.effects.append(BufferRefilled(buffer.index, buffer.frames, buffer.offset, held, buffer.digest))
            filled.append(buffer)
        return filled

    def rewrite(self, buffer: PageBuffer) -> None:
        """Scribble over a buffer while it is being written: every bit of it turns."""
        held = buffer.digest
        if isinstance(buffer, PooledBuffer) and self.reuse == COPY_ON_WRITE:
            buffer.unshare()
        buffer.fill(self.memory, buffer.offset, buffer.data.translate(FLIPPED))
        self.effects.append(BufferRewritten(buffer.index, buffer.frames, buffer.offset, held, buffer.digest))

    def shared_pages(self) -> int:
        """Return how many references others than the application hold on its pages, those included that it let go."""
        held = sum([page.refs - 1 for buffer in self.buffers for page in buffer.pages])
        if self.pool is not None:
            held += self.pool.outstanding - sum([len(buffer.pages) for buffer in self.buffers])
        return held

    def finished(self) -> bool:
        """Say whether every byte has been written and every write is done."""
        return not self.unfinished and self.next_offset >= self.source.size and not self.passes_left

    def finish(self) -> None:
        """The copy is complete, and nothing is left to wait for."""
        self.over = True
        self.effects.append(CopyFinished(self.file, self.source.size))

    def fail(self, reason: str) -> None:
        """The copy cannot go on; only the first reason counts."""
        if not self.over:
            self.over = True
            self.effects.append(CopyFailed(self.file, reason))

    def _take_next(self, buffer: PageBuffer) -> bool:
        offset = self.next_offset
        if offset >= self.source.size:
            return False
        size = self.write_size
        if self.reuse != IN_PLACE and buffer.count:
            if isinstance(buffer, PooledBuffer):
                buffer.reallocate() if self.reuse == REALLOCATED else buffer.unshare()
            else:
                size //= 2  # the second half stays as it is, and is not written again
        data = self.source.read(offset, size)
        # What is written before the last pass is told from the input by every bit.
        buffer.fill(self.memory, offset, data.translate(FLIPPED) if self.passes_left else data)
        self.next_offset = offset + buffer.count
        self.unfinished += 1
        return True
