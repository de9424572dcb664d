"""Claims about datagrams: whole ones, fragmented ones, and what becomes of pages that change on the way."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings, strategies as st

from lateack.nodes.facts import FrameDropped, FrameSent, SegmentTransmitted
from lateack.nodes.memory.pages import PAGE_SIZE
from lateack.nodes.stack.lifetime import Frag, FragDestructor
from lateack.nodes.stack.packets import Malformed, parse
from lateack.nodes.stack.skb import pages_holding
from lateack.nodes.stack.udp import DATAGRAM_MAX, REASSEMBLIES_MAX, Reassembly, udp_sendmsg
from tests.nodes.hand import facts_of
from tests.nodes.stack.fakes import GUEST, PORT, SERVER, Host, pattern, slow_ip, slow_transport_sum


class Pair:
    """A sender whose frames the test carries by hand to a receiver."""

    def __init__(self) -> None:
        self.client, self.server = Host(GUEST), Host(SERVER)
        self.near = self.client.stack.bind_udp(700)
        self.far = self.server.stack.bind_udp(PORT)

    def send(self, data: bytes, frags: list[Frag] | None = None, head: bytes = b"", tail: bytes = b"") -> list[bytes]:
        """Send *data*, by default out of fresh pages, and return the frames that left."""
        if frags is None:
            frags = pages_holding(data, self.client.pool)
        udp_sendmsg(self.near, (SERVER, PORT), head, frags, tail, data, 0)
        return self.client.nic.take_frames()

    def deliver(self, frames: list[bytes]) -> list[bytes]:
        """Let frames arrive and return the datagrams that they made."""
        for frame in frames:
            self.server.stack.receive(frame, 0)
        return [payload for _, _, payload in self.far.take_received()]

    def dropped(self) -> list[str]:
        """Return why the receiver dropped frames."""
        return [fact.reason for fact in self.server.effects if isinstance(fact, FrameDropped)]


def fragments_of(payload: bytes, cuts: list[int], ident: int = 5) -> list[bytes]:
    """Return fragments of a UDP datagram cut at *cuts* (bytes, multiples of eight), made by the slow encoder."""
    body = bytearray((700).to_bytes(2, "big") + PORT.to_bytes(2, "big") + (8 + len(payload)).to_bytes(2, "big"))
    body += bytes(2) + payload
    body[6:8] = slow_transport_sum(17, bytes(body), GUEST, SERVER)
    ends = [*cuts, len(body)]
    frames = []
    for start, end in zip([0, *cuts], ends, strict=True):
        field = start // 8 | (0x2000 if end < len(body) else 0)
        frames.append(slow_ip(17, bytes(body[start:end]), source=GUEST, target=SERVER, ident=ident, fragment=field))
    return frames


def test_a_small_datagram_is_one_frame() -> None:
    """Head, page and tail leave together and arrive with their sender's address and port."""
    pair = Pair()

    frames = pair.send(b"headpagetail", pages_holding(b"page", pair.client.pool), b"head", b"tail")
    for frame in frames:
        pair.server.stack.receive(frame, 0)

    assert pair.far.take_received() == [(GUEST, 700, b"headpagetail")]
    assert pair.client.leaks() == (0, 0)


@settings(max_examples=40)
@given(
    st.integers(0, 900), st.lists(st.tuples(st.integers(0, 4095), st.integers(1, 4096)), max_size=10),
    st.binary(max_size=3), st.randoms(use_true_random=False),
)  # fmt: skip
def test_a_datagram_of_any_shape_arrives_in_any_order(
    head_length: int, windows: list[tuple[int, int]], tail: bytes, dice: random.Random
) -> None:
    """Fragments are put together whatever their order, with doubles among them, and the sender keeps nothing."""
    pair = Pair()
    head = pattern(head_length)
    frags, data = [], head
    for number, (offset, size) in enumerate(windows):
        page = pair.client.pool.alloc()
        page.memory.write(page.frame, 0, pattern(PAGE_SIZE, number))
        frags.append(Frag(page, offset, min(size, PAGE_SIZE - offset)))
        data += page.memory.read(page.frame, offset, frags[-1].size)
    data += tail

    frames = pair.send(data, frags, head, tail)
    largest = max(map(len, frames))
    dice.shuffle(frames)
    doubled = frames[:-1]

    assert pair.deliver(doubled + frames) == [data]
    assert largest <= 1514
    assert pair.client.leaks() == (0, 0)


def test_fragments_share_the_pages_of_the_datagram() -> None:
    """Each fragment holds a reference of its own while it waits; no byte of the pages is copied."""
    pair = Pair()
    frags = pages_holding(pattern(8192), pair.client.pool)
    pair.client.nic.closed = True

    pair.send(pattern(8192), frags)

    queued = pair.client.nic.queue
    assert len(queued) == 6
    assert [frag.page.refs for frag in frags] == [
        sum(one.page is frag.page for skb in queued for one in skb.shinfo.frags) for frag in frags
    ]
    pair.client.nic.open()
    assert pair.client.leaks() == (0, 0)


def test_a_frag_destructor_counts_the_fragments_of_a_datagram() -> None:
    """The owner hears when the last frame that shows its page has been read."""

    class Owner:
        told = 0

        def frags_released(self, token: object) -> None:
            """Count the call."""
            self.told += 1

    pair = Pair()
    owner = Owner()
    destructor = FragDestructor(owner, None)
    page = pair.client.pool.alloc()
    destructor.get()
    pair.client.nic.closed = True
    udp_sendmsg(pair.near, (SERVER, PORT), b"", [Frag(page, 0, 4096, destructor)], b"", bytes(4096), 0)
    destructor.put()

    refs, told = destructor.refs, owner.told
    pair.client.nic.open()

    assert (refs, told, owner.told) == (3, 0, 1)


def test_a_page_that_changes_before_dma_leaves_under_a_valid_sum() -> None:
    """One frame: the card sums what it reads, so the receiver believes the wrong bytes."""
    pair = Pair()
    frags = pages_holding(b"what was meant", pair.client.pool)
    pair.client.nic.closed = True
    pair.send(b"what was meant", frags)

    frags[0].page.memory.write(frags[0].page.frame, 0, b"something else")
    pair.client.nic.open()

    assert pair.deliver(pair.client.nic.take_frames()) == [b"something else"]


def test_a_page_that_changes_under_a_fragmented_datagram_spoils_it() -> None:
    """Many frames: the sum was made when the datagram was cut, so the receiver drops what was put together."""
    pair = Pair()
    data = pattern(4096)
    frags = pages_holding(data, pair.client.pool)
    pair.client.nic.closed = True
    pair.send(data, frags)

    frags[0].page.memory.write(frags[0].page.frame, 2000, b"something else")
    pair.client.nic.open()

    assert pair.deliver(pair.client.nic.take_frames()) == []
    assert pair.dropped() == ["bad UDP checksum"]


@pytest.mark.parametrize("size", [1000, 4096])
def test_what_was_meant_is_what_the_owner_said_and_not_what_the_page_holds(size: int) -> None:
    """A page that was rewritten before it was sent again leaves under a sum that is right for it, and is stale."""
    pair = Pair()
    data = pattern(size)
    frags = pages_holding(data, pair.client.pool)
    frags[0].page.memory.write(frags[0].page.frame, 100, b"something else")

    frames = pair.send(data, frags)

    (received,) = pair.deliver(frames)
    meant, left = facts_of(pair.client.effects, SegmentTransmitted), facts_of(pair.client.effects, FrameSent)
    assert received[100:114] == b"something else"
    assert [fact.digests for fact in meant[1:]] == [fact.digests for fact in left[1:]]
    assert meant[0].digests != left[0].digests


def test_a_lost_fragment_costs_the_datagram_and_no_other() -> None:
    """The incomplete one waits in a bounded place; the next is put together all the same."""
    pair = Pair()

    first = pair.deliver(pair.send(pattern(5000))[1:])
    second = pair.deliver(pair.send(pattern(5000, 1)))

    assert (first, second) == ([], [pattern(5000, 1)])
    assert len(pair.server.stack.reassembly.parts) == 1


def test_incomplete_datagrams_are_bounded() -> None:
    """The oldest goes first."""
    reassembly = Reassembly()

    for ident in range(REASSEMBLIES_MAX + 5):
        assert reassembly.take(fragments_of(bytes(100), [56], ident)[0]) is None

    assert len(reassembly.parts) == REASSEMBLIES_MAX
    assert reassembly.take(fragments_of(bytes(100), [56], 0)[1]) is None
    assert reassembly.take(fragments_of(bytes(100), [56], 60)[1]) is not None


def test_fragments_of_another_encoder_are_put_together() -> None:
    """Any cut at a multiple of eight, in any order; the result is a frame that parses."""
    reassembly = Reassembly()
    payload = pattern(300)

    *early, last = reversed(fragments_of(payload, [8, 64, 200]))
    waiting = [reassembly.take(frame) for frame in early]
    whole = reassembly.take(last)

    assert waiting == [None] * 3
    assert whole is not None and parse(whole).payload == payload
    assert not reassembly.parts


def test_overlapping_fragments_spoil_their_datagram() -> None:
    """Linux throws the whole datagram away rather than choose whose bytes to believe."""
    reassembly = Reassembly()
    one, other = fragments_of(pattern(300), [64, 200]), fragments_of(pattern(300), [128])

    results = [reassembly.take(frame) for frame in (one[0], other[1], one[1], one[2])]

    assert results == [None] * 4
    assert not reassembly.parts


@given(st.data())
def test_a_bent_fragment_header_is_not_believed(data: st.DataObject) -> None:
    """Every single wrong bit in a fragment's IPv4 header is noticed before anything is kept."""
    frame = bytearray(fragments_of(bytes(100), [56])[data.draw(st.integers(0, 1))])
    bit = data.draw(st.integers(14 * 8, 34 * 8 - 1))
    frame[bit // 8] ^= 1 << bit % 8
    reassembly = Reassembly()

    with pytest.raises(Malformed):
        reassembly.take(bytes(frame))

    assert not reassembly.parts


def test_a_fragment_that_is_no_fragment_is_refused_in_good_order() -> None:
    """A header that sums up and lies about its length is dropped, and the stack lives on."""
    pair = Pair()
    lies = bytearray(slow_ip(17, bytes(8), source=GUEST, target=SERVER, fragment=1))
    total = int.from_bytes(lies[16:18], "big")
    for claimed in (0, 20, 1500):
        bent = bytearray(lies)
        bent[16:18] = claimed.to_bytes(2, "big")
        check = int.from_bytes(bent[24:26], "big") + total - claimed
        bent[24:26] = ((check - 1) % 0xFFFF + 1).to_bytes(2, "big")
        assert pair.deliver([bytes(bent)]) == []

    assert pair.dropped() == ["the IPv4 length does not fit the frame"] * 3


def test_facts_know_datagrams_by_their_identification() -> None:
    """What was meant and what left agree on flow and position, whole or in fragments."""
    pair = Pair()

    pair.send(b"small")
    pair.send(pattern(3000))

    meant = [fact for fact in pair.client.effects if isinstance(fact, SegmentTransmitted)]
    left = [fact for fact in pair.client.effects if isinstance(fact, FrameSent)]
    assert [(fact.flow, fact.seq, fact.length) for fact in meant if fact.seq < 1 << 16] == [
        ("10.0.0.1:700>10.0.0.2:2049", 1, 5)
    ]
    assert [(f.flow, f.seq, f.digests) for f in meant[1:]] == [(f.flow, f.seq, f.digests) for f in left[1:]]


def test_a_datagram_has_a_greatest_length() -> None:
    """65,507 bytes fit IPv4's 16-bit length; one more does not (EMSGSIZE)."""
    pair = Pair()

    assert pair.deliver(pair.send(bytes(DATAGRAM_MAX))) == [bytes(DATAGRAM_MAX)]
    with pytest.raises(AssertionError, match="EMSGSIZE"):
        pair.send(bytes(DATAGRAM_MAX + 1))


def test_nobody_at_a_port_hears_nothing() -> None:
    """A datagram to an unbound port is dropped without a word."""
    pair = Pair()
    pair.server.stack.datagram_sockets.clear()

    assert pair.deliver(pair.send(b"hello?")) == []
    assert pair.server.nic.take_frames() == []
