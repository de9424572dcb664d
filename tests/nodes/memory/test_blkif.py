"""Claims about the slots of block rings, byte for byte."""

from lateack.nodes.memory.blkif import (
    BLKIF_OP_WRITE,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_OKAY,
    RESPONSE,
    BlkBackRing,
    BlkFrontRing,
    BlkRequest,
    Segment,
)
from lateack.nodes.memory.pages import Memory
from lateack.nodes.memory.ring import init_shared_ring
from tests.nodes.memory.conftest import StepThrough

FIRST_SLOT = 64
SLOT = 112
REQUEST = BlkRequest(BLKIF_OP_WRITE, 2, 0xCA00, 7, 0x1_0000_0010, (Segment(0x1234, 0, 7), Segment(0x1235, 2, 2)))


def block_ring() -> tuple[Memory, BlkFrontRing, BlkBackRing]:
    """Make an empty block ring in frame 0 and both its ends."""
    memory = Memory(1, 1)
    init_shared_ring(memory, 0)
    return memory, BlkFrontRing(memory, 0), BlkBackRing(memory, 0)


def test_a_page_holds_thirty_two_requests() -> None:
    """The union of request and response is 112 bytes, and 36 of them would fit: the ring takes a power of two."""
    _, front, back = block_ring()

    assert (front.size, back.size, front.slot_size, RESPONSE.size) == (32, 32, SLOT, 16)


def test_a_request_has_xens_bytes() -> None:
    """A write of two segments lies in the ring as blkif.h says on x86-64: the id is aligned, a segment has padding."""
    memory, front, back = block_ring()

    front.put_request(REQUEST)
    front.push_requests()

    assert memory.read(0, FIRST_SLOT, 40) == bytes.fromhex(
        "01 02 00ca 00000000 0700000000000000 1000000001000000 34120000 00 07 0000 35120000 02 02 0000"
    )
    assert back.get_request() == REQUEST


def test_a_response_has_xens_bytes() -> None:
    """An answer takes the slot of a request and names it by an id of 64 bits, in any order."""
    memory, front, back = block_ring()
    for _ in range(2):
        front.put_request(REQUEST)
    front.push_requests()
    for _ in range(back.unconsumed_requests()):
        back.get_request()

    back.put_response(0x0102030405060708, BLKIF_OP_WRITE, BLKIF_RSP_EOPNOTSUPP)
    back.put_response(7, BLKIF_OP_WRITE, BLKIF_RSP_OKAY)
    back.push_responses()

    assert memory.read(0, FIRST_SLOT, 16) == bytes.fromhex("0807060504030201 01 00 feff 00000000")
    answers = [front.get_response() for _ in range(front.unconsumed_responses())]
    assert answers == [(0x0102030405060708, BLKIF_OP_WRITE, BLKIF_RSP_EOPNOTSUPP), (7, BLKIF_OP_WRITE, BLKIF_RSP_OKAY)]


def test_a_request_that_claims_too_many_segments_is_read_no_further_than_its_slot() -> None:
    """A frontend may write any number there; what lies in the next slot is another request."""
    _, front, back = block_ring()
    segments = tuple(Segment(number, 0, 7) for number in range(11))
    front.put_request(BlkRequest(BLKIF_OP_WRITE, 255, 0, 1, 0, segments))
    front.put_request(REQUEST)
    front.push_requests()

    request = back.get_request()

    assert (request.nr_segments, request.segments) == (255, segments)
    assert back.get_request() == REQUEST


def test_a_slot_that_changes_while_it_is_read_gives_one_request_or_the_other(step_through: StepThrough) -> None:
    """The request is copied in one piece (XSA-155): wherever the guest rewrites it, no half of each is believed."""
    other = BlkRequest(BLKIF_OP_WRITE, 1, 0, 8, 99, (Segment(9, 1, 1),))
    seen = set()
    for moment in range(60):
        _, front, back = block_ring()
        liar = BlkFrontRing(front.memory, 0)
        front.put_request(REQUEST)
        front.push_requests()

        def rewrite(step: int, moment: int = moment, liar: BlkFrontRing = liar) -> None:
            if step == moment:
                liar.put_request(other)

        seen.add(step_through(back.get_request, rewrite))

    assert seen == {REQUEST, other}
