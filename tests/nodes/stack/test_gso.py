"""Claims about segmentation by the kernel: what a segment holds, whose pages it shows, and who hears of what when."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.node import MS
from lateack.nodes.stack.gso import is_cut, skb_gso_segment
from lateack.nodes.stack.lifetime import Frag, FragDestructor, UbufInfo
from lateack.nodes.stack.nic import Nic
from lateack.nodes.stack.packets import ACK, FIN, PSH, parse
from lateack.nodes.stack.skb import HEADROOM, SkBuff, kfree_skb, pages_holding, read_frags, skb_length
from lateack.nodes.stack.tcp import TcpParameters, TcpSocket
from tests.nodes.stack.fakes import SERVER, pattern
from tests.nodes.stack.packets_by_hand import Packets

LINEAR_BYTES = 512 - HEADROOM
"""What a linear area has room for besides headers."""


def frames_of(packets: Packets, *skbs: SkBuff) -> list[bytes]:
    """Return what a card makes of packets."""
    nic = Nic("nic", packets.facts, queue_max=1)
    for skb in skbs:
        nic.xmit(skb)
    return nic.take_frames()


@given(
    st.integers(1, 9000), st.integers(0, LINEAR_BYTES), st.sampled_from((300, 536, 1460)), st.integers(0, 2**32 - 1),
    st.booleans(),
)  # fmt: skip
def test_the_kernel_cuts_as_a_card_would(length: int, copied: int, mss: int, seq: int, fin: bool) -> None:
    """Whoever cuts, the same frames leave, bit for bit: numbers, flags, identifications and sums."""
    data = pattern(length + copied, seq)
    how: dict[str, Any] = {
        "seq": seq,
        "flags": ACK | PSH | (FIN if fin else 0),
        "gso_size": mss,
        "copied": data[:copied],
    }
    packets = Packets()
    whole, other = (packets.tcp(pages_holding(data[copied:], packets.host.pool), length, **how) for _ in range(2))

    by_card = frames_of(packets, whole)
    segments = skb_gso_segment(other, packets.host.pool) if is_cut(other) else [other]

    assert all(skb_length(segment) - 54 <= mss for segment in segments)
    assert frames_of(packets, *segments) == by_card
    assert b"".join(parse(frame).payload for frame in by_card) == data
    assert packets.host.leaks() == (0, 0)


def test_every_segment_counts_for_the_pages_that_it_shows() -> None:
    """A bare reference for each window, none of which is copied; the last segment sends the page home."""
    packets = Packets()
    page = packets.page(b"abcdef")
    skb = packets.tcp([Frag(page, 0, 6)], 6, gso_size=4)

    first, second = skb_gso_segment(skb, packets.host.pool)
    page.memory.write(page.frame, 0, b"ABCDEF")

    assert [b"".join(read_frags(segment)) for segment in (first, second)] == [b"ABCD", b"EF"]
    assert page.refs == 3
    kfree_skb(first)
    kfree_skb(second)
    assert page.refs == 1


def test_a_fragment_destructor_hears_after_the_last_segment() -> None:
    """Counts per fragment survive the cut."""
    packets = Packets()
    destructor = FragDestructor(packets, "loan")
    skb = packets.tcp([Frag(packets.page(b"abcdef"), 0, 6, destructor)], 6, gso_size=4)

    first, second = skb_gso_segment(skb, packets.host.pool)
    kfree_skb(first)
    before = list(packets.told)
    kfree_skb(second)

    assert (before, packets.told) == ([], ["loan"])


def test_an_owner_who_counts_hears_after_the_last_segment() -> None:
    """MSG_ZEROCOPY's owner is told of one more packet for each segment, and nothing is copied."""
    packets = Packets()
    page = packets.page(b"abcdef")
    skb = packets.tcp([Frag(page, 0, 6)], 6, gso_size=4)
    skb.shinfo.ubuf = UbufInfo(packets, "loan", refcounted=True)
    skb.shinfo.shared_frag = True

    first, second = skb_gso_segment(skb, packets.host.pool)
    shown = [segment.shinfo.frags[0].page for segment in (first, second)]
    shared = [segment.shinfo.shared_frag for segment in (first, second)]
    kfree_skb(second)
    before = list(packets.told)
    kfree_skb(first)

    assert (shown, shared) == ([page, page], [True, True])
    assert (before, packets.told) == ([], [("loan", True)])


def test_an_owner_who_does_not_count_is_copied_first() -> None:
    """netback's pages go home when its packet is cut: the segments show copies, and it hears that they were made."""
    packets = Packets()
    page = packets.page(b"abcdef")
    skb = packets.tcp([Frag(page, 0, 6)], 6, gso_size=4)
    skb.shinfo.ubuf = UbufInfo(packets, "loan")

    first, second = skb_gso_segment(skb, packets.host.pool)
    page.memory.write(page.frame, 0, b"ABCDEF")

    assert (packets.told, page.refs) == ([("loan", False)], 1)
    assert [b"".join(read_frags(segment)) for segment in (first, second)] == [b"abcd", b"ef"]


@pytest.mark.parametrize("own", [True, False])
def test_only_tcps_own_destructor_waits_for_the_last_segment(own: bool) -> None:
    """tcp_gso_segment knows tcp_wfree; whoever put another in its place hears when the whole packet is freed."""
    packets = Packets()
    stack = packets.host.stack
    sk = TcpSocket(stack, 700, SERVER, 2049, TcpParameters(rto_min=200 * MS), 1)
    sk.wmem_alloc = 6
    skb = packets.tcp([Frag(packets.page(b"abcdef"), 0, 6)], 6, gso_size=4)
    skb.socket, skb.seq, skb.end_seq = sk, 1, 7
    skb.destructor = sk.wfree if own else lambda gone: packets.told.append("gone")

    first, second = skb_gso_segment(skb, packets.host.pool)
    at_once = (sk.wmem_alloc, list(packets.told), second.socket)
    kfree_skb(first)
    kfree_skb(second)

    assert at_once == ((6, [], sk) if own else (6, ["gone"], None))
    assert sk.wmem_alloc == (0 if own else 6)
