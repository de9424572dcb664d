"""Datagrams out of buffers that are used again: when a buffer counts as free, and what is meant by each datagram."""

from lateack.nodes.chatter import Chatter, DatagramOrder, chatters_of, frames_of
from lateack.nodes.facts import BufferRefilled, SegmentTransmitted
from lateack.nodes.memory.pages import HeadSlab, Memory, PagePool
from lateack.nodes.node import Effect
from lateack.nodes.stack.host import HostAddress, IpStack
from lateack.nodes.stack.packets import digest_of
from lateack.nodes.stack.skb import SkBuff, kfree_skb, read_frags
from lateack.nodes.stack.tcp import TcpParameters
from tests.nodes.hand import GUEST_IP, GUEST_MAC, SERVER_IP, SERVER_MAC, facts_of

FIRST = 40


class Device:
    """A device that keeps packets until a test lets go of them."""

    def __init__(self) -> None:
        self.kept: list[SkBuff] = []

    def xmit(self, skb: SkBuff, now: int) -> None:
        """Keep a packet."""
        self.kept.append(skb)

    def finish(self) -> None:
        """Free the oldest packet: the device is through with it."""
        kfree_skb(self.kept.pop(0))


def bed(*orders: DatagramOrder) -> tuple[tuple[Chatter, ...], Device, list[Effect]]:
    """Return streams over a stack whose device keeps every packet."""
    memory = Memory(1, 64)
    pool = PagePool(memory, 3, FIRST - 3)
    effects: list[Effect] = []
    stack = IpStack(
        HostAddress(GUEST_IP, GUEST_MAC), {SERVER_IP: SERVER_MAC}, slab=HeadSlab(memory, pool), pool=pool,
        effects=effects, parameters=TcpParameters(), mtu=9000,
    )  # fmt: skip
    device = stack.device = Device()
    return chatters_of(orders, stack, memory, first_frame=FIRST, first_index=4), device, effects


def test_a_buffer_is_refilled_when_the_stack_has_let_go_of_it() -> None:
    """While the device holds the packet the buffer is lent; afterwards the same frames hold the next datagram."""
    (chatter,), device, effects = bed(DatagramOrder(SERVER_IP, count=2, size=5000))
    chatter.start(0)
    lent = list(chatter.released)

    device.finish()
    chatter.run(0, idle=False)

    assert lent == []
    assert [(fact.buffer, fact.frames) for fact in facts_of(effects, BufferRefilled)] == [(4, (FIRST, FIRST + 1))]
    assert b"".join(read_frags(device.kept[0])).startswith(b"datagram 000001;")
    assert not chatter.pending()


def test_what_was_meant_is_recorded_by_identification() -> None:
    """Each datagram is vouched for with the digest of its bytes at the moment of sending."""
    (chatter,), _, effects = bed(DatagramOrder(SERVER_IP, count=2, size=64, buffers=2))

    chatter.start(0)

    meant = [(fact.seq, fact.digests) for fact in facts_of(effects, SegmentTransmitted)]
    assert meant == [(1, (digest_of(b"datagram 000000;" * 4),)), (2, (digest_of(b"datagram 000001;" * 4),))]


def test_the_last_buffer_is_used_again_though_nothing_is_left_to_send() -> None:
    """An application goes on using its memory: that is what makes an answer that came too early show."""
    (chatter,), device, effects = bed(DatagramOrder(SERVER_IP, count=1, size=64))
    chatter.start(0)

    device.finish()
    chatter.run(0, idle=False)

    assert len(facts_of(effects, BufferRefilled)) == 1
    assert device.kept == []


def test_a_head_lies_in_a_page_of_its_own() -> None:
    """The pieces are head, whole pages, rest; streams have frames and buffer numbers of their own."""
    orders = (DatagramOrder(SERVER_IP, 1, 5000, head=40), DatagramOrder(SERVER_IP, 1, 64, buffers=2))
    (first, second), device, _ = bed(*orders)

    first.start(0)

    assert [frag.size for frag in device.kept[0].shinfo.frags] == [40, 4096, 864]
    assert frames_of(orders) == 5
    assert [(buffer.index, buffer.frames) for buffer in second.buffers] == [(5, (FIRST + 3,)), (6, (FIRST + 4,))]


def test_a_device_that_drops_at_once_does_not_hang_the_sender() -> None:
    """Every buffer comes back within the event that sent it, and the stream ends after its count."""
    (chatter,), device, _ = bed(DatagramOrder(SERVER_IP, count=5, size=64))
    chatter.start(0)

    while chatter.released or device.kept:
        while device.kept:
            device.finish()
        chatter.run(0, idle=False)

    assert chatter.sent == 5


def test_a_patient_stream_waits_for_the_copy() -> None:
    """Streams that are to follow the copy send nothing until the guest has nothing else to do."""
    (chatter,), device, _ = bed(DatagramOrder(SERVER_IP, count=1, size=64, after_copy=True))
    chatter.run(0, idle=False)
    early = len(device.kept)

    chatter.run(0, idle=True)

    assert (early, len(device.kept)) == (0, 1)
