"""Claims about TCP's sending side: queueing, windows, segments, and retransmission by cloning."""

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.facts import FrameSent, HostQueueHit, SegmentTransmitted
from lateack.nodes.node import S
from lateack.nodes.stack.lifetime import Frag
from lateack.nodes.stack.packets import ACK, FIN, PSH, SYN, digest_of
from lateack.nodes.stack.skb import MAX_SKB_FRAGS, pages_holding, skb_orphan
from lateack.nodes.stack.tcp import FIN_WAIT_1, TcpParameters
from lateack.nodes.stack.tcp_output import GSO_MAX_SIZE, tcp_sendmsg
from tests.nodes.stack.fakes import MSS, Bench, pattern


def test_a_syn_offers_mss_and_window_scale() -> None:
    """The SYN carries MSS 1460, a NOP, and the scale that later windows are shifted by (RFC 9293 3.7.1, RFC 7323)."""
    bench = Bench(connected=False)
    bench.flush()

    (syn,) = bench.segments()

    assert (syn.flags, syn.seq, syn.ack, syn.window) == (SYN, Bench.ISS, 0, 0xFFFF)
    assert syn.options == bytes.fromhex("020405b401030307")


def test_a_windows_scale_is_not_used_with_a_peer_that_offers_none() -> None:
    """RFC 7323 2.2: both sides must offer it, or windows are plain in both directions."""
    bench = Bench(connected=False, parameters=TcpParameters(receive_buffer=20_000))
    bench.flush()
    bench.sent()

    bench.peer(seq=-1, ack=0, flags=SYN | ACK, options=b"\x02\x04\x05\xb4")

    (ack,) = bench.segments()
    assert ack.window == 20_000


def test_data_is_cut_at_the_smaller_mss() -> None:
    """A peer that takes 1000 bytes a segment gets no longer ones; only the last of a record has PSH."""
    bench = Bench(mss=1000)

    bench.send(pattern(2500))

    assert [(seq, flags, length) for seq, _, flags, length in bench.sent()] == [
        (0, ACK, 1000), (1000, ACK, 1000), (2000, ACK | PSH, 500)
    ]  # fmt: skip


def test_gso_packets_are_whole_segments_long_and_have_few_fragments() -> None:
    """Below the 16-bit IPv4 length, a multiple of the MSS, never more than 17 fragments: else another packet begins."""
    bench = Bench(gso=True)
    data = pattern(200_000)

    skbs = tcp_sendmsg(bench.sk, b"", pages_holding(data, bench.host.pool), b"", data)

    goal = GSO_MAX_SIZE // MSS * MSS
    sizes = [skb.end_seq - skb.seq for skb in skbs]
    assert sizes[:-1] == [goal] * (200_000 // goal)
    assert sum(sizes) == 200_000
    assert all(len(skb.shinfo.frags) <= MAX_SKB_FRAGS for skb in skbs)


@given(
    st.integers(0, 2000), st.lists(st.tuples(st.integers(0, 4095), st.integers(1, 4096)), max_size=30),
    st.binary(max_size=5), st.booleans(),
)  # fmt: skip
def test_a_record_of_any_shape_is_queued_byte_for_byte(
    head_length: int, windows: list[tuple[int, int]], tail: bytes, gso: bool
) -> None:
    """Head, windows of pages and tail leave as one stream, however they fall across packets, and nothing leaks."""
    bench = Bench(gso=gso, parameters=TcpParameters(initial_window_segments=1000))
    bench.sk.snd_wnd = 1 << 20
    head = pattern(head_length)
    frags, data = [], b""
    for number, (offset, size) in enumerate(windows):
        page = bench.host.pool.alloc()
        page.memory.write(page.frame, 0, pattern(4096, number))
        size = min(size, 4096 - offset)
        frags.append(Frag(page, offset, size))
        data += page.memory.read(page.frame, offset, size)
    record = head + data + tail

    if record:
        tcp_sendmsg(bench.sk, head, frags, tail, record)
        bench.host.stack.send_queued(bench.sk, bench.now)
    segments = bench.segments()
    bench.flush()

    assert b"".join(segment.payload for segment in segments) == record
    meant = [digest for fact in bench.host.of(SegmentTransmitted) for digest in fact.digests]
    assert meant == [segment.digest for segment in segments]
    bench.now += 1
    bench.peer(ack=len(record))
    assert bench.host.leaks() == (0, 0)


def test_a_full_record_of_zero_bytes_is_not_queued() -> None:
    """Nothing is sent for nothing: an empty packet would wait in the queue for an ACK that names it."""
    bench = Bench()

    assert bench.send(b"") == []
    assert not bench.sk.write_queue and not bench.sk.rtx_queue


def test_the_congestion_window_bounds_what_is_in_flight() -> None:
    """Ten segments at first (TCP_INIT_CWND), then one more for each that is acknowledged, and one in its place."""
    bench = Bench()

    bench.send(pattern(30 * MSS))
    first = len(bench.sent_data())
    bench.peer(ack=2 * MSS)

    assert first == 10
    assert bench.sent_data() == [(turn * MSS, MSS) for turn in range(10, 14)]


def test_the_receivers_window_slides() -> None:
    """With a window of three segments, three leave, and one more for each that is acknowledged."""
    bench = Bench(window=3 * MSS)

    bench.send(pattern(10 * MSS))
    first = bench.sent_data()
    bench.peer(ack=MSS)
    second = bench.sent_data()
    bench.peer(ack=MSS, window=4 * MSS)
    third = bench.sent_data()

    assert first == [(0, MSS), (MSS, MSS), (2 * MSS, MSS)]
    assert second == [(3 * MSS, MSS)]
    assert third == [(4 * MSS, MSS)]


def test_a_window_smaller_than_a_segment_is_used_only_when_nothing_else_could_open_it() -> None:
    """Silly windows are avoided while something is in flight; with nothing in flight what fits is sent."""
    bench = Bench(window=MSS + 100)

    bench.send(pattern(3 * MSS))
    first = bench.sent_data()
    bench.peer(ack=MSS, window=100)

    assert first == [(0, MSS)]
    assert bench.sent_data() == [(MSS, 100)]


def test_a_fin_follows_everything_that_is_queued() -> None:
    """Close waits for its turn behind the data."""
    bench = Bench(window=MSS)
    bench.send(pattern(2 * MSS))
    bench.close()
    bench.sent()

    bench.peer(ack=MSS)

    assert [(seq, flags & FIN, length) for seq, _, flags, length in bench.sent()] == [(MSS, 0, MSS), (2 * MSS, FIN, 0)]
    assert bench.sk.state == FIN_WAIT_1


def test_the_sequence_number_wraps_at_two_to_the_32() -> None:
    """Positions grow on, the wire shows 32 bits, and ACKs behind the wrap are understood."""
    bench = Bench(iss=0xFFFFFFFF - 2000, irs=0xFFFFFFFE)

    bench.send(pattern(5 * MSS))
    wire = [segment.seq for segment in bench.segments()]
    bench.peer(ack=5 * MSS, payload=b"also wrapped")

    start = 0xFFFFFFFF - 1999
    assert wire == [(start + turn * MSS) % 2**32 for turn in range(5)]
    assert bench.sk.snd_una == start + 5 * MSS > 2**32
    assert bytes(bench.host.inbox) == b"also wrapped"
    assert [ack for _, ack, _, _ in bench.sent()] == [12]


# --- clones, and the bug ----------------------------------------------------------------------------------------------


def test_a_transmission_is_a_clone_of_the_queued_packet() -> None:
    """The device gets a second header over the same data block; the queued one keeps the bytes for later."""
    bench = Bench()
    bench.host.nic.closed = True

    (queued,) = bench.send(b"payload")
    (clone,) = bench.host.nic.queue

    assert clone is not queued and clone.shinfo is queued.shinfo
    assert (queued.shinfo.dataref, queued.shinfo.frags[0].page.refs) == (2, 1)
    assert (clone.socket, clone.destructor, queued.destructor) == (bench.sk, bench.sk.wfree, None)


def test_a_retransmission_is_a_clone_when_the_first_has_left() -> None:
    """C1 was freed by the device, so the queued packet is cloned once more: D=2, P=1."""
    bench = Bench()
    (queued,) = bench.send(b"payload")
    assert queued.shinfo.dataref == 1
    bench.host.nic.closed = True

    bench.fire()

    (clone,) = bench.host.nic.queue
    assert clone.shinfo is queued.shinfo
    assert (queued.shinfo.dataref, queued.shinfo.frags[0].page.refs) == (2, 1)


def test_a_retransmission_gets_a_head_of_its_own_while_a_clone_is_below() -> None:
    """C1 still waits with its headers in the shared head, so C2 is a pskb_copy: its own head, P=2."""
    bench = Bench()
    bench.host.nic.closed = True
    (queued,) = bench.send(b"payload")

    bench.fire()

    first, second = bench.host.nic.queue
    assert first.shinfo is queued.shinfo
    assert second.shinfo is not queued.shinfo
    assert (queued.shinfo.dataref, second.shinfo.dataref, queued.shinfo.frags[0].page.refs) == (2, 1, 2)


def test_a_late_ack_lets_a_parked_clone_send_what_nobody_meant() -> None:
    """The bug itself: C1 leaves, its ACK is late, C2 is parked, the ACK frees Q, the page is rewritten, C2 is read."""
    bench = Bench()
    host = bench.host
    page = host.pool.alloc()
    page.refs += 1  # the application keeps its buffer
    page.memory.write(page.frame, 0, b"what was meant")
    (queued,) = host.send_pages(bench.sk, [Frag(page, 0, 14)], b"what was meant", bench.now)
    bench.sent()
    host.nic.closed = True
    bench.fire()

    bench.peer(ack=14)
    refs_after_ack = page.refs
    page.memory.write(page.frame, 0, b"something else")
    host.nic.open()

    (late,) = bench.segments()
    bench.flush()
    assert queued.users == 0
    assert refs_after_ack == 2  # the parked clone's
    assert late.payload == b"something else"  # under a valid checksum: parse believed it
    sent, transmitted = host.of(FrameSent)[-1], host.of(SegmentTransmitted)[-1]
    assert sent.digests == (digest_of(b"something else"),) != transmitted.digests
    assert transmitted.intended == b"what was meant"
    assert (sent.again, page.refs, host.slab.outstanding) == (True, 1, 0)


def test_what_is_below_is_charged_to_the_socket_until_it_is_freed() -> None:
    """sk_wmem_alloc counts clones from their transmission to the device's free (tcp_wfree), retransmissions too."""
    bench = Bench()
    bench.host.nic.closed = True

    bench.send(b"12345678")
    once = bench.sk.wmem_alloc
    bench.fire()
    twice = bench.sk.wmem_alloc
    bench.host.nic.open()

    assert (once, twice, bench.sk.wmem_alloc) == (8, 16, 0)


def test_a_partly_acknowledged_packet_is_trimmed_before_it_goes_again() -> None:
    """tcp_trim_head: eaten pages are returned to their owner, and only the rest is sent (one segment of it)."""
    bench = Bench(gso=True)
    frags = pages_holding(pattern(3 * 4096), bench.host.pool)
    bench.host.send_pages(bench.sk, frags, pattern(3 * 4096), bench.now)
    bench.peer(ack=3 * MSS)
    bench.sent()

    bench.fire()

    (again,) = bench.segments()
    assert (again.seq - Bench.ISS - 1, again.payload) == (3 * MSS, pattern(3 * 4096)[3 * MSS : 4 * MSS])
    assert frags[0].page.refs == 0


def test_a_trim_under_a_parked_clone_leaves_the_clones_bytes_alone() -> None:
    """W4: a clone that was queued before the partial ACK carries old head and tail; trimming Q does not reach it."""
    bench = Bench(gso=True)
    data = pattern(5 * MSS)
    bench.host.nic.closed = True
    bench.send(data[: 3 * MSS])
    bench.send(data[3 * MSS :])  # else more would lie below than is queued, and nothing went again

    bench.peer(ack=MSS)
    bench.fire()
    bench.host.nic.open()

    payloads = [(segment.seq - Bench.ISS - 1, segment.payload) for segment in bench.segments()]
    assert payloads == [(turn * MSS, data[turn * MSS : (turn + 1) * MSS]) for turn in (0, 1, 2, 3, 4, 1)]
    bench.peer(ack=5 * MSS)
    assert bench.host.leaks() == (0, 0)


def test_no_third_copy_of_a_packet_is_put_below() -> None:
    """While more lies below than a quarter beyond what is queued, a retransmission is refused (-EAGAIN)."""
    bench = Bench()
    bench.host.nic.closed = True
    bench.send(b"payload")

    bench.fire()
    bench.fire()
    below = len(bench.host.nic.queue)
    bench.host.nic.open()
    bench.fire()

    assert below == 2
    assert [fact.transmission for fact in bench.host.of(SegmentTransmitted)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("check", "transmissions", "hits"), [("none", 2, []), ("count", 2, [False]), ("suppress", 1, [True])]
)
def test_a_packet_that_never_left_is_found_in_the_host_queue(check: str, transmissions: int, hits: list[bool]) -> None:
    """C1 itself is stuck: since 2014 the retransmission waits until it has gone; before, it was only counted."""
    bench = Bench(parameters=TcpParameters(host_queue_check=check))
    bench.host.nic.closed = True
    bench.send(b"payload")

    bench.fire()
    below = len(bench.host.nic.queue)
    bench.host.nic.open()
    bench.fire()

    assert below == transmissions
    assert [fact.suppressed for fact in bench.host.of(HostQueueHit)] == hits
    assert len(bench.host.of(SegmentTransmitted)) == transmissions + 1


def test_the_host_queue_check_is_blind_to_what_has_gone_and_to_what_was_orphaned() -> None:
    """It believes one clone, and only while it names the socket: it does not fix a late ACK after C1 has left."""
    gone = Bench(parameters=TcpParameters(host_queue_check="suppress"))
    gone.send(b"payload")
    gone.host.nic.closed = True
    orphaned = Bench(parameters=TcpParameters(host_queue_check="suppress"))
    orphaned.host.nic.closed = True
    orphaned.send(b"payload")
    skb_orphan(orphaned.host.nic.queue[0])

    gone.fire()
    orphaned.fire()

    assert [len(gone.host.nic.queue), len(orphaned.host.nic.queue)] == [1, 2]
    assert gone.host.of(HostQueueHit) == orphaned.host.of(HostQueueHit) == []


def test_the_sender_says_what_it_meant_and_how_often() -> None:
    """Every transmission is recorded with its number and digests; the bytes themselves from the second on."""
    bench = Bench()
    bench.send(b"payload")

    bench.fire()

    first, second = bench.host.of(SegmentTransmitted)
    assert (first.transmission, first.intended, first.digests) == (1, b"", (digest_of(b"payload"),))
    assert (second.transmission, second.intended, second.seq) == (2, b"payload", Bench.ISS + 1)


def test_only_an_open_connection_can_send() -> None:
    """Sending before the handshake or after a close is a bug of the caller."""
    bench = Bench(connected=False)

    with pytest.raises(AssertionError, match="cannot send"):
        tcp_sendmsg(bench.sk, b"early", (), b"", b"early")


def test_a_clone_hook_sees_every_clone_before_it_leaves() -> None:
    """Whoever watches clones is told of the queued packet and of the one that goes down."""

    class Hook:
        seen: list[tuple[int, int]] = []  # noqa: RUF012

        def skb_shared(self, skb: object, clone: object) -> None:
            """Note both."""
            self.seen.append((id(skb), id(clone)))

    bench = Bench()
    hook = Hook()
    bench.host.stack.clone_hook = hook
    bench.host.nic.closed = True

    (queued,) = bench.send(b"payload")

    assert hook.seen == [(id(queued), id(bench.host.nic.queue[0]))]
    assert bench.sk.deadline is not None and bench.sk.deadline < bench.now + S
