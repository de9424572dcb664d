"""Ceph's messages: laid out as in the kernel's headers, summed as it sums, and refused where they are anything else."""

import pytest

from lateack.nodes.replication import ceph_messages as messages
from lateack.nodes.replication.ceph_messages import Message, Sums
from lateack.nodes.storage.stream_client import ByteStream, ProtocolError


def message(data: bytes = b"data", *, summed: bool = True) -> bytes:
    """Return a whole write, without its tag."""
    front = messages.write_request(b"f", 4096, len(data), attempt=0)
    head = messages.message_head(messages.OSD_OP, 3, 77, front=front, data_bytes=len(data))
    return (head + data + messages.message_tail(front, messages.raw_sum(data) if summed else None))[1:]


def taken(data: bytes) -> Message | None:
    """Return the message that a stream holds."""
    stream = ByteStream()
    stream.feed(data)
    return messages.next_message(stream)


def test_sizes_are_those_of_the_kernels_structures() -> None:
    """ceph_msg_header, ceph_msg_footer, ceph_msg_connect, its reply, ceph_entity_addr and ceph_osd_op."""
    assert messages.HEADER_BYTES == 53
    assert messages.FOOTER.size == 21
    assert messages.CONNECT.size == 33
    assert messages.CONNECT_REPLY.size == 26
    assert len(messages.entity_address(1, 2)) == messages.ADDRESS_BYTES
    assert messages.OP.size == 38


def test_a_sum_is_begun_with_zero_and_goes_on() -> None:
    """The kernel's crc32c(0, ...) inverts neither end, so that sums of parts join; of nothing but zeros it is zero."""
    assert messages.raw_sum(bytes(100)) == 0
    assert messages.raw_sum(b"data", messages.raw_sum(b"some ")) == messages.raw_sum(b"some data")


@pytest.mark.parametrize("summed", [True, False])
def test_a_write_comes_whole_or_not_at_all(summed: bool) -> None:
    """Header, front, data and footer; what is missing is waited for."""
    whole = message(summed=summed)

    found = taken(whole)

    assert taken(whole[:-1]) is None
    assert taken(whole[:20]) is None
    assert found is not None
    assert (found.sequence, found.number, found.data, found.summed) == (3, 77, b"data", summed)
    assert messages.decode_write_request(found.front) == ("f", 4096, 4)
    assert not summed or found.data_sum == messages.raw_sum(b"data")


@pytest.mark.parametrize(("place", "said"), [(0, "hdr"), (60, "front")])
def test_a_changed_byte_of_header_or_front_is_found(place: int, said: str) -> None:
    """Each has a sum of its own; the data's is the receiver's to judge."""
    broken = bytearray(message())
    broken[place] ^= 1

    with pytest.raises(Sums, match=said):
        taken(bytes(broken))


@pytest.mark.parametrize("front", [b"", bytes(200), messages.write_request(b"f", 0, 1, attempt=0)[:-1]])
def test_what_is_no_write_is_refused(front: bytes) -> None:
    """Cut short, or of another form."""
    with pytest.raises(ProtocolError):
        messages.decode_write_request(front)
