"""Claims about the card: when bytes are read, what leaves, and what is remembered of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lateack.nodes.facts import AccessFault, FrameDropped, FrameSent, Parked
from lateack.nodes.memory.pages import POISON, Page
from lateack.nodes.node import Effect
from lateack.nodes.stack.lifetime import Frag, UbufInfo, unmap_page
from lateack.nodes.stack.nic import Nic, NicWatcher
from lateack.nodes.stack.packets import ACK, FIN, PSH, Malformed, Segment, digest_of, parse
from lateack.nodes.stack.skb import SkBuff, alloc_skb, pages_holding, skb_put
from lateack.nodes.stack.skb_copy import skb_clone
from tests.nodes.stack.fakes import GUEST, SERVER, Host, pattern, slow_checksum, slow_tcp, slow_udp

FLOW = "10.0.0.1:700>10.0.0.2:2049"


class Bed:
    """A card, and packets that are built for it by the slow encoder: headers in the linear area, payload in pages."""

    def __init__(self, queue_max: int = 10, *, software_checksum: bool = False) -> None:
        self.host = Host(GUEST)
        self.facts: list[Effect] = []
        self.told: list[object] = []
        self.nic = Nic(
            "nic",
            self.facts,
            pool=self.host.pool,
            queue_max=queue_max,
            software_checksum=software_checksum,
        )

    def zerocopy_complete(self, token: object, success: bool) -> None:
        """Note what the owner of the pages is told."""
        self.told.append((token, success))

    def page(self, data: bytes) -> Page:
        """Return a page of an owner who keeps it."""
        page = self.host.pool.alloc()
        page.memory.write(page.frame, 0, data)
        return page

    def tcp(self, frags: list[Frag], length: int, *, seq: int = 1, flags: int = ACK, gso_size: int = 0) -> SkBuff:
        """Return a TCP packet of *length* paged bytes with CHECKSUM_PARTIAL headers."""
        frame = slow_tcp(
            source=GUEST, target=SERVER, sport=700, dport=2049, seq=seq, flags=flags, payload=bytes(length)
        )  # fmt: skip
        header = bytearray(frame[:54])
        pseudo = frame[26:34] + bytes([0, 6]) + (20 + length).to_bytes(2, "big")
        header[50:52] = (0xFFFF - slow_checksum(pseudo)).to_bytes(2, "big")
        skb = alloc_skb(self.host.slab)
        skb_put(skb, bytes(header))
        skb.shinfo.frags = frags
        skb.shinfo.gso_size = gso_size
        return skb

    def send(self, data: bytes, **how: int) -> None:
        """Send *data* out of fresh pages."""
        self.nic.xmit(self.tcp(pages_holding(data, self.host.pool), len(data), **how), 0)

    def segments(self) -> list[Segment]:
        """Return what has left, decoded and believed."""
        return [parse(frame) for frame in self.nic.take_frames()]

    def of(self, kind: type) -> list:  # type: ignore[type-arg]
        """Return the facts of one type."""
        return [fact for fact in self.facts if type(fact) is kind]


def test_a_packet_leaves_at_once_through_an_open_gate() -> None:
    """The card reads, sums, sends and frees; the fact names the windows that were read."""
    bed = Bed()
    page = bed.page(b"..payload..")
    page.refs += 1

    bed.nic.xmit(bed.tcp([Frag(page, 2, 7)], 7), 0)

    assert [segment.payload for segment in bed.segments()] == [b"payload"]
    assert bed.nic.take_frames() == []
    assert bed.facts == [FrameSent("nic", FLOW, 1, 7, 7, (digest_of(b"payload"),), False, ((1, page.frame, 2, 7),))]
    assert (page.refs, bed.host.slab.outstanding) == (1, 0)


def test_bytes_are_read_when_the_gate_opens_and_not_before() -> None:
    """Behind a closed gate a packet is a reference; what the page holds at opening leaves, under a valid sum."""
    bed = Bed()
    page = bed.page(b"before")
    page.refs += 1
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


def test_software_checksums_freeze_pages_that_others_may_rewrite() -> None:
    """skb_checksum_help with SHARED_FRAG: copied when the packet enters; the owner hears at once, later writes miss."""
    bed = Bed(software_checksum=True)
    page = bed.page(b"before")
    page.refs += 1
    skb = bed.tcp([Frag(page, 0, 6)], 6)
    skb.shinfo.shared_frag = True
    skb.shinfo.ubuf = UbufInfo(bed, "loan")
    bed.nic.closed = True

    bed.nic.xmit(skb, 0)
    told = list(bed.told)
    page.memory.write(page.frame, 0, b"after!")
    bed.nic.open()

    assert (told, page.refs, bed.nic.copied_bytes) == ([("loan", False)], 1, 6)
    assert [segment.payload for segment in bed.segments()] == [b"before"]


def test_a_frozen_clone_leaves_the_original_alone() -> None:
    """Freezing a clone gives it a data block of its own; the queued packet keeps showing the owner's page."""
    bed = Bed(software_checksum=True)
    page = bed.page(b"before")
    page.refs += 1
    queued = bed.tcp([Frag(page, 0, 6)], 6)
    queued.shinfo.shared_frag = True
    bed.nic.closed = True

    bed.nic.xmit(skb_clone(queued), 0)

    assert (queued.shinfo.dataref, queued.shinfo.frags[0].page is page) == (1, True)
    assert bed.nic.queue[0].shinfo.frags[0].page is not page


def test_an_unmapped_page_is_a_fault_and_poison_leaves() -> None:
    """The kernel would fault; the run goes on with poison on the wire, and the fact says where."""
    bed = Bed()
    page = bed.page(b"mapped")
    page.refs += 1
    bed.nic.closed = True
    bed.nic.xmit(bed.tcp([Frag(page, 0, 6)], 6), 0)

    unmap_page(page)
    bed.nic.open()

    assert [segment.payload for segment in bed.segments()] == [bytes([POISON]) * 6]
    (fault,) = bed.of(AccessFault)
    assert fault.place == "nic"


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


@pytest.mark.parametrize("gso_size", [0, 4])
def test_a_page_that_changes_after_it_was_summed_spoils_the_sum(gso_size: int) -> None:
    """Where nobody says that pages are shared, software sums them as they lie, and the wire shows a wrong checksum."""
    bed = Bed(software_checksum=True)
    page = bed.page(b"before")
    page.refs += 1
    bed.nic.closed = True
    bed.nic.xmit(bed.tcp([Frag(page, 0, 6)], 6, gso_size=gso_size), 0)

    page.memory.write(page.frame, 0, b"after!")
    bed.nic.open()

    frames = bed.nic.take_frames()
    assert len(frames) == (2 if gso_size else 1)
    for frame in frames:
        with pytest.raises(Malformed, match="checksum"):
            parse(frame)


def test_summing_an_unmapped_page_is_a_fault() -> None:
    """The sum touches the page, whether it copies it first or not."""
    bed = Bed(software_checksum=True)
    page = Page(bed.host.slab.memory, 0, refs=2)
    unmap_page(page)

    bed.nic.xmit(bed.tcp([Frag(page, 0, 6)], 6), 0)

    assert any(isinstance(fact, AccessFault) for fact in bed.facts)
