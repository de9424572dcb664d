"""One write of a client's application, from its call to its completion, or until the application gives up on it."""

from lateack.nodes.application import PageBuffer
from lateack.nodes.memory.pages import Window, get_page, put_page, windows_between
from lateack.nodes.node import Time


class PageWrite:
    """A write, whatever protocol carries it; `xid` is the protocol's own number for it (XID, initiator task tag).

    `pages` are those of the call (`xdr_buf.pages`): they stay the same whatever becomes of the buffer. A protocol that
    cuts a write into several messages narrows it before it hands each of them to the strategy.
    """

    __slots__ = (
        "aborted", "buffer", "count", "data", "done", "issued_at", "offset", "pages", "part", "replied", "token",
        "transmissions", "xid",
    )  # fmt: skip

    def __init__(self, buffer: PageBuffer, now: Time) -> None:
        self.buffer = buffer
        self.offset = buffer.offset
        self.count = buffer.count
        self.data = buffer.data
        self.pages = buffer.windows()
        self.part: list[Window] | None = None
        self.issued_at = now
        self.xid = 0
        self.transmissions = 0
        self.replied = False
        self.aborted = False
        self.done = False
        self.token: object | None = None

    def windows(self) -> list[Window]:
        """Return the (page, offset, size) windows of what is handed over now, in file order: all of it, or a part."""
        return self.pages if self.part is None else self.part

    def narrow(self, start: int, size: int) -> None:
        """What is handed over next is *size* bytes from byte *start* of the write on."""
        self.part = windows_between(self.pages, start, size)

    def pin(self) -> None:
        """Hold the pages until the call is over (`nfs_get_user_pages`): they cannot be freed under it."""
        for page, _, _ in self.pages:
            get_page(page)

    def unpin(self) -> None:
        """The call is over: let the pages go (`nfs_direct_release_pages`)."""
        for page, _, _ in self.pages:
            put_page(page)
