"""Claims about the connection manager's messages: each says what its receiver needs, and nothing else is one."""

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.rdma import connection
from lateack.nodes.rdma.connection import ConnectionMessage, Malformed, decode, encode

MESSAGES = [
    ConnectionMessage(connection.CONNECT_REQUEST, 18, 0, 0x12, 0xABCDEF),
    ConnectionMessage(connection.CONNECT_REPLY, 19, 18, 0x13, 0x123456),
    ConnectionMessage(connection.READY_TO_USE, 18, 19),
    ConnectionMessage(connection.DISCONNECT_REPLY, 19, 18),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: connection.NAMES[message.kind])
def test_a_message_says_what_was_put_into_it(message: ConnectionMessage) -> None:
    """In a management datagram of 256 bytes."""
    datagram = encode(message, own=1, peer=2)

    assert len(datagram) == 256
    assert decode(datagram) == message


@given(st.binary(max_size=300))
def test_other_bytes_are_no_message(data: bytes) -> None:
    """Noise is malformed, and nothing else happens."""
    with pytest.raises(Malformed):
        decode(data)
