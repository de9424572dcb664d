"""A packet socket on a device: what it is shown, what it copies, and when it reads."""

from lateack.nodes.facts import FrameDropped, PacketRead, Parked
from lateack.nodes.memory.pages import HeadSlab, Memory, PagePool
from lateack.nodes.node import Effect
from lateack.nodes.stack.lifetime import Frag, UbufInfo
from lateack.nodes.stack.packets import digest_of
from lateack.nodes.stack.skb import SkBuff, add_frag, alloc_skb, kfree_skb, skb_put
from lateack.nodes.stack.tap import TappedDevice
from tests.nodes.hand import facts_of, udp_frame
from tests.nodes.stack.owner import Owner

SENT = b"what was sent..."


class Sink:
    """A device that keeps what it is given."""

    def __init__(self) -> None:
        self.skbs: list[SkBuff] = []

    def xmit(self, skb: SkBuff, now: int) -> None:
        """Keep a packet."""
        self.skbs.append(skb)


class Bench:
    """A tapped device, and one datagram whose payload lies in a page of somebody else's."""

    def __init__(self) -> None:
        self.memory = Memory(1, 8)
        self.pool = PagePool(self.memory, 0, 8)
        self.effects: list[Effect] = []
        self.device = Sink()
        self.tap = TappedDevice(self.device, "guest1.tap", self.pool, self.effects)
        self.skb = alloc_skb(HeadSlab(self.memory, self.pool))
        skb_put(self.skb, udp_frame(SENT)[:42])
        self.page = self.pool.alloc()
        self.page.memory.write(self.page.frame, 0, SENT)
        add_frag(self.skb, Frag(self.page, 0, len(SENT)))

    def rewrite(self) -> None:
        """The page's owner writes something else."""
        self.page.memory.write(self.page.frame, 0, b"something else..")

    def read(self) -> list[tuple[int, ...]]:
        """Return the digests of what was read so far."""
        return [fact.digests for fact in facts_of(self.effects, PacketRead)]


def test_the_device_gets_the_packet_and_the_tap_a_clone_of_it() -> None:
    """The clone shares the page: it takes a reference on the data, and gives it back when it has been read."""
    bench = Bench()

    bench.tap.xmit(bench.skb, 0)
    shared = bench.skb.shinfo.dataref
    bench.tap.reader.read()

    assert bench.device.skbs == [bench.skb]
    assert (shared, bench.skb.shinfo.dataref) == (2, 1)
    assert bench.read() == [(digest_of(SENT),)]


def test_a_slow_reader_sees_what_the_page_holds_by_then() -> None:
    """A bare reference protects nothing: the capture shows bytes that were never sent."""
    bench = Bench()
    bench.tap.reader.on()

    bench.tap.xmit(bench.skb, 0)
    bench.tap.reader.read()
    kfree_skb(bench.skb)
    bench.rewrite()
    bench.tap.reader.off()

    assert len(facts_of(bench.effects, Parked)) == 1
    assert bench.read() == [(digest_of(b"something else.."),)]
    assert bench.page.refs == 0


def test_pages_whose_owner_would_be_told_are_copied_for_the_tap() -> None:
    """skb_orphan_frags_rx: the copy is charged, the capture is right, and the device still shows the owner's page."""
    bench = Bench()
    bench.tap.reader.on()
    owner = Owner()
    bench.skb.shinfo.ubuf = UbufInfo(owner, "loan", refcounted=True)

    bench.tap.xmit(bench.skb, 0)
    kfree_skb(bench.skb)
    bench.rewrite()
    bench.tap.reader.off()

    assert bench.read() == [(digest_of(SENT),)]
    assert bench.tap.copied_bytes == len(SENT)
    assert bench.device.skbs[0].users == 0


def test_a_clone_that_is_a_copy_is_charged() -> None:
    """A packet that must not be cloned is copied for the listener, and so are pages of an owner who counts nobody."""
    flagged, owned = Bench(), Bench()
    flagged.skb.no_clone = True
    owned.skb.shinfo.ubuf = UbufInfo(Owner(), "loan")

    for bench in (flagged, owned):
        bench.tap.xmit(bench.skb, 0)

    assert [bench.tap.copied_bytes for bench in (flagged, owned)] == [len(SENT)] * 2


def test_without_memory_nothing_is_shown() -> None:
    """The packet goes its way all the same (dev_queue_xmit_nit)."""
    bench = Bench()
    bench.skb.no_clone = True
    for _ in range(bench.pool.free_count):
        bench.pool.alloc()

    bench.tap.xmit(bench.skb, 0)

    assert bench.device.skbs == [bench.skb]
    assert bench.tap.reader.waiting() == 0
    assert [fact.place for fact in facts_of(bench.effects, FrameDropped)] == ["guest1.tap"]
