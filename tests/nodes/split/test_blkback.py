"""blkback: it maps what it was lent, unmaps before it answers, and lets nobody but a liar pay for a lie."""

import copy

import pytest

from lateack.nodes.facts import VbdConnected, VbdDisabled
from lateack.nodes.memory.blkif import (
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
    BlkRequest,
    Segment,
)
from lateack.nodes.memory.pages import POISON_PAGE
from lateack.nodes.messages import Xenbus
from lateack.nodes.split.xenbus import CLOSED, CONNECTED
from lateack.nodes.stack.lifetime import Frag, frag_view
from tests.nodes.hand import facts_of, messages_to
from tests.nodes.one_guest import pattern
from tests.nodes.split.one_disk import OneDisk


def granted(disk: OneDisk) -> int:
    """Lend a page of the guest for reading, and return its reference."""
    return disk.grants.grant_access(0, 10, True)


def lie(disk: OneDisk, *requests: BlkRequest) -> list[tuple[int, int, int]]:
    """Put requests into the ring as they are, and return how blkback answers those that it refuses."""
    for request in requests:
        disk.front.ring.put_request(request)
    disk.front.ring.push_requests()
    disk.back.take()
    disk.back.push()
    return [disk.front.ring.get_response() for _ in range(disk.front.ring.unconsumed_responses())]


def test_a_request_shows_the_guests_own_pages() -> None:
    """Nothing is copied: the windows are the guest's frames, within the sectors that the request names."""
    disk = OneDisk().connect()

    (write,) = disk.write(pattern(6000), offset=512)

    assert [(page.memory, page.frame, offset, size) for page, offset, size in write.windows()] == [
        (disk.memory, 2, 0, 4096),
        (disk.memory, 3, 0, 2048),
    ]
    assert disk.hypervisor.mapped_by(0) == 3


def test_the_page_is_gone_before_the_guest_is_answered() -> None:
    """Whoever still shows the page reads poison, and the guest can end its grant: that is the crash of 2008."""
    disk = OneDisk().connect()
    (write,) = disk.write(pattern(4096))
    left_in_a_queue = Frag(write.pages[0], 0, 4096)

    done = disk.finish(write)

    assert frag_view(left_in_a_queue) == POISON_PAGE
    assert disk.hypervisor.mapped_by(0) == 1
    assert len(done) == 1


def test_a_write_ends_where_the_image_does() -> None:
    """A guest can only write whole sectors; an image that ends within one takes no more than it is long."""
    disk = OneDisk(length=5000).connect()

    (write,) = disk.write(pattern(5000))

    assert (write.count, write.data) == (5000, pattern(5000))
    assert [size for _, _, size in write.windows()] == [4096, 904]


def test_each_segment_is_read_within_its_page() -> None:
    """A request gathers ranges of sectors from anywhere in its pages."""
    disk = OneDisk().connect()
    disk.memory.write(10, 0, pattern(4096))
    request = BlkRequest(BLKIF_OP_WRITE, 2, 0, 1, 0, (Segment(granted(disk), 6, 7), Segment(granted(disk), 1, 1)))
    disk.front.ring.put_request(request)
    disk.front.ring.push_requests()

    (write,) = disk.back.take()

    assert write.data == pattern(4096)[3072:] + pattern(4096)[512:1024]


def test_only_writes_are_served() -> None:
    """Anything else is answered as not supported, and the disk stays up."""
    disk = OneDisk().connect()

    answers = lie(disk, BlkRequest(BLKIF_OP_READ, 1, 0, 4, 0, (Segment(granted(disk), 0, 7),)))

    assert answers == [(4, BLKIF_OP_READ, BLKIF_RSP_EOPNOTSUPP)]
    assert not disk.back.disabled


BAD = {
    "no segment": BlkRequest(BLKIF_OP_WRITE, 0, 0, 4, 0, ()),
    "too many segments": BlkRequest(BLKIF_OP_WRITE, 12, 0, 4, 0, (Segment(9, 0, 7),)),
    "sectors backwards": BlkRequest(BLKIF_OP_WRITE, 1, 0, 4, 0, (Segment(9, 5, 4),)),
    "sectors beyond the page": BlkRequest(BLKIF_OP_WRITE, 1, 0, 4, 0, (Segment(9, 0, 8),)),
    "sectors beyond the disk": BlkRequest(BLKIF_OP_WRITE, 1, 0, 4, 2048 - 7, (Segment(9, 0, 7),)),
    "a sector number that is out of this world": BlkRequest(BLKIF_OP_WRITE, 1, 0, 4, 2**64 - 1, (Segment(9, 0, 7),)),
    "a page that is not lent": BlkRequest(BLKIF_OP_WRITE, 1, 0, 4, 0, (Segment(200, 0, 7),)),
    "a second page that is not lent": BlkRequest(BLKIF_OP_WRITE, 2, 0, 4, 0, (Segment(9, 0, 7), Segment(200, 0, 7))),
}


@pytest.mark.parametrize("request_", BAD.values(), ids=BAD)
def test_a_bad_request_is_answered_so_and_costs_nothing_more(request_: BlkRequest) -> None:
    """It maps nothing that stays mapped, and an honest request behind it is served."""
    disk = OneDisk().connect()
    assert granted(disk) == 9

    answers = lie(disk, request_)
    (write,) = disk.write(pattern(4096))

    assert answers == [(4, BLKIF_OP_WRITE, BLKIF_RSP_ERROR)]
    assert disk.hypervisor.mapped_by(0) == 2
    assert len(disk.finish(write)) == 1
    assert disk.back.failed == 1


def test_a_ring_that_claims_more_than_it_has_is_shut() -> None:
    """The ring is not processed any more; what was under way is finished all the same."""
    disk = OneDisk().connect()
    (write,) = disk.write(pattern(4096))

    disk.memory.words[disk.front.ring.header] += 100
    taken = disk.back.take()
    again = disk.back.take()
    disk.back.finish(write, BLKIF_RSP_OKAY)

    assert (taken, again) == ([], [])
    assert [fact.guest for fact in facts_of(disk.back_effects, VbdDisabled)] == ["guest1"]
    assert disk.hypervisor.mapped_by(0) == 1


KEYS = {
    "no ring": {"ring-ref": None},
    "a ring that is no number": {"ring-ref": "eight"},
    "a ring that is not lent": {"ring-ref": 200},
    "another layout": {"protocol": "x86_32-abi"},
    "a disk of no length": {"image-bytes": -1},
    "a disk beyond all bounds": {"image-bytes": 2**50},
}


@pytest.mark.parametrize("change", KEYS.values(), ids=KEYS)
def test_a_frontend_that_publishes_nonsense_gets_no_disk(change: dict[str, str | int | None]) -> None:
    """The backend says what is wrong, and keeps nothing mapped."""
    disk = OneDisk()
    keys = {key: value for key, value in (disk.keys | change).items() if value is not None}

    problem = disk.back.attach(keys)

    assert problem is not None
    assert disk.hypervisor.mapped_by(0) == 0


def test_a_ring_with_impossible_indices_is_not_connected() -> None:
    """More requests than slots, before the first was taken: the ring is unmapped again."""
    disk = OneDisk()
    disk.memory.words[disk.front.ring.header] = 33

    problem = disk.back.attach(disk.keys)

    assert problem is not None
    assert disk.hypervisor.mapped_by(0) == 0


def test_the_frontend_is_told_of_its_disk_and_of_its_end() -> None:
    """Connected carries the length in sectors; Closed means that the ring is free."""
    disk = OneDisk(length=70_000).connect()

    disk.back.disconnect()

    connected, closed = messages_to(disk.back_effects, "guest1")
    assert connected == Xenbus(CONNECTED, {"sectors": 137, "sector-size": 512, "info": 0})
    assert closed == Xenbus(CLOSED, {})
    assert facts_of(disk.back_effects, VbdConnected)[0].sectors == 137


def test_a_disk_can_be_copied_with_its_memory() -> None:
    """Requests under way are plain state: a copy finishes on its own."""
    disk = OneDisk().connect()
    disk.write(pattern(4096))

    twin = copy.deepcopy(disk)
    done = twin.finish(twin.back.writes[0])

    assert len(done) == 1
    assert len(disk.back.writes) == 1
    assert disk.hypervisor.mapped_by(0) == 2
