"""The storage daemon: what it writes, what it answers, and what it refuses."""

from hypothesis import given, settings, strategies as st

from lateack.nodes.facts import ConnectionReset, DigestFailed, FileAtRest, WriteExecuted
from lateack.nodes.replication import ceph_messages as messages
from lateack.nodes.replication.ceph_service import CephService
from lateack.nodes.stack.packets import digest_of
from tests.nodes.one_service import Bed

HELLO = messages.BANNER + messages.entity_address(1, 2) + messages.connect_request(1)


def write(data: bytes, data_sum: int | None, *, name: bytes = b"copies/f") -> bytes:
    """Return a whole message that writes at 512 under number 7."""
    front = messages.write_request(name, 512, len(data), attempt=0)
    head = messages.message_head(messages.OSD_OP, 1, 7, front=front, data_bytes=len(data))
    return head + data + messages.message_tail(front, data_sum)


def test_a_write_whose_sum_is_right_is_executed_once() -> None:
    """Under its number: when it comes again it is only answered."""
    bed = Bed(CephService)

    bed.say(HELLO, write(b"data", messages.raw_sum(b"data")), write(b"data", messages.raw_sum(b"data")))
    bed.service.audit()

    assert bed.of(WriteExecuted) == [WriteExecuted(7, "guest1", "copies/f", 512, 4, digest_of(b"data"))]
    assert bed.of(FileAtRest)[0].length == 516
    assert bed.of(ConnectionReset) == []


def test_a_write_whose_sum_is_wrong_ends_the_connection_unwritten() -> None:
    """Bad crc in data: it is told, and nothing is put anywhere."""
    bed = Bed(CephService)

    bed.say(HELLO, write(b"dat!", messages.raw_sum(b"data")))

    assert bed.of(WriteExecuted) == []
    assert [fact.xid for fact in bed.of(DigestFailed)] == [7]
    assert [fact.reason for fact in bed.of(ConnectionReset)] == ["bad crc in data"]


def test_an_object_that_nobody_was_given_is_refused() -> None:
    """A client may not make files of any name."""
    bed = Bed(CephService)

    bed.say(HELLO, write(b"data", None, name=b"../../etc/passwd"))

    assert [fact.reason for fact in bed.of(ConnectionReset)] == ["no such object"]


@given(st.lists(st.binary(max_size=200), max_size=4), st.booleans(), st.integers(0, 600), st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_whatever_comes_ends_in_a_reset_at_most(pieces: list[bytes], greeted: bool, at: int, value: int) -> None:
    """Foreign bytes, and a conversation with one byte changed, in any pieces."""
    spoken = bytearray(HELLO + write(b"data" * 40, messages.raw_sum(b"data" * 40)))
    if at < len(spoken):
        spoken[at] = value
    bed = Bed(CephService)

    bed.say(*([bytes(spoken)] if greeted else []), *pieces)

    assert len(bed.of(WriteExecuted)) <= 1
