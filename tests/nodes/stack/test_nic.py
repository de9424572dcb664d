"""Claims about the card: when bytes are read, what leaves, and what is remembered of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.facts import AccessFault, FrameDropped, FrameSent, Parked
from lateack.nodes.stack.lifetime import Frag, unmap_page
from lateack.nodes.stack.nic import Nic, NicWatcher
from lateack.nodes.stack.packets import ACK, FIN, PSH, SYN, Malformed, Segment, digest_of, ones_sum, parse
from lateack.nodes.stack.skb import alloc_skb, pages_holding, skb_put
from tests.nodes.stack.fakes import pattern, slow_checksum, slow_udp
from tests.nodes.stack.packets_by_hand import FLOW, Packets


class Bed(Packets):
    """A card and its packets."""

    def __init__(self, queue_max: int = 10) -> None:
        super().__init__()
        self.nic = Nic("nic", self.facts, queue_max=queue_max)

    def send(self, data: bytes, **how: Any) -> None:
        """Send *data* out of fresh pages."""
        self.nic.xmit(self.tcp(pages_holding(data, self.host.pool), len(data), **how), 0)

    def segments(self) -> list[Segment]:
        """Return what has left, decoded and believed."""
        return [parse(frame) for frame in self.nic.take_frames()]


def test_a_packet_leaves_at_once_through_an_open_gate() -> None:
    """The card reads, sums, sends and frees; the fact names the windows that were read."""
    bed = Bed()
    page = bed.page(b"..payload..")

    bed.nic.xmit(bed.tcp([Frag(page, 2, 7)], 7), 0)

    assert [segment.payload for segment in bed.segments()] == [b"payload"]
    assert bed.nic.take_frames() == []
    assert bed.facts == [FrameSent("nic", FLOW, 1, 7, 7, (digest_of(b"payload"),), False, ((1, page.frame, 2, 7),))]
    assert (page.refs, bed.host.slab.outstanding) == (1, 0)


def test_bytes_are_read_when_the_gate_opens_and_not_before() -> None:
    """Behind a closed gate a packet is a reference; what the page holds at opening leaves, under a valid sum."""
    bed = Bed()
    page = bed.page(b"before")
    bed.nic.closed = True
    bed.nic.xmit(bed.tcp([Frag(page, 0, 6)], 6), 0)

    page.memory.write(page.frame, 0, b"after!")
    waiting = bed.nic.take_frames()
    bed.nic.open()

    assert waiting == []
    assert [segment.payload for segment in bed.segments()] == [b"after!"]
    assert bed.of(Parked) == [Parked("nic", FLOW, 1, 6, False)]


def test_the_queue_is_bounded_and_what_does_not_fit_is_freed() -> None:
    """A full queue drops the newcomer, says so, and gives its pages back; the order of the others holds."""
    bed = Bed(queue_max=2)
    bed.nic.closed = True

    for seq in (1, 2, 3):
        bed.send(b"x", seq=seq)
    outstanding = bed.host.slab.outstanding
    bed.nic.open()

    assert bed.of(FrameDropped) == [FrameDropped("nic", "the transmit queue is full")]
    assert outstanding == 2
    assert [segment.seq for segment in bed.segments()] == [1, 2]
    assert bed.host.leaks() == (0, 0)


def test_a_watcher_may_close_the_gate_in_the_middle_of_the_queue() -> None:
    """A rule that acts on the first packet keeps the second back, in its place."""

    class Rule(NicWatcher):
        nic_watched = True
        seen: int = 0

        def frame_left(self, headers: bytes, more: int) -> None:
            """Close the gate behind the first packet."""
            self.seen += len(headers) + more
            bed.nic.closed = True

    bed = Bed()
    rule = Rule()
    bed.nic.watch = rule
    bed.nic.closed = True
    bed.send(b"first")
    bed.send(b"second", seq=6)

    bed.nic.open()
    first = [segment.payload for segment in bed.segments()]
    seen = rule.seen
    bed.nic.open()

    assert (first, seen) == ([b"first"], 54 + 5)
    assert [segment.payload for segment in bed.segments()] == [b"second"]


@given(st.integers(1, 9000), st.sampled_from((1, 536, 1459, 1460)), st.integers(0, 2**32 - 1), st.booleans())
def test_a_large_packet_is_cut_into_segments_of_their_own(length: int, mss: int, seq: int, fin: bool) -> None:
    """TSO: numbers grow, idents too, PSH and FIN are on the last piece only, and a slow receiver believes every sum."""
    if length // mss > 40:
        length = mss * 40 + length % mss
    bed = Bed()
    data = pattern(length, seq)

    bed.send(data, seq=seq, flags=ACK | PSH | (FIN if fin else 0), gso_size=mss)

    frames = bed.nic.take_frames()
    segments = [parse(frame) for frame in frames]
    pieces = [data[start : start + mss] for start in range(0, length, mss)]
    assert [segment.payload for segment in segments] == pieces
    assert [segment.seq for segment in segments] == [(seq + start) % 2**32 for start in range(0, length, mss)]
    assert [segment.flags for segment in segments[:-1]] == [ACK] * (len(pieces) - 1)
    assert segments[-1].flags == ACK | PSH | (FIN if fin else 0)
    first = int.from_bytes(frames[0][18:20], "big")
    assert [int.from_bytes(frame[18:20], "big") for frame in frames] == [first + at for at in range(len(frames))]
    (sent,) = bed.of(FrameSent)
    assert (sent.length, sent.mss, sent.digests) == (length, mss, tuple(map(digest_of, pieces)))
    for frame in frames:
        assert slow_checksum(frame[14:34]) == 0
        assert slow_checksum(frame[26:34] + bytes([0, 6]) + (len(frame) - 34).to_bytes(2, "big") + frame[34:]) == 0


def test_a_packet_that_is_summed_already_is_sent_as_it_is() -> None:
    """Without CHECKSUM_PARTIAL the card adds nothing: bytes that changed since are caught by the receiver."""
    bed = Bed()
    frame = slow_udp(b"summed")
    skb = alloc_skb(bed.host.slab)
    skb_put(skb, frame)
    skb.needs_checksum = False

    bed.nic.xmit(skb, 0)

    assert bed.nic.take_frames() == [frame]


def test_an_unmapped_page_is_a_fault_and_nothing_leaves() -> None:
    """The IOMMU aborts the read: a fact says where, the packet is freed, and not a byte of it is on the wire."""
    bed = Bed()
    page = bed.page(b"mapped")
    bed.nic.closed = True
    bed.nic.xmit(bed.tcp([Frag(page, 0, 6)], 6), 0)

    unmap_page(page)
    bed.nic.open()

    assert (bed.nic.take_frames(), bed.of(FrameSent)) == ([], [])
    (fault,) = bed.of(AccessFault)
    assert fault.place == "nic"
    assert (page.refs, bed.host.slab.outstanding) == (1, 0)


def test_a_packet_that_was_summed_leaves_with_that_sum() -> None:
    """What the CPU has summed the card does not sum again: bytes that changed since are caught by the receiver."""
    bed = Bed()
    page = bed.page(b"before")
    for data, seq in ((b"before", 1), (b"after!", 7)):
        page.refs += 1
        skb = bed.tcp([Frag(page, 0, 6)], 6, seq=seq)
        skb.summed = ones_sum(b"before")
        page.memory.write(page.frame, 0, data)
        bed.nic.xmit(skb, 0)

    good, bad = bed.nic.take_frames()

    assert parse(good).payload == b"before"
    with pytest.raises(Malformed, match="checksum"):
        parse(bad)


def test_the_card_knows_what_left_before() -> None:
    """`again` is said of what starts below the highest byte that left, per flow, also across the sequence wrap."""
    bed = Bed()
    start = 2**32 - 10

    for seq, data in ((start, b"a" * 20), (10, b"b" * 5), (start, b"c" * 20), (15, b"d"), (start - 5, b"e")):
        bed.send(data, seq=seq % 2**32)

    assert [fact.again for fact in bed.of(FrameSent)] == [False, False, True, False, True]
    assert [fact.payload for fact in bed.of(FrameSent)] == [b"", b"", b"c" * 20, b"", b"e"]
    assert bed.nic.left_before(FLOW, start, 1)
    assert not bed.nic.left_before(FLOW, start, 0)
    assert not bed.nic.left_before("another flow", start, 1)


def test_a_repetition_that_goes_further_counts_as_far_as_it_goes() -> None:
    """A retransmission may hold new bytes behind old ones; those have left, too."""
    bed = Bed()

    for seq, data in ((0, b"a" * 10), (5, b"b" * 10), (12, b"c" * 3)):
        bed.send(data, seq=seq)

    assert [fact.again for fact in bed.of(FrameSent)] == [False, True, True]


def test_a_new_connection_of_the_same_ports_starts_afresh() -> None:
    """A SYN says that the numbers below it mean nothing any more."""
    bed = Bed()
    bed.send(b"old", seq=1000)

    bed.send(b"", seq=99, flags=2)
    bed.send(b"new", seq=100)

    assert [fact.again for fact in bed.of(FrameSent)] == [False, False]


def test_datagrams_never_leave_twice() -> None:
    """A repeated call is another datagram with another identification: in UDP nothing is `again`."""
    bed = Bed()

    for number in range(3):
        skb = alloc_skb(bed.host.slab)
        skb_put(skb, slow_udp(b"call %d" % number))
        skb.needs_checksum = False
        bed.nic.closed = number == 2
        bed.nic.xmit(skb, 0)

    assert [fact.again for fact in bed.of(FrameSent) + bed.of(Parked)] == [False] * 3


def test_what_was_dropped_on_its_way_has_not_left() -> None:
    """A range that the full queue lost is a gap in what a sniffer saw, though what follows it has left."""
    bed = Bed(queue_max=1)
    bed.send(b"a" * 10, seq=0)
    bed.nic.closed = True
    bed.send(b"b" * 10, seq=10)
    bed.send(b"c" * 10, seq=20)  # dropped
    bed.nic.open()
    bed.send(b"d" * 10, seq=30)

    before = [bed.nic.left_before(FLOW, seq, 1) for seq in (0, 19, 20, 29, 30, 40)]
    bed.send(b"c" * 10, seq=20)
    bed.send(b"c" * 10, seq=20)

    assert before == [True, True, False, False, True, False]
    assert [(fact.seq, fact.again) for fact in bed.of(FrameSent)][-2:] == [(20, False), (20, True)]


def test_the_first_segments_of_a_connection_can_be_missing_too() -> None:
    """The SYN says where the stream begins, so that what is lost behind it is a gap like any other."""
    bed = Bed()

    bed.send(b"", seq=99, flags=SYN)
    bed.send(b"second", seq=106)
    bed.send(b"first!", seq=100)

    assert [fact.again for fact in bed.of(FrameSent)] == [False, False]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), max_size=30), st.sampled_from((0, 2**32 - 15)))
def test_whether_a_byte_left_before_is_known_of_every_byte(ranges: list[tuple[int, int]], start: int) -> None:
    """The card's notes agree with a plain set of everything that has left."""
    bed = Bed()
    bed.send(b"", seq=(start - 1) % 2**32, flags=SYN)
    left: set[int] = set()

    for first, length in ranges:
        bed.send(b"x" * length, seq=(start + first) % 2**32)
        assert bed.of(FrameSent)[-1].again == (first in left)
        left.update(range(first, first + length))

    assert {at for at in range(41) if bed.nic.left_before(FLOW, (start + at) % 2**32, 1)} == left
