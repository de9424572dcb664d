"""A write keeps the pages that it was issued with, whatever its buffer does next."""

from lateack.nodes.application import PooledBuffer
from lateack.nodes.memory.pages import Memory, PagePool
from lateack.nodes.nfs.nfs import FILE_SYNC
from lateack.nodes.nfs.nfs_write import NfsWrite


def test_a_pinned_write_shows_its_own_pages_until_it_is_over() -> None:
    """The application frees its buffer and takes other frames; the call's are free when the call lets go of them."""
    memory = Memory(1, 4)
    pool = PagePool(memory, 0, 4)
    buffer = PooledBuffer(0, pool, 1)
    buffer.fill(memory, 0, b"these bytes")
    write = NfsWrite(buffer, FILE_SYNC, 0)
    write.pin()

    buffer.reallocate()
    buffer.fill(memory, 4096, b"other bytes, and more")
    ((page, offset, size),) = write.windows()
    held, outstanding = memory.read(page.frame, offset, size), pool.outstanding
    write.unpin()

    assert (held, write.data, write.count) == (b"these bytes", b"these bytes", 11)
    assert page not in buffer.pages
    assert (outstanding, pool.outstanding) == (2, 1)
