"""The guest's application: it copies a file through a few page buffers, O_DIRECT style, and refills each *in place*.

Only reuse in place can show what the stack still reads: a page that was freed instead is protected by its reference
count. So every buffer is the same frames from beginning to end.
"""

from typing import Protocol

from lateack.nodes.facts import BufferRefilled, BufferRetired, CopyFailed, CopyFinished
from lateack.nodes.memory.pages import PAGE_SHIFT, PAGE_SIZE, Memory, Page
from lateack.nodes.node import Effect
from lateack.nodes.stack.packets import digest_of


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


class Copier:
    """The copying itself: which ranges are written, which are left, and which buffers are free to take the next one.

    It is `over` once, finished or failed; the effects tell of that, and of every buffer that is refilled.
    """

    __slots__ = ("buffers", "effects", "file", "memory", "next_offset", "over", "source", "unfinished", "write_size")

    def __init__(
        self, source: Source, file: str, memory: Memory, effects: list[Effect], *,
        first_frame: int, buffers: int, write_size: int,
    ) -> None:  # fmt: skip
        pages = -(-write_size // PAGE_SIZE)
        self.source = source
        self.file = file
        self.memory = memory
        self.effects = effects
        self.write_size = write_size
        self.buffers = [PageBuffer(index, memory, first_frame + index * pages, pages) for index in range(buffers)]
        self.next_offset = 0
        self.unfinished = 0
        self.over = False

    def first_fill(self) -> list[PageBuffer]:
        """Fill the buffers for the first time and return those that hold something to write."""
        return [buffer for buffer in self.buffers if self._take_next(buffer)]

    def refill(self, buffer: PageBuffer) -> bool:
        """The write from *buffer* is done: put the next bytes of the file into the same frames, if there are any."""
        self.unfinished -= 1
        held = buffer.digest
        if not self._take_next(buffer):
            self.effects.append(BufferRetired(buffer.index))
            return False
        self.effects.append(BufferRefilled(buffer.index, buffer.frames, buffer.offset, held, buffer.digest))
        return True

    def finished(self) -> bool:
        """Say whether every byte has been written and every write is done."""
        return not self.unfinished and self.next_offset >= self.source.size

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
        buffer.fill(self.memory, offset, self.source.read(offset, self.write_size))
        self.next_offset = offset + buffer.count
        self.unfinished += 1
        return True
