"""The loopback device by itself: what happens to a packet between being sent and being received by the same host."""

from lateack.nodes.facts import DuplicateDropped, Parked
from lateack.nodes.memory.pages import HeadSlab, Memory, PagePool
from lateack.nodes.node import Effect, SetTimer
from lateack.nodes.stack.host import HostAddress, IpStack
from lateack.nodes.stack.lifetime import Frag
from lateack.nodes.stack.loopback import SOFTIRQ, LoopbackDevice
from lateack.nodes.stack.skb import kfree_skb
from lateack.nodes.stack.tcp import CLOSED, ESTABLISHED, TcpParameters, TcpSocket
from lateack.nodes.stack.tcp_output import tcp_retransmit_skb, tcp_sendmsg
from tests.nodes.stack.fakes import GUEST, GUEST_MAC, PORT


class Bed:
    """A stack on a loopback device, with one connection to itself."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self.memory = Memory(1, 64)
        self.pool = PagePool(self.memory, 0, 64)
        self.stack = IpStack(
            HostAddress(GUEST, GUEST_MAC), {GUEST: GUEST_MAC}, slab=HeadSlab(self.memory, self.pool), pool=self.pool,
            effects=self.effects, parameters=TcpParameters(), mtu=9000,
        )  # fmt: skip
        self.device = LoopbackDevice("guest1", self.stack, self.pool, late_port=PORT, queue_max=10)
        self.stack.device = self.device
        self.stack.listen(PORT)
        self.client = self.stack.connect(GUEST, PORT, 0)
        self.settle()

    @property
    def server(self) -> TcpSocket:
        """The end that listened."""
        return next(sk for sk in self.stack.sockets.values() if sk.local_port == PORT)

    def settle(self) -> None:
        """Let softirqs run until there are none."""
        self.stack.flush(0)
        while self.device.backlog:
            self.device.receive(0)
            self.stack.flush(0)

    def send(self, sender: TcpSocket, data: bytes) -> Frag:
        """Send one page that begins with *data* by reference."""
        page = self.pool.alloc()
        page.memory.write(page.frame, 0, data)
        frag = Frag(page, 0, len(data))
        page.refs += 1  # the sender's own
        tcp_sendmsg(sender, b"", [frag], b"", data)
        self.stack.send_queued(sender, 0)
        return frag


def test_a_host_connects_to_itself() -> None:
    """Both ends of the connection live in one stack."""
    bed = Bed()

    assert (bed.client.state, bed.server.state) == (ESTABLISHED, ESTABLISHED)
    assert bed.client.flow == bed.server.reply_flow


def test_a_packet_is_orphaned_at_once_and_received_in_an_event_of_its_own() -> None:
    """TCP is told that it has left, and the softirq is asked for once, however much comes."""
    bed = Bed()
    bed.effects.clear()

    bed.send(bed.client, b"x" * 100)
    bed.send(bed.client, b"y" * 100)

    assert bed.client.wmem_alloc == 0
    assert bed.server.received == []
    assert bed.effects.count(SetTimer(SOFTIRQ, 0)) == 1


def test_what_comes_back_to_the_client_is_bytes() -> None:
    """Its kernel reads in the softirq: a page that changes later changes nothing."""
    bed = Bed()
    frag = bed.send(bed.server, b"reply")
    bed.settle()

    bed.memory.write(frag.page.frame, 0, b"other")

    assert bed.client.take_received() == [b"reply"]
    assert frag.page.refs == 1


def test_a_late_reader_of_a_repeated_segment_finds_it_once() -> None:
    """TCP drops what it has already, without anybody having read the first; the second packet is let go."""
    bed = Bed()
    bed.device.closed = True
    frag = bed.send(bed.client, b"x" * 100)
    tcp_retransmit_skb(bed.client, 0, 1, 0)

    bed.settle()

    assert [len(piece) for piece in bed.server.received] == [100]
    assert len([effect for effect in bed.effects if isinstance(effect, DuplicateDropped)]) == 1
    assert len([effect for effect in bed.effects if isinstance(effect, Parked)]) == 2
    assert frag.page.refs == 2
    assert bed.server.take_received() == [b"x" * 100]
    assert frag.page.refs == 1


def test_what_no_socket_keeps_is_let_go() -> None:
    """Data for a connection that is gone, and data that came too early for one that dies: no page stays behind."""
    bed = Bed()
    bed.device.closed = True
    early, late = bed.send(bed.client, b"x" * 100), b"y" * 100
    lost = bed.device.backlog.pop()
    frag = bed.send(bed.client, late)
    bed.settle()
    waiting = (frag.page.refs, [len(piece) for _, piece in bed.server.out_of_order])

    bed.server.purge()
    bed.server.state = CLOSED
    tcp_retransmit_skb(bed.client, 0, 1, 0)
    bed.settle()
    kfree_skb(lost)

    assert waiting == (2, [100])
    assert (early.page.refs, frag.page.refs) == (1, 1)
    assert bed.stack.slab.outstanding == 0
