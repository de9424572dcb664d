"""A file service that takes its time, and one that knows its connections: timers, and tables by client."""

from __future__ import annotations

from msgspec.structs import replace

from lateack.nodes.facts import DuplicateCall, FileAtRest, WriteExecuted
from lateack.nodes.nfs import nfs, nfs_service
from lateack.nodes.nfs.drc_ganesha import GaneshaRequestCache
from lateack.nodes.nfs.rpc import decode_reply
from lateack.nodes.node import MS, Audit, Boot, SetTimer, TimerFired
from lateack.nodes.server import Server
from lateack.nodes.stack.udp import udp_sendmsg
from tests.nodes.hand import SERVER_IP, facts_of
from tests.nodes.nfs.conversation import call_record, write_arguments
from tests.nodes.test_server import Client, Hand


class Slow(Hand):
    """A server that executes each call for five milliseconds, or is told otherwise, with one empty file."""

    def __init__(self, **settings: int | bool | str) -> None:
        super().__init__()
        self.due: list[SetTimer] = []
        self.file = self.store.create(self.store.root, b"f", 0o644, 0)
        self.server = Server(replace(self.server.config, **{"execute": 5 * MS} | settings), self.store)
        self.handle(Boot())

    def write(self, client: Client, xid: int, data: bytes = b"data", stable: int = nfs.FILE_SYNC) -> None:
        """Send a WRITE and carry frames until there are none."""
        client.ask(xid, nfs.WRITE, write_arguments(self.file, 0, data, stable))
        self.settle()

    def executed(self, name: str) -> None:
        """Let a call's time be over, and bring the answer to whom it is for."""
        effects = self.server.handle(TimerFired(name), 6 * MS)
        self.facts += facts_of(effects, DuplicateCall) + facts_of(effects, WriteExecuted)
        for effect in effects:
            for frame in getattr(getattr(effect, "message", None), "frames", ()):
                self.clients[0].stack.receive(frame, 0)
        self.clients[0].take()
        self.settle()


def test_a_call_takes_effect_when_its_time_is_over() -> None:
    """Until then nobody is answered, nothing is written, and the server has something to do."""
    hand = Slow()
    client = hand.connected()

    hand.write(client, 7)
    before = client.replies.copy(), hand.store.read(hand.file, 0, 9), hand.nfs.pending()
    hand.executed("nfsd-1")

    assert before == ([], b"", 1)
    assert [decode_reply(reply).xid for reply in client.replies] == [7]
    assert hand.store.read(hand.file, 0, 9) == b"data"
    assert hand.server.service.pending() == 0


def test_a_repetition_meanwhile_is_dropped() -> None:
    """Whatever else is executed; afterwards the same repetition is answered from memory."""
    hand = Slow()
    client = hand.connected()
    hand.write(client, 7)

    hand.write(client, 7)
    hand.write(client, 8)
    hand.executed("nfsd-1")
    hand.write(client, 7)

    assert [fact.outcome for fact in facts_of(hand.facts, DuplicateCall)] == ["dropped", "replied"]
    assert [decode_reply(reply).xid for reply in client.replies] == [7, 7]
    assert list(hand.nfs.executing) == ["nfsd-2"]


def test_an_answer_by_udp_goes_to_the_port_that_asked() -> None:
    """When the call's time is over."""
    hand = Slow()
    client = hand.clients[0]
    record = call_record(nfs.WRITE, write_arguments(hand.file, 0, b"data"), 9)
    udp_sendmsg(client.udp, (SERVER_IP, nfs.PORT), record, (), b"", record, 0)
    hand.settle()

    before = client.replies.copy()
    hand.executed("nfsd-1")

    assert before == []
    assert [decode_reply(reply).xid for reply in client.replies] == [9]


def test_a_connection_that_is_gone_gets_no_answer() -> None:
    """The call is executed nevertheless."""
    hand = Slow()
    client = hand.connected()
    hand.write(client, 7)
    sk = next(iter(hand.nfs.readers))
    hand.server.stack.abort(sk, "gone", 0)

    hand.executed("nfsd-1")
    hand.executed("nfsd-1")  # a timer that nobody waits for any more

    assert client.replies == []
    assert hand.store.read(hand.file, 0, 9) == b"data"


def test_calls_in_execution_are_bounded() -> None:
    """Beyond the bound the server hears no more, and has not begun."""
    hand = Slow()
    client = hand.connected()
    hand.write(client, 1)
    waiting = hand.nfs.executing["nfsd-1"]
    hand.nfs.executing |= {f"other-{number}": waiting for number in range(nfs_service.EXECUTING_MAX - 1)}

    hand.write(client, 2)

    assert len(hand.nfs.executing) == nfs_service.EXECUTING_MAX
    assert hand.nfs.server.calls == 1


def test_connections_have_tables_of_their_own() -> None:
    """Each from its first call on; of one that is gone the table waits."""
    hand = Slow(execute=0, drc="ganesha-like")
    client, other = hand.connected(0), hand.connected(1)
    hand.write(client, 7)
    hand.write(other, 7)
    cache = hand.nfs.drc
    assert isinstance(cache, GaneshaRequestCache)
    tables = len(cache.tables), len(cache.waiting)
    assert client.sk is not None
    hand.nfs.drop(next(iter(hand.nfs.readers)), "gone", 0)
    hand.settle()

    client.sk = client.stack.connect(SERVER_IP, 2049, 0)
    hand.settle()
    hand.write(client, 8)

    assert tables == (2, 0)
    assert (len(cache.tables), len(cache.waiting), len(hand.nfs.readers)) == (3, 1, 2)
    assert facts_of(hand.facts, DuplicateCall) == []


def test_what_was_never_committed_dies_with_the_server() -> None:
    """And a server that comes to its end in good order writes it back, so that what is at rest is what was written."""
    hand = Slow(execute=0)
    hand.write(hand.connected(), 7, b"data", nfs.UNSTABLE)

    killed = hand.store.read(hand.file, 0, 9)
    hand.handle(Audit())

    assert killed == b""
    assert [(fact.file, fact.length) for fact in facts_of(hand.facts, FileAtRest)] == [("f", 4)]
    assert hand.store.read(hand.file, 0, 9) == b"data"


def test_without_a_cache_unstable_bytes_reach_the_disk_at_once() -> None:
    """`write_back` off."""
    hand = Slow(execute=0, write_back=False)

    hand.write(hand.connected(), 7, b"data", nfs.UNSTABLE)

    assert hand.store.read(hand.file, 0, 9) == b"data"
