"""A client of Ceph: what it sends, what the daemon refuses, and what it sends again."""

import pytest

from lateack.nodes.facts import (
    CallTransmitted,
    CopyFailed,
    CopyFinished,
    DigestFailed,
    Reconnecting,
    ReplyMatched,
    SessionRecovered,
    WriteCompleted,
    WriteExecuted,
    WriteIssued,
)
from lateack.nodes.stack.packets import digest_of
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.storage.stream_client import RECONNECTS_MAX
from lateack.nodes.strategies.guest import FullCopy, GuestStrategy, OnReply
from tests.nodes.one_guest import pattern
from tests.nodes.replication.replicated import Pair

FLIPPED = bytes(range(255, -1, -1))


@pytest.mark.parametrize("crc", [True, False])
@pytest.mark.parametrize("size", [1, 32768, 100_001])
def test_a_file_is_copied_whole(size: int, crc: bool) -> None:
    """Of any length, with sums and without; each write has one reply, and nothing stays behind."""
    client = Pair("ceph", pattern(size), write_size=32768, buffers=2, ceph_crc=crc)

    client.boot()
    client.run()

    assert client.file() == client.data
    assert len(client.of(ReplyMatched)) == len(client.of(WriteIssued)) == len(client.of(WriteCompleted))
    assert client.of(CopyFinished)
    assert client.of(Reconnecting) == []
    assert client.left_over() == []


def torn(strategy: type[GuestStrategy] = OnReply, *, crc: bool = True) -> Pair:
    """Return a client whose page has changed between the first segment of a write and the rest."""
    client = Pair("ceph", pattern(8192), strategy, write_size=8192, ceph_crc=crc)
    client.lose_data_after(1)
    client.boot()
    client.scribble()
    client.run()
    return client


def test_a_page_that_changes_behind_its_sum_breaks_the_connection() -> None:
    """The write goes on under its number over another one, with a sum over what the page holds by then."""
    client = torn()

    [failed] = client.of(DigestFailed)
    [executed] = client.of(WriteExecuted)
    assert failed.xid == executed.xid == client.of(WriteIssued)[0].xid
    assert [fact.transmission for fact in client.of(CallTransmitted)] == [1, 2]
    assert client.of(SessionRecovered) == [SessionRecovered("ceph", 1)]
    assert executed.digest == digest_of(client.data.translate(FLIPPED))
    assert client.left_over() == []


def test_without_sums_the_torn_page_is_written() -> None:
    """It begins as it was and ends as it became."""
    client = torn(crc=False)

    assert client.of(DigestFailed) == []
    assert client.file()[:1000] == client.data[:1000]
    assert client.file()[-4096:] == client.data[-4096:].translate(FLIPPED)


def test_a_copy_made_before_the_sum_is_not_changed() -> None:
    """Whatever the application does meanwhile."""
    client = torn(FullCopy)

    assert client.of(DigestFailed) == []
    assert client.file() == client.data


def test_a_write_whose_reply_was_lost_is_answered_and_not_executed_again() -> None:
    """The daemon's log knows its number."""
    client = Pair("ceph", pattern(4096))
    client.passes = lambda target, frame: target == "server" or not client.of(WriteExecuted)
    client.boot()

    client.cut()
    client.passes = lambda target, frame: True
    client.run()

    assert len(client.of(WriteExecuted)) == len(client.of(ReplyMatched)) == 1
    assert [fact.transmission for fact in client.of(CallTransmitted)] == [1, 2]
    assert client.file() == client.data


def test_a_daemon_that_refuses_every_time_ends_the_copy() -> None:
    """A full disk breaks each connection; after so many in a row the application hears of it."""
    client = Pair("ceph", pattern(4096))
    client.server.service.store = MemoryStore(handle_bytes=36, capacity_bytes=100)

    client.boot()
    client.run()

    [failed] = client.of(CopyFailed)
    assert str(RECONNECTS_MAX) in failed.reason
    assert len(client.of(Reconnecting)) == RECONNECTS_MAX
