"""Who uses a page: the one room where references to fragments are taken, dropped and answered for.

The kernel of 2011 counts the users of a page with bare get/put, so its owner never learns when the last one is gone.
The room below holds that and every mechanism by which an owner may be told, side by side:

    page.refs           bare references; at zero the page goes back to its pool, and nobody else is told
    FragDestructor      counts the fragments of one owner, wherever the stack moves them (Campbell 2011, never merged)
    UbufInfo            tells the owner when the *data block* of a packet dies; whoever would keep the pages longer must
                        copy them first (a6686f2f382b, vhost-net and later netback), or is counted (MSG_ZEROCOPY)
    skb.destructor      runs once per header, before the data's fate is known (see skb.py): the wrong hook
    PageDestructor      is told when one *data block* lets go of its fragments, and of no other user of their pages

A strategy picks mechanisms; it never counts by itself.
"""

from typing import Protocol

from lateack.nodes.memory.pages import PAGE_SHIFT, PAGE_SIZE, POISON, Memory, Page, put_page
from lateack.nodes.records import LightRecord


class FragOwner(Protocol):
    """Whoever lent pages under a `FragDestructor` and waits to hear that the stack is through with them."""

    def frags_released(self, token: object) -> None:
        """The last fragment that was lent under *token* is gone."""
        ...


class UbufOwner(Protocol):
    """Whoever lent pages under a `UbufInfo`."""

    def zerocopy_complete(self, token: object, success: bool) -> None:
        """The data block is gone; *success* is false when the bytes had to be copied on the way."""
        ...


class PageDestructor(Protocol):
    """Whoever keeps a destructor for its pages in a data block, as Rusty Russell tried around 2008."""

    def frags_let_go(self, frags: "list[Frag]") -> None:
        """The data block lets go of these fragments; what left it earlier, or lies in other blocks, is not told."""
        ...


class FragDestructor:
    """One owner's count of live fragments: `struct skb_frag_destructor` of the 2012 series (v5).

    Starts at one, the reference that the owner holds while it builds the packet.
    """

    __slots__ = ("owner", "refs", "token")

    def __init__(self, owner: FragOwner, token: object) -> None:
        self.owner = owner
        self.token = token
        self.refs = 1

    def get(self) -> None:
        """Count one more fragment."""
        self.refs += 1

    def put(self) -> None:
        """Count one fragment less; the last one tells the owner."""
        self.refs -= 1
        assert self.refs >= 0, "a fragment was returned twice"
        if not self.refs:
            self.owner.frags_released(self.token)


class UbufInfo:
    """An owner's callback that lives in the shared info of a packet: `struct ubuf_info`.

    `refcounted` owners (MSG_ZEROCOPY) tolerate that a second data block shares the pages; all others make the stack
    copy the pages before a clone may share them (`SKBFL_DONT_ORPHAN` is its opposite).
    """

    __slots__ = ("owner", "refcounted", "refs", "success", "token")

    def __init__(self, owner: UbufOwner, token: object, *, refcounted: bool = False) -> None:
        self.owner = owner
        self.token = token
        self.refcounted = refcounted
        self.refs = 1
        self.success = True

    def get(self) -> None:
        """One more data block carries this owner's pages."""
        self.refs += 1

    def put(self, success: bool) -> None:
        """A data block died; the last one tells the owner, who hears of a copy made anywhere on the way."""
        self.success = self.success and success
        self.refs -= 1
        assert self.refs >= 0, "a zero-copy owner would be told twice"
        if not self.refs:
            self.owner.zerocopy_complete(self.token, self.success)


class Frag(LightRecord):
    """A window of one page inside a packet (`skb_frag_t`): offset and size in bytes, never across the page's end."""

    page: Page
    offset: int
    size: int
    destructor: FragDestructor | None = None


def frag_ref(frag: Frag) -> None:
    """Take a reference on a fragment: its owner's count if it has a destructor, else the bare page count."""
    if frag.destructor is None:
        frag.page.refs += 1
    else:
        frag.destructor.refs += 1


def frag_unref(frag: Frag) -> None:
    """Drop a reference on a fragment; the last one tells the owner, or sends the page home in silence."""
    if frag.destructor is None:
        put_page(frag.page)
    else:
        frag.destructor.put()


def frag_view(frag: Frag) -> memoryview:
    """Return the bytes that the fragment shows *now*, to be used at once."""
    page = frag.page
    start = (page.frame << PAGE_SHIFT) + frag.offset
    return page.memory.view[start : start + frag.size]


DOMID_INVALID = 0x7FF4
"""Xen's name for no domain at all (xen.h)."""

NOWHERE = Memory(DOMID_INVALID, 1, bytearray([POISON]) * PAGE_SIZE)
"""What an unmapped page shows. The kernel would fault; we read poison: the run goes on and an oracle can see."""


def unmap_page(page: Page) -> None:
    """Take away what the page shows: whoever still holds it will read poison."""
    page.lost = (page.memory.domid, page.frame)
    page.memory = NOWHERE
    page.frame = 0


def unmapped(page: Page) -> bool:
    """Say whether touching this page would fault."""
    return page.memory.domid == DOMID_INVALID
