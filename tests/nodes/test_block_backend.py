"""The backend that keeps guests' disks on NFS: what it writes, when it unmaps, and what it does when it cannot."""

import copy

import pytest

from lateack.nodes.facts import (
    AccessFault,
    BufferRefilled,
    CopyFinished,
    FrameSent,
    Reconnecting,
    RetransmitTimedOut,
    VbdDisabled,
    WriteCompleted,
    WriteIssued,
)
from lateack.nodes.messages import Frames, Notify, Xenbus
from lateack.nodes.node import Received
from lateack.nodes.stack.forged_reset import reset_for
from lateack.nodes.strategies.guest import FragDestructors, FullCopy, GuestStrategy, OnReply
from tests.nodes.one_block import Block
from tests.nodes.one_guest import pattern


def stuck(strategy: type[GuestStrategy]) -> Block:
    """Return machines whose first write has arrived, while a retransmission of it waits for the card.

    The acknowledgement and the reply have just come, too.
    """
    block = Block({"guest1": pattern(8192)}, strategy, unmount=False)
    block.passes = lambda target: target == "server" or not block.of(WriteIssued)
    block.boot()
    block.backend.nic.closed = True
    while not block.of(RetransmitTimedOut):
        block.fire("backend")
    block.release()
    return block


def test_a_file_reaches_the_server_through_the_disk() -> None:
    """What the guest writes to its disk is the image in the end, and everything lent has come back."""
    block = Block({"guest1": pattern(100_000)}, buffers=3, write_size=65536).boot()

    assert block.file("guest1") == pattern(100_000)
    assert [fact.count for fact in block.of(CopyFinished)] == [100_000, 100_000]
    assert block.left_over() == []


@pytest.mark.parametrize("strategy", [OnReply, FragDestructors, FullCopy])
def test_a_lost_connection_is_opened_anew_under_the_disk(strategy: type[GuestStrategy]) -> None:
    """The guest's pages stay mapped until the repeated calls are answered, and the guest never hears of it."""
    block = Block({"guest1": pattern(20_000)}, strategy, reconnect="same-port")
    block.passes = lambda target: target == "backend" or not block.of(WriteIssued)
    block.boot()
    lost = reset_for(block.held[-1][1])
    assert lost is not None

    block.passes = lambda target: True
    block.handle("backend", Received("network", Frames((lost,))))
    block.carry()
    while len(block.of(CopyFinished)) < 2:
        block.fire("backend")

    assert [fact.port for fact in block.of(Reconnecting)] == [700]
    assert block.file("guest1") == pattern(20_000)
    assert block.of(AccessFault) == []
    assert block.left_over() == []


def test_nothing_is_copied_on_the_way() -> None:
    """The frames leave with the very page of the guest: its domain and frame are in the record."""
    block = Block({"guest1": pattern(4096)}).boot()

    (sent,) = [fact for fact in block.of(FrameSent, "backend") if fact.pages]

    assert {page[:2] for page in sent.pages} == {(1, 199)}
    assert block.backend.copied_bytes == 0


def test_a_page_that_is_unmapped_under_a_retransmission_is_a_fault() -> None:
    """On the reply the page goes back to the guest, which refills it; the card then touches what is not mapped."""
    block = stuck(OnReply)
    refilled = block.of(BufferRefilled)

    block.backend.nic.open()

    assert len(refilled) == 1
    assert len(block.of(WriteCompleted)) == 1
    assert {fact.place for fact in block.backend.effects if isinstance(fact, AccessFault)} == {"backend.nic"}


@pytest.mark.parametrize("strategy", [FullCopy, FragDestructors])
def test_a_strategy_that_copies_or_waits_keeps_the_host_up(strategy: type[GuestStrategy]) -> None:
    """Either the packet shows other pages by then, or the guest's are mapped until it is gone."""
    block = stuck(strategy)
    refilled = len(block.of(BufferRefilled))

    block.backend.nic.open()

    assert refilled == (strategy is FullCopy)
    assert [fact for fact in block.backend.effects if isinstance(fact, AccessFault)] == []


def test_guests_have_disks_of_their_own() -> None:
    """Several guests write at once, each to its file, and no call of one is taken for another's."""
    files = {f"guest{number}": pattern(20_000 + number) for number in (1, 2, 3)}

    block = Block(files, buffers=2, write_size=8192).boot()

    assert {name: block.file(name) for name in files} == files
    xids = [fact.xid for fact in block.of(WriteIssued)]
    assert len(set(xids)) == len(xids) == 9
    assert block.left_over() == []


def test_a_guest_that_lies_loses_its_own_disk() -> None:
    """A ring beyond all bounds is not looked at any more; the other guest's disk goes on."""
    block = Block({"guest1": pattern(8192), "guest2": pattern(8192)})
    liar = block.guests["guest1"]
    block.passes = lambda target: not block.of(WriteIssued)
    block.boot()

    liar.memory.words[liar.blkfront.ring.header] += 1000
    block.handle("backend", Received("guest1", Notify(1)))
    block.release()

    assert [fact.guest for fact in block.of(VbdDisabled)] == ["guest1"]
    assert block.file("guest2") == pattern(8192)
    assert [name for name, fact in block.facts if isinstance(fact, CopyFinished)] == ["backend", "guest2"]


def test_a_backend_in_the_middle_of_a_write_can_be_copied() -> None:
    """Machines are plain state: a copy of all of them ends as the original does."""
    block = stuck(FragDestructors)

    twin = copy.deepcopy(block)
    for each in (block, twin):
        each.backend.nic.open()
        each.handle("backend", Received("guest1", Xenbus(0, {})))
        each.carry()

    assert twin.file("guest1") == block.file("guest1") == pattern(8192)
    assert twin.facts == block.facts
