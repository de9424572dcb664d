"""The guest's strategies: what each hook does, and at which moment the application is told."""

from lateack.nodes.memory.pages import HeadSlab, Memory, Page, PagePool
from lateack.nodes.stack.lifetime import Frag
from lateack.nodes.stack.skb import SkBuff, add_frag, alloc_skb, kfree_skb
from lateack.nodes.stack.skb_copy import skb_clone
from lateack.nodes.strategies import GUEST_STRATEGIES
from lateack.nodes.strategies.guest import (
    FragDestructors,
    FullCopy,
    GuestStrategy,
    OnReply,
    Write,
    by_reference,
)

BYTES = b"\x11" * 4096 + b"\x22" * 1000


class OneWrite:
    """A write out of two pages."""

    def __init__(self, pages: list[Page]) -> None:
        self.xid = 1
        self.count = len(BYTES)
        self.transmissions = 0
        self.replied = False
        self.done = False
        self.token: object | None = None
        self.pages = pages

    def windows(self) -> list[tuple[Page, int, int]]:
        """Return the (page, offset, size) windows that hold the bytes."""
        return [(self.pages[0], 0, 4096), (self.pages[1], 0, 1000)]


class Kernel:
    """A guest as a strategy knows it; it notes what it is told."""

    def __init__(self) -> None:
        self.memory = Memory(1, 40)
        self.kernel_pages = PagePool(self.memory, 0, 30)
        self.slab = HeadSlab(self.memory, self.kernel_pages)
        self.completed: list[Write] = []
        self.transport = "tcp"
        self.charged = 0
        self.copied_bytes = 0
        self.write = OneWrite([Page(self.memory, 30), Page(self.memory, 31)])
        self.memory.view[30 * 4096 : 30 * 4096 + len(BYTES)] = BYTES

    def complete(self, write: Write) -> None:
        """Note that a write is done."""
        self.completed.append(write)

    def copied(self, count: int) -> None:
        """Charge copied bytes."""
        self.copied_bytes += count

    def packet(self, frags: list[Frag]) -> SkBuff:
        """Return a packet of these fragments."""
        skb = alloc_skb(self.slab)
        for frag in frags:
            add_frag(skb, frag)
        return skb

    def transmit(self, strategy: GuestStrategy) -> SkBuff:
        """Put what the strategy hands over into one packet that goes down itself, as UDP does."""
        self.write.transmissions += 1
        skb = self.packet(strategy.take(self.write))
        strategy.queued(self.write, [skb])
        return skb

    def wfree(self, skb: SkBuff) -> None:
        """Take back what a clone was charged, as the socket does."""
        self.charged -= 1

    def refs(self) -> list[int]:
        """Return how many refer to each page of the write."""
        return [page.refs for page in self.write.pages]


def shown(skb: SkBuff) -> bytes:
    """Return what a packet's pages hold now."""
    return b"".join(frag.page.memory.read(frag.page.frame, frag.offset, frag.size) for frag in skb.shinfo.frags)


def test_the_built_in_ones_are_known_by_their_names() -> None:
    """Each has a name of its own and a sentence about itself."""
    assert list(GUEST_STRATEGIES) == [
        "on-reply", "skb-destructor", "clone-destructor", "no-clone", "zerocopy-on-reply", "copy-on-retransmit",
        "frag-destructor", "msg-zerocopy", "full-copy",
    ]  # fmt: skip
    assert all(name == strategy.name for name, strategy in GUEST_STRATEGIES.items())
    assert all(len(strategy.summary) > 20 for strategy in GUEST_STRATEGIES.values())


def test_by_reference_takes_one_reference_for_each_fragment() -> None:
    """The fragments show the very pages, and each holds one of them."""
    kernel = Kernel()

    frags = by_reference(kernel.write)

    assert [(frag.page, frag.size) for frag in frags] == [(kernel.write.pages[0], 4096), (kernel.write.pages[1], 1000)]
    assert kernel.refs() == [2, 2]


def test_on_reply_completes_while_the_stack_still_shows_the_pages() -> None:
    """The bug: the reply is enough, whatever is still below."""
    kernel = Kernel()
    strategy = OnReply(kernel)
    skb = kernel.transmit(strategy)
    clone = skb_clone(skb)

    kfree_skb(skb)
    strategy.replied(kernel.write)
    kernel.memory.write(30, 0, b"next")

    assert kernel.completed == [kernel.write]
    assert kernel.refs() == [2, 2]
    assert shown(clone)[:4] == b"next"


def test_full_copy_shows_nothing_of_the_application() -> None:
    """Every transmission is a copy of its own in the kernel's pages, and is charged for."""
    kernel = Kernel()
    strategy = FullCopy(kernel)
    first, second = kernel.transmit(strategy), kernel.transmit(strategy)

    strategy.replied(kernel.write)
    kernel.memory.write(30, 0, b"next")
    seen = shown(first), shown(second)
    kfree_skb(first)
    kfree_skb(second)

    assert kernel.completed == [kernel.write]
    assert seen == (BYTES, BYTES)
    assert kernel.copied_bytes == 2 * len(BYTES)
    assert kernel.refs() == [1, 1]
    assert kernel.kernel_pages.outstanding == len(kernel.slab.pages)


def test_a_frag_destructor_completes_exactly_at_the_last_use() -> None:
    """The reply alone does not do it, nor does the queue's own packet: only the clone that waits below does."""
    kernel = Kernel()
    strategy = FragDestructors(kernel)
    skb = kernel.transmit(strategy)
    clone = skb_clone(skb)

    kfree_skb(skb)
    strategy.replied(kernel.write)
    before = list(kernel.completed)
    kfree_skb(clone)

    assert before == []
    assert kernel.completed == [kernel.write]


def test_a_frag_destructor_waits_for_the_reply_too() -> None:
    """When the stack is through first, as on any quiet day, the reply completes the write."""
    kernel = Kernel()
    strategy = FragDestructors(kernel)
    kfree_skb(kernel.transmit(strategy))
    before = list(kernel.completed)

    strategy.replied(kernel.write)

    assert before == []
    assert kernel.completed == [kernel.write]


def test_a_frag_destructor_counts_all_transmissions_together() -> None:
    """A call that was sent twice is done when both have left, in whatever order."""
    kernel = Kernel()
    strategy = FragDestructors(kernel)
    first, second = kernel.transmit(strategy), kernel.transmit(strategy)

    strategy.replied(kernel.write)
    kfree_skb(second)
    before = list(kernel.completed)
    kfree_skb(first)

    assert before == []
    assert kernel.completed == [kernel.write]


def test_an_abort_gives_the_buffer_back_at_once_unless_the_fragments_are_counted() -> None:
    """W5: whoever asks nobody is done; a frag destructor waits for its fragments, reply or not."""
    careless, careful = Kernel(), Kernel()
    skb = careless.transmit(OnReply(careless))
    strategy = FragDestructors(careful)
    counted = careful.transmit(strategy)

    OnReply(careless).aborted(careless.write)
    strategy.aborted(careful.write)
    before = list(careful.completed)
    kfree_skb(counted)

    assert careless.completed == [careless.write]
    assert skb.users == 1
    assert (before, careful.completed) == ([], [careful.write])


def test_a_strategy_that_overrides_nothing_completes_on_the_reply() -> None:
    """The defaults are those of `on-reply`: a strategy of one's own says only what differs."""

    class Mine(GuestStrategy):
        """Differs in nothing."""

    kernel = Kernel()
    strategy = Mine(kernel)
    kfree_skb(kernel.transmit(strategy))

    strategy.replied(kernel.write)

    assert kernel.completed == [kernel.write]
    assert not strategy.watches_clones
