"""An owner of pages for the tests of socket buffers: it lends them, counts them, and writes down what it is told."""

from __future__ import annotations

from lateack.nodes.memory.pages import HeadSlab, Memory, Page, PagePool
from lateack.nodes.stack.lifetime import Frag
from lateack.nodes.stack.skb import SkBuff, add_frag, alloc_skb, read_frags, skb_linear


class Owner:
    """Owns pages, lends them under any mechanism, and writes down everything that it is told."""

    def __init__(self, frames: int = 256) -> None:
        self.memory = Memory(1, frames)
        self.pool = PagePool(self.memory, 0, frames)
        self.slab = HeadSlab(self.memory, self.pool)
        self.told: list[object] = []

    def frags_released(self, token: object) -> None:
        """Note that the last fragment under *token* is gone."""
        self.told.append(token)

    def zerocopy_complete(self, token: object, success: bool) -> None:
        """Note that the last data block under *token* is gone."""
        self.told.append((token, success))

    def destructed(self, skb: SkBuff) -> None:
        """Note that a header's destructor ran, and which pages it could see."""
        self.told.append(tuple(frag.page.frame for frag in skb.shinfo.frags))

    def page(self, fill: bytes = b"?") -> Page:
        """Return a page of one repeated byte, with the owner's own reference."""
        page = self.pool.alloc()
        page.memory.write(page.frame, 0, fill * 4096)
        return page

    def packet(self, pages: list[Page], size: int = 1000, offset: int = 0) -> SkBuff:
        """Return a packet that shows *size* bytes of each page, each with a reference beside the owner's."""
        skb = alloc_skb(self.slab)
        for page in pages:
            page.refs += 1
            add_frag(skb, Frag(page, offset, size))
        return skb

    def home(self) -> bool:
        """Say whether every head and page has come back."""
        return self.slab.outstanding == 0 and self.pool.outstanding == len(self.slab.pages)


def counts(skb: SkBuff, pages: list[Page]) -> tuple[int, tuple[int, ...]]:
    """Return (D, P): the data block's headers, and each page's references beside its owner's."""
    return skb.shinfo.dataref, tuple(page.refs - 1 for page in pages)


def content(skb: SkBuff) -> bytes:
    """Return every byte of the packet as it is now."""
    return skb_linear(skb) + b"".join(read_frags(skb))
