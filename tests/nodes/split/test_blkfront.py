"""blkfront: a buffer becomes requests, their pages are granted until they are answered, and a liar is left alone."""

import pytest

from lateack.nodes.facts import FrontendBroken
from lateack.nodes.memory.blkif import BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY
from lateack.nodes.messages import Notify
from tests.nodes.hand import facts_of, messages_to
from tests.nodes.one_guest import pattern
from tests.nodes.split.one_disk import OneDisk


def test_the_answer_gives_every_page_back() -> None:
    """While a request is under way its pages are granted; the answer ends the grants and completes the write."""
    disk = OneDisk().connect()

    (write,) = disk.write(pattern(8192), offset=4096)
    lent = disk.grants.in_use
    done = disk.finish(write)

    assert (write.offset, write.count, write.data) == (4096, 8192, pattern(8192))
    assert lent == 3
    assert [(bio.status, bio.buffer.offset) for bio in done] == [(BLKIF_RSP_OKAY, 4096)]
    assert (disk.grants.in_use, disk.front.outstanding) == (1, 0)


def test_a_long_write_is_several_requests_and_done_with_the_last() -> None:
    """At most eleven pages go with one request; the application hears once, whatever order the answers come in."""
    disk = OneDisk().connect()

    writes = disk.write(pattern(98_304))
    early = [bio for write in reversed(writes[1:]) for bio in disk.finish(write)]
    done = disk.finish(writes[0])

    assert [(write.offset, write.count) for write in writes] == [(0, 45056), (45056, 45056), (90112, 8192)]
    assert b"".join(write.data for write in writes) == pattern(98_304)
    assert early == []
    assert len(done) == 1


def test_what_finds_no_room_in_the_ring_waits_for_answers() -> None:
    """The ring has 32 slots; more requests wait in front of it, and take the slots of those that are answered."""
    disk = OneDisk().connect()
    for number in range(34):
        disk.front.write(disk.buffer(pattern(512), number * 512))
    disk.front.flush()

    first = disk.back.take()
    waiting = len(disk.front.queue)
    for write in first:
        disk.back.finish(write, BLKIF_RSP_OKAY)
    disk.back.push()
    done = disk.front.interrupt()
    disk.front.flush()
    second = disk.back.take()

    assert (len(first), waiting, len(done), len(second)) == (32, 2, 32, 2)
    assert [write.offset for write in second] == [32 * 512, 33 * 512]


def test_one_request_that_fails_fails_its_write() -> None:
    """The status of a write is that of its failed piece, whichever is answered last."""
    disk = OneDisk().connect()
    first, second = disk.write(pattern(65536))

    disk.finish(first, BLKIF_RSP_ERROR)
    (done,) = disk.finish(second)

    assert done.status == BLKIF_RSP_ERROR


def test_the_backend_is_kicked_once_for_a_burst() -> None:
    """Requests of one event are published together."""
    disk = OneDisk().connect()
    for number in range(3):
        disk.front.write(disk.buffer(pattern(4096), number * 4096))

    disk.front.flush()

    assert messages_to(disk.front_effects, "backend") == [Notify(1)]


LIES = {
    "an id that there is not": (99, BLKIF_OP_WRITE),
    "an id that is not outstanding": (5, BLKIF_OP_WRITE),
    "another operation": (31, BLKIF_OP_READ),
}


@pytest.mark.parametrize(("request_id", "operation"), LIES.values(), ids=LIES)
def test_a_backend_that_answers_what_was_not_asked_is_not_used_any_more(request_id: int, operation: int) -> None:
    """The frontend stays up and believes nothing from then on."""
    disk = OneDisk().connect()
    (write,) = disk.write(pattern(4096))
    assert disk.back.ring is not None

    disk.back.ring.put_response(request_id if request_id != 31 else write.request.id, operation, BLKIF_RSP_OKAY)
    disk.back.ring.push_responses()
    done = disk.front.interrupt()
    disk.front.write(disk.buffer(pattern(4096)))

    assert done == []
    assert len(facts_of(disk.front_effects, FrontendBroken)) == 1
    assert disk.front.interrupt() == []
    assert len(disk.front.queue) == 1


def test_an_answer_while_the_page_is_still_mapped_breaks_the_frontend() -> None:
    """A page that the backend still maps must not be reused: ending the grant fails, and that is noticed (XSA-396)."""
    disk = OneDisk().connect()
    (write,) = disk.write(pattern(4096))
    assert disk.back.ring is not None

    disk.back.ring.put_response(write.request.id, BLKIF_OP_WRITE, BLKIF_RSP_OKAY)
    disk.back.ring.push_responses()
    done = disk.front.interrupt()

    assert done == []
    assert "still has a page mapped" in facts_of(disk.front_effects, FrontendBroken)[0].reason
    assert disk.grants.in_use == 2


def test_the_ring_is_taken_back_only_when_it_is_unmapped() -> None:
    """Closing ends the last grant, once the backend has let go."""
    disk = OneDisk().connect()

    early = disk.front.disconnect()
    disk.back.disconnect()
    late = disk.front.disconnect()

    assert (early, late, disk.grants.in_use) == (False, True, 0)
