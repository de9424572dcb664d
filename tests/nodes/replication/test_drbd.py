"""A replicating host: when its writes are done, what its peer refuses, and what heals it."""

import pytest

from lateack.nodes.facts import (
    BufferRefilled,
    CopyFinished,
    DigestFailed,
    Reconnecting,
    ReplyMatched,
    SessionRecovered,
    WriteCompleted,
    WriteExecuted,
)
from lateack.nodes.replication import drbd_packets as packets
from lateack.nodes.replication.drbd import DrbdTerms
from lateack.nodes.strategies.guest import FragDestructors, FullCopy, GuestStrategy
from tests.nodes.one_guest import pattern
from tests.nodes.replication.replicated import Pair


def pair(
    wire: str = "C", size: int = 65536, strategy: type[GuestStrategy] | None = None, *, digest: bool = True
) -> Pair:
    """Return a host that writes 32 KiB at a time, more than a new connection sends at once."""
    terms = DrbdTerms(wire, digest)
    if strategy is None:
        return Pair("drbd", pattern(size), write_size=32768, drbd=terms)
    return Pair("drbd", pattern(size), strategy, write_size=32768, drbd=terms)


@pytest.mark.parametrize("wire", ["A", "B", "C"])
@pytest.mark.parametrize("digest", [True, False])
def test_a_copy_that_waits_for_its_pages_arrives_whole(wire: str, digest: bool) -> None:
    """Under every protocol, of any length, and nothing stays behind."""
    host = pair(wire, 100_001, FragDestructors, digest=digest)

    host.boot()
    host.run()

    assert host.file() == host.data
    assert host.of(CopyFinished)
    assert host.of(Reconnecting) == []
    assert host.left_over() == []


@pytest.mark.parametrize(("wire", "answer"), [("B", packets.P_RECV_ACK), ("C", packets.P_WRITE_ACK)])
def test_the_protocol_says_whose_answer_completes_a_write(wire: str, answer: int) -> None:
    """The peer's receipt under B, its disk's under C."""
    host = pair(wire)

    host.boot()

    assert [fact.proc for fact in host.of(ReplyMatched)] == [answer, answer]


def test_under_protocol_a_a_write_is_done_when_nobody_has_it_yet() -> None:
    """And the application has filled its buffer again before the peer has written anything."""
    host = pair("A")

    host.boot()
    host.run()

    order = [type(fact) for fact in host.facts if isinstance(fact, WriteCompleted | WriteExecuted | BufferRefilled)]
    assert order[:2] == [WriteCompleted, BufferRefilled]
    assert host.of(WriteCompleted)[0].latency == 0


def test_a_digest_that_fails_costs_a_connection_and_no_bytes() -> None:
    """The peer refuses the mixture; after the next handshake it gets every block out of the host's own disk."""
    host = pair("A")

    host.boot()
    host.run()

    [failed] = host.of(DigestFailed)
    assert (failed.place, failed.protocol, failed.offset, failed.count) == ("server", "drbd", 0, 32768)
    assert [fact.port for fact in host.of(Reconnecting)] == [701]
    assert host.of(SessionRecovered) == [SessionRecovered("drbd", 2)]
    assert host.file() == host.data
    assert host.left_over() == []


def test_without_a_digest_the_mixture_is_written() -> None:
    """Nobody can tell: the first write ends with the second one's bytes."""
    host = pair("A", digest=False)

    host.boot()
    host.run()

    assert host.of(DigestFailed) == []
    assert host.file()[:8192] == host.data[:8192]
    assert host.file()[20480:32768] == host.data[53248:65536]


def test_what_drbd_does_is_safe() -> None:
    """A copy into the socket's own buffers keeps the bytes, however early the write is done."""
    host = pair("A", strategy=FullCopy)

    host.boot()
    host.run()

    assert host.of(DigestFailed) == []
    assert host.file() == host.data


def test_a_page_that_changes_behind_its_digest_is_healed_from_the_own_disk() -> None:
    """The write is done as its connection is lost, for the own disk has it; the peer gets what was asked for."""
    host = pair(size=32768)
    host.lose_data_after(1)
    host.boot()

    host.scribble()
    host.run()

    [failed] = host.of(DigestFailed)
    assert failed.xid == host.of(WriteCompleted)[0].xid
    assert host.of(ReplyMatched) == []
    assert host.file() == host.data
    assert host.left_over() == []


def test_blocks_that_were_confirmed_are_not_sent_again() -> None:
    """Only what no barrier's answer covers is out of sync when a connection is lost."""
    host = pair(size=98304)
    host.passes = lambda target, frame: target == "server" or len(host.of(WriteExecuted)) < 3
    host.boot()

    host.cut()
    host.passes = lambda target, frame: True
    host.run()

    assert host.of(SessionRecovered) == [SessionRecovered("drbd", 1)]
    executed = [fact.offset for fact in host.of(WriteExecuted)]
    assert executed == [0, 32768, 65536, 65536]
    assert host.file() == host.data
