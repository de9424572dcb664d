"""A host's IPv4 stack: its addresses, its sockets, and the way from a burst of frames to the right socket and back.

The owner (guest or server) feeds bursts and timers, looks at its sockets, and calls `flush`; what the stack wants done
comes out of the shared `effects` list. Neighbours are known from the start: there is no ARP, the topology is fixed.
"""

from collections.abc import Sequence

from lateack.nodes.facts import ConnectionReset, FrameDropped
from lateack.nodes.memory.pages import HeadSlab, PagePool
from lateack.nodes.node import Effect, SetTimer
from lateack.nodes.records import Record
from lateack.nodes.stack.packets import (
    ACK,
    FIN,
    IPPROTO_UDP,
    M32,
    PSH,
    RST,
    SYN,
    Malformed,
    Segment,
    address_text,
    parse,
)
from lateack.nodes.stack.paged import PagedSegment
from lateack.nodes.stack.tcp import CLOSED, TIME_WAIT, CloneHook, Device, TcpParameters, TcpSocket
from lateack.nodes.stack.tcp_input import take_syn, tcp_flush, tcp_rcv
from lateack.nodes.stack.tcp_output import tcp_accept_syn, tcp_close, tcp_connect, tcp_write_xmit
from lateack.nodes.stack.tcp_segment import tcp_send_reset
from lateack.nodes.stack.tcp_timer import tcp_timer_fired
from lateack.nodes.stack.udp import Reassembly, UdpSocket

EPHEMERAL_FIRST, EPHEMERAL_LAST = 700, 1023
"""NFS clients bind reserved ports below 1024 (`xprt_max_resvport`), which is where knfsd expects them."""

SOCKETS_MAX = 4096
"""Connections that a host keeps; beyond it the closed ones are forgotten, and then no more are accepted."""

ISN_GAP = 65_537
"""How far behind its predecessor's last byte a connection between the same ports begins (`tcp_twsk_unique`)."""

GRO_SEGMENTS_MAX = 43
"""Segments that may be merged behind a first one: together no more than an IPv4 packet of 64 KiB could hold."""
UNFRAGMENTED = frozenset(bytes((flags, 0)) for flags in (0x00, 0x40, 0x80, 0xC0))
"""What the flags and the fragment offset of a whole IPv4 packet may be: anything but MF and an offset."""


class HostAddress(Record):
    """Where a host is found: its IPv4 address as a number and its Ethernet address."""

    ip: int
    mac: bytes


class IpStack:
    """One host's sockets over one device; also what a socket knows of its host (`tcp.Stack`)."""

    def __init__(
        self,
        address: HostAddress,
        neighbours: dict[int, bytes],
        *,
        slab: HeadSlab,
        pool: PagePool,
        effects: list[Effect],
        parameters: TcpParameters,
        mtu: int = 1500,
        gso: bool = True,
        isn: int = 1,
    ) -> None:
        self.name = address_text(address.ip)
        self.address = address.ip
        self.mac = address.mac
        self.neighbours = neighbours
        self.slab = slab
        self.pool = pool
        self.effects = effects
        self.parameters = parameters
        self.mtu = mtu
        self.gso = gso
        self.isn = isn
        self.ident = 1
        self.clone_hook: CloneHook | None = None
        self.device: Device
        self.sockets: dict[tuple[int, int, int], TcpSocket] = {}
        self.datagram_sockets: dict[int, UdpSocket] = {}
        self.listeners: set[int] = set()
        self.touched: list[TcpSocket] = []
        self.timers: dict[str, TcpSocket] = {}
        self.next_port = EPHEMERAL_FIRST
        self.reassembly = Reassembly()

    def macs_to(self, address: int) -> tuple[bytes, bytes]:
        """Return the (target, own) Ethernet addresses for an IPv4 destination."""
        return self.neighbours[address], self.mac

    def forget_sockets(self) -> None:
        """Let go of the sockets at the end: each knows its stack, and would wait for the garbage collector with it."""
        self.sockets.clear()
        self.datagram_sockets.clear()
        self.timers.clear()
        self.touched.clear()

    # --- opening and closing ------------------------------------------------------------------------------------------

    def listen(self, port: int) -> None:
        """Accept TCP connections to *port*."""
        self.listeners.add(port)

    def connect(self, address: int, port: int, now: int, *, local_port: int | None = None) -> TcpSocket:
        """Open a TCP connection from the next free local port; it is established when its state says so.

        From *local_port* where that is given (SO_REUSEPORT): then a former connection between the same ports is closed.
        """
        if local_port is None:
            local_port = self._next_port()
        sk = self._new_socket(local_port, address, port)
        tcp_connect(sk, now)
        self.touched.append(sk)
        return sk

    def bind_udp(self, port: int | None = None) -> UdpSocket:
        """Open a UDP socket on *port*, or on the next free one."""
        if port is None:
            port = self._next_port()
        sk = self.datagram_sockets[port] = UdpSocket(self, port)
        return sk

    def close(self, sk: TcpSocket, now: int) -> None:
        """Close a connection once what is queued has gone."""
        tcp_close(sk, now)
        self.touched.append(sk)

    # --- events -------------------------------------------------------------------------------------------------------

    def receive(self, frame: bytes, now: int) -> None:
        """Take one frame from the device; what it held is found in the sockets afterwards."""
        segment = self._parse(frame)
        if segment is not None:
            self._receive(segment, now)

    def receive_segment(self, segment: Segment | PagedSegment, now: int) -> None:
        """Take one segment that has never been on a wire (loopback); its payload may still lie in its packet."""
        self._receive(segment, now)
        if isinstance(segment, Segment):
            return
        sk = self.sockets.get((segment.dport, segment.source, segment.sport))
        if sk is not None and sk.keeps(segment.payload):
            sk.paged = True
        else:
            segment.payload.let_go()

    def receive_burst(self, frames: Sequence[bytes], now: int) -> None:
        """Take a burst of frames; TCP segments that continue each other are merged first, as GRO does (gro.c)."""
        if len(frames) == 1:
            self.receive(frames[0], now)
            return
        merged: list[bytes] = []
        head: Segment | None = None
        expected = 0
        for frame in frames:
            segment = self._parse(frame)
            if segment is None:
                continue
            if (
                head is not None
                and segment.seq == expected
                and segment.sport == head.sport
                and segment.flags & ~PSH == ACK == head.flags & ~PSH
                and segment.ack == head.ack
                and segment.source == head.source
                and segment.dport == head.dport
                and segment.payload
                and len(merged) < GRO_SEGMENTS_MAX
            ):
                merged.append(segment.payload)
                expected = (expected + len(segment.payload)) & M32
                head.window = segment.window
                continue
            if head is not None:
                self._deliver(head, merged, now)
                head = None
            if segment.payload and segment.protocol != IPPROTO_UDP:
                head, merged = segment, []
                expected = (segment.seq + len(segment.payload)) & M32
            else:
                self._receive(segment, now)
        if head is not None:
            self._deliver(head, merged, now)

    def _deliver(self, head: Segment, merged: list[bytes], now: int) -> None:
        if merged:
            head.payload = b"".join([head.payload, *merged])
        self._receive(head, now)

    def _parse(self, frame: bytes) -> Segment | None:
        """Decode a frame for this host; a fragment waits for the rest of its datagram."""
        try:
            if frame[20:22] not in UNFRAGMENTED and len(frame) >= 34 and frame[12:14] == b"\x08\x00":
                whole = self.reassembly.take(frame)
                if whole is None:
                    return None
                frame = whole
            segment = parse(frame)
        except Malformed as reason:
            self.effects.append(FrameDropped(self.name, str(reason)))
            return None
        return segment if segment.target == self.address else None  # else the bridge flooded it: it is for another

    def send_queued(self, sk: TcpSocket, now: int) -> None:
        """Send what was queued on a socket, as far as the windows allow."""
        tcp_write_xmit(sk, now)
        if sk not in self.touched:
            self.touched.append(sk)

    def flush(self, now: int) -> None:
        """End of a burst: let every touched socket send what it may, and arm its timer."""
        touched = self.touched
        if not touched:
            return
        self.touched = []
        for sk in touched:
            if sk.state != CLOSED:
                tcp_flush(sk, now)
            deadline = sk.deadline
            if deadline is not None and (sk.armed is None or sk.armed > deadline):
                # A deadline that moves back costs nothing: the early wake-up finds it in the future and asks again.
                sk.armed = deadline
                self.effects.append(SetTimer(sk.timer, deadline))

    def timer_fired(self, name: str, now: int) -> bool:
        """Take a timer that this stack set; return whether it was one of ours."""
        sk = self.timers.get(name)
        if sk is None:
            return False
        sk.armed = None
        if sk.deadline is not None and now >= sk.deadline:
            tcp_timer_fired(sk, now)
        self.touched.append(sk)
        return True

    def pending(self) -> int:
        """Return how many connections still have something to say or to hear."""
        return sum(1 for sk in self.sockets.values() if sk.rtx_queue or sk.write_queue)

    def touched_sockets(self) -> list[TcpSocket]:
        """Return the sockets that the current burst has reached, for the owner to look at."""
        return self.touched

    def abort(self, sk: TcpSocket, reason: str, now: int) -> None:
        """Reset a connection from this end and forget what it had queued."""
        tcp_send_reset(sk, now)
        sk.state = CLOSED
        sk.purge()
        self.effects.append(ConnectionReset(sk.flow, reason))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _receive(self, segment: Segment | PagedSegment, now: int) -> None:
        if segment.protocol == IPPROTO_UDP and isinstance(segment, Segment):
            self._receive_udp(segment)
            return
        key = (segment.dport, segment.source, segment.sport)
        sk = self.sockets.get(key)
        if sk is None or sk.state == CLOSED or (segment.flags & SYN and _begins_anew(sk, segment)):
            sk = self._unknown(segment, now)
            if sk is None:
                return
        else:
            tcp_rcv(sk, segment, now)
        if sk not in self.touched:
            self.touched.append(sk)

    def _unknown(self, segment: Segment | PagedSegment, now: int) -> TcpSocket | None:
        """A segment for no connection: a SYN for a listener opens one, anything else is answered with a RST."""
        if segment.flags & RST or segment.source not in self.neighbours:
            return None
        if len(self.sockets) >= SOCKETS_MAX:
            self._forget_closed()
        acceptable = segment.flags & SYN and not segment.flags & ACK and segment.dport in self.listeners
        if acceptable and len(self.sockets) < SOCKETS_MAX:
            sk = self._new_socket(segment.dport, segment.source, segment.sport)
            take_syn(sk, segment)
            tcp_accept_syn(sk, now)
            return sk
        sk = TcpSocket(self, segment.dport, segment.source, segment.sport, self.parameters, segment.ack)
        sk.rcv_nxt = segment.seq + len(segment.payload) + bool(segment.flags & SYN) + bool(segment.flags & FIN)
        tcp_send_reset(sk, now)
        return None

    def _forget_closed(self) -> None:
        for key, sk in list(self.sockets.items()):
            if sk.state == CLOSED:
                del self.sockets[key], self.timers[sk.timer]

    def _receive_udp(self, segment: Segment) -> None:
        udp = self.datagram_sockets.get(segment.dport)
        if udp is not None:
            udp.received.append((segment.source, segment.sport, segment.payload))

    def _next_port(self) -> int:
        """Return the next local port that nobody uses; behind the last comes the first (`xs_next_srcport`)."""
        used = {sk.local_port for sk in self.sockets.values() if sk.state != CLOSED} | self.datagram_sockets.keys()
        port = self.next_port
        for _ in range(EPHEMERAL_FIRST, EPHEMERAL_LAST + 1):
            following = port + 1 if port < EPHEMERAL_LAST else EPHEMERAL_FIRST
            if port not in used:
                self.next_port = following
                return port
            port = following
        raise AssertionError("every local port is in use: somebody opens connections and never closes them")

    def _new_socket(self, local_port: int, address: int, port: int) -> TcpSocket:
        key = (local_port, address, port)
        former = self.sockets.get(key)
        isn = self.isn
        if former is None:
            self.isn = (isn + 0x0001_0000) & M32
        else:
            # What is still under way from the former connection must be old data to this one (RFC 6528 section 3).
            assert former.state == CLOSED, "the port is in use"
            isn = (former.write_seq + ISN_GAP) & M32
        sk = TcpSocket(self, local_port, address, port, self.parameters, isn)
        self.sockets[key] = sk
        self.timers[sk.timer] = sk
        return sk


def _begins_anew(sk: TcpSocket, segment: Segment | PagedSegment) -> bool:
    """Say whether a SYN opens the next connection between the ports of one in TIME_WAIT, which ends with that.

    Its number must lie behind all that the old one has seen (RFC 9293 3.10.7.4, `tcp_timewait_state_process`).
    """
    if sk.state != TIME_WAIT or segment.flags & ACK or sk.unwrap_seq(segment.seq) <= sk.rcv_nxt:
        return False
    sk.state = CLOSED
    return True
