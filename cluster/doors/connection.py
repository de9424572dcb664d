"""One client's TCP connection to a door: the stream in, cut into records, and the answers out, never too many of them.

A client that asks and does not read what it is answered would fill the server's memory. So calls wait unserved, and
nothing more is read from the stream, while more than `ANSWERS_HIGH` bytes of answers wait to be sent.
"""

import socket
from collections import deque

from lateack.nodes.nfs.drc import Client
from lateack.nodes.nfs.rpc import RecordReader, record_mark

READ_BYTES = 256 * 1024
"""How much is read from a stream at a time, and so how many bytes of calls may wait."""
ANSWERS_HIGH = 1 << 20
"""Bytes of waiting answers at which no further call is served; one answer more may be over it, of at most 1 MiB."""
SEND_PIECES = 16
"""How many answers go out in one system call."""


class Connection:
    """A socket that never blocks, and what waits on either side of it."""

    def __init__(self, sock: socket.socket, client: Client) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self.client = client
        self.reader = RecordReader()
        self.calls: deque[bytes] = deque()
        self.answers: deque[memoryview] = deque()
        self.answer_bytes = 0
        self.ended = False  # the client sends no more, and may still want its answers

    def receive(self) -> None:
        """Read what has come; raises OSError where the connection is broken and RecordTooLong where its stream is."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self.ended = True
            return
        self.calls += self.reader.feed(data)

    def may_serve(self) -> bool:
        """Whether a call waits, and not too many answers do."""
        return bool(self.calls) and self.answer_bytes < ANSWERS_HIGH

    def answer(self, reply: bytes) -> None:
        """Let a reply go out after those before it."""
        self.answers.append(memoryview(record_mark(len(reply)) + reply))
        self.answer_bytes += 4 + len(reply)

    def send(self) -> None:
        """Send as much as the client takes now; raises OSError where the connection is broken."""
        answers = self.answers
        while answers:
            try:
                sent = self.socket.sendmsg([answers[index] for index in range(min(len(answers), SEND_PIECES))])
            except BlockingIOError:
                return
            self.answer_bytes -= sent
            while answers and sent >= len(answers[0]):
                sent -= len(answers.popleft())
            if sent:
                answers[0] = answers[0][sent:]

    def wants_to_read(self) -> bool:
        """Whether more of the stream should be read."""
        return not self.ended and not self.calls and self.answer_bytes < ANSWERS_HIGH

    def is_done(self) -> bool:
        """Whether the client sends no more and has got every answer."""
        return self.ended and not self.calls and not self.answers
