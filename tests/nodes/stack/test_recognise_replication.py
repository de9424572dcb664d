"""What a sniffer calls the messages of DRBD and Ceph, by their first bytes."""

import pytest

from lateack.nodes.replication import ceph_messages, drbd_packets
from lateack.nodes.replication.drbd_packets import Block
from lateack.nodes.stack.recognise import MESSAGES, recogniser_of

BLOCK = Block(0, 0x77, 0, None, b"x")
FRONT = ceph_messages.write_request(b"f", 0, 1, attempt=0)
DRBD = [
    (drbd_packets.data_head(drbd_packets.P_DATA, BLOCK, 0), ("call", "P_DATA", 0x77)),
    (drbd_packets.data_head(drbd_packets.P_DATA, Block(0, 5, 0, None, bytes(40000)), 0), ("call", "P_DATA", 5)),
    (drbd_packets.block_ack(drbd_packets.P_WRITE_ACK, BLOCK), ("reply", "P_WRITE_ACK", 0x77)),
    (drbd_packets.barrier(3), ("call", "P_BARRIER", 0)),
    (drbd_packets.features(), ("", "", 0)),
    (b"\x83\x74", ("", "", 0)),
    (b"something else", ("", "", 0)),
]
CEPH = [
    (ceph_messages.message_head(42, 1, 9, front=FRONT, data_bytes=1), ("call", "OSD_OP", 9)),
    (
        ceph_messages.acknowledgement(1) + ceph_messages.message_head(43, 1, 9, front=b"", data_bytes=0),
        ("reply", "OSD_OPREPLY", 9),
    ),
    (ceph_messages.acknowledgement(1), ("", "", 0)),
    (ceph_messages.BANNER + bytes(40), ("", "", 0)),
]


@pytest.mark.parametrize(
    ("port", "data", "named"),
    [(7788, *case) for case in DRBD] + [(6800, *case) for case in CEPH],
)
def test_messages_are_named_by_their_first_bytes(port: int, data: bytes, named: tuple[str, str, int]) -> None:
    """Either way, wherever in a frame they begin; what is neither is left unnamed."""
    frame = bytes(54) + data

    assert recogniser_of(700, port)(frame, 54, True) == named
    assert recogniser_of(port, 700)(frame, 54, True) == named
    assert not named[1] or named[1] in MESSAGES
