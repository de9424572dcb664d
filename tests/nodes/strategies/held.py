"""A packet in the host's stack under a foreign-page strategy, held in the hand."""

from lateack.nodes.strategies.foreign import PageForeign
from tests.nodes.hand import Pair

HEAD, BODY = b"h" * 54, b"b" * 1000


class Held:
    """A packet of two whole fragments in the host's stack, and the pair that it came through."""

    def __init__(self, kind: type[PageForeign] = PageForeign, pieces: tuple[bytes, ...] = (BODY, BODY)) -> None:
        self.pair = Pair(kind)
        strategy = self.pair.strategy
        assert isinstance(strategy, PageForeign)
        self.strategy = strategy
        self.pair.front.send(HEAD, pieces)
        (self.skb,) = self.pair.take()
        self.pages = [frag.page for frag in self.skb.shinfo.frags]
        self.settle()  # the header's slot is answered at once

    def settle(self) -> None:
        """The burst is over."""
        self.strategy.settle(self.pair.vif)
        self.pair.vif.push()
        self.pair.netfront.interrupt(0)

    def refs(self) -> tuple[int, ...]:
        """Return the total count of each page."""
        return tuple(page.refs for page in self.pages)

    def outstanding(self) -> int:
        """Return how many requests are not answered after a burst."""
        self.settle()
        return self.pair.vif.outstanding

    def whole(self) -> bool:
        """Say whether everything has come back: requests, pins, heads, pages, and the guest's grants."""
        self.settle()
        kernel, netfront = self.pair.kernel, self.pair.netfront
        return (
            self.strategy.in_flight() == self.pair.vif.outstanding == kernel.slab.outstanding == 0
            and kernel.hypervisor.pins() == {1: 2}  # the rings
            and kernel.pool.outstanding == len(kernel.slab.pages)
            and netfront.pending() == 0
            and not netfront.broken
            and self.pair.front.slab.outstanding == 0
        )
