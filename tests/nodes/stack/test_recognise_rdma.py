"""Claims about how rules see RoCEv2: an RPC call by its procedure, everything else by its opcode."""

import pytest

from lateack.nodes.nfs.rpc import AUTH_NONE_CREDENTIAL, encode_call, encode_success
from lateack.nodes.rdma import connection, packets
from lateack.nodes.rdma.connection import ConnectionMessage
from lateack.nodes.rdma.packets import acknowledgement, encode
from lateack.nodes.rdma.rpc_rdma import ReadChunk, encode_header
from lateack.nodes.stack.dissect import Dissection, dissect
from lateack.nodes.stack.recognise import MESSAGES
from tests.nodes.rdma.two_adapters import HERE, THERE

CALL = encode_call(77, 100003, 3, 7, AUTH_NONE_CREDENTIAL)
CHUNK = ReadChunk(40, 0x100, 4096, 0)


def seen(opcode: int, payload: bytes = b"", transport: bytes = b"") -> Dissection:
    """Return what a sniffer reads off one packet."""
    frame = encode(
        HERE, THERE, source_port=0xC012, opcode=opcode, target_qp=0x13, psn=5, payload=payload, transport=transport
    )
    return dissect(frame, {HERE.ip: "guest1", THERE.ip: "server"})


@pytest.mark.parametrize("opcode", [packets.SEND_ONLY, packets.SEND_FIRST])
@pytest.mark.parametrize("chunk", [None, CHUNK], ids=["inline", "read chunk"])
def test_a_send_that_begins_a_call_is_named_by_its_procedure(opcode: int, chunk: ReadChunk | None) -> None:
    """As over TCP, so that one rule fits both."""
    frame = seen(opcode, encode_header(77, 32, chunk) + CALL)

    assert (frame.source, frame.target, frame.protocol) == ("guest1", "server", "udp")
    assert (frame.kind, frame.rpc, frame.xid) == ("call", "WRITE", 77)


def test_a_reply_is_a_reply() -> None:
    """Whose call it answers is in its xid."""
    frame = seen(packets.SEND_ONLY, encode_header(77, 32) + encode_success(77, b""))

    assert (frame.kind, frame.rpc, frame.xid) == ("reply", "", 77)


@pytest.mark.parametrize(
    ("opcode", "transport", "kind", "name"),
    [
        (packets.SEND_ONLY, b"", "", "SEND"),
        (packets.SEND_MIDDLE, b"", "", "SEND"),
        (packets.SEND_LAST, b"", "", "SEND-LAST"),
        (packets.READ_REQUEST, bytes(16), "call", "RDMA-READ-REQUEST"),
        (packets.READ_RESPONSE_FIRST, bytes(4), "reply", "RDMA-READ-RESPONSE"),
        (packets.READ_RESPONSE_MIDDLE, b"", "reply", "RDMA-READ-RESPONSE"),
        (packets.ACKNOWLEDGE, acknowledgement(packets.ACK, 1), "ack", "ACK"),
        (packets.ACKNOWLEDGE, acknowledgement(packets.NAK_ACCESS, 1), "ack", "NAK"),
    ],
)
def test_other_packets_go_by_their_opcode(opcode: int, transport: bytes, kind: str, name: str) -> None:
    """With the PSN as their number."""
    frame = seen(opcode, transport=transport)

    assert (frame.kind, frame.rpc, frame.xid) == (kind, name, 5)
    assert name in MESSAGES


@pytest.mark.parametrize("kind", list(connection.NAMES))
def test_messages_of_the_connection_manager_have_their_names(kind: int) -> None:
    """They are datagrams to queue pair 1."""
    datagram = connection.encode(ConnectionMessage(kind, 1))

    frame = seen(packets.UD_SEND_ONLY, datagram, packets.DETH.pack(packets.MANAGEMENT_KEY, 1))

    assert frame.rpc == connection.NAMES[kind]
    assert frame.rpc in MESSAGES
