"""One WRITE of an NFS client: what every write is, and what the server has said of it so far."""

from lateack.nodes.application import PageBuffer
from lateack.nodes.node import Time
from lateack.nodes.storage.page_write import PageWrite


class NfsWrite(PageWrite):
    """A WRITE; `verifier` is the server's, from its reply, until a COMMIT with the same one has answered.

    `start` is from where on it is still to be written, after a short WRITE; `stable` is what the next call asks for.
    """

    __slots__ = ("stable", "start", "verifier")

    def __init__(self, buffer: PageBuffer, stable: int, now: Time) -> None:
        super().__init__(buffer, now)
        self.stable = stable
        self.start = 0
        self.verifier = b""

    def left(self) -> int:
        """Return how many bytes are still to be written."""
        return self.count - self.start

    def go_on(self, written: int) -> None:
        """The server has written so many bytes more for good: the rest is still to be written."""
        self.start += written
        self.narrow(self.start, self.left())
