"""The copying application: buffers that are refilled in place, and a file that is written to the last byte."""

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.application import FLIPPED, Copier, PageBuffer, frames_needed
from lateack.nodes.facts import BufferRefilled, BufferRetired, BufferRewritten, CopyFailed, CopyFinished
from lateack.nodes.memory.pages import PAGE_SIZE, Memory, get_page
from lateack.nodes.node import Effect
from lateack.nodes.stack.packets import digest_of


class Bytes:
    """A file in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, offset: int, count: int) -> bytes:
        """Return *count* bytes from *offset*."""
        return self.data[offset : offset + count]


def file_of(size: int) -> Bytes:
    """Return a file whose every byte tells where it is from."""
    return Bytes(bytes((at * 7 + at // 256) % 256 for at in range(size)))


def test_a_buffer_shows_its_bytes_through_pages() -> None:
    """A full buffer shows whole pages; one that the file's end fills in part shows no byte more."""
    memory = Memory(1, 4)
    buffer = PageBuffer(0, memory, 1, 2)
    data = file_of(5000).data

    buffer.fill(memory, 8192, data)

    assert [(page.frame, at, size) for page, at, size in buffer.windows()] == [(1, 0, 4096), (2, 0, 904)]
    assert memory.read(1, 0, 4096) + memory.read(2, 0, 904) == data
    assert (buffer.offset, buffer.count, buffer.digest) == (8192, 5000, digest_of(data))
    buffer.fill(memory, 0, bytes(8192))
    assert [size for _, _, size in buffer.windows()] == [4096, 4096]


def test_a_refill_uses_the_same_frames() -> None:
    """Only reuse in place can show what the stack still reads; the fact says what was there and what is."""
    memory, facts = Memory(1, 3), list[Effect]()
    source = file_of(8192)
    copier = Copier(source, "f", memory, facts, first_frame=1, buffers=1, write_size=4096)
    (buffer,) = copier.first_fill()
    pages = buffer.pages

    assert copier.refill(buffer)
    assert buffer.pages is pages
    assert memory.read(1, 0, 4096) == source.read(4096, 4096)
    assert facts == [BufferRefilled(0, (1,), 4096, digest_of(source.read(0, 4096)), digest_of(source.read(4096, 4096)))]


def copier_of(reuse: str, source: Bytes, effects: list[Effect], *, write_size: int = 4096) -> Copier:
    """Return a copier of one buffer that uses it again in some way."""
    memory = Memory(1, 1 + frames_needed(1, write_size, reuse))
    return Copier(source, "f", memory, effects, first_frame=1, buffers=1, write_size=write_size, reuse=reuse)


def test_half_a_buffer_is_refilled_and_the_other_half_stays() -> None:
    """A write may cover less than the buffer; what lies behind it is still what lay there."""
    source, facts = file_of(12_288), list[Effect]()
    copier = copier_of("half", source, facts, write_size=8192)
    (buffer,) = copier.first_fill()

    assert copier.refill(buffer)

    assert (buffer.offset, buffer.count) == (8192, 4096)
    assert copier.memory.read(buffer.frames[0], 0, 4096) == source.read(8192, 4096)
    assert copier.memory.read(buffer.frames[1], 0, 4096) == source.read(4096, 4096)


@pytest.mark.parametrize("reuse", ["reallocated", "copy-on-write"])
def test_a_frame_that_others_refer_to_is_left_alone(reuse: str) -> None:
    """The next bytes go to other frames, and the old one is free when its last user puts it."""
    source, facts = file_of(12_288), list[Effect]()
    copier = copier_of(reuse, source, facts)
    (buffer,) = copier.first_fill()
    (page,) = buffer.pages
    get_page(page)

    copier.refill(buffer)
    kept, shared = copier.memory.read(page.frame, 0, 4096), copier.shared_pages()
    assert page.pool is not None
    page.refs -= 1
    page.pool.free(page)

    assert buffer.pages != [page] and kept == source.read(0, 4096)
    assert copier.memory.read(buffer.frames[0], 0, 4096) == source.read(4096, 4096)
    assert (shared, copier.shared_pages()) == (1, 0)


@pytest.mark.parametrize("reuse", ["reallocated", "copy-on-write"])
def test_a_frame_that_nobody_refers_to_is_used_again(reuse: str) -> None:
    """What was freed last is allocated first, and a fork copies nothing that is nobody else's."""
    copier = copier_of(reuse, file_of(20_000), [], write_size=8192)
    (buffer,) = copier.first_fill()
    frames = buffer.frames

    copier.refill(buffer)

    assert buffer.frames == frames


@pytest.mark.parametrize("reuse", ["in-place", "half", "reallocated", "copy-on-write"])
def test_rewriting_changes_the_very_frames_unless_a_fork_shares_them(reuse: str) -> None:
    """The application scribbles while others refer to its page: only copy-on-write goes elsewhere."""
    facts = list[Effect]()
    copier = copier_of(reuse, file_of(4096), facts)
    (buffer,) = copier.first_fill()
    (page,) = buffer.pages
    get_page(page)

    copier.rewrite(buffer)

    flipped = bytes(byte ^ 0xFF for byte in file_of(4096).data)
    seen = copier.memory.read(page.frame, 0, 4096)
    assert copier.memory.read(buffer.frames[0], 0, 4096) == flipped
    assert seen == (file_of(4096).data if reuse == "copy-on-write" else flipped)
    digests = digest_of(file_of(4096).data), digest_of(flipped)
    assert facts == [BufferRewritten(0, buffer.frames, 0, *digests)]


def test_a_copy_is_over_once() -> None:
    """Whoever finishes it, or is the first to fail it, has the last word."""
    done, lost = list[Effect](), list[Effect]()
    finished = Copier(file_of(7), "done", Memory(1, 3), done, first_frame=1, buffers=1, write_size=4096)
    failed = Copier(file_of(7), "lost", Memory(1, 3), lost, first_frame=1, buffers=1, write_size=4096)

    finished.finish()
    finished.fail("too late")
    failed.fail("the first reason")
    failed.fail("the second reason")

    assert finished.over and failed.over
    assert done == [CopyFinished("done", 7)]
    assert lost == [CopyFailed("lost", "the first reason")]


def test_an_empty_file_is_finished_at_once() -> None:
    """There is nothing to write and nothing to wait for."""
    copier = Copier(file_of(0), "f", Memory(1, 3), [], first_frame=1, buffers=2, write_size=4096)

    assert copier.first_fill() == []
    assert copier.finished()


@given(
    size=st.integers(1, 70_000),
    buffers=st.integers(1, 5),
    pages=st.integers(1, 4),
    order=st.randoms(use_true_random=False),
)
def test_every_byte_is_written_once(size: int, buffers: int, pages: int, order: object) -> None:
    """Whatever the sizes, and in whatever order writes are done, the ranges cover the file and never overlap."""
    memory = Memory(1, buffers * pages)
    source = file_of(size)
    copier = Copier(source, "f", memory, [], first_frame=0, buffers=buffers, write_size=pages * PAGE_SIZE)
    waiting = copier.first_fill()
    written: dict[int, bytes] = {}

    while waiting:
        buffer = waiting.pop(order.randrange(len(waiting)))  # type: ignore[attr-defined]
        shown = b"".join(page.memory.read(page.frame, at, count) for page, at, count in buffer.windows())
        assert buffer.offset not in written
        written[buffer.offset] = shown
        assert not copier.finished()
        if copier.refill(buffer):
            waiting.append(buffer)

    assert b"".join(written[offset] for offset in sorted(written)) == source.data
    assert copier.finished()


@given(
    size=st.integers(1, 70_000),
    buffers=st.integers(1, 5),
    passes=st.integers(1, 3),
    order=st.randoms(use_true_random=False),
)
def test_every_pass_covers_the_file_when_the_one_before_is_done(
    size: int, buffers: int, passes: int, order: object
) -> None:
    """No range is written again before every write of the former pass is done; the last pass writes the input."""
    memory = Memory(1, buffers)
    source = file_of(size)
    copier = Copier(source, "f", memory, [], first_frame=0, buffers=buffers, write_size=PAGE_SIZE, passes=passes)
    waiting = copier.first_fill()
    written: list[dict[int, bytes]] = [{}]

    while waiting:
        buffer = waiting.pop(order.randrange(len(waiting)))  # type: ignore[attr-defined]
        assert buffer.offset not in written[-1] and not copier.finished()
        written[-1][buffer.offset] = buffer.data
        if copier.refill(buffer):
            waiting.append(buffer)
        begun = copier.next_pass()
        if begun:
            assert waiting == []
            waiting = begun
            written.append({})

    whole = [b"".join(done[offset] for offset in sorted(done)) for done in written]
    assert whole == [source.data.translate(FLIPPED)] * (passes - 1) + [source.data]
    assert copier.finished() and not copier.next_pass()


def test_a_buffer_is_retired_in_the_last_pass_only() -> None:
    """Between two passes it merely waits; then it is refilled in place, as within a pass."""
    facts = list[Effect]()
    source = file_of(5000)
    copier = Copier(source, "f", Memory(1, 2), facts, first_frame=0, buffers=2, write_size=4096, passes=2)
    first, second = copier.first_fill()

    for buffer in (first, second):
        assert not copier.refill(buffer)
    copier.next_pass()
    for buffer in (first, second):
        copier.refill(buffer)

    assert [type(fact) for fact in facts] == [BufferRefilled] * 2 + [BufferRetired] * 2
    assert copier.finished()


def test_an_empty_file_needs_no_passes() -> None:
    """There is nothing to write over."""
    copier = Copier(file_of(0), "f", Memory(1, 3), [], first_frame=1, buffers=2, write_size=4096, passes=3)

    assert copier.first_fill() == []
    assert copier.finished() and copier.next_pass() == []
