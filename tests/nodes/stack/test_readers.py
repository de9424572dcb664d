"""Readers: what they keep is the packet, and what they read is what its pages hold then."""

from lateack.nodes.facts import AccessFault, FrameDropped, PacketRead, Parked
from lateack.nodes.memory.pages import Page
from lateack.nodes.node import Effect
from lateack.nodes.stack.lifetime import Frag, UbufInfo, unmap_page
from lateack.nodes.stack.packets import digest_of, parse
from lateack.nodes.stack.readers import QUEUE_PACKETS_MAX, Reader, orphan_frags_rx, place_of, read_frame
from lateack.nodes.stack.skb import SkBuff, add_frag, alloc_skb, skb_get, skb_put
from tests.nodes.hand import Kernel, facts_of, tcp_frame, udp_frame
from tests.nodes.stack.owner import Owner

FLOW = "10.0.0.11:700>10.0.1.1:2049"


def packet(kernel: Kernel, payload: bytes) -> tuple[SkBuff, Page]:
    """Return a packet whose payload lies in a page, and the page."""
    page = kernel.pool.alloc()
    page.memory.write(page.frame, 0, payload)
    skb = alloc_skb(kernel.slab)
    skb_put(skb, tcp_frame(payload, seq=9)[:54])
    add_frag(skb, Frag(page, 0, len(payload)))
    skb.needs_checksum = False
    return skb, page


def test_a_reader_sees_what_the_page_holds_when_it_reads() -> None:
    """Behind its gate a packet is references; the bytes are those of the moment at which the gate opens."""
    kernel = Kernel()
    effects: list[Effect] = []
    reader = Reader("backend.tap", effects)
    skb, page = packet(kernel, b"old")
    reader.on()
    reader.take(skb)
    reader.read()
    reader.read()

    page.memory.write(page.frame, 0, b"new")
    waiting = reader.waiting()
    reader.off()

    assert waiting == 1
    assert facts_of(effects, Parked) == [Parked("backend.tap", FLOW, 9, 3, False)]
    assert [(fact.seq, fact.digests) for fact in facts_of(effects, PacketRead)] == [(9, (digest_of(b"new"),))]
    assert kernel.pool.outstanding == len(kernel.slab.pages)


def test_an_unmapped_page_is_a_fault_and_nothing_is_read() -> None:
    """A reader that comes when the page is gone gets nothing; the packet is let go of all the same."""
    kernel = Kernel()
    effects: list[Effect] = []
    reader = Reader("backend.socket", effects)
    skb, page = packet(kernel, b"gone")
    page.refs += 1
    reader.take(skb)

    unmap_page(page)
    reader.read()

    assert [fact.place for fact in facts_of(effects, AccessFault)] == ["backend.socket"]
    assert not facts_of(effects, PacketRead)
    assert kernel.slab.outstanding == 0


def test_a_look_at_the_end_takes_nothing_away() -> None:
    """What waits when the run is over is told of, and stays where it is."""
    kernel = Kernel()
    effects: list[Effect] = []
    reader = Reader("backend.socket", effects)
    reader.on()
    reader.take(packet(kernel, b"unread")[0])

    reader.look()

    assert len(facts_of(effects, PacketRead)) == 1
    assert reader.waiting() == 1


def test_an_open_checksum_is_finished_over_what_is_read() -> None:
    """A device that cannot sum gets a frame whose checksum is right for the bytes of this moment."""
    kernel = Kernel()
    skb, page = packet(kernel, b"whole")
    linear = bytearray(tcp_frame(b"whole", seq=9)[:54])
    partial = 0xFFFF - int.from_bytes(linear[50:52])
    pseudo = (partial - sum(int.from_bytes(linear[at : at + 2]) for at in range(34, 54, 2) if at != 50)) % 0xFFFF
    pseudo = (pseudo - sum(int.from_bytes(b"whole\0"[at : at + 2]) for at in (0, 2, 4))) % 0xFFFF
    linear[50:52] = pseudo.to_bytes(2, "big")
    skb.shinfo.slab.memory.view[skb.data : skb.tail] = linear
    skb.needs_checksum = True

    page.memory.write(page.frame, 0, b"later")
    frame, fact = read_frame(skb, "guest2.vif")

    assert parse(frame).payload == b"later"
    assert fact.length == 5


def test_only_owners_who_are_told_by_a_callback_are_copied_out() -> None:
    """skb_orphan_frags_rx looks for the callback in the data block; a page that is merely counted stays shared."""
    kernel = Kernel()
    tracked, page = packet(kernel, b"tracked")
    owner = Owner()
    tracked.shinfo.ubuf = UbufInfo(owner, "loan")
    counted, shared = packet(kernel, b"counted")

    copied = orphan_frags_rx(tracked, kernel.pool), orphan_frags_rx(counted, kernel.pool)

    assert copied == (7, 0)
    assert owner.told == [("loan", False)]
    assert tracked.shinfo.frags[0].page is not page
    assert counted.shinfo.frags[0].page is shared


def test_datagrams_are_known_by_their_identification() -> None:
    """Where TCP has a sequence number a datagram has the number of its IPv4 packet."""
    assert place_of(udp_frame(b"x", ident=300)) == (FLOW, 300, 42)


def test_a_reader_that_is_far_behind_is_shown_no_more() -> None:
    """Its queue is bounded, as a device's is: what comes then is let go of."""
    kernel = Kernel()
    effects: list[Effect] = []
    reader = Reader("backend.tap", effects)
    reader.on()
    skb, page = packet(kernel, b"again")
    for _ in range(QUEUE_PACKETS_MAX):
        reader.take(skb_get(skb))

    reader.take(skb)

    assert reader.waiting() == skb.users == QUEUE_PACKETS_MAX
    assert [fact.place for fact in facts_of(effects, FrameDropped)] == ["backend.tap"]
    assert page.refs == 1
