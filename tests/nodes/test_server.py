"""The NFS server in the hand: clients that speak TCP and UDP to it with frames, and some that talk nonsense."""

from collections.abc import Sequence
from typing import TypeVar

import pytest

from lateack.nodes.facts import (
    Connected,
    ConnectionReset,
    Counted,
    DuplicateCall,
    Fact,
    FileAtRest,
    FrameDropped,
    LeftOver,
    WriteExecuted,
)
from lateack.nodes.memory.pages import HeadSlab, Memory, PagePool
from lateack.nodes.messages import Frames, Notify
from lateack.nodes.nfs import nfs, nfs_calls, nfs_replies
from lateack.nodes.nfs.drc_ganesha import GaneshaRequestCache
from lateack.nodes.nfs.nfs_service import NfsService
from lateack.nodes.nfs.rpc import RecordReader, decode_reply, record_mark
from lateack.nodes.node import MS, Audit, Boot, Effect, Event, Received, SetTimer, TimerFired
from lateack.nodes.rules import Rule
from lateack.nodes.server import Server, ServerConfig
from lateack.nodes.stack.host import HostAddress, IpStack
from lateack.nodes.stack.nic import Nic
from lateack.nodes.stack.packets import digest_of
from lateack.nodes.stack.tcp import CLOSED, ESTABLISHED, TcpParameters, TcpSocket
from lateack.nodes.stack.tcp_output import tcp_sendmsg
from lateack.nodes.stack.udp import udp_sendmsg
from lateack.nodes.storage.memory_store import MemoryStore
from tests.nodes.hand import GUEST_IP, GUEST_MAC, SERVER_IP, SERVER_MAC, facts_of, messages_to, udp_frame
from tests.nodes.nfs.conversation import call_record, write_arguments

OTHER_IP, OTHER_MAC = GUEST_IP + 1, bytes.fromhex("00163e000002")
F = TypeVar("F", bound=Fact)


class Client:
    """A host of its own with one connection, or one UDP port."""

    def __init__(self, address: HostAddress) -> None:
        self.effects: list[Effect] = []
        self.memory = Memory(9, 200)
        self.pool = PagePool(self.memory, 0, 200)
        self.stack = IpStack(
            address, {SERVER_IP: SERVER_MAC}, slab=HeadSlab(self.memory, self.pool), pool=self.pool,
            effects=self.effects, parameters=TcpParameters(),
        )  # fmt: skip
        self.nic = Nic("client.nic", self.effects, queue_max=1000)
        self.stack.device = self.nic
        self.reader = RecordReader()
        self.sk: TcpSocket | None = None
        self.udp = self.stack.bind_udp()
        self.replies: list[bytes] = []

    def send(self, data: bytes) -> None:
        """Put bytes onto the stream."""
        assert self.sk is not None
        for start in range(0, len(data), 400):
            piece = data[start : start + 400]
            tcp_sendmsg(self.sk, piece, (), b"", piece)
        self.stack.send_queued(self.sk, 0)

    def ask(self, xid: int, procedure: int, arguments: bytes) -> None:
        """Send one call as a record."""
        record = call_record(procedure, arguments, xid)
        self.send(record_mark(len(record)) + record)

    def reset(self) -> None:
        """Tear the connection."""
        assert self.sk is not None
        self.stack.abort(self.sk, "torn", 0)

    def goodbye(self) -> None:
        """Close the connection."""
        assert self.sk is not None
        self.stack.close(self.sk, 0)

    def nonsense(self) -> None:
        """Send what no server takes."""
        self.send(b"\xff\xff\xff\xff" + bytes(500))

    def take(self) -> None:
        """Read what has arrived, as records or datagrams."""
        if self.sk is not None:
            for chunk in self.sk.take_received():
                self.replies += self.reader.feed(chunk)
        self.replies += [record for _, _, record in self.udp.take_received()]


class Hand:
    """The server and two clients, with nothing but frames between them."""

    def __init__(self, *, drc: str = "checksum", rules: tuple[Rule, ...] = ()) -> None:
        self.store = MemoryStore(handle_bytes=36)
        config = ServerConfig(
            "server", "network", HostAddress(SERVER_IP, SERVER_MAC), {GUEST_IP: GUEST_MAC, OTHER_IP: OTHER_MAC},
            {GUEST_IP: "guest1", OTHER_IP: "guest2"}, TcpParameters(), drc=drc, audit_chunk=4096, rules=rules,  # type: ignore[arg-type]
        )  # fmt: skip
        self.server = Server(config, self.store)
        self.facts: list[Fact] = []
        self.handle(Boot())
        self.clients = [Client(HostAddress(GUEST_IP, GUEST_MAC)), Client(HostAddress(OTHER_IP, OTHER_MAC))]

    @property
    def nfs(self) -> NfsService:
        """The file service."""
        assert isinstance(self.server.service, NfsService)
        return self.server.service

    def handle(self, event: Event, now: int = MS) -> Sequence[Effect]:
        """Handle one event and keep the facts."""
        effects = self.server.handle(event, now)
        self.facts += facts_of(effects, Fact)
        return effects

    def deliver(self, *frames: bytes) -> list[bytes]:
        """Bring frames to the server, and return those that it sends."""
        effects = self.handle(Received("network", Frames(frames)))
        bursts = messages_to(effects, "network")
        return [frame for burst in bursts if isinstance(burst, Frames) for frame in burst.frames]

    def settle(self) -> None:
        """Carry frames to and fro until there are none."""
        moved = True
        while moved:
            moved = False
            for client in self.clients:
                client.stack.flush(0)
                frames = client.nic.take_frames()
                for frame in self.deliver(*frames) if frames else ():
                    owner = self.clients[0] if frame[:6] == GUEST_MAC else self.clients[1]
                    owner.stack.receive(frame, 0)
                    owner.take()
                    moved = True
                moved = moved or bool(frames)

    def connected(self, number: int = 0) -> Client:
        """Return a client whose connection is up."""
        client = self.clients[number]
        client.sk = client.stack.connect(SERVER_IP, 2049, 0)
        self.settle()
        assert client.sk.state == ESTABLISHED
        return client

    def of(self, kind: type[F]) -> list[F]:
        """Return the facts of one type so far."""
        return facts_of(self.facts, kind)

    def create(self, client: Client, name: bytes) -> bytes:
        """Create a file and return its handle."""
        client.ask(900, nfs.CREATE, nfs_calls.encode_create(self.store.root, name, nfs.SetAttributes(size=0)))
        self.settle()
        record = client.replies.pop()
        file = nfs_replies.decode_create(record, decode_reply(record).results).file
        assert file is not None
        return file


def test_a_call_over_tcp_is_served() -> None:
    """A file is created and written; the server says who wrote what, and what lies there at the end."""
    hand = Hand()
    client = hand.connected()
    file = hand.create(client, b"input.bin")

    client.ask(7, nfs.WRITE, write_arguments(file, 0, b"bytes" * 1000))
    hand.settle()
    hand.handle(Audit())

    assert [decode_reply(record).xid for record in client.replies] == [7]
    assert hand.of(WriteExecuted) == [WriteExecuted(7, "guest1", "input.bin", 0, 5000, digest_of(b"bytes" * 1000))]
    (rest,) = hand.of(FileAtRest)
    data = b"bytes" * 1000
    assert (rest.length, rest.digests) == (5000, (digest_of(data[:4096]), digest_of(data[4096:])))
    assert hand.of(LeftOver) == []


def test_two_clients_do_not_mix() -> None:
    """Calls with one xid from two hosts are two calls."""
    hand = Hand()
    first, second = hand.connected(0), hand.connected(1)
    files = [hand.create(first, b"one"), hand.create(second, b"two")]

    first.ask(5, nfs.WRITE, write_arguments(files[0], 0, b"first"))
    second.ask(5, nfs.WRITE, write_arguments(files[1], 0, b"second"))
    hand.settle()

    assert [(fact.client, fact.file, fact.count) for fact in hand.of(WriteExecuted)] == [
        ("guest1", "one", 5), ("guest2", "two", 6),
    ]  # fmt: skip
    assert hand.of(DuplicateCall) == []
    assert len(hand.of(Connected)) == 2


@pytest.mark.parametrize(("drc", "outcome", "at_rest"), [
    ("checksum", "executed", b"newer"), ("no-checksum", "replied", b"older"), ("none", "executed", b"newer"),
])  # fmt: skip
def test_a_repeated_call_with_other_bytes(drc: str, outcome: str, at_rest: bytes) -> None:
    """The cache decides, and the better one lets the corruption through: it takes the call for a new one."""
    hand = Hand(drc=drc)
    client = hand.connected()
    file = hand.create(client, b"f")

    client.ask(5, nfs.WRITE, write_arguments(file, 0, b"older"))
    client.ask(5, nfs.WRITE, write_arguments(file, 0, b"newer"))
    hand.settle()

    (seen,) = hand.of(DuplicateCall)
    assert (seen.outcome, seen.payload_differs) == (outcome, True)
    assert hand.store.read(file, 0, 5) == at_rest
    assert len(client.replies) == 2


def test_a_call_over_udp_is_served() -> None:
    """A datagram is a whole call, and so is its answer."""
    hand = Hand()
    client = hand.clients[0]
    record = call_record(nfs.GETATTR, nfs_calls.encode_file(hand.store.root), 3)

    udp_sendmsg(client.udp, (SERVER_IP, 2049), record, (), b"", record, 0)
    hand.settle()

    assert [decode_reply(reply).xid for reply in client.replies] == [3]


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("count", [300, 1000, 30_000])
def test_a_long_reply_is_sent_whole(transport: str, count: int) -> None:
    """A READ's bytes do not fit a packet's linear area: they go out in pages of the server's."""
    hand = Hand()
    client = hand.connected()
    file = hand.create(client, b"f")
    data = bytes(range(250)) * 120
    hand.store.write(file, 0, memoryview(data), True)

    arguments = nfs_calls.encode_range(file, 0, count)
    if transport == "tcp":
        client.ask(8, nfs.READ, arguments)
    else:
        record = call_record(nfs.READ, arguments, 8)
        udp_sendmsg(client.udp, (SERVER_IP, 2049), record, (), b"", record, 0)
    hand.settle()
    hand.handle(Audit())

    (reply,) = client.replies
    assert data[:count] in reply
    assert hand.of(LeftOver) == []


def test_a_write_of_a_mebibyte_is_taken_whole() -> None:
    """The longest write that a scenario can ask for is not cut short by the server."""
    hand = Hand()
    client = hand.connected()
    file = hand.create(client, b"f")

    record = call_record(nfs.WRITE, write_arguments(file, 0, bytes(1 << 20)), 5)
    hand.nfs.serve(record, ("10.0.0.11", 700), GUEST_IP, 0)
    hand.settle()

    assert hand.store.getattr(file).size == 1 << 20


def test_garbage_on_a_stream_closes_that_connection_only() -> None:
    """A record longer than any is the end of one connection; the neighbour's goes on."""
    hand = Hand()
    liar, honest = hand.connected(0), hand.connected(1)

    liar.send(b"\xff\xff\xff\xff" + bytes(500))
    hand.settle()
    honest.ask(5, nfs.GETATTR, nfs_calls.encode_file(hand.store.root))
    hand.settle()

    assert len(hand.of(ConnectionReset)) == 1
    assert liar.sk is not None
    assert liar.sk.state == CLOSED
    assert len(honest.replies) == 1
    assert len(hand.nfs.readers) == 1


def test_what_is_kept_for_a_connection_goes_with_it() -> None:
    """However it ends: the client resets it, says goodbye, or talks nonsense."""
    hand = Hand(drc="ganesha-like")
    cache = hand.nfs.drc
    assert isinstance(cache, GaneshaRequestCache)
    readers, tables = [], []

    for end in (Client.reset, Client.goodbye, Client.nonsense) * 3:
        client = hand.connected()
        client.ask(5, nfs.GETATTR, nfs_calls.encode_file(hand.store.root))
        hand.settle()
        tables.append((len(cache.tables), len(cache.waiting)))
        end(client)
        hand.settle()
        readers.append(len(hand.nfs.readers))

    assert readers == [0] * 9
    assert tables == [(number + 1, number) for number in range(9)]
    assert len(cache.waiting) == 9


def test_a_connection_that_nobody_answers_on_is_forgotten() -> None:
    """TCP gives it up after its last retransmission, and what was kept for it goes."""
    hand = Hand()
    client = hand.connected()
    client.ask(5, nfs.GETATTR, nfs_calls.encode_file(hand.store.root))
    client.stack.flush(0)
    effects = hand.handle(Received("network", Frames(tuple(client.nic.take_frames()))))
    kept, fired = len(hand.nfs.readers), 0

    while timers := [effect for effect in effects if isinstance(effect, SetTimer)]:
        fired += 1
        effects = hand.handle(TimerFired(timers[-1].name), timers[-1].at)

    assert kept == 1
    assert fired > 10
    assert len(hand.nfs.readers) == 0


def test_a_record_that_is_no_call_is_not_answered() -> None:
    """Linux drops it, too, and the connection goes on."""
    hand = Hand()
    client = hand.connected()

    client.send(record_mark(6) + bytes(6))
    client.ask(5, nfs.GETATTR, nfs_calls.encode_file(hand.store.root))
    hand.settle()

    assert [decode_reply(reply).xid for reply in client.replies] == [5]


def test_a_segment_to_nobody_is_refused() -> None:
    """A connection that there is not gets a reset and costs nothing."""
    hand = Hand()
    client = hand.clients[0]
    client.sk = client.stack.connect(SERVER_IP, 4711, 0)

    hand.settle()

    assert client.sk.state == CLOSED
    hand.handle(Audit())
    assert hand.of(LeftOver) == []


def test_a_call_from_nowhere_gets_no_answer() -> None:
    """A datagram with a source that nobody has cannot be answered, and does not stop the server."""
    hand = Hand()
    record = call_record(nfs.GETATTR, nfs_calls.encode_file(hand.store.root), 3)

    answers = hand.deliver(udp_frame(record, source_ip=0x0102_0304))

    assert answers == []
    assert len(hand.deliver(udp_frame(record))) == 1


def test_a_spoiled_frame_is_dropped() -> None:
    """A bad checksum is told of and believed by nobody."""
    hand = Hand()
    client = hand.clients[0]
    client.sk = client.stack.connect(SERVER_IP, 2049, 0)
    client.stack.flush(0)
    (frame,) = client.nic.take_frames()

    answers = hand.deliver(frame[:-1] + bytes([frame[-1] ^ 1]))

    assert answers == []
    assert [fact.reason for fact in hand.of(FrameDropped)] == ["bad TCP checksum"]


def test_a_reply_waits_for_its_acknowledgement() -> None:
    """The server is busy until its client has heard it, and has set a timer for that."""
    hand = Hand()
    client = hand.connected()
    client.ask(5, nfs.GETATTR, nfs_calls.encode_file(hand.store.root))
    client.stack.flush(0)

    effects = hand.handle(Received("network", Frames(tuple(client.nic.take_frames()))))

    assert hand.server.pending() == 1
    assert [effect.at > MS for effect in effects if isinstance(effect, SetTimer)] in ([True], [])


def test_both_ends_close() -> None:
    """A client that closes is answered in kind, and the server forgets nothing on the way."""
    hand = Hand()
    client = hand.connected()
    assert client.sk is not None

    client.stack.close(client.sk, 0)
    hand.settle()
    hand.handle(Audit())

    assert client.sk.state == "time-wait"
    assert hand.server.pending() == 0
    assert hand.of(LeftOver) == []


def test_a_file_that_is_gone_is_not_looked_at() -> None:
    """The audit of a file that was removed after it was written tells nothing, and does not fail."""
    hand = Hand()
    client = hand.connected()
    file = hand.create(client, b"f")
    client.ask(5, nfs.WRITE, write_arguments(file, 0, b"bytes"))
    client.ask(6, nfs.REMOVE, nfs_calls.encode_name(hand.store.root, b"f"))
    hand.settle()

    hand.handle(Audit())

    assert hand.of(FileAtRest) == []


def test_the_audit_counts_the_cache() -> None:
    """Hits and misses are told by name."""
    hand = Hand()
    client = hand.connected()
    file = hand.create(client, b"f")
    for _ in range(2):
        client.ask(5, nfs.WRITE, write_arguments(file, 0, b"same"))
    hand.settle()

    counts = {fact.name: fact.amount for fact in facts_of(hand.handle(Audit()), Counted)}

    assert (counts["drc_hits"], counts["drc_misses"]) == (1, 2)


def test_only_frames_come_to_the_server() -> None:
    """Anything else is our own bug."""
    with pytest.raises(AssertionError):
        Hand().handle(Received("guest1", Notify(1)))
