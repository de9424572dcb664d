"""Whatever machines say to each other can cross between two processes."""

import typing

import msgspec
import pytest

from lateack.nodes.facts import CopyFinished, FrameSent
from lateack.nodes.messages import Frames, Message, Noticed, Notify, Xenbus

MESSAGES: list[Message] = [
    Frames((b"", b"\x00\xff" * 700)),
    Notify(1),
    Xenbus(4, {"mac": "00:16:3e:00:00:01", "tx-ring-ref": 8}),
    Noticed("guest1", CopyFinished("input.bin", 2**40)),
    Noticed(
        "backend", FrameSent("backend.nic", "a>b", 2**32 - 1, 4, 2, (2**64 - 1, 0), True, ((1, 2, 3, 4),), b"\x00")
    ),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_the_wire(message: Message) -> None:
    """Encoded and decoded it is the same, of the same type, without a hint which of them it was."""
    data = msgspec.msgpack.encode(message)

    assert msgspec.msgpack.decode(data, type=Message) == message


def test_every_message_is_tried() -> None:
    """A new message is a new case above."""
    assert {type(message) for message in MESSAGES} == set(typing.get_args(Message))


def test_frames_are_bytes_and_nothing_else() -> None:
    """No Python object passes the network: that keeps a real network possible in its place."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode({"type": "Frames", "frames": [{"seq": 1}]}), type=Message)
