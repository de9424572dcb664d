"""The initiator on its host, against our target: what it says, what it does with pages, and how it recovers."""

import itertools

import pytest

from lateack.nodes.facts import (
    CopyFailed,
    CopyFinished,
    DigestFailed,
    Reconnecting,
    ReplyMatched,
    SessionRecovered,
    WriteCompleted,
    WriteExecuted,
    WriteIssued,
    WriteReissued,
)
from lateack.nodes.iscsi.iscsi_login import IscsiParameters
from lateack.nodes.stack.packets import digest_of
from lateack.nodes.strategies.guest import FragDestructors, FullCopy, GuestStrategy, OnReply
from lateack.nodes.strategies.guest_destructors import NoCloneDestructors, QueueDestructors
from lateack.nodes.strategies.guest_zerocopy import MsgZerocopy
from tests.nodes.one_guest import pattern
from tests.nodes.one_iscsi import Hand

PLAIN = IscsiParameters()
SUMMED = IscsiParameters(data_digest=True, header_digest=True)
LENGTHS = [(65_536, 262_144, 8_192), (512, 1024, 512), (3000, 5001, 701)]
EVERY_WAY = [
    IscsiParameters(digest, digest, initial_r2t, immediate, *lengths)
    for digest, initial_r2t, immediate, lengths in itertools.product(
        (False, True), (False, True), (False, True), LENGTHS
    )
]
STRATEGIES = [OnReply, FullCopy, FragDestructors, NoCloneDestructors, QueueDestructors, MsgZerocopy]


@pytest.mark.parametrize("wanted", EVERY_WAY, ids=str)
@pytest.mark.parametrize("size", [0, 1, 511, 20_001])
def test_the_file_arrives_whole_however_it_is_cut(wanted: IscsiParameters, size: int) -> None:
    """Any length, with digests and without, asked for or not: byte by byte, and as long as it was."""
    hand = Hand(pattern(size), wanted, buffers=2, write_size=8192)

    hand.boot()

    assert hand.file() == hand.data
    assert len(hand.of(CopyFinished)) == 1
    assert not hand.of(DigestFailed)
    assert not hand.of(Reconnecting)
    assert hand.left_over() == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_may_be_asked_for_parts_of_a_write(strategy: type[GuestStrategy]) -> None:
    """A write goes in several PDUs, some of them when they are asked for; it completes once, and nothing stays."""
    wanted = IscsiParameters(data_digest=True, first_burst=1024, max_burst=2048, max_segment=1024)
    hand = Hand(pattern(20_001), wanted, strategy, buffers=2, write_size=8192)

    hand.boot()

    assert len(hand.of(WriteCompleted)) == len(hand.of(WriteIssued)) == 3
    assert hand.left_over() == []


def test_a_session_goes_as_a_real_one_does() -> None:
    """Login in two stages, the questions about the disk, writes, the cache, the goodbye."""
    hand = Hand(pattern(8192), PLAIN)

    hand.boot()

    assert hand.names() == [
        "LOGIN", "LOGIN", "INQUIRY", "TEST-UNIT-READY", "READ-CAPACITY", "SCSI-WRITE", "SCSI-WRITE",
        "SYNCHRONIZE-CACHE", "LOGOUT",
    ]  # fmt: skip
    assert hand.names("reply") == [
        "LOGIN-RESPONSE", "LOGIN-RESPONSE", "DATA-IN", "SCSI-RESPONSE", "DATA-IN", "SCSI-RESPONSE", "SCSI-RESPONSE",
        "SCSI-RESPONSE", "LOGOUT-RESPONSE",
    ]  # fmt: skip
    assert [fact.proc for fact in hand.of(ReplyMatched)] == [0x2A, 0x2A]


def test_who_does_not_unmount_flushes_all_the_same() -> None:
    """The session stays, but nothing waits in the target's cache."""
    hand = Hand(pattern(8192), PLAIN, unmount=False)

    hand.boot()

    assert hand.names()[-1] == "SYNCHRONIZE-CACHE"
    assert len(hand.of(CopyFinished)) == 1


def test_no_more_commands_go_than_the_target_has_room_for() -> None:
    """There are 40 writes at once, and a window of 32 commands (MaxCmdSN)."""
    wanted = IscsiParameters(immediate_data=False)
    hand = Hand(pattern(40 * 4096), wanted, buffers=40)
    hand.passes = lambda target, frame: target == "server" or hand.names().count("SCSI-WRITE") == 0

    hand.boot()

    assert hand.names().count("SCSI-WRITE") == 32
    hand.passes = lambda target, frame: True
    while not hand.of(CopyFinished):
        hand.fire()
    assert hand.file() == hand.data


@pytest.mark.parametrize("strategy", [OnReply, FullCopy, FragDestructors, MsgZerocopy])
def test_a_digest_that_is_wrong_costs_a_session_and_no_byte(strategy: type[GuestStrategy]) -> None:
    """The network damages data that no checksum covers: the command is given anew, under another tag."""
    hand = Hand(pattern(20_000), SUMMED, strategy, buffers=2)
    hand.damage["SCSI-WRITE"] = 100

    hand.boot()

    (failed,) = hand.of(DigestFailed)
    first, second = hand.of(WriteReissued)
    issued = hand.of(WriteIssued)
    assert (failed.place, failed.xid, failed.count) == ("server", issued[0].xid, 4096)
    assert [first.former, second.former] == [issued[0].xid, issued[1].xid]
    assert hand.of(SessionRecovered) == [SessionRecovered("iscsi", 2)]
    assert hand.of(Reconnecting)[0].port == 701
    executed = hand.of(WriteExecuted)
    assert [(fact.xid, fact.digest) for fact in executed[:2]] == [
        (first.xid, issued[0].digest), (second.xid, issued[1].digest),
    ]  # fmt: skip
    assert "REJECT" in hand.names("reply")
    assert hand.file() == hand.data
    assert hand.left_over() == []


@pytest.mark.parametrize("name", ["SCSI-WRITE", "SCSI-RESPONSE", "DATA-IN"])
def test_a_header_whose_digest_is_wrong_costs_a_session(name: str) -> None:
    """Either side drops the connection without a word: it cannot know what the PDU was."""
    hand = Hand(pattern(20_000), SUMMED)
    hand.damage[name] = 22 if name == "SCSI-WRITE" else 29

    hand.boot()

    (failed,) = hand.of(DigestFailed)
    assert failed.place == ("server" if name == "SCSI-WRITE" else "guest1")
    assert hand.file() == hand.data
    assert hand.left_over() == []


def test_without_a_digest_damage_goes_to_the_disk() -> None:
    """TCP's checksum was repaired on the way: nobody can tell."""
    hand = Hand(pattern(8192), PLAIN)
    hand.damage["SCSI-WRITE"] = 100

    hand.boot()

    assert hand.of(DigestFailed) == []
    assert len(hand.file()) == 8192
    assert hand.file() != hand.data


def test_a_command_given_anew_shows_what_the_page_holds_by_then() -> None:
    """Its digest is computed anew as well: what the application has changed meanwhile is written, and is right."""
    hand = Hand(pattern(4096), SUMMED)
    hand.damage["SCSI-WRITE"] = 100
    rewritten: list[bytes] = []

    def rewrite(target: str, frame: bytes) -> bool:
        writes = hand.initiator().writes_in_flight()
        if hand.of(DigestFailed) and writes and not rewritten:
            hand.metal.copier.rewrite(writes[0].buffer)
            rewritten.append(writes[0].buffer.data)
        return True

    hand.passes = rewrite
    hand.boot()

    assert hand.file() == rewritten[0] != hand.data
    assert [fact.digest for fact in hand.of(WriteExecuted)] == [digest_of(rewritten[0])]
    assert len(hand.of(DigestFailed)) == 1


def test_a_target_without_room_is_told_in_words() -> None:
    """The login is refused with a status (section 11.13.5), and the copy has failed."""
    hand = Hand(pattern(20_000), PLAIN, capacity=4096)

    hand.boot()

    assert [fact.reason for fact in hand.of(CopyFailed)] == ["the target refused the login with status 0x0302"]


def test_both_sides_follow_the_smaller_wish() -> None:
    """A target that takes little at a time, and wants to ask for everything, is not given more."""
    hand = Hand(
        pattern(8192), IscsiParameters(initial_r2t=False), write_size=8192,
        server_wants=IscsiParameters(max_burst=2048, immediate_data=False, max_segment=1024),
    )  # fmt: skip

    hand.boot()

    assert hand.file() == hand.data
    assert hand.names("reply").count("R2T") == 4
    assert hand.names().count("DATA-OUT") == 8
