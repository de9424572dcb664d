"""Payloads that still lie in their packets: TCP may measure and cut them, and only a reader fixes the bytes."""

from lateack.nodes.facts import PacketRead
from lateack.nodes.node import Effect
from lateack.nodes.stack.packets import digest_of
from lateack.nodes.stack.paged import PagedPayload
from lateack.nodes.stack.skb import skb_put
from tests.nodes.stack.owner import Owner


def payload_of(owner: Owner, effects: list[Effect]) -> PagedPayload:
    """Return 4 linear and 2 x 1000 paged bytes behind 10 bytes of headers, cut at 1000 on the wire."""
    skb = owner.packet([owner.page(b"a"), owner.page(b"b")])
    skb_put(skb, b"headers...head")
    return PagedPayload(skb, 10, 2004, seq=0xFFFF_FFFE, mss=1000, flow="f", place="guest1.reader", effects=effects)


def test_the_bytes_are_those_of_the_moment_of_reading() -> None:
    """What the owner writes after the packet was queued is read, and recorded in the pieces of the sender."""
    owner, effects = Owner(), list[Effect]()
    payload = payload_of(owner, effects)
    first = payload.skb.shinfo.frags[0].page
    owner.memory.write(first.frame, 0, b"z" * 4096)

    data = payload.read()

    assert data == b"head" + b"z" * 1000 + b"b" * 1000
    (read,) = effects
    assert isinstance(read, PacketRead)
    assert (read.place, read.flow, read.seq, read.length, read.mss) == ("guest1.reader", "f", 0xFFFF_FFFE, 2004, 1000)
    assert read.digests == tuple(digest_of(data[start : start + 1000]) for start in (0, 1000, 2000))
    assert read.pages[0] == (1, first.frame, 0, 1000)


def test_reading_lets_the_packet_go() -> None:
    """Until then the pages are held, whatever TCP has acknowledged."""
    owner = Owner()
    payload = payload_of(owner, [])
    pages = [frag.page for frag in payload.skb.shinfo.frags]
    held = [page.refs for page in pages]

    payload.read()

    assert held == [2, 2]
    assert [page.refs for page in pages] == [1, 1]
    assert owner.slab.outstanding == 0


def test_a_cut_piece_takes_the_packet_over() -> None:
    """TCP cuts off what it has already: the rest begins further on in the stream, and is read alone."""
    owner, effects = Owner(), list[Effect]()
    payload = payload_of(owner, effects)

    rest = payload[1004:]
    data = rest.read()

    assert (len(payload), len(rest)) == (2004, 1000)
    assert rest.seq == 1002
    assert data == b"b" * 1000
    assert owner.slab.outstanding == 0


def test_what_is_dropped_is_looked_at_and_not_read() -> None:
    """Nobody read it, so nothing says so; the packet is let go all the same."""
    owner, effects = Owner(), list[Effect]()

    data = bytes(payload_of(owner, effects)[:4])

    assert data == b"head"
    assert effects == []
    assert owner.slab.outstanding == 0
