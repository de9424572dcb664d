"""The strategies of a host with an RDMA adapter: who tells the application that its page buffer is its own again.

Two others read the pages by themselves: the own adapter, until a Send out of them is complete, however often it sends
it again; and the peer's, for as long as a region's key is valid. Nobody counts references for them: what there is are
completions to wait for, and a right to read that can be taken back.
"""

from typing import Protocol

from lateack.nodes.memory.pages import Page, PagePool, put_page


class RdmaWrite(Protocol):
    """One write of the application, from its call to its completion."""

    xid: int
    count: int
    replied: bool
    aborted: bool
    done: bool
    token: object | None
    sends: int
    """Sends of the call that are not complete: the adapter may read what they carry, now or once more."""

    def windows(self) -> list[tuple[Page, int, int]]:
        """Return the (page, offset, size) windows of the application's bytes, in file order."""
        ...


class RdmaKernel(Protocol):
    """What a strategy may ask of its host."""

    kernel_pages: PagePool

    def complete(self, write: RdmaWrite) -> None:
        """Tell the application that *write* is done: it may rewrite the buffer at once."""
        ...

    def invalidate(self, write: RdmaWrite) -> None:
        """Take back the right to read the write's memory, now; nothing if there is none (IB_WR_LOCAL_INV)."""
        ...

    def retire(self, write: RdmaWrite) -> None:
        """Let the right to read the write's memory be taken back some time, when others are (a pool of regions)."""
        ...

    def copied(self, count: int) -> None:
        """Charge the host for *count* payload bytes that it copied."""
        ...


class RdmaStrategy:
    """The door: override the hooks that matter. An instance belongs to one host and lives as long as it does.

    The defaults let the adapters read the application's pages and complete on the reply: left alone, they are the bug.
    """

    name = "unnamed"
    summary = "says nothing about itself"

    def __init__(self, kernel: RdmaKernel) -> None:
        self.kernel = kernel

    def take(self, write: RdmaWrite) -> list[tuple[Page, int, int]]:
        """A call is posted: return the windows that are sent inline, or read by the server."""
        return write.windows()

    def sent(self, write: RdmaWrite) -> None:
        """A Send of the call is complete (`write.sends` are not), or was flushed when its queue pair failed."""

    def replied(self, write: RdmaWrite) -> None:
        """The reply has come. Complete the write now, or later when something else has happened, too."""
        self.kernel.complete(write)
        self.kernel.retire(write)

    def aborted(self, write: RdmaWrite) -> None:
        """The application gave up on the call before its reply came. By default it has its buffer back at once."""
        self.kernel.complete(write)
        self.kernel.retire(write)

    def released(self, write: RdmaWrite) -> None:
        """Neither adapter can read what `take` returned any more, and the call is over: let go of it."""


class RdmaOnReply(RdmaStrategy):
    """Done when the protocol says so: what xprtrdma did up to 2017, and the bug."""

    name = "on-reply"
    summary = "completes on the reply, whatever the adapters may still read: the bug"


class SendCompletion(RdmaStrategy):
    """The RPC waits for its Send to complete, too (01bb35c89d90, Linux 4.15); the right to read is taken back later."""

    name = "send-completion"
    summary = "completes on reply and Send completion, when the own adapter is through with the pages"

    def sent(self, write: RdmaWrite) -> None:
        """The own adapter reads nothing of this call any more: go on with whatever has waited for that."""
        if write.replied or write.aborted:
            self._finish(write)

    def replied(self, write: RdmaWrite) -> None:
        """Complete the write, unless a Send of it may leave once more."""
        self._finish(write)

    def aborted(self, write: RdmaWrite) -> None:
        """The same as after a reply: a call that was interrupted waits for its Sends, too."""
        self._finish(write)

    def _finish(self, write: RdmaWrite) -> None:
        if not write.sends and not write.done:
            self.kernel.complete(write)
            self.kernel.retire(write)


class InvalidateFirst(SendCompletion):
    """The right to read is taken back before the caller goes on, after a reply and after a signal alike.

    So does xprtrdma since 32d0ceecdfd0; and since ead3f26e359e it fences first on ^C.
    """

    name = "invalidate-first"
    summary = "takes back the server's right to read and awaits the Send before the application goes on"

    def replied(self, write: RdmaWrite) -> None:
        """Nobody may read the pages from here on; what is under way of them is waited for."""
        self.kernel.invalidate(write)
        self._finish(write)

    def aborted(self, write: RdmaWrite) -> None:
        """An interrupted call is fenced first: a READ that comes later is refused, which costs the connection."""
        self.kernel.invalidate(write)
        self._finish(write)


class Bounce(RdmaStrategy):
    """The payload is copied into pages of the kernel, which are theirs who read them for as long as they read."""

    name = "bounce"
    summary = "copies the payload into registered kernel pages once, then completes on the reply"

    def take(self, write: RdmaWrite) -> list[tuple[Page, int, int]]:
        """Copy the bytes the first time; if the call is posted again, its copy still is what is to be sent."""
        if write.token is None:
            bounced = []
            for page, offset, size in write.windows():
                copy = self.kernel.kernel_pages.alloc()
                copy.memory.write(copy.frame, 0, page.memory.read(page.frame, offset, size))
                bounced.append((copy, 0, size))
            self.kernel.copied(write.count)
            write.token = bounced
        assert isinstance(write.token, list)
        return write.token

    def replied(self, write: RdmaWrite) -> None:
        """The server has read what it wanted: the copy's pages are for the next write."""
        self.kernel.complete(write)
        self.kernel.invalidate(write)

    def released(self, write: RdmaWrite) -> None:
        """Give the copy's pages back."""
        bounced, write.token = write.token, None
        if isinstance(bounced, list):
            for page, _, _ in bounced:
                put_page(page)
