"""The guest in the hand: a backend that answers honestly, a server of frames, and everything that may go wrong."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest

from lateack.nodes.application import Source
from lateack.nodes.backend import Backend, BackendConfig
from lateack.nodes.facts import (
    BufferRefilled,
    CallTimedOut,
    CallTransmitted,
    CompletionDeferred,
    Connected,
    CopyFailed,
    CopyFinished,
    Counted,
    Fact,
    FrontendBroken,
    LeftOver,
    ReplyMatched,
    SegmentTransmitted,
    WriteCompleted,
    WriteExecuted,
    WriteIssued,
)
from lateack.nodes.guest import RPC_TIMER, Guest, GuestConfig
from lateack.nodes.memory.pages import Memory
from lateack.nodes.memory.ring import RSP_PROD
from lateack.nodes.messages import Frames, Message, Notify, Xenbus
from lateack.nodes.node import (
    MS,
    Audit,
    Boot,
    CancelTimer,
    Effect,
    Event,
    Node,
    Received,
    S,
    Send,
    SetTimer,
    TimerFired,
)
from lateack.nodes.server import Server, ServerConfig
from lateack.nodes.split.xenbus import CONNECTED, INIT_WAIT, backend_features
from lateack.nodes.stack.host import HostAddress
from lateack.nodes.stack.packets import RST
from lateack.nodes.stack.skb import SkBuff
from lateack.nodes.stack.tcp import TcpParameters
from lateack.nodes.storage import nfs
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.storage.rpc_client import RpcTimeouts
from lateack.nodes.strategies.backend import DevZerocopy
from lateack.nodes.strategies.guest import FragDestructors, FullCopy, GuestStrategy, OnReply, Write
from tests.nodes.hand import GUEST_IP, GUEST_MAC, SERVER_IP, SERVER_MAC, facts_of, messages_to, tcp_frame

F = TypeVar("F", bound=Fact)


class Bytes:
    """A file in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, offset: int, count: int) -> bytes:
        """Return *count* bytes from *offset*."""
        return self.data[offset : offset + count]


def pattern(size: int) -> bytes:
    """Return bytes that tell where they are from."""
    return bytes((at * 7 + at // 4096) % 251 for at in range(size))


def config_of(**settings: object) -> GuestConfig:
    """Return a guest's configuration with some settings changed."""
    given: dict[str, object] = {
        "name": "guest1", "backend": "backend", "address": HostAddress(GUEST_IP, GUEST_MAC), "server": SERVER_IP,
        "neighbours": {SERVER_IP: SERVER_MAC}, "tcp": TcpParameters(), "rpc": RpcTimeouts.tcp(), "root": b"",
        "file": "input.bin", "buffers": 1, "write_size": 4096, "rx_target": 8,
    }  # fmt: skip
    return GuestConfig(**(given | settings))  # type: ignore[arg-type]


class Hand:
    """A guest, a backend and a server that a test carries messages between, one moment after the other."""

    def __init__(
        self, data: bytes = pattern(8192), strategy: type[GuestStrategy] = OnReply, **settings: object
    ) -> None:
        self.store = MemoryStore(handle_bytes=36)
        memory = Memory(1, 200)
        source: Source = Bytes(data)
        self.guest = Guest(config_of(root=self.store.root, **settings), memory, strategy, source)
        addresses = {GUEST_IP: "guest1", SERVER_IP: "server"}
        self.backend = Backend(
            BackendConfig("backend", "network", {"guest1": 1}, addresses), {"guest1": memory}, DevZerocopy
        )
        server = HostAddress(SERVER_IP, SERVER_MAC)
        clients = {GUEST_IP: "guest1"}
        self.server = Server(
            ServerConfig("server", "network", server, {GUEST_IP: GUEST_MAC}, clients, TcpParameters()), self.store
        )
        self.machines: dict[str, Node] = {"guest1": self.guest, "backend": self.backend, "server": self.server}
        self.now = 0
        self.facts: list[Fact] = []
        self.timers: dict[tuple[str, str], int] = {}
        self.queue: list[tuple[str, str, Message]] = []
        self.passes: Callable[[str, bytes], bool] = lambda target, frame: True
        self.held: list[tuple[str, bytes]] = []

    def handle(self, name: str, event: Event) -> Sequence[Effect]:
        """Let one machine handle one event; keep facts, timers and messages."""
        effects = self.machines[name].handle(event, self.now)
        for effect in effects:
            match effect:
                case Send(target, message):
                    self.queue.append((name, target, message))
                case SetTimer(timer, at):
                    self.timers[name, timer] = at
                case CancelTimer(timer):
                    self.timers.pop((name, timer), None)
                case _:
                    self.facts.append(effect)
        return effects

    def boot(self) -> None:
        """Boot all machines and carry what follows."""
        for name in self.machines:
            self.handle(name, Boot())
        self.carry()

    def carry(self) -> None:
        """Carry messages until there are none; frames through `passes`."""
        while self.queue:
            source, target, message = self.queue.pop(0)
            if target != "network":
                self.handle(target, Received(source, message))
                continue
            assert isinstance(message, Frames)
            way = "server" if source == "backend" else "backend"
            for frame in message.frames:
                if self.passes(way, frame):
                    self.handle(way, Received("network", Frames((frame,))))
                else:
                    self.held.append((way, frame))

    def release(self) -> None:
        """Let all frames pass, those held first."""
        self.passes = lambda target, frame: True
        held, self.held = self.held, []
        for way, frame in held:
            self.handle(way, Received("network", Frames((frame,))))
        self.carry()

    def fire(self) -> None:
        """Let the earliest timer fire."""
        name, timer = min(self.timers, key=lambda key: self.timers[key])
        self.now = max(self.now, self.timers.pop((name, timer)))
        self.handle(name, TimerFired(timer))
        self.carry()

    def of(self, kind: type[F]) -> list[F]:
        """Return the facts of one type so far."""
        return facts_of(self.facts, kind)

    def left_over(self) -> list[LeftOver]:
        """Audit all machines; return what was never given back."""
        for name in self.machines:
            self.handle(name, Audit())
        return self.of(LeftOver)

    def file(self, name: bytes = b"input.bin") -> bytes:
        """Return what lies in a file of the server."""
        handle = self.store.lookup(self.store.root, name)
        return self.store.read(handle, 0, 1 << 20)


def no_replies(target: str, frame: bytes) -> bool:
    """Hold what the server sends, once there is payload in it or an acknowledgement of a WRITE."""
    return target == "server"


def test_it_waits_for_its_backend() -> None:
    """At boot a guest does nothing; when the backend waits it publishes its keys; when it is connected it calls."""
    guest = Guest(config_of(), Memory(1, 100), OnReply, Bytes(b"x"))

    booted = guest.handle(Boot(), 0)
    offered = guest.handle(Received("backend", Xenbus(INIT_WAIT, backend_features(True))), 0)
    connected = guest.handle(Received("backend", Xenbus(CONNECTED, {})), 5)

    assert booted == []
    (keys,) = messages_to(offered, "backend")
    assert isinstance(keys, Xenbus)
    assert keys.state == CONNECTED
    assert messages_to(connected, "backend") == [Notify(1)]
    assert [effect.at for effect in connected if isinstance(effect, SetTimer)] == [5 + S]
    assert guest.pending() > 0


def test_a_backend_without_gso_gets_short_packets() -> None:
    """Where feature-gso-tcpv4 is missing no packet is longer than the MTU."""
    hand = Hand(pattern(32768), write_size=32768)
    hand.guest.handle(Received("backend", Xenbus(INIT_WAIT, backend_features(False))), 0)

    assert not hand.guest.stack.gso


@pytest.mark.parametrize("strategy", [OnReply, FragDestructors, FullCopy])
@pytest.mark.parametrize("size", [0, 1, 4096, 10_000, 40_000])
def test_it_copies_its_file(strategy: type[GuestStrategy], size: int) -> None:
    """Every byte arrives, every write is completed once, and nothing is left over on either side."""
    hand = Hand(pattern(size), strategy, buffers=3)

    hand.boot()

    assert hand.file() == pattern(size)
    assert hand.of(CopyFinished) == [CopyFinished("input.bin", size)]
    assert [fact.xid for fact in hand.of(WriteIssued)] == [fact.xid for fact in hand.of(WriteCompleted)]
    assert len(hand.of(BufferRefilled)) == max(0, -(-size // 4096) - 3)
    assert hand.guest.pending() == 0
    assert hand.left_over() == []


@pytest.mark.parametrize("size", [1, 4096, 5001])
def test_it_copies_over_udp(size: int) -> None:
    """Each call is a datagram, cut to the MTU where it must be."""
    hand = Hand(pattern(size), transport="udp", rpc=RpcTimeouts.udp())

    hand.boot()

    assert hand.file() == pattern(size)
    assert hand.of(Connected) == []
    assert hand.left_over() == []


def test_unstable_writes_are_complete_after_the_commit() -> None:
    """The pages must be at hand until the server has committed them: COMMIT stands between reply and completion."""
    hand = Hand(pattern(8192), stable=nfs.UNSTABLE)

    hand.boot()

    assert [fact.proc for fact in hand.of(ReplyMatched)] == [nfs.CREATE] + [nfs.WRITE, nfs.COMMIT] * 2
    order = [type(fact).__name__ for fact in hand.facts if isinstance(fact, ReplyMatched | WriteCompleted)]
    assert order[1:] == ["ReplyMatched", "ReplyMatched", "WriteCompleted"] * 2


def test_a_folder_is_made_where_several_copy() -> None:
    """A file name with a folder makes the folder first."""
    hand = Hand(pattern(100), file="guest1/input.bin")

    hand.boot()

    assert [fact.proc for fact in hand.of(ReplyMatched)][:2] == [nfs.MKDIR, nfs.CREATE]
    assert len(hand.of(CopyFinished)) == 1


def test_a_call_that_times_out_is_sent_again() -> None:
    """Under the same xid, out of the same page, as new bytes of the stream."""
    hand = Hand(rpc=RpcTimeouts.tcp(timeo=50 * MS))
    hand.passes = lambda target, frame: target == "server" or not hand.of(WriteIssued)
    hand.boot()

    hand.fire()
    hand.release()

    (first,) = {fact.xid for fact in hand.of(CallTimedOut)}
    assert [fact.transmission for fact in hand.of(CallTransmitted) if fact.xid == first] == [1, 2]
    assert hand.of(CallTimedOut)[0].major is False
    assert len(hand.of(CopyFinished)) == 1
    assert hand.file() == pattern(8192)


def test_only_the_call_that_had_a_major_timeout_says_so() -> None:
    """Two calls expire in one moment: the one that waits longer has its major timeout, the other has not."""
    hand = Hand(pattern(8192), buffers=2, rpc=RpcTimeouts(50 * MS, 1, 50 * MS, False, S))
    hand.passes = lambda target, frame: target == "server" or not hand.of(WriteIssued)
    hand.boot()
    first, second = sorted(hand.guest.rpc.pending)
    hand.fire()
    hand.guest.rpc.pending[second].major_deadline += S
    hand.guest.rpc.pending[second].deadline = hand.guest.rpc.pending[first].deadline

    while not any(fact.major for fact in hand.of(CallTimedOut)):
        hand.fire()

    assert [fact.xid for fact in hand.of(CallTimedOut)] == [first, second] * 2
    assert [fact.xid for fact in hand.of(CallTimedOut) if fact.major] == [first]


def test_a_soft_mount_gives_up() -> None:
    """The application is told that it failed, and issues nothing more, whatever replies come late."""
    hand = Hand(pattern(40_960), buffers=2, rpc=RpcTimeouts.tcp(timeo=50 * MS, retrans=0, soft=True))
    hand.passes = lambda target, frame: target == "server" or len(hand.of(WriteIssued)) < 2
    hand.boot()

    hand.fire()
    hand.release()

    assert [fact.reason for fact in hand.of(CopyFailed)] == ["a call timed out (soft mount)"]
    assert len(hand.of(WriteIssued)) == 2
    assert hand.of(CopyFinished) == []


def test_after_a_failure_no_further_write_is_issued() -> None:
    """One write's failure ends the copy: buffers that come back are not refilled."""
    hand = Hand(pattern(40_960), buffers=2)
    hand.passes = lambda target, frame: target == "server" or len(hand.of(WriteIssued)) < 2
    hand.boot()
    hand.guest._fail("it was told to")

    hand.release()

    assert len(hand.of(WriteCompleted)) == 2
    assert len(hand.of(WriteIssued)) == 2
    assert hand.of(BufferRefilled) == []


def test_a_lost_connection_is_a_failure_and_not_a_crash() -> None:
    """The server resets; the calls that wait have nobody to go to, and their timers fire into the void."""
    hand = Hand(pattern(40_960), buffers=2, rpc=RpcTimeouts.tcp(timeo=50 * MS))
    hand.passes = lambda target, frame: target == "server" or len(hand.of(WriteIssued)) < 2
    hand.boot()
    sk = hand.guest.socket
    assert sk is not None
    reset = tcp_frame(seq=sk.rcv_nxt & 0xFFFFFFFF, ack=1, to_server=False, flags=RST)

    hand.handle("backend", Received("network", Frames((reset,))))
    hand.carry()
    for _ in range(3):
        if ("guest1", RPC_TIMER) in hand.timers:
            hand.now = hand.timers.pop(("guest1", RPC_TIMER))
            hand.handle("guest1", TimerFired(RPC_TIMER))

    assert [fact.reason for fact in hand.of(CopyFailed)] == ["the connection to the server was lost"]
    assert hand.guest.pending() == 0
    assert len(hand.of(CallTransmitted)) == 3


def test_a_late_acknowledgement_gives_the_page_away() -> None:
    """The whole story in the hand: while the answer is held the segment is sent again; the reply frees the page."""
    hand = Hand()
    hand.passes = lambda target, frame: target == "server" or not hand.of(WriteIssued)
    hand.boot()
    while not any(fact.transmission == 2 and fact.length > 4096 // 4 for fact in hand.of(SegmentTransmitted)):
        hand.fire()
    before = hand.of(BufferRefilled)

    hand.release()

    assert before == []
    assert len(hand.of(CopyFinished)) == 1
    assert hand.file() == pattern(8192)
    assert hand.left_over() == []


class Watcher(GuestStrategy):
    """Notes when each hook is called, and defers every completion to the end of time."""

    name = "watcher"
    watches_clones = True
    seen: list[str] = []  # noqa: RUF012

    def take(self, write: Write) -> list:  # type: ignore[type-arg]
        """Note it."""
        self.seen.append("take")
        return super().take(write)

    def queued(self, write: Write, skbs: list[SkBuff]) -> None:
        """Note how many packets hold the call."""
        self.seen.append(f"queued {len(skbs)}")

    def skb_shared(self, skb: SkBuff, clone: SkBuff) -> None:
        """Note clones of packets with pages."""
        if skb.shinfo.frags:
            self.seen.append("shared")

    def replied(self, write: Write) -> None:
        """Keep the page for ever."""
        self.seen.append("replied")


def test_a_strategy_of_ones_own_is_asked_at_every_moment() -> None:
    """A subclass's hooks run in the order of a packet's life, and the application waits as long as it likes."""
    Watcher.seen.clear()
    hand = Hand(strategy=Watcher)

    hand.boot()

    assert Watcher.seen == ["take", "queued 1", "shared", "replied"]
    assert len(hand.of(CompletionDeferred)) == 1
    assert hand.of(WriteCompleted) == []
    assert hand.guest.pending() == 1


def test_a_strategy_may_not_complete_twice() -> None:
    """That is a bug of the strategy, and is said so."""
    hand = Hand(strategy=Watcher)
    hand.boot()
    (request,) = hand.of(WriteIssued)
    write = hand.guest.copier.buffers[0]

    class Done:
        """Not a write at all."""

    with pytest.raises(AssertionError):
        hand.guest.complete(Done())  # type: ignore[arg-type]
    assert request.buffer == write.index


def test_full_copy_is_charged_for() -> None:
    """The counters of the audit tell the payload and what was copied of it."""
    hand = Hand(pattern(8192), FullCopy)
    hand.boot()

    hand.left_over()

    counts = {fact.name: fact.amount for fact in hand.of(Counted)}
    assert counts["payload_bytes"] == 8192
    assert next(fact.amount for fact in hand.of(Counted) if fact.name == "copied_bytes") == 8192


def test_a_broken_backend_stops_the_device() -> None:
    """A response that names nothing is recorded, and the guest goes on without its device."""
    hand = Hand()
    hand.passes = lambda target, frame: target == "server" or not hand.of(WriteIssued)
    hand.boot()
    netfront = hand.guest.netfront
    netfront.memory.words[netfront.tx.header + RSP_PROD] += 1000

    hand.handle("guest1", Received("backend", Notify(1)))
    hand.fire()

    assert len(hand.of(FrontendBroken)) == 1
    assert hand.of(CopyFinished) == []


def test_it_has_no_use_for_frames() -> None:
    """A guest is reached through its ring only; anything else is our own bug."""
    guest = Guest(config_of(), Memory(1, 100), OnReply, Bytes(b"x"))

    with pytest.raises(AssertionError):
        guest.handle(Received("network", Frames((b"x",))), 0)


def test_what_the_server_executed_is_what_was_issued() -> None:
    """The two machines agree on xid, place and digest: the join that the oracles make."""
    hand = Hand(pattern(20_000), buffers=2)

    hand.boot()

    issued = {(fact.xid, fact.offset, fact.count, fact.digest) for fact in hand.of(WriteIssued)}
    assert issued == {(fact.xid, fact.offset, fact.count, fact.digest) for fact in hand.of(WriteExecuted)}
