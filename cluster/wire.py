"""How messages cross gRPC: frames as bare bytes in a Batch, everything else as one msgpack object each.

An `Outbox` gathers what is ready for one link and gives it out batch by batch: gRPC's price is per batch and hardly
depends on how much is in it. Nothing here waits, so that a lone frame leaves at once; what gathers, gathers while the
batch before it is being written. Frames and notes between two machines keep their order: in a batch the frames come
first, so a frame that follows a note opens the next batch.
"""

from collections import deque

import msgspec

from lateack.nodes.errors import LateackError
from lateack.nodes.messages import Message
from lateack.protos.lateack_pb2 import Batch

BATCH_FRAMES_MAX = 64  # from 64 to 256 a frame of 4 KiB gains nothing more
BATCH_BYTES_MAX = 256 * 1024
OUTBOX_BYTES_MAX = 256 * 1024 * 1024


class PeerTooSlow(LateackError):
    """A link's other side does not read, and what waits for it has outgrown its bound."""


class Parcel(msgspec.Struct, frozen=True, array_like=True):
    """A note on its way: whoever only passes it on reads the address and leaves the body alone."""

    source: str
    target: str
    body: msgspec.Raw


_ENCODER = msgspec.msgpack.Encoder()
_PARCELS = msgspec.msgpack.Decoder(Parcel)
_BODIES: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode_note(source: str, target: str, message: Message) -> bytes:
    """Turn a message that is no frame into a note for `target`."""
    return _ENCODER.encode((source, target, message))


def decode_parcel(note: bytes) -> Parcel:
    """Read the address on a note; raises msgspec.DecodeError where that is not one of ours."""
    return _PARCELS.decode(note)


def decode_body(parcel: Parcel) -> Message:
    """Read what is in a note; raises msgspec.DecodeError where that is not one of ours."""
    return _BODIES.decode(parcel.body)


class Bundle:
    """A batch that is still being filled."""

    __slots__ = ("byte_count", "frames", "notes", "sent_at", "source", "target")

    def __init__(self, source: str, target: str, sent_at: int) -> None:
        self.source = source
        self.target = target
        self.sent_at = sent_at
        self.frames: list[bytes] = []
        self.notes: list[bytes] = []
        self.byte_count = 0


class Outbox:
    """What waits for one link, in the order of its sending."""

    __slots__ = ("_bundles", "byte_count", "epoch", "local")

    def __init__(self, local: str, epoch: int) -> None:
        """Gather for a link of the process that carries machine `local`, in the run `epoch`."""
        self.local = local
        self.epoch = epoch
        self.byte_count = 0
        self._bundles: deque[Bundle] = deque()

    def __len__(self) -> int:
        """Return how many batches wait."""
        return len(self._bundles)

    def put_frames(self, source: str, target: str, frames: tuple[bytes, ...], sent_at: int) -> None:
        """Add frames that the NIC of `source` read at `sent_at` (ns); raises PeerTooSlow beyond OUTBOX_BYTES_MAX."""
        size = sum(map(len, frames))
        bundle = self._open_bundle(source, target, sent_at)
        if len(bundle.frames) + len(frames) <= BATCH_FRAMES_MAX and bundle.byte_count + size <= BATCH_BYTES_MAX:
            bundle.frames += frames
            bundle.byte_count += size
            self._grow(size)
            return
        for frame in frames:
            if len(bundle.frames) >= BATCH_FRAMES_MAX or bundle.byte_count + len(frame) > BATCH_BYTES_MAX:
                bundle = self._new_bundle(source, target, sent_at) if bundle.frames else bundle
            bundle.frames.append(frame)
            bundle.byte_count += len(frame)
        self._grow(size)

    def put_note(self, note: bytes, sent_at: int) -> None:
        """Add a note; raises PeerTooSlow beyond OUTBOX_BYTES_MAX."""
        bundles = self._bundles
        # Notes carry their own address, so any batch will do.
        bundle = bundles[-1] if bundles else self._new_bundle(self.local, "", sent_at)
        if bundle.byte_count + len(note) > BATCH_BYTES_MAX and bundle.byte_count:
            bundle = self._new_bundle(self.local, "", sent_at)
        bundle.notes.append(note)
        bundle.byte_count += len(note)
        self._grow(len(note))

    def take(self, wall: int, logical: int) -> bytes:
        """Remove the oldest batch and return it serialized, stamped with the sender's hybrid clock."""
        bundle = self._bundles.popleft()
        self.byte_count -= bundle.byte_count
        batch = Batch(
            hlc_wall_ns=wall,
            hlc_logical=logical,
            source=bundle.source,
            epoch=self.epoch,
            target=bundle.target,
            sent_at_ns=bundle.sent_at,
            frames=bundle.frames,
            notes=bundle.notes,
        )
        return batch.SerializeToString()

    def heartbeat(self, wall: int, logical: int) -> bytes:
        """Return a batch with nothing in it, which says that this side is alive."""
        batch = Batch(hlc_wall_ns=wall, hlc_logical=logical, source=self.local, epoch=self.epoch)
        return batch.SerializeToString()

    def _open_bundle(self, source: str, target: str, sent_at: int) -> Bundle:
        if self._bundles:
            last = self._bundles[-1]
            if last.target == target and last.source == source and not last.notes:
                return last
        return self._new_bundle(source, target, sent_at)

    def _new_bundle(self, source: str, target: str, sent_at: int) -> Bundle:
        bundle = Bundle(source, target, sent_at)
        self._bundles.append(bundle)
        return bundle

    def _grow(self, size: int) -> None:
        self.byte_count += size
        if self.byte_count > OUTBOX_BYTES_MAX:
            raise PeerTooSlow(
                f"{self.byte_count >> 20} MiB wait for a link of {self.local} whose other side does not read; give the "
                "run more processors, or fewer guests."
            )
