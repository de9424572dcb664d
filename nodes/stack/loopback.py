"""The loopback device: what a host sends to itself it receives, in the very pages in which it was sent.

Source: drivers/net/loopback.c (loopback_xmit: skb_orphan, then netif_rx), net/ipv4/ip_input.c. Nothing is copied,
summed or read on the way, and there is no moment at which a packet "has left": TCP acknowledges what it has queued, and
the bytes are read when the process reads its socket. Only pages whose owner is told by a callback (`UbufInfo`) are
copied, since a socket may keep them for ever (skb_orphan_frags_rx).

Where we differ: datagrams are read when they are delivered. What goes to a port below which a kernel part reads in the
softirq, as the NFS client does, is read at delivery, too; only the sockets of `late_port` belong to a process.

With `capture` every packet is recorded as it is handed over, as a tap would show it that copies at that moment (Linux's
does: tpacket_rcv). The checksum, which nobody would make here, is finished in what is recorded.
"""

from lateack.nodes.facts import FrameCaptured, Parked
from lateack.nodes.memory.pages import PagePool
from lateack.nodes.node import SetTimer
from lateack.nodes.stack.host import IpStack
from lateack.nodes.stack.nic import Nic, NicWatcher, frame_now
from lateack.nodes.stack.packets import ADDRESSES, IPPROTO_TCP, TCP, Segment, flow_name
from lateack.nodes.stack.paged import PagedPayload, PagedSegment
from lateack.nodes.stack.skb import SkBuff, kfree_skb, read_frags, skb_length, skb_linear, skb_orphan
from lateack.nodes.stack.skb_copy import skb_orphan_frags

SOFTIRQ = "softirq"
"""The timer by which the backlog is taken in an event of its own, at once: netif_rx raises NET_RX_SOFTIRQ."""


class LoopbackDevice:
    """`lo`: a backlog between the transmitting and the receiving half of one stack.

    It is the switch of the place where its late reader waits, too (`gates.Switch`).
    """

    __slots__ = (
        "backlog", "capture", "closed", "copied_bytes", "datagrams", "effects", "late_port", "name", "place", "pool",
        "stack", "watch",
    )  # fmt: skip
    __deletable__ = ("stack",)  # what mypyc asks for

    def __init__(self, owner: str, stack: IpStack, pool: PagePool, *, late_port: int, queue_max: int) -> None:
        self.stack = stack
        self.effects = stack.effects
        self.pool = pool
        self.late_port = late_port
        self.place = f"{owner}.reader"
        self.name = f"{owner}.lo"
        self.capture = False
        self.backlog: list[SkBuff] = []
        self.datagrams = Nic(self.name, stack.effects, queue_max=queue_max)
        self.watch: NicWatcher | None = None
        self.closed = False
        self.copied_bytes = 0

    def close(self) -> None:
        """The run is over: let go of the stack, which holds this device."""
        self.watch = None
        del self.stack

    def xmit(self, skb: SkBuff, now: int) -> None:
        """Take over a packet and receive it soon (loopback_xmit); its sender hears that it is gone."""
        if self.watch is not None and self.watch.nic_watched:
            linear = skb_linear(skb)
            self.watch.frame_left(linear, skb_length(skb) - len(linear))
        if self.capture:
            self.effects.append(FrameCaptured(self.name, True, frame_now(skb)))
        skb_orphan(skb)
        if not self.backlog:
            self.effects.append(SetTimer(SOFTIRQ, now))
        self.backlog.append(skb)

    def receive(self, now: int) -> None:
        """Hand what has come to the stack (process_backlog); what is for the late port stays in its packets."""
        backlog, self.backlog = self.backlog, []
        for skb in backlog:
            if skb.shinfo.ubuf is not None:
                self.copied_bytes += sum(frag.size for frag in skb.shinfo.frags)
                skb_orphan_frags(skb, self.pool)
            linear = skb_linear(skb)
            if linear[23] == IPPROTO_TCP:
                self._receive_tcp(skb, linear, now)
            else:
                self.datagrams.xmit(skb, now)
                self.stack.receive_burst(self.datagrams.take_frames(), now)

    def _receive_tcp(self, skb: SkBuff, linear: bytes, now: int) -> None:
        """Give TCP a segment; no checksum was made, and none is looked at (CHECKSUM_PARTIAL)."""
        source, target = ADDRESSES.unpack_from(linear, 26)
        sport, dport, seq, ack, offset_flags, window, _, _ = TCP.unpack_from(linear, 34)
        start = 34 + (offset_flags >> 10 & 0x3C)
        length = skb_length(skb) - start
        flags, options = offset_flags & 0x3F, linear[54:start]
        flow = flow_name(source, sport, target, dport)
        late = dport == self.late_port
        if late and length and self.closed:
            self.effects.append(Parked(self.place, flow, seq, length, again=False))
        if late and skb.shinfo.frags:
            payload = PagedPayload(
                skb, start, length, seq=seq, mss=skb.shinfo.gso_size or length, flow=flow, place=self.place,
                effects=self.effects,
            )  # fmt: skip
            self.stack.receive_segment(
                PagedSegment(IPPROTO_TCP, source, target, sport, dport, seq, ack, flags, window, options, payload), now
            )
            return
        data = b"".join([linear[start:], *read_frags(skb)])
        kfree_skb(skb)
        self.stack.receive_segment(
            Segment(IPPROTO_TCP, source, target, sport, dport, seq, ack, flags, window, options, data, 0), now
        )
