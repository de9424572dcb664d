"""Claims about a reliable connection: everything arrives once and in order, whatever the network does to packets."""

import pytest
from hypothesis import given, settings, strategies as st

from lateack.nodes.facts import (
    AccessRefused,
    DuplicateDropped,
    FrameSent,
    QueuePairFailed,
    RetransmitTimedOut,
    SegmentTransmitted,
)
from lateack.nodes.rdma import packets
from lateack.nodes.rdma.packets import PSN_MASK, decode, encode
from lateack.nodes.stack.packets import digest_of
from tests.nodes.rdma.two_adapters import HERE, THERE, TwoAdapters, completions, failures, messages

OLD, NEW = bytes(range(200)) * 3, bytes(range(100, 200)) * 6


def send(two: TwoAdapters, data: bytes = OLD, context: object = "send") -> None:
    """Post a Send of bytes that lie in the memory here."""
    two.asking.post_send(context, [two.window(data)], data, two.now)


def read(two: TwoAdapters, data: bytes = OLD) -> int:
    """Let the other side read bytes that lie in the memory here; return the key."""
    region = two.here.regions.register(1, [two.window(data)], data)
    two.answering.post_read("read", region.address, region.rkey, region.length, two.now)
    return region.rkey


def test_a_message_is_cut_at_the_path_mtu_and_is_whole_there() -> None:
    """First, middle and last; only the last asks to be acknowledged, and one acknowledgement completes it."""
    two = TwoAdapters()

    send(two)

    sent = [decode(frame) for frame in two.here.frames]
    assert [packet.opcode for packet in sent] == [packets.SEND_FIRST, packets.SEND_MIDDLE, packets.SEND_LAST]
    assert [packet.wants_ack for packet in sent] == [False, False, True]
    assert [packet.psn for packet in sent] == [7, 8, 9]
    two.carry()
    assert messages(two.there) == [OLD]
    assert [(done.context, done.flushed, done.psn) for done in completions(two.here)] == [("send", False, 9)]


def test_what_was_meant_and_what_left_can_be_joined() -> None:
    """Each packet has a range of its own, vouched for when it is posted and digested when it leaves."""
    two = TwoAdapters()

    send(two)

    meant = {(fact.flow, fact.seq, fact.length): fact.digests for fact in two.of(SegmentTransmitted)}
    left = {(fact.flow, fact.seq, fact.length): fact.digests for fact in two.of(FrameSent)}
    assert meant == left
    assert sorted(seq for _, seq, _ in left) == [7 << 12, 8 << 12, 9 << 12]


def test_what_is_sent_again_is_read_again() -> None:
    """A page that was refilled leaves with its new bytes, under the old PSN; the receiver drops the duplicate."""
    two = TwoAdapters()
    send(two)
    two.there.receive(two.here.take_frames(), two.now)
    two.there.take_frames()  # the acknowledgement is lost
    two.window(NEW)

    two.wait()
    two.carry()

    assert len(two.of(RetransmitTimedOut)) == 1
    again = [fact for fact in two.of(FrameSent) if fact.again]
    assert [fact.digests[0] for fact in again] == [digest_of(NEW[at : at + 256]) for at in range(0, 600, 256)]
    assert [fact.digest for fact in two.of(DuplicateDropped)] == [fact.digests[0] for fact in again]
    assert messages(two.there) == [OLD]
    assert len(completions(two.here)) == 1


def test_what_was_acknowledged_while_it_waited_is_never_read() -> None:
    """A completion means that the adapter is through with the memory, whatever still lies in its ring."""
    two = TwoAdapters()
    send(two)
    two.there.receive(two.here.take_frames(), two.now)
    two.here.closed = True
    two.wait()

    two.carry()
    two.window(NEW)
    two.here.open()

    assert len(completions(two.here)) == 1
    assert not any(fact.again for fact in two.of(FrameSent))


def test_the_timer_waits_for_what_has_not_left() -> None:
    """A packet behind a gate cannot have been acknowledged: it is neither sent again nor given up."""
    two = TwoAdapters(retries_max=0)
    two.here.closed = True
    send(two)

    for _ in range(5):
        two.wait()
    two.here.open()
    two.carry()

    assert not two.of(RetransmitTimedOut)
    assert messages(two.there) == [OLD]


def test_a_gap_is_reported_once_and_filled_at_once() -> None:
    """NAK for a PSN sequence error: the sender goes back without waiting for its timer."""
    two = TwoAdapters()
    send(two)
    frames = two.here.take_frames()

    two.there.receive(frames[1:], two.now)

    [nak] = [decode(frame) for frame in two.there.frames]
    assert (nak.opcode, nak.psn, nak.syndrome()) == (packets.ACKNOWLEDGE, 7, packets.NAK_SEQUENCE)
    two.carry()
    assert messages(two.there) == [OLD]
    assert not two.of(RetransmitTimedOut)


def test_whoever_is_never_acknowledged_gives_up() -> None:
    """After retry_cnt repeats the queue pair fails and flushes what it was asked to do."""
    two = TwoAdapters(retries_max=2)
    send(two)

    for _ in range(3):
        two.wait()

    assert len(two.of(RetransmitTimedOut)) == 2
    assert [done.flushed for done in completions(two.here)] == [True]
    assert failures(two.here) == ["no acknowledgement came, though it was asked for 3 times"]


def test_the_peer_reads_what_a_key_allows() -> None:
    """The answer takes up one PSN of the asking side's for each packet."""
    two = TwoAdapters()
    first = two.answering.next_psn

    read(two)
    two.carry()

    assert [done.data for done in completions(two.there)] == [OLD]
    assert two.answering.next_psn == first + 3


def test_an_answer_is_read_when_it_leaves() -> None:
    """Between the request and the DMA the owner may have changed the bytes."""
    two = TwoAdapters()
    read(two)
    two.here.closed = True
    two.here.receive(two.there.take_frames(), two.now)

    two.window(NEW)
    two.here.open()
    two.carry()

    assert [done.data for done in completions(two.there)] == [NEW]
    meant = {fact.seq: fact.digests for fact in two.of(SegmentTransmitted)}
    assert any(meant[fact.seq] != fact.digests for fact in two.of(FrameSent))


def test_a_lost_answer_is_asked_for_again() -> None:
    """A READ is repeated as a whole, and answered from memory as it is then."""
    two = TwoAdapters()
    read(two)
    two.here.receive(two.there.take_frames(), two.now)
    two.there.receive(two.here.take_frames()[:1], two.now)
    two.window(NEW)

    two.now = two.there.now = 100
    two.there.timer_fired(f"ack-{two.answering.qpn}", two.now)
    two.carry()

    assert [done.data for done in completions(two.there)] == [NEW]


@pytest.mark.parametrize("waits", [False, True], ids=["before", "in mid-answer"])
def test_a_key_that_was_taken_back_is_refused(waits: bool) -> None:
    """Both ends fail over it, even if the READ was answered already and the answer waits for DMA."""
    two = TwoAdapters()
    rkey = read(two)
    if waits:
        two.here.closed = True
        two.here.receive(two.there.take_frames(), two.now)

    two.here.regions.invalidate(two.here.regions.regions[rkey])
    two.here.open()
    two.carry()

    assert [fact.rkey for fact in two.of(AccessRefused)] == [rkey]
    assert [done.flushed for done in completions(two.there)] == [True]
    assert failures(two.there) == ["the peer refused access to its memory"]
    assert [fact.place for fact in two.of(QueuePairFailed)] == ["here.nic", "there.nic"]
    assert not two.of(FrameSent)


def test_numbers_wrap() -> None:
    """PSNs have 24 bits."""
    two = TwoAdapters(first_psn=PSN_MASK - 1)

    for number in range(4):
        send(two, OLD, number)
        two.carry()

    assert messages(two.there) == [OLD] * 4
    assert [done.context for done in completions(two.here)] == [0, 1, 2, 3]


def test_a_send_may_take_back_a_key() -> None:
    """Its last packet names the peer's key (Send with Invalidate)."""
    two = TwoAdapters()

    two.asking.post_send("send", [OLD], OLD, 0, invalidates=0x1234)
    two.carry()

    [(_, incoming)] = two.there.happened
    assert (incoming.message, incoming.invalidated) == (OLD, 0x1234)  # type: ignore[union-attr]


def test_packets_that_make_no_message_end_the_connection() -> None:
    """A middle without a first is an invalid request."""
    two = TwoAdapters()
    frame = encode(
        HERE, THERE, source_port=0xC012, opcode=packets.SEND_MIDDLE, target_qp=two.answering.qpn, psn=7, payload=b"x"
    )

    two.there.receive([frame], 0)

    assert failures(two.there) == ["the peer's packets make no message"]


@settings(max_examples=100)
@given(st.data())
def test_everything_arrives_once_and_in_order_through_any_weather(data: st.DataObject) -> None:
    """Frames are lost and repeated as it happens; messages and what was read are right in the end."""
    two = TwoAdapters(retries_max=1000)
    sizes = data.draw(st.lists(st.integers(1, 900), min_size=1, max_size=4))
    wanted = [bytes([number]) * size for number, size in enumerate(sizes)]
    for number, message in enumerate(wanted):
        two.asking.post_send(number, [message], message, two.now)
    read(two)
    fates = iter(data.draw(st.lists(st.sampled_from([0, 1, 1, 2]), max_size=60)))

    for _ in range(200):
        two.there.receive([f for f in two.here.take_frames() for _ in range(next(fates, 1))], two.now)
        two.here.receive([f for f in two.there.take_frames() for _ in range(next(fates, 1))], two.now)
        if not two.here.frames and not two.there.frames:
            if not two.here.pending() and not two.there.pending():
                break
            two.wait()
            two.there.timer_fired(f"ack-{two.answering.qpn}", two.now)

    assert messages(two.there) == wanted
    assert [done.context for done in completions(two.here)] == list(range(len(wanted)))
    assert [done.data for done in completions(two.there)] == [OLD]
