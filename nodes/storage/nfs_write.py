"""One WRITE of an NFS client: what every write is, and the verifier under which its bytes lie unstable."""

from lateack.nodes.application import PageBuffer
from lateack.nodes.node import Time
from lateack.nodes.storage.page_write import PageWrite


class NfsWrite(PageWrite):
    """A WRITE; `verifier` is the server's, from its reply, until a COMMIT with the same one has answered."""

    __slots__ = ("verifier",)

    def __init__(self, buffer: PageBuffer, now: Time) -> None:
        super().__init__(buffer, now)
        self.verifier = b""
