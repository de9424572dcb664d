"""Claims about a host's way out: what the hand-over to the driver freezes, cuts, orphans, and what it does not."""

from __future__ import annotations

import pytest

from lateack.nodes.facts import AccessFault, FrameDropped, FrameSent, Parked
from lateack.nodes.stack.egress import PLAIN, DriverConfig, Egress
from lateack.nodes.stack.lifetime import Frag, UbufInfo, unmap_page
from lateack.nodes.stack.nic import NicWatcher
from lateack.nodes.stack.packets import Malformed, parse
from lateack.nodes.stack.skb import SkBuff
from lateack.nodes.stack.skb_copy import skb_clone
from tests.nodes.stack.packets_by_hand import FLOW, Packets

SOFTWARE = DriverConfig(checksum="software")
OLD = DriverConfig(checksum="software-2011")
KERNEL = DriverConfig(segmentation="kernel")
ORPHANING = DriverConfig(device="orphaning")
TUN = DriverConfig(device="tun")


class Way(Packets):
    """A way out whose two gates a test opens and closes."""

    def __init__(self, driver: DriverConfig = PLAIN, *, queue_max: int = 10) -> None:
        super().__init__()
        self.egress = Egress("host", self.facts, pool=self.host.pool, queue_max=queue_max, driver=driver)

    def lend(self, *, owner: bool = False, refcounted: bool = False, shared: bool = True, gso_size: int = 0) -> SkBuff:
        """Return a packet over six bytes of somebody's page, with or without an owner who is told."""
        self.lent = self.page(b"before")
        skb = self.tcp([Frag(self.lent, 0, 6)], 6, gso_size=gso_size)
        skb.shinfo.shared_frag = shared
        if owner:
            skb.shinfo.ubuf = UbufInfo(self, "loan", refcounted=refcounted)
        return skb

    def rewrite(self) -> None:
        """The owner puts other bytes into its page."""
        self.lent.memory.write(self.lent.frame, 0, b"after!")

    def stuck_in(self, place: str, skb: SkBuff) -> list[bytes]:
        """Let a packet be stuck at a place while its owner rewrites the page; return the frames that leave then."""
        gated = self.egress if place == "queue" else self.egress.nic
        gated.closed = True
        self.egress.xmit(skb)
        self.rewrite()
        gated.open()
        return self.egress.nic.take_frames()


def test_with_open_gates_a_packet_leaves_at_once() -> None:
    """Nothing waits, nothing is copied, and only the card has something to tell."""
    way = Way()

    way.egress.xmit(way.lend())

    assert [parse(frame).payload for frame in way.egress.nic.take_frames()] == [b"before"]
    assert [type(fact) for fact in way.facts] == [FrameSent]
    assert (way.egress.waiting(), way.egress.copied_bytes, way.lent.refs) == (0, 0, 1)


@pytest.mark.parametrize(
    ("driver", "queue", "ring"),
    [
        (PLAIN, b"after!", b"after!"),
        (SOFTWARE, b"after!", b"before"),  # copied, then summed, when the driver is given it
        (ORPHANING, b"after!", b"after!"),
        (TUN, b"after!", b"after!"),
    ],
    ids=["plain", "software", "orphaning", "tun"],
)
def test_what_is_not_copied_by_the_hand_over_shows_the_page(driver: DriverConfig, queue: bytes, ring: bytes) -> None:
    """Of a bare reference, the packet in the queue always shows the new bytes; in the ring it depends."""
    left = {place: Way(driver) for place in ("queue", "ring")}

    shown = {place: parse(way.stuck_in(place, way.lend())[0]).payload for place, way in left.items()}

    assert shown == {"queue": queue, "ring": ring}
    assert left["ring"].egress.copied_bytes == (6 if ring == b"before" else 0)


@pytest.mark.parametrize("refcounted", [True, False])
def test_tun_copies_the_pages_of_whoever_is_told(refcounted: bool) -> None:
    """skb_orphan_frags_rx asks for nothing but an owner: the packet may stay for ever in a process."""
    way = Way(TUN)

    frames = way.stuck_in("ring", way.lend(owner=True, refcounted=refcounted))

    assert parse(frames[0]).payload == b"before"
    assert way.told == [("loan", False)]


def test_an_old_kernel_sums_the_page_where_it_lies() -> None:
    """The page changes between sum and DMA: what leaves has a checksum that is wrong for it, and is dropped later."""
    way = Way(OLD)

    (frame,) = way.stuck_in("ring", way.lend())

    assert frame[54:] == b"after!"
    with pytest.raises(Malformed, match="checksum"):
        parse(frame)


def test_pages_of_the_kernel_itself_are_summed_without_a_copy() -> None:
    """Nobody else can rewrite them (no SKBFL_SHARED_FRAG)."""
    way = Way(SOFTWARE)

    way.egress.xmit(way.lend(shared=False))

    assert [parse(frame).payload for frame in way.egress.nic.take_frames()] == [b"before"]
    assert way.egress.copied_bytes == 0


def test_a_frozen_clone_leaves_the_original_alone() -> None:
    """Freezing a clone gives it a data block of its own; the queued packet keeps showing the owner's page."""
    way = Way(SOFTWARE)
    queued = way.lend()
    way.egress.nic.closed = True

    way.egress.xmit(skb_clone(queued))

    (waiting,) = way.egress.nic.queue
    assert (queued.shinfo.dataref, queued.shinfo.frags[0].page is way.lent) == (1, True)
    assert waiting.shinfo.frags[0].page is not way.lent


def test_a_packet_is_whole_in_the_queue_and_cut_in_the_ring() -> None:
    """Kernel segmentation belongs to the hand-over; the segments show the page, each a part of it."""
    way = Way(KERNEL)
    way.egress.closed = way.egress.nic.closed = True

    way.egress.xmit(way.lend(gso_size=4))
    way.egress.open()
    way.rewrite()
    way.egress.nic.open()

    parked = [(fact.place, fact.length) for fact in way.of(Parked)]
    assert parked == [("host.queue", 6), ("host.nic", 4), ("host.nic", 2)]
    assert [parse(frame).payload for frame in way.egress.nic.take_frames()] == [b"afte", b"r!"]


def test_a_card_that_does_not_sum_does_not_cut() -> None:
    """netdev_fix_features takes TSO from a device without checksums: each segment is copied and summed by itself."""
    way = Way(SOFTWARE)

    frames = way.stuck_in("ring", way.lend(gso_size=4))

    assert [parse(frame).payload for frame in frames] == [b"befo", b"re"]
    assert way.egress.copied_bytes == 6


@pytest.mark.parametrize("driver", [ORPHANING, TUN], ids=["orphaning", "tun"])
def test_an_orphaning_driver_says_that_the_packet_is_gone(driver: DriverConfig) -> None:
    """skb_orphan runs the destructor at hand-over and makes the socket forget it, while it lies in the ring."""
    way = Way(driver)
    skb = way.lend()
    skb.destructor = lambda gone: way.told.append("gone")
    way.egress.closed = way.egress.nic.closed = True

    way.egress.xmit(skb)
    in_queue = list(way.told)
    way.egress.open()

    assert (in_queue, way.told) == ([], ["gone"])
    assert list(way.egress.nic.queue) == [skb]


@pytest.mark.parametrize(
    "driver", [SOFTWARE, OLD, KERNEL, TUN], ids=["software", "software-2011", "kernel segmentation", "tun"]
)
def test_whoever_reads_an_unmapped_page_faults_and_drops_the_packet(driver: DriverConfig) -> None:
    """Summing it or copying it touches the page at the hand-over; nothing leaves, and everything is freed."""
    way = Way(driver)
    skb = way.lend(owner=True, gso_size=4)
    unmap_page(way.lent)

    way.egress.xmit(skb)

    assert [fact.place for fact in way.of(AccessFault)][:1] == ["host.queue"]
    assert way.egress.nic.take_frames() == []
    assert way.host.slab.outstanding == 0


def test_both_places_are_bounded() -> None:
    """Each keeps so many packets, drops the next, says where, and gives its pages back."""
    way = Way(queue_max=1)
    way.egress.nic.closed = True
    for _ in range(2):
        way.egress.xmit(way.lend())
    way.egress.closed = True
    for _ in range(2):
        way.egress.xmit(way.lend())

    dropped = way.of(FrameDropped)

    assert [fact.place for fact in dropped] == ["host.nic", "host.queue"]
    assert way.egress.waiting() == 2


def test_a_rule_may_close_the_queue_behind_a_packet_that_leaves() -> None:
    """The queue is drained as long as its gate is open, packet by packet; the rest keeps its place."""

    class Rule(NicWatcher):
        nic_watched = True

        def frame_left(self, headers: bytes, more: int) -> None:
            """Close the queue."""
            way.egress.closed = True

    way = Way()
    way.egress.nic.watch = Rule()
    way.egress.closed = True
    for seq in (1, 7, 13):
        way.egress.xmit(way.tcp([Frag(way.page(b"before"), 0, 6)], 6, seq=seq))

    left = []
    for _ in range(3):
        way.egress.open()
        left.append([parse(frame).seq for frame in way.egress.nic.take_frames()])

    assert left == [[1], [7], [13]]


def test_what_cannot_be_copied_for_want_of_memory_is_dropped() -> None:
    """ENOMEM in skb_segment or skb_copy_ubufs costs the packet and nothing else."""
    way = Way(SOFTWARE)
    skb = way.lend()
    for _ in range(way.host.pool.free_count - 1):
        way.host.pool.alloc()

    way.egress.xmit(skb)

    assert [fact.place for fact in way.of(FrameDropped)] == ["host.queue"]
    assert (way.lent.refs, way.host.slab.outstanding) == (1, 0)


def test_a_gap_in_the_queue_has_not_left() -> None:
    """A packet that the queue dropped is new when it comes again, though what followed it has left."""
    way = Way(queue_max=1)

    def send(seq: int) -> None:
        way.egress.xmit(way.tcp([Frag(way.page(b"before"), 0, 6)], 6, seq=seq))

    send(1)
    way.egress.closed = True
    send(7)
    send(13)  # dropped
    way.egress.open()
    send(19)
    way.egress.closed = True
    send(13)

    assert way.of(Parked)[-1] == Parked("host.queue", FLOW, 13, 6, False)
