"""DRBD's packets: as the kernel's header lays them out, and refused where they are anything else."""

import crc32c
import pytest

from lateack.nodes.replication import drbd_packets as packets
from lateack.nodes.replication.drbd_packets import Block, Packet
from lateack.nodes.storage.stream_client import ByteStream, ProtocolError


def taken(data: bytes) -> list[Packet]:
    """Return the packets of a stream that comes byte by byte."""
    stream, waiting, found = ByteStream(), list[tuple[int, int]](), []
    for byte in data:
        stream.feed(bytes((byte,)))
        packet = packets.next_packet(stream, waiting)
        if packet is not None:
            found.append(packet)
    return found


def test_a_block_is_laid_out_as_in_the_kernels_header() -> None:
    """p_header80, then p_data, then the digest in the order of the crypto API, then the payload."""
    block = Block(4096, 0x1F3779B1, packets.DP_SEND_WRITE_ACK, crc32c.crc32c(b"data"), b"data")

    head = packets.data_head(packets.P_DATA, block, 7)

    assert head.hex(" ", -4) == (
        "83740267 00000020 00000000 00000008 b179371f 00000000 00000007 00000100 "
        + crc32c.crc32c(b"data").to_bytes(4, "little").hex()
    )
    [packet] = taken(head + b"data")
    assert packets.decode_data(packet.body, digest=True) == block


def test_a_long_block_has_the_header_with_a_long_length() -> None:
    """Beyond 32 KiB the length needs 32 bits (p_header95)."""
    block = Block(0, 1, 0, None, bytes(65536))

    [packet] = taken(packets.data_head(packets.P_RS_DATA_REPLY, block, 0) + block.payload)

    assert packet.command == packets.P_RS_DATA_REPLY
    assert packets.decode_data(packet.body, digest=False) == block


@pytest.mark.parametrize("wire", ["A", "B", "C"])
@pytest.mark.parametrize("digest", [True, False])
def test_both_sides_read_what_they_agree_on(wire: str, digest: bool) -> None:
    """P_CONNECTION_FEATURES and P_PROTOCOL, one behind the other."""
    first, second = taken(packets.features() + packets.protocol(wire, digest=digest))

    packets.check_features(first.body)
    assert packets.decode_protocol(second.body) == (wire, digest)


def test_answers_name_what_they_answer() -> None:
    """A block's acknowledgement has its number, a barrier's its epoch."""
    block = Block(512, 99, 0, None, b"x")
    ack, barrier = taken(packets.block_ack(packets.P_RECV_ACK, block) + packets.barrier(5))
    [answer] = taken(packets.barrier_ack(barrier.body))

    assert packets.decode_ack(ack.body) == 99
    assert packets.decode_barrier_ack(answer.body) == 5


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", packets.HEADER_95.pack(packets.MAGIC_BIG, 0, packets.PAYLOAD_MAX + 1)]
)
def test_what_is_no_packet_is_refused(data: bytes) -> None:
    """Another protocol's bytes, and a length beyond all bounds."""
    with pytest.raises(ProtocolError):
        taken(data)
