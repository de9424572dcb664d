"""The guest's strategies: who tells the application that its page buffer is its own again, and when.

A strategy sees a page at four moments: the stack *takes* it (a call is transmitted), *shares* it (a queued packet is
cloned for the device), *loses* it (the packet that the strategy marked is gone) and *returns* it (its last user is
gone). It answers with the mechanisms of `stack.lifetime`; the counting is theirs.
"""

from typing import Protocol

from lateack.nodes.memory.pages import Page, PagePool
from lateack.nodes.stack.lifetime import Frag, FragDestructor
from lateack.nodes.stack.skb import SkBuff, pages_holding


class Write(Protocol):
    """One write of the application, from its call to its completion."""

    xid: int
    count: int
    transmissions: int
    replied: bool
    done: bool
    token: object | None

    def windows(self) -> list[tuple[Page, int, int]]:
        """Return the (page, offset, size) windows of what is handed over now, in file order: all of it, or a part."""
        ...


class GuestKernel(Protocol):
    """What a strategy may ask of its guest."""

    kernel_pages: PagePool
    transport: str
    """What carries the calls: "tcp" or "udp"."""

    def complete(self, write: Write) -> None:
        """Tell the application that *write* is done: it may rewrite the buffer at once."""
        ...

    def copied(self, count: int) -> None:
        """Charge the guest for *count* payload bytes that it copied."""
        ...


class GuestStrategy:
    """The door: override the hooks that matter. An instance belongs to one guest and lives as long as it does.

    The defaults lend the pages by reference, complete on the reply and ignore the stack: left alone, they are the bug.
    """

    name = "unnamed"
    summary = "says nothing about itself"

    def __init__(self, kernel: GuestKernel) -> None:
        self.kernel = kernel

    def take(self, write: Write) -> list[Frag]:
        """The stack takes the pages: return what a transmission of the call is to send, one reference per fragment."""
        return by_reference(write)

    def queued(self, write: Write, skbs: list[SkBuff]) -> None:
        """The transport has made these packets of the call; mark them if the strategy watches packets.

        TCP keeps them in its queue (`nohdr`) and transmits clones of them; a datagram's go down themselves.
        """

    def skb_shared(self, skb: SkBuff, clone: SkBuff) -> None:
        """The stack shares a queued packet: *clone* goes down to the device."""

    def replied(self, write: Write) -> None:
        """The reply has come. Complete the write now, or later when something else has happened, too."""
        self.kernel.complete(write)

    def aborted(self, write: Write) -> None:
        """The application gave up on the call before its reply came; nothing of it is transmitted anew.

        By default it has its buffer back at once, whatever is still on its way: the call may be executed all the same.
        """
        self.kernel.complete(write)

    watches_clones = False
    """Whether `skb_shared` is to be called at all; most strategies have nothing to say there."""


def by_reference(write: Write, destructor: FragDestructor | None = None) -> list[Frag]:
    """Return the write's own pages as fragments, each with a reference of its own (`sendpage`)."""
    frags = []
    for page, offset, size in write.windows():
        if destructor is None:
            page.refs += 1
        else:
            destructor.refs += 1
        frags.append(Frag(page, offset, size, destructor))
    return frags


def by_copy(write: Write, kernel: GuestKernel) -> list[Frag]:
    """Copy the write's bytes, as they are now, into pages of the kernel (`sock_no_sendpage`), and charge for it."""
    frags: list[Frag] = []
    windows = write.windows()
    for page, offset, size in windows:
        frags += pages_holding(page.memory.read(page.frame, offset, size), kernel.kernel_pages)
    kernel.copied(sum([size for _, _, size in windows]))
    return frags


class OnReply(GuestStrategy):
    """Zero-copy, and done when the protocol says so: what NFS did up to 2013, and the bug."""

    name = "on-reply"
    summary = "sends the application's pages by reference and completes on the reply: the bug"


class FullCopy(GuestStrategy):
    """Every transmission copies the payload into kernel pages: nothing that the application does can reach them."""

    name = "full-copy"
    summary = "copies every payload byte into kernel pages at each transmission, then completes on the reply"

    def take(self, write: Write) -> list[Frag]:
        """Copy the bytes now, while the call is pending and the buffer still holds the right ones."""
        return by_copy(write, self.kernel)


class FragDestructors(GuestStrategy):
    """Campbell's series of 2012: each fragment counts, and the RPC completes when reply *and* last fragment are in."""

    name = "frag-destructor"
    summary = "counts every fragment reference and completes only when the stack has dropped the last one"

    def take(self, write: Write) -> list[Frag]:
        """Lend the pages under one destructor for all transmissions; the strategy holds a reference until the reply."""
        if write.token is None:
            write.token = FragDestructor(self, write)
        assert isinstance(write.token, FragDestructor)
        return by_reference(write, write.token)

    def replied(self, write: Write) -> None:
        """Drop the strategy's own reference; if the stack has none left either, that completes the write."""
        assert isinstance(write.token, FragDestructor)
        write.token.put()

    def aborted(self, write: Write) -> None:
        """The task ends only when its pages are its own again: an interrupted call waits for its fragments, too."""
        self.replied(write)

    def frags_released(self, token: object) -> None:
        """The last fragment is gone, below TCP too: now nobody can read the buffer any more."""
        self.kernel.complete(token)  # type: ignore[arg-type]
