"""What goes into an outbox comes out of its batches: everything, in order, within the limits of a batch."""

import msgspec
import pytest
from hypothesis import given, strategies as st

from lateack.cluster.wire import (
    BATCH_BYTES_MAX,
    BATCH_FRAMES_MAX,
    OUTBOX_BYTES_MAX,
    Outbox,
    PeerTooSlow,
    decode_body,
    decode_parcel,
    encode_note,
)
from lateack.nodes.facts import GateOpened, WriteIssued
from lateack.nodes.messages import Message, Noticed, Xenbus
from lateack.protos.lateack_pb2 import Batch

TARGETS = ("network", "server")
# Frames for a target, or a note, each marked by its place in the list.
SENDS = st.lists(st.one_of(st.tuples(st.sampled_from(TARGETS), st.integers(1, 100)), st.none()), max_size=12)


def emptied(outbox: Outbox) -> list[Batch]:
    """Return all batches that wait."""
    return [Batch.FromString(outbox.take(at, 0)) for at in range(len(outbox))]


@given(SENDS)
def test_frames_and_notes_come_out_in_order(sends: list[tuple[str, int] | None]) -> None:
    """For each target, frames and notes leave in the order in which they were put in, none lost and none twice."""
    outbox, expected = Outbox("backend", 1), []
    for place, send in enumerate(sends):
        mark = place.to_bytes(2, "big")
        if send is None:
            outbox.put_note(encode_note("backend", "server", Xenbus(place, {})), 0)
            expected.append(("server", mark))
        else:
            outbox.put_frames("backend", send[0], (mark,) * send[1], 0)
            expected += [(send[0], mark)] * send[1]

    found = []
    for batch in emptied(outbox):
        assert len(batch.frames) <= BATCH_FRAMES_MAX
        found += [(batch.target, bytes(frame)) for frame in batch.frames]
        for note in batch.notes:
            body = decode_body(decode_parcel(note))
            assert isinstance(body, Xenbus)
            found.append(("server", body.state.to_bytes(2, "big")))

    for target in TARGETS:
        assert [mark for to, mark in found if to == target] == [mark for to, mark in expected if to == target]


def test_a_batch_ends_at_its_bytes() -> None:
    """Large frames make a batch of fewer."""
    outbox = Outbox("backend", 1)

    outbox.put_frames("backend", "network", (bytes(60_000),) * 10, 0)

    sizes = [sum(map(len, batch.frames)) for batch in emptied(outbox)]
    assert sum(sizes) == 600_000 and max(sizes) <= BATCH_BYTES_MAX


def test_what_gathers_while_one_leaves_is_one_batch() -> None:
    """Three sends of frames for one machine are one message for gRPC."""
    outbox = Outbox("backend", 1)

    for _ in range(3):
        outbox.put_frames("backend", "network", (b"x",) * 20, 5)

    assert len(outbox) == 1
    assert outbox.byte_count == 60


def test_a_batch_says_who_when_and_which_run() -> None:
    """Source, target, run, clock and time of reading travel with the frames."""
    outbox = Outbox("backend", 77)

    outbox.put_frames("backend", "network", (b"frame",), 123)
    batch = Batch.FromString(outbox.take(1_000, 2))

    stamps = (batch.hlc_wall_ns, batch.hlc_logical, batch.sent_at_ns, batch.epoch)
    assert (batch.source, batch.target, *stamps) == ("backend", "network", 1_000, 2, 123, 77)
    assert outbox.byte_count == 0


def test_a_heartbeat_is_a_batch_with_nothing_in_it() -> None:
    """It names its sender and its run, and brings neither frames nor notes."""
    batch = Batch.FromString(Outbox("server", 3).heartbeat(9, 0))

    assert (batch.source, batch.epoch, len(batch.frames), len(batch.notes)) == ("server", 3, 0, 0)


@pytest.mark.parametrize(
    "message",
    [
        Xenbus(4, {"tx-ring-ref": 768, "mac": "00:16:3e:00:00:01"}),
        Noticed("network", GateOpened("egress", "backend.nic", 2)),
        Noticed("guest1", WriteIssued(1, "f", 0, 4096, 2**64 - 1, 0, (31, 32))),
    ],
)
def test_a_note_is_what_it_was(message: Message) -> None:
    """Every kind of message that is no frame survives the way, down to tuples and 64-bit digests."""
    parcel = decode_parcel(encode_note("guest1", "backend", message))

    assert (parcel.source, parcel.target) == ("guest1", "backend")
    assert decode_body(parcel) == message


def test_a_parcel_is_passed_on_unread() -> None:
    """Its address can be read even if its body means nothing to us; only opening it fails."""
    note = msgspec.msgpack.encode(("guest1", "backend", {"type": "FromTheFuture"}))

    parcel = decode_parcel(note)

    assert parcel.target == "backend"
    with pytest.raises(msgspec.ValidationError):
        decode_body(parcel)


def test_an_outbox_has_a_bound() -> None:
    """A peer that does not read ends the run with a sentence, not with the machine's last memory."""
    outbox, frame = Outbox("backend", 1), bytes(65_536)
    frames = (frame,) * (OUTBOX_BYTES_MAX // len(frame))

    outbox.put_frames("backend", "network", frames, 0)

    with pytest.raises(PeerTooSlow, match="whose other side does not read"):
        outbox.put_frames("backend", "network", (frame,), 0)
