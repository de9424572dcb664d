"""The secondary: what it writes, what it answers, and what it refuses."""

import crc32c
from hypothesis import given, settings, strategies as st

from lateack.nodes.facts import ConnectionReset, DigestFailed, FileAtRest, WriteExecuted
from lateack.nodes.replication import drbd_packets as packets
from lateack.nodes.replication.drbd_packets import Block
from lateack.nodes.replication.drbd_service import DrbdService
from lateack.nodes.stack.packets import digest_of
from tests.nodes.one_service import Bed

HELLO = packets.features() + packets.protocol("C", digest=True)


def block(payload: bytes, digest: int) -> bytes:
    """Return P_DATA that asks for P_WRITE_ACK."""
    return packets.data_head(packets.P_DATA, Block(512, 7, packets.DP_SEND_WRITE_ACK, digest, payload), 1) + payload


def test_a_block_whose_sum_is_right_is_written_and_confirmed() -> None:
    """At its sector, under its number, into the file of the client."""
    bed = Bed(DrbdService)

    bed.say(HELLO + block(b"data", crc32c.crc32c(b"data")))
    bed.service.audit()

    assert bed.of(WriteExecuted) == [WriteExecuted(7, "guest1", "copies/f", 512, 4, digest_of(b"data"))]
    assert bed.of(FileAtRest)[0].length == 516
    assert bed.socket.write_seq > bed.said_before


def test_a_block_whose_sum_is_wrong_ends_the_connection_unwritten() -> None:
    """Digest integrity check FAILED: it is told, and nothing is put anywhere."""
    bed = Bed(DrbdService)

    bed.say(HELLO + block(b"dat!", crc32c.crc32c(b"data")))
    bed.service.audit()

    assert bed.of(WriteExecuted) == []
    [failed] = bed.of(DigestFailed)
    assert (failed.xid, failed.offset, failed.count, failed.digest) == (7, 512, 4, digest_of(b"dat!"))
    assert [fact.reason for fact in bed.of(ConnectionReset)] == ["Digest integrity check FAILED"]
    assert bed.of(FileAtRest) == []


@given(st.lists(st.binary(max_size=200), max_size=4), st.booleans(), st.integers(0, 400), st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_whatever_comes_ends_in_a_reset_at_most(pieces: list[bytes], greeted: bool, at: int, value: int) -> None:
    """Foreign bytes, and a conversation with one byte changed, in any pieces."""
    spoken = bytearray(HELLO + block(b"data" * 40, crc32c.crc32c(b"data" * 40)))
    if at < len(spoken):
        spoken[at] = value
    bed = Bed(DrbdService)

    bed.say(*([bytes(spoken)] if greeted else []), *pieces)

    assert len(bed.of(WriteExecuted)) <= 1
