"""What the slots of a block ring say, in the bytes of xen/include/public/io/blkif.h (the 64-bit layout).

A request names up to eleven segments, each a range of 512-byte sectors within one granted page, so that one request
moves at most 44 KiB. It is unpacked once, and what was unpacked is what gets checked and used (XSA-155).
"""

from struct import Struct

from lateack.nodes.memory.pages import PAGE_SIZE, Memory
from lateack.nodes.memory.ring import BackRing, FrontRing
from lateack.nodes.records import LightRecord

BLKIF_OP_READ = 0
BLKIF_OP_WRITE = 1
BLKIF_OP_WRITE_BARRIER = 2
BLKIF_OP_FLUSH_DISKCACHE = 3
BLKIF_OP_DISCARD = 5

BLKIF_RSP_OKAY = 0
BLKIF_RSP_ERROR = -1
BLKIF_RSP_EOPNOTSUPP = -2

BLKIF_MAX_SEGMENTS_PER_REQUEST = 11
"""Chosen so that the ring fits a page; it could be twelve if the indices lay elsewhere, as the header says."""

SECTOR_SIZE = 512
"""Sectors of the ring are counted in these units, whatever the disk's own are."""
SECTORS_PER_PAGE = PAGE_SIZE // SECTOR_SIZE

# operation, number of segments, handle, padding, id, sector number
REQUEST_HEAD = Struct("<BBH4xQQ")
# gref, first sector, last sector
SEGMENT = Struct("<IBB2x")
# id, operation, status
RESPONSE = Struct("<QBxh4x")

REQUEST_SIZE = REQUEST_HEAD.size + BLKIF_MAX_SEGMENTS_PER_REQUEST * SEGMENT.size
"""A slot is the union of request (112 bytes) and response (16), so that a page holds 32 of them."""


class Segment(LightRecord):
    """A range of sectors in one granted page (`struct blkif_request_segment`); both ends are inclusive."""

    gref: int
    first_sect: int
    last_sect: int


class BlkRequest(LightRecord):
    """One request (`struct blkif_request`); `nr_segments` is what it claims, `segments` what there was room for."""

    operation: int
    nr_segments: int
    handle: int
    id: int
    sector_number: int
    segments: tuple[Segment, ...]


class BlkFrontRing(FrontRing):
    """The guest's end of its block ring."""

    __slots__ = ()

    def __init__(self, memory: Memory, frame: int) -> None:
        """Attach to the ring in `frame` of the guest's own memory."""
        super().__init__(memory, frame, REQUEST_SIZE)

    def put_request(self, request: BlkRequest) -> None:
        """Put a request into the ring as it is; ask `free_requests` first."""
        slot = self.next_request()
        buffer = self.memory.buffer
        REQUEST_HEAD.pack_into(
            buffer, slot, request.operation, request.nr_segments, request.handle, request.id, request.sector_number
        )
        at = slot + REQUEST_HEAD.size
        for segment in request.segments:
            SEGMENT.pack_into(buffer, at, segment.gref, segment.first_sect, segment.last_sect)
            at += SEGMENT.size

    def get_response(self) -> tuple[int, int, int]:
        """Take the next answer: (id, operation, status)."""
        return RESPONSE.unpack_from(self.memory.buffer, self.next_response())


class BlkBackRing(BackRing):
    """The backend's end of a guest's block ring."""

    __slots__ = ()

    def __init__(self, memory: Memory, frame: int) -> None:
        """Attach to the ring in `frame` of the guest's memory; raises RingBroken on impossible indices."""
        super().__init__(memory, frame, REQUEST_SIZE)

    def get_request(self) -> BlkRequest:
        """Copy the next request off the ring, whole, before anything in it is believed (`RING_COPY_REQUEST`)."""
        slot = self.next_request()
        copy = self.memory.view[slot : slot + REQUEST_SIZE].tobytes()
        operation, nr_segments, handle, request_id, sector_number = REQUEST_HEAD.unpack_from(copy)
        segments = tuple(
            [
                Segment(*SEGMENT.unpack_from(copy, REQUEST_HEAD.size + number * SEGMENT.size))
                for number in range(min(nr_segments, BLKIF_MAX_SEGMENTS_PER_REQUEST))
            ]
        )
        return BlkRequest(operation, nr_segments, handle, request_id, sector_number, segments)

    def put_response(self, request_id: int, operation: int, status: int) -> None:
        """Answer a request; the answers may come in any order, since the frontend goes by the id."""
        RESPONSE.pack_into(self.memory.buffer, self.next_response(), request_id, operation, status)
