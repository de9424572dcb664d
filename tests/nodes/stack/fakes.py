"""What the stack's tests share: hosts over real cards, a wire between them in virtual time, and a peer played by hand.

The encoder here is a second, slow implementation of RFC 791, 793, 768 and 1071, written without looking at packets.py.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import TypeVar

from lateack.nodes.facts import Fact
from lateack.nodes.memory.pages import HeadSlab, Memory, PagePool
from lateack.nodes.node import MS, Effect, S, SetTimer
from lateack.nodes.stack.host import HostAddress, IpStack
from lateack.nodes.stack.lifetime import Frag
from lateack.nodes.stack.nic import Nic
from lateack.nodes.stack.packets import ACK, FIN, SYN, Segment, parse
from lateack.nodes.stack.skb import SkBuff, pages_holding
from lateack.nodes.stack.tcp import CLOSE_WAIT, TcpParameters, TcpSocket
from lateack.nodes.stack.tcp_output import tcp_sendmsg

FactKind = TypeVar("FactKind", bound=Fact)

GUEST, SERVER = 0x0A000001, 0x0A000002
GUEST_MAC, SERVER_MAC = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"
PORT = 2049
MTU = 1500
MSS = 1460


# --- a second implementation of the headers ---------------------------------------------------------------------------


def slow_checksum(data: bytes) -> int:
    """Return the internet checksum of *data*, word by word with end-around carry (RFC 1071 section 4.1)."""
    total = 0
    for at in range(0, len(data), 2):
        total += data[at] << 8 | (data[at + 1] if at + 1 < len(data) else 0)
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def slow_ip(protocol: int, body: bytes, *, source: int, target: int, ident: int = 7, fragment: int = 0x4000) -> bytes:
    """Return an Ethernet frame with a 20-byte IPv4 header around *body*."""
    macs = {GUEST: GUEST_MAC, SERVER: SERVER_MAC}
    header = bytearray.fromhex("4500")
    header += (20 + len(body)).to_bytes(2, "big") + ident.to_bytes(2, "big") + fragment.to_bytes(2, "big")
    header += bytes([64, protocol, 0, 0]) + source.to_bytes(4, "big") + target.to_bytes(4, "big")
    header[10:12] = slow_checksum(bytes(header)).to_bytes(2, "big")
    unknown = b"\2\0\0\0\0\x09"
    return macs.get(target, unknown) + macs.get(source, unknown) + b"\x08\x00" + bytes(header) + body


def slow_transport_sum(protocol: int, body: bytes, source: int, target: int) -> bytes:
    """Return the two checksum bytes of a TCP segment or UDP datagram whose own field is zero."""
    pseudo = source.to_bytes(4, "big") + target.to_bytes(4, "big") + bytes([0, protocol]) + len(body).to_bytes(2, "big")
    return slow_checksum(pseudo + body).to_bytes(2, "big")


def slow_tcp(
    *,
    source: int = SERVER,
    target: int = GUEST,
    sport: int = PORT,
    dport: int = 700,
    seq: int = 0,
    ack: int = 0,
    flags: int = ACK,
    window: int = 0xFFFF,
    options: bytes = b"",
    payload: bytes = b"",
) -> bytes:
    """Return a whole frame with one TCP segment."""
    body = bytearray()
    body += sport.to_bytes(2, "big") + dport.to_bytes(2, "big")
    body += (seq & 0xFFFFFFFF).to_bytes(4, "big") + (ack & 0xFFFFFFFF).to_bytes(4, "big")
    body += bytes([(5 + len(options) // 4) << 4, flags]) + window.to_bytes(2, "big") + bytes(4) + options + payload
    body[16:18] = slow_transport_sum(6, bytes(body), source, target)
    return slow_ip(6, bytes(body), source=source, target=target)


def slow_udp(
    payload: bytes, *, source: int = GUEST, target: int = SERVER, sport: int = 700, dport: int = PORT
) -> bytes:
    """Return a whole frame with one UDP datagram."""
    body = bytearray(sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + (8 + len(payload)).to_bytes(2, "big"))
    body += bytes(2) + payload
    body[6:8] = slow_transport_sum(17, bytes(body), source, target)
    return slow_ip(17, bytes(body), source=source, target=target)


# --- a host and what its owner does -----------------------------------------------------------------------------------


class Host:
    """A machine reduced to its stack and its card: it reads what arrives and, if told to, closes when the peer does."""

    def __init__(
        self,
        address: int,
        *,
        parameters: TcpParameters | None = None,
        isn: int = 1,
        gso: bool = True,
        mtu: int = MTU,
        queue_max: int = 1000,
        frames: int = 512,
    ) -> None:
        macs = {GUEST: GUEST_MAC, SERVER: SERVER_MAC}
        self.memory = Memory(1, frames)
        self.pool = PagePool(self.memory, 0, frames)
        self.slab = HeadSlab(self.memory, self.pool)
        self.effects: list[Effect] = []
        self.facts: list[Fact] = []
        self.nic = Nic("nic", self.effects, queue_max=queue_max)
        self.stack = IpStack(
            HostAddress(address, macs[address]), macs, slab=self.slab, pool=self.pool, effects=self.effects,
            parameters=parameters or TcpParameters(), isn=isn, gso=gso, mtu=mtu,
        )  # fmt: skip
        self.stack.device = self.nic
        self.inbox = bytearray()
        self.closes_back = True

    def attend(self, now: int) -> None:
        """Do what a server does at the end of a burst: read, and close a connection that the peer has closed."""
        for sk in tuple(self.stack.touched_sockets()):
            self.inbox += b"".join(sk.take_received())
            if self.closes_back and sk.state == CLOSE_WAIT:
                self.stack.close(sk, now)

    def send(self, sk: TcpSocket, data: bytes, now: int) -> list[SkBuff]:
        """Send *data* out of fresh pages by reference."""
        return self.send_pages(sk, pages_holding(data, self.pool), data, now)

    def send_pages(self, sk: TcpSocket, frags: Sequence[Frag], data: bytes, now: int) -> list[SkBuff]:
        """Send pages by reference that hold *data* now."""
        skbs = tcp_sendmsg(sk, b"", frags, b"", data)
        self.stack.send_queued(sk, now)
        return skbs

    def of(self, kind: type[FactKind]) -> list[FactKind]:
        """Return the facts of one type, in order."""
        return [fact for fact in self.facts if isinstance(fact, kind)]

    def leaks(self) -> tuple[int, int]:
        """Return how many heads and how many pages are not back home."""
        return self.slab.outstanding, self.pool.outstanding - len(self.slab.pages)


Meddle = Callable[[Host, bytes], list[tuple[int, bytes]]]


class Wire:
    """Two hosts and a link in virtual time; `meddle` says what becomes of a frame: (extra delay, bytes)."""

    def __init__(self, client: Host, server: Host, delay: int = MS // 2) -> None:
        self.client, self.server = client, server
        self.delay = delay
        self.now = 0
        self.meddle: Meddle = lambda sender, frame: [(0, frame)]
        self.events: list[tuple[int, int, Host, bytes | str]] = []
        self.timers: dict[tuple[int, str], int] = {}
        self.count = 0
        self.log: list[tuple[int, Host, Segment]] = []
        server.stack.listen(PORT)

    def connect(self) -> tuple[TcpSocket, TcpSocket]:
        """Open a connection and run until it is quiet; return both ends."""
        near = self.client.stack.connect(SERVER, PORT, self.now)
        self.settle(self.client)
        self.run()
        far = next(iter(self.server.stack.sockets.values()))
        return near, far

    def settle(self, host: Host) -> None:
        """Carry out what *host* wants done."""
        host.attend(self.now)
        host.stack.flush(self.now)
        for frame in host.nic.take_frames():
            self._put(host, frame)
        for effect in host.effects:
            if isinstance(effect, SetTimer):
                self.timers[id(host), effect.name] = effect.at
                self._push(effect.at, host, effect.name)
            elif isinstance(effect, Fact):
                host.facts.append(effect)
        host.effects.clear()

    def step(self) -> bool:
        """Handle the next event; return False when there is none."""
        if not self.events:
            return False
        at, _, host, what = heapq.heappop(self.events)
        self.now = max(self.now, at)
        if isinstance(what, bytes):
            host.stack.receive(what, self.now)
        elif self.timers.get((id(host), what)) == at:
            del self.timers[id(host), what]
            assert host.stack.timer_fired(what, self.now)
        self.settle(host)
        return True

    def run(self, steps: int = 100_000, until: int | None = None) -> None:
        """Run until nothing is left to do, or until a time."""
        for _ in range(steps):
            if until is not None and self.events and self.events[0][0] > until:
                self.now = until
                return
            if not self.step():
                return
        raise AssertionError("the world does not come to rest")

    def _put(self, host: Host, frame: bytes) -> None:
        other = self.server if host is self.client else self.client
        self.log.append((self.now, host, parse(frame)))
        for extra, carried in self.meddle(host, frame):
            self._push(self.now + self.delay + extra, other, carried)

    def _push(self, at: int, host: Host, what: bytes | str) -> None:
        self.count += 1
        heapq.heappush(self.events, (at, self.count, host, what))


def wire(*, gso: bool = True, isn: tuple[int, int] = (1, 1), parameters: TcpParameters | None = None) -> Wire:
    """Return a wire between a fresh client and a fresh server."""
    return Wire(
        Host(GUEST, isn=isn[0], gso=gso, parameters=parameters),
        Host(SERVER, isn=isn[1], gso=gso, parameters=parameters),
    )


# --- one stack and a peer played by hand ------------------------------------------------------------------------------


class Bench:
    """One connected stack whose peer is the test itself; positions are relative to the first data byte of each side."""

    ISS, IRS = 1000, 5000

    def __init__(
        self,
        *,
        parameters: TcpParameters | None = None,
        gso: bool = False,
        window: int = 0xFFFF,
        connected: bool = True,
        iss: int = ISS,
        irs: int = IRS,
        mss: int = MSS,
    ) -> None:
        self.host = Host(GUEST, parameters=parameters, isn=iss, gso=gso)
        self.now = 10 * S
        self.iss, self.irs = iss, irs
        self.sk = self.host.stack.connect(SERVER, PORT, self.now)
        self.window = window
        if connected:
            self.flush()
            self.now += 1  # a round trip so short that the first timeout is rto_min
            options = b"\x02\x04" + mss.to_bytes(2, "big") + b"\x01\x03\x03\x00"
            self.peer(seq=-1, ack=0, flags=SYN | ACK, options=options)
            self.sent()
            self.host.facts.clear()

    def peer(
        self,
        *,
        seq: int = 0,
        ack: int | None = 0,
        flags: int = ACK,
        payload: bytes = b"",
        options: bytes = b"",
        window: int | None = None,
    ) -> None:
        """Let the peer send one segment, which is a burst of its own."""
        self.peer_burst([(seq, ack, flags, payload)], options=options, window=window)

    def peer_burst(
        self,
        segments: Sequence[tuple[int, int | None, int, bytes]],
        *,
        options: bytes = b"",
        window: int | None = None,
    ) -> None:
        """Let several segments of the peer arrive in one burst: (seq, ack, flags, payload)."""
        for seq, ack, flags, payload in segments:
            frame = slow_tcp(
                seq=self.irs + 1 + seq, ack=0 if ack is None else self.iss + 1 + ack, flags=flags, payload=payload,
                options=options, window=self.window if window is None else window, dport=self.sk.local_port,
            )  # fmt: skip
            self.host.stack.receive(frame, self.now)
        self.flush()

    def flush(self) -> None:
        """End the burst and keep its facts."""
        self.host.attend(self.now)
        self.host.stack.flush(self.now)
        self.host.facts += [effect for effect in self.host.effects if isinstance(effect, Fact)]
        self.host.effects.clear()

    def send(self, data: bytes) -> list[SkBuff]:
        """Let the stack's application send."""
        skbs = self.host.send(self.sk, data, self.now)
        self.flush()
        return skbs

    def fire(self) -> int:
        """Go to the connection's deadline and let the timer fire; return how long that took (ns)."""
        assert self.sk.deadline is not None
        waited = self.sk.deadline - self.now
        self.now = self.sk.deadline
        self.host.stack.timer_fired(f"tcp {self.sk.flow}", self.now)
        self.flush()
        return waited

    def close(self) -> None:
        """Let the stack's application close."""
        self.host.stack.close(self.sk, self.now)
        self.flush()

    def segments(self) -> list[Segment]:
        """Return what has left since the last look, decoded."""
        return [parse(frame) for frame in self.host.nic.take_frames()]

    def sent(self) -> list[tuple[int, int, int, int]]:
        """Return what has left since the last look: (seq, ack, flags, payload length), relative positions."""
        return [
            ((s.seq - self.iss - 1) & 0xFFFFFFFF, (s.ack - self.irs - 1) & 0xFFFFFFFF, s.flags, len(s.payload))
            for s in self.segments()
        ]

    def sent_data(self) -> list[tuple[int, int]]:
        """Return (seq, length) of the data segments that have left since the last look."""
        return [(seq, length) for seq, _, _, length in self.sent() if length]


def pattern(length: int, salt: int = 0) -> bytes:
    """Return *length* bytes in which every position can be told from its neighbours."""
    return b"".join([(at * 2654435761 + salt & 0xFFFFFFFF).to_bytes(4, "big") for at in range(-(-length // 4))])[
        :length
    ]


__all__ = ["ACK", "FIN", "SYN", "Bench", "Host", "Wire", "pattern", "wire"]
