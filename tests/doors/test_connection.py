"""A connection of a door: calls in, answers out, and a bound for both."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from lateack.cluster.doors.connection import ANSWERS_HIGH, READ_BYTES, Connection
from lateack.nodes.nfs.rpc import RecordReader, RecordTooLong, record_mark

CALL = record_mark(4) + b"call"


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    """A connection and its client's socket."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        sock, address = server.accept()
    yield Connection(sock, address), client
    sock.close()
    client.close()


def test_a_connection_that_has_nothing_to_read_does_not_block(pair: tuple[Connection, socket.socket]) -> None:
    """It has not ended, either."""
    connection, _ = pair

    connection.receive()

    assert connection.wants_to_read()
    assert not connection.may_serve()


def test_nothing_more_is_read_while_calls_wait(pair: tuple[Connection, socket.socket]) -> None:
    """And no call is served while too many answers wait."""
    connection, client = pair
    client.sendall(CALL * 2)
    while len(connection.calls) < 2:
        connection.receive()

    reading = connection.wants_to_read()
    connection.answer(bytes(ANSWERS_HIGH))

    assert not reading
    assert connection.calls[0] == b"call"
    assert not connection.may_serve()


def test_answers_go_out_in_their_order_as_the_client_takes_them(pair: tuple[Connection, socket.socket]) -> None:
    """However large they are, however little goes at a time."""
    connection, client = pair
    answers = [bytes([number]) * (number * 70_001) for number in range(60)]
    for each in answers:
        connection.answer(each)

    reader, got = RecordReader(16 << 20), list[bytes]()
    while len(got) < len(answers):
        connection.send()
        got += reader.feed(client.recv(READ_BYTES))

    assert got == answers
    assert connection.answer_bytes == 0
    assert not connection.answers


def test_a_client_that_sends_no_more_still_gets_its_answers(pair: tuple[Connection, socket.socket]) -> None:
    """The connection is done when it has them."""
    connection, client = pair
    client.sendall(CALL)
    client.shutdown(socket.SHUT_WR)
    while not connection.ended:
        connection.receive()

    served = connection.calls.popleft()
    connection.answer(b"done")
    before = connection.is_done()
    connection.send()

    assert served == b"call"
    assert not before
    assert connection.is_done()
    assert client.recv(100) == record_mark(4) + b"done"


def test_a_stream_that_is_none_is_not_read_any_further(pair: tuple[Connection, socket.socket]) -> None:
    """Whoever owns the connection is told."""
    connection, client = pair
    connection.socket.setblocking(True)  # until it has come
    client.sendall(record_mark(1 << 30))

    with pytest.raises(RecordTooLong):
        connection.receive()
