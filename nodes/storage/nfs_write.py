"""One WRITE of a client's application, from its call to its completion, or until the application gives up on it."""

from lateack.nodes.application import PageBuffer
from lateack.nodes.memory.pages import Page, get_page, put_page
from lateack.nodes.node import Time


class NfsWrite:
    """A WRITE; `pages` are those of the call (`xdr_buf.pages`): they stay the same whatever becomes of the buffer."""

    __slots__ = (
        "aborted", "buffer", "count", "data", "done", "issued_at", "offset", "pages", "replied", "token",
        "transmissions", "verifier", "xid",
    )  # fmt: skip

    def __init__(self, buffer: PageBuffer, now: Time) -> None:
        self.buffer = buffer
        self.offset = buffer.offset
        self.count = buffer.count
        self.data = buffer.data
        self.pages = buffer.windows()
        self.issued_at = now
        self.xid = 0
        self.transmissions = 0
        self.replied = False
        self.aborted = False
        self.done = False
        self.token: object | None = None
        self.verifier = b""

    def windows(self) -> list[tuple[Page, int, int]]:
        """Return the (page, offset, size) windows that hold the write's bytes, in file order."""
        return self.pages

    def pin(self) -> None:
        """Hold the pages until the call is over (`nfs_get_user_pages`): they cannot be freed under it."""
        for page, _, _ in self.pages:
            get_page(page)

    def unpin(self) -> None:
        """The call is over: let the pages go (`nfs_direct_release_pages`)."""
        for page, _, _ in self.pages:
            put_page(page)
