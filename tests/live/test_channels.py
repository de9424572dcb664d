"""Memory and event channels between two ends, both of them in this process."""

import fcntl
import mmap
import os
import socket

import pytest

from lateack.cluster.capacity import MemoryUnavailable
from lateack.cluster.clock import HybridClock
from lateack.cluster.live.channels import Channel, Door, make_memory, offer, room_for
from lateack.cluster.live.plan import Part
from lateack.nodes.memory.pages import PAGE_SIZE

PART = Part("guest1", "host1", 1, 4, "backend")
TOKEN = "secret"


def pair() -> tuple[Channel, Channel]:
    """Return the owner's end and the mapper's."""
    taken: list[Channel] = []
    door = Door({"guest1": PART}, TOKEN, taken.append)
    owner = offer(PART, door.address, TOKEN)
    door.answer()
    door.socket.close()
    return owner, taken[0]


def test_both_ends_see_the_same_bytes() -> None:
    """What one end stores the other reads, and nothing was copied on the way."""
    owner, mapper = pair()

    owner.memory.write(3, 100, b"a page of the guest")
    mapper.memory.words[5] = 0xDEADBEEF

    assert mapper.memory.read(3, 100, 19) == b"a page of the guest"
    assert owner.memory.words[5] == 0xDEADBEEF
    assert (mapper.memory.domid, mapper.memory.frames) == (1, 4)
    owner.close()
    mapper.close()


def test_many_kicks_are_one() -> None:
    """However often one end kicks, the other wakes once, and learns the port."""
    owner, mapper = pair()
    clock = HybridClock()

    for _ in range(5):
        owner.kick(9, clock)

    assert mapper.collect(0, clock) == 9
    with pytest.raises(BlockingIOError):
        os.eventfd_read(mapper.bell)
    assert owner.port == -1
    owner.close()
    mapper.close()


def test_a_kick_carries_the_senders_time() -> None:
    """Who was woken stamps later than whatever the other did before, even if its own clock is behind."""
    owner, mapper = pair()
    ahead, behind = HybridClock(), HybridClock()
    ahead.tick(1_000)
    ahead.tick(1_000)

    mapper.kick(0, ahead)
    owner.collect(3, behind)

    assert (behind.wall, behind.logical) > (ahead.wall, ahead.logical)
    owner.close()
    mapper.close()


def test_a_dead_end_is_an_open_line_that_ends() -> None:
    """The socket over which the memory came stays open, and its end is read as the peer's death."""
    owner, mapper = pair()
    assert owner.link is not None and mapper.link is not None

    with pytest.raises(BlockingIOError):
        mapper.link.recv(1)
    owner.close()

    assert mapper.link.recv(1) == b""
    mapper.close()


def test_the_size_is_sealed() -> None:
    """Neither end can shrink the memory under the other: a read would be a SIGBUS."""
    descriptor, memory, control = make_memory(PART)

    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, PAGE_SIZE)
    with pytest.raises(PermissionError):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, 0)

    assert memory.view.nbytes == 4 * PAGE_SIZE and isinstance(control, mmap.mmap)
    os.close(descriptor)


@pytest.mark.parametrize("greeting", [b"guess guest1", b"secret guest2", b"\xff", b"secret guest1"])
def test_strangers_are_not_answered(greeting: bytes) -> None:
    """Without the token, with another name, or without memory, whoever knocks is hung up on."""
    taken: list[Channel] = []
    door = Door({"guest1": PART}, TOKEN, taken.append)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.connect(door.address)
        stranger.send(greeting)

        door.answer()

        assert taken == []
        assert stranger.recv(1) == b""
    door.socket.close()


def test_more_memory_than_there_is() -> None:
    """What cannot be had is said before it is touched."""
    with pytest.raises(MemoryUnavailable, match=r"guests\.memory_pages"):
        room_for(1 << 60)
