"""What a guest sends besides its copy: datagrams out of page buffers that it refills as soon as the stack lets go.

The sender is honest and patient: a buffer counts as free when the last fragment of its datagram is gone
(`FragDestructor`), which behind netfront is when netback has answered. So whatever goes wrong with its bytes is the
doing of whoever answered too early. Nobody answers a datagram, and nobody sends it again.
"""

from lateack.nodes.facts import BufferRefilled
from lateack.nodes.memory.pages import PAGE_SIZE, Memory, Page
from lateack.nodes.node import Time
from lateack.nodes.records import Record
from lateack.nodes.stack.host import IpStack
from lateack.nodes.stack.lifetime import Frag, FragDestructor
from lateack.nodes.stack.packets import digest_of
from lateack.nodes.stack.udp import udp_sendmsg

DISCARD_PORT = 9
"""Where datagrams are thrown away (RFC 863)."""
FIRST_PORT = 1024
"""The senders' own ports, above those that an NFS client binds."""


class DatagramOrder(Record):
    """So many datagrams of so many bytes to one address; the first *head* of the bytes have a page of their own.

    With *after_copy* they are sent when the sender has nothing else to do.
    """

    to: int
    count: int
    size: int
    head: int = 0
    buffers: int = 1
    after_copy: bool = False

    def pieces(self) -> list[int]:
        """Return how many bytes lie in each page of a buffer."""
        rest = self.size - self.head
        sizes = [min(PAGE_SIZE, rest - start) for start in range(0, rest, PAGE_SIZE)]
        return [self.head, *sizes] if self.head else sizes


class DatagramBuffer:
    """One datagram's worth of frames: consecutive ones, refilled in place."""

    __slots__ = ("data", "digest", "frames", "index", "pages")

    def __init__(self, index: int, memory: Memory, first_frame: int, nr_pages: int) -> None:
        self.index = index
        self.frames = tuple(range(first_frame, first_frame + nr_pages))
        self.pages = [Page(memory, frame) for frame in self.frames]
        self.data = b""
        self.digest = 0

    def fill(self, data: bytes, pieces: list[int]) -> None:
        """Write a datagram into the pages, in these pieces."""
        start = 0
        for page, size in zip(self.pages, pieces, strict=True):
            page.memory.write(page.frame, 0, data[start : start + size])
            start += size
        self.data, self.digest = data, digest_of(data)


class Chatter:
    """One stream of datagrams; its owner calls `run` at the end of its events."""

    __slots__ = ("buffers", "number", "order", "pieces", "released", "sent", "socket", "stack", "started")

    def __init__(
        self, order: DatagramOrder, stack: IpStack, memory: Memory, *, port: int, first_frame: int, first_index: int
    ) -> None:
        """Keep the frames from *first_frame* on; the buffers are numbered from *first_index* in facts."""
        self.order = order
        self.stack = stack
        self.pieces = order.pieces()
        pages = len(self.pieces)
        self.buffers = [
            DatagramBuffer(first_index + number, memory, first_frame + number * pages, pages)
            for number in range(order.buffers)
        ]
        self.socket = stack.bind_udp(port)
        self.released: list[DatagramBuffer] = []
        self.number = 0
        self.sent = 0
        self.started = False

    def start(self, now: Time) -> None:
        """The device works for the first time: fill every buffer and send it."""
        if self.started:
            return
        self.started = True
        for buffer in self.buffers:
            buffer.fill(self._next_bytes(), self.pieces)
        for buffer in self.buffers:
            self._send(buffer, now)

    def run(self, now: Time, *, idle: bool) -> None:
        """Refill in place what the stack has let go of, and send it if datagrams are left; *idle*: nothing else is."""
        if idle and self.order.after_copy:
            self.start(now)
        released, self.released = self.released, []
        for buffer in released:
            held = buffer.digest
            buffer.fill(self._next_bytes(), self.pieces)
            offset = (self.number - 1) * self.order.size
            self.stack.effects.append(BufferRefilled(buffer.index, buffer.frames, offset, held, buffer.digest))
            self._send(buffer, now)

    def pending(self) -> bool:
        """Say whether datagrams are left to be sent."""
        return self.sent < self.order.count

    def frags_released(self, token: object) -> None:
        """The last fragment of a datagram is gone: its buffer is free."""
        assert isinstance(token, DatagramBuffer)
        self.released.append(token)

    def _send(self, buffer: DatagramBuffer, now: Time) -> None:
        if self.sent >= self.order.count:
            return
        self.sent += 1
        loan = FragDestructor(self, buffer)
        loan.refs += len(buffer.pages)
        frags = [Frag(page, 0, size, loan) for page, size in zip(buffer.pages, self.pieces, strict=True)]
        udp_sendmsg(self.socket, (self.order.to, DISCARD_PORT), b"", frags, b"", buffer.data, now)
        loan.put()

    def _next_bytes(self) -> bytes:
        """Return the bytes of the next datagram: any 16 of them tell which one it is."""
        number = self.number
        self.number += 1
        size = self.order.size
        return (b"datagram %06d;" % (number % 1_000_000) * (size // 16 + 1))[:size]


def frames_of(orders: tuple[DatagramOrder, ...]) -> int:
    """Return how many frames the buffers of these streams take."""
    return sum([order.buffers * len(order.pieces()) for order in orders])


def chatters_of(
    orders: tuple[DatagramOrder, ...], stack: IpStack, memory: Memory, *, first_frame: int, first_index: int
) -> tuple[Chatter, ...]:
    """Return one guest's streams, their frames from *first_frame* and their buffers from *first_index* on."""
    chatters = []
    for number, order in enumerate(orders):
        chatters.append(
            Chatter(order, stack, memory, port=FIRST_PORT + number, first_frame=first_frame, first_index=first_index)
        )
        first_frame += order.buffers * len(order.pieces())
        first_index += order.buffers
    return tuple(chatters)
