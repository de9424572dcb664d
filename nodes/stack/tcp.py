"""TCP: one end of a connection (`struct tcp_sock`), its states and its parameters (RFC 9293, include/net/tcp.h).

The socket is a part, not a machine: its stack tells it the time, hands it segments, and asks after every burst which
timer it wants. Stream positions are kept unwrapped, as plain growing ints, and cut to 32 bits on the wire.

Reading order: this file, tcp_output, tcp_segment, tcp_input, tcp_timer.

Where we differ from Linux, and why it is fine here: no SACK, no timestamps, no TLP and no delayed ACK (an ACK leaves at
the end of each burst, as Linux does under GRO): the bug needs none of them, and 2011's kernel had no TLP. Connections
in TIME_WAIT stay until the run ends, or until the peer opens another one between the same ports.
"""

from collections import deque
from struct import Struct
from typing import Protocol

from lateack.nodes.memory.pages import HeadSlab, PagePool
from lateack.nodes.node import Effect
from lateack.nodes.records import Record
from lateack.nodes.stack.packets import IP_DF, IPPROTO_TCP, M32, address_sum, flow_name
from lateack.nodes.stack.paged import PagedPayload, Payload
from lateack.nodes.stack.skb import SkBuff, kfree_skb

MS = 1_000_000
HALF = 1 << 31

CLOSED, LISTEN, SYN_SENT, SYN_RCVD, ESTABLISHED = "closed", "listen", "syn-sent", "syn-received", "established"
FIN_WAIT_1, FIN_WAIT_2, CLOSE_WAIT = "fin-wait-1", "fin-wait-2", "close-wait"
CLOSING, LAST_ACK, TIME_WAIT = "closing", "last-ack", "time-wait"

ETHERNET_START = Struct("!6s6sHBx")
ADDRESSES_PORTS = Struct("!IIHH")
IP_SUM = 0x4500 + IP_DF + 0x4000 + IPPROTO_TCP
"""What version, flags, TTL 64 and protocol add to an IPv4 header's sum."""

MAY_SEND = frozenset((ESTABLISHED, CLOSE_WAIT))
MAY_RECEIVE = frozenset((ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2))


class TcpParameters(Record):
    """What a scenario may set about TCP: times in ns, windows in bytes unless said otherwise.

    The defaults are Linux's (include/net/tcp.h): TCP_TIMEOUT_INIT, TCP_RTO_MIN, TCP_RTO_MAX, TCP_INIT_CWND,
    tcp_retries2. RFC 6298 would round the RTO up to 1 s; Linux does not.
    """

    rto_init: int = 1_000 * MS
    rto_min: int = 200 * MS
    rto_max: int = 120_000 * MS
    initial_window_segments: int = 10
    receive_buffer: int = 1 << 20
    window_scale: int = 7
    retries_max: int = 15
    syn_retries_max: int = 6
    host_queue_check: str = "none"
    """What a retransmission does that finds a clone still below TCP: "none", "count" (2013) or "suppress" (2014)."""


class Device(Protocol):
    """Whatever takes finished packets from the stack: a NIC or a netfront."""

    def xmit(self, skb: SkBuff, now: int) -> None:
        """Take over a packet whose linear area begins with its Ethernet header."""
        ...


class CloneHook(Protocol):
    """Whoever wants to see that a packet of the queue is about to be shared with the device."""

    def skb_shared(self, skb: SkBuff, clone: SkBuff) -> None:
        """*clone* of the queued *skb* goes down; it has not left yet."""
        ...


class Stack(Protocol):
    """What a socket needs of its host (see host.py)."""

    slab: HeadSlab
    pool: PagePool
    device: Device
    effects: list[Effect]
    clone_hook: CloneHook | None
    ident: int
    address: int
    gso: bool
    mtu: int

    def macs_to(self, address: int) -> tuple[bytes, bytes]:
        """Return the (target, own) Ethernet addresses for an IPv4 destination."""
        ...


class TcpSocket:
    """One end of a connection; names are the kernel's where it has them."""

    __slots__ = (
        "ack_wanted", "addresses", "armed", "backoff", "cwnd", "deadline", "dupacks", "ethernet", "fin_queued",
        "fin_received", "flow", "ip_sum", "local_port", "lost_out", "mss", "out_of_order", "paged", "parameters",
        "pseudo_sum", "rcv_nxt", "rcv_scale", "rcv_wnd", "received", "recover", "recovering", "remote_address",
        "remote_port", "reply_flow", "retries", "rto", "rtt_variance", "rtx_queue", "snd_nxt", "snd_scale", "snd_una",
        "snd_wnd", "srtt", "ssthresh", "stack", "state", "suppresses_host_queue", "timer", "watches_host_queue",
        "wmem_alloc", "write_queue", "write_seq",
    )  # fmt: skip

    def __init__(
        self, stack: Stack, local_port: int, remote_address: int, remote_port: int, parameters: TcpParameters, isn: int
    ) -> None:
        self.stack = stack
        self.local_port = local_port
        self.remote_address = remote_address
        self.remote_port = remote_port
        self.parameters = parameters
        self.watches_host_queue = parameters.host_queue_check != "none"
        self.suppresses_host_queue = parameters.host_queue_check == "suppress"
        self.state = CLOSED
        self.flow = flow_name(stack.address, local_port, remote_address, remote_port)
        self.reply_flow = flow_name(remote_address, remote_port, stack.address, local_port)
        self.timer = f"tcp {self.flow}"
        self.mss = stack.mtu - 40
        # --- what is the same in every header
        target_mac, own_mac = stack.macs_to(remote_address)
        self.ethernet = ETHERNET_START.pack(target_mac, own_mac, 0x0800, 0x45)
        self.addresses = ADDRESSES_PORTS.pack(stack.address, remote_address, local_port, remote_port)
        addresses = address_sum(stack.address, remote_address)
        self.ip_sum = IP_SUM + addresses
        self.pseudo_sum = IPPROTO_TCP + addresses
        # --- sending
        self.snd_una = self.snd_nxt = self.write_seq = isn
        self.snd_wnd = 0
        self.snd_scale = 0
        self.cwnd = 0
        self.ssthresh = 1 << 62
        self.write_queue: deque[SkBuff] = deque()
        self.rtx_queue: deque[SkBuff] = deque()
        self.lost_out = 0
        self.dupacks = 0
        self.recovering = False
        self.recover = isn
        self.wmem_alloc = 0
        self.fin_queued = False
        # --- receiving
        self.rcv_nxt = 0
        self.scale_window(parameters.window_scale)
        self.received: list[Payload] = []
        self.paged = False  # whether some of it still lies in the packets that brought it
        self.out_of_order: list[tuple[int, Payload]] = []
        self.fin_received = False
        self.ack_wanted = False
        # --- time
        self.srtt = 0
        self.rtt_variance = 0
        self.rto = parameters.rto_init
        self.backoff = 0
        self.retries = 0
        self.deadline: int | None = None
        self.armed: int | None = None

    def scale_window(self, scale: int) -> None:
        """Advertise our receive window in units of 2**scale bytes, in all segments but a SYN (RFC 7323 2.2)."""
        self.rcv_scale = scale
        self.rcv_wnd = min(self.parameters.receive_buffer >> scale, 0xFFFF)

    def wfree(self, skb: SkBuff) -> None:
        """A clone below the stack was freed or orphaned: give back what it was charged (`tcp_wfree`)."""
        self.wmem_alloc -= skb.end_seq - skb.seq

    def unwrap_seq(self, seq: int) -> int:
        """Return the stream position nearest to `rcv_nxt` that a 32-bit sequence number can mean."""
        return self.rcv_nxt + ((seq - self.rcv_nxt + HALF) & M32) - HALF

    def unwrap_ack(self, ack: int) -> int:
        """Return the stream position nearest to `snd_una` that a 32-bit acknowledgement can mean."""
        return self.snd_una + ((ack - self.snd_una + HALF) & M32) - HALF

    def take_received(self) -> list[bytes]:
        """Return the stream bytes that arrived in order since the last call, in pieces as they came."""
        received = self.received
        self.received = []
        if self.paged:
            return [piece if isinstance(piece, bytes) else piece.read() for piece in received]
        return received  # type: ignore[return-value]  # then there is nothing but bytes in it

    def keeps(self, payload: PagedPayload) -> bool:
        """Say whether what came in a packet, or a part of it, waits here to be read."""
        early = [piece for _, piece in self.out_of_order]
        return any(piece.skb is payload.skb for piece in (*self.received, *early) if isinstance(piece, PagedPayload))

    def purge(self) -> None:
        """Let go of everything that is queued: the connection is gone. What came in order may still be read."""
        for skb in (*self.rtx_queue, *self.write_queue):
            kfree_skb(skb)
        self.rtx_queue.clear()
        self.write_queue.clear()
        for _, piece in self.out_of_order:
            if isinstance(piece, PagedPayload):
                piece.let_go()
        self.out_of_order.clear()
        self.lost_out = 0
        self.deadline = None
