"""blkfront: the guest's half of the block driver (drivers/block/xen-blkfront.c).

A buffer of the application becomes one or more requests of at most eleven pages. Each page is granted for as long as
its request is unanswered; the answer to the last of them completes the write. To the guest it means what it would mean
of a real disk: nobody reads the pages any more.
"""

from collections import deque

from lateack.nodes.application import PageBuffer
from lateack.nodes.facts import FrontendBroken
from lateack.nodes.memory.blkif import (
    BLKIF_MAX_SEGMENTS_PER_REQUEST,
    BLKIF_OP_WRITE,
    BLKIF_RSP_OKAY,
    SECTOR_SIZE,
    BlkFrontRing,
    BlkRequest,
    Segment,
)
from lateack.nodes.memory.grants import GrantTable
from lateack.nodes.memory.pages import Memory
from lateack.nodes.memory.ring import init_shared_ring
from lateack.nodes.messages import Notify
from lateack.nodes.node import Effect, Send
from lateack.nodes.split.vbd import HANDLE, RING_FRAME, frontend_keys
from lateack.nodes.split.xenbus import DOMAIN_0, EVENT_CHANNEL


class Bio:
    """One write of the application: the buffer it comes from, and how many of its requests are not answered yet."""

    __slots__ = ("buffer", "status", "unanswered")

    def __init__(self, buffer: PageBuffer) -> None:
        self.buffer = buffer
        self.unanswered = 0
        self.status = BLKIF_RSP_OKAY


class Piece:
    """One request of a bio: where on the disk it begins, and (frame, first sector, last sector) of each segment."""

    __slots__ = ("bio", "ranges", "sector")

    def __init__(self, bio: Bio, sector: int) -> None:
        self.bio = bio
        self.sector = sector
        self.ranges: list[tuple[int, int, int]] = []


class Blkfront:
    """The disk under a guest's application."""

    __slots__ = (
        "broken", "effects", "free_ids", "grants", "grefs", "guest", "kick", "notifications", "pieces", "queue", "ring",
        "ring_ref", "unpushed",
    )  # fmt: skip

    def __init__(self, guest: str, backend: str, memory: Memory, grants: GrantTable, effects: list[Effect]) -> None:
        self.guest = guest
        self.grants = grants
        self.effects = effects
        self.kick = Send(backend, Notify(EVENT_CHANNEL))
        self.queue: deque[Piece] = deque()
        self.broken = False
        self.unpushed = False
        self.notifications = 0
        self.ring_ref = -1
        init_shared_ring(memory, RING_FRAME)
        self.ring = BlkFrontRing(memory, RING_FRAME)
        self.free_ids = list(range(self.ring.size - 1, -1, -1))
        self.pieces: list[Piece | None] = [None] * self.ring.size
        self.grefs: list[list[int]] = [[] for _ in range(self.ring.size)]

    def connect(self, image_bytes: int) -> dict[str, str | int]:
        """Grant the ring and return the keys to publish."""
        self.ring_ref = self.grants.grant_access(DOMAIN_0, RING_FRAME, False)
        return frontend_keys(self.ring_ref, image_bytes)

    def disconnect(self) -> bool:
        """Take the ring back; False, and nothing changed, while the backend still has it mapped."""
        done = self.ring_ref < 0 or self.grants.end_access(self.ring_ref)
        if done:
            self.ring_ref = -1
        return done

    @property
    def outstanding(self) -> int:
        """How many requests are unanswered, or wait for room in the ring."""
        return self.ring.size - len(self.free_ids) + len(self.queue)

    def under_way(self) -> list[PageBuffer]:
        """Return the buffers whose writes are not done yet."""
        pieces = [piece for piece in (*self.pieces, *self.queue) if piece is not None]
        return list(dict.fromkeys([piece.bio.buffer for piece in pieces]))

    # --- requests -----------------------------------------------------------------------------------------------------

    def write(self, buffer: PageBuffer) -> None:
        """Write what lies in a buffer to where it belongs on the disk; offsets are multiples of a sector.

        A last sector that the bytes do not fill is written whole, with whatever follows in the page: a disk knows no
        less than a sector.
        """
        assert buffer.offset % SECTOR_SIZE == 0, "a write begins within a sector"
        bio = Bio(buffer)
        sector = buffer.offset // SECTOR_SIZE
        piece = Piece(bio, sector)
        for page, offset, size in buffer.windows():
            if len(piece.ranges) == BLKIF_MAX_SEGMENTS_PER_REQUEST:
                self._queue(piece)
                piece = Piece(bio, sector)
            first, last = offset // SECTOR_SIZE, (offset + size - 1) // SECTOR_SIZE
            piece.ranges.append((page.frame, first, last))
            sector += last - first + 1
        self._queue(piece)
        self._fill_ring()

    def flush(self) -> None:
        """End of an event: publish the new requests and kick the backend if it asked for that."""
        if self.unpushed:
            self.unpushed = False
            if self.ring.push_requests():
                self.notifications += 1
                self.effects.append(self.kick)

    def _queue(self, piece: Piece) -> None:
        piece.bio.unanswered += 1
        self.queue.append(piece)

    def _fill_ring(self) -> None:
        """Move what waits into the ring as far as there is room."""
        while self.queue and self.free_ids and self.ring.free_requests() and not self.broken:
            self._put(self.queue.popleft())

    def _put(self, piece: Piece) -> None:
        """Grant every page of a request, for reading alone, and describe it in the ring (blkif_queue_rw_req)."""
        request_id = self.free_ids.pop()
        segments = [
            Segment(self.grants.grant_access(DOMAIN_0, frame, True), first, last) for frame, first, last in piece.ranges
        ]
        self.pieces[request_id] = piece
        self.grefs[request_id] = [segment.gref for segment in segments]
        self.ring.put_request(
            BlkRequest(BLKIF_OP_WRITE, len(segments), HANDLE, request_id, piece.sector, tuple(segments))
        )
        self.unpushed = True

    # --- interrupt ----------------------------------------------------------------------------------------------------

    def interrupt(self) -> list[Bio]:
        """The event channel fired: take back what was answered, and return the writes that are done (blkif_interrupt).

        A bio's status is that of the last of its requests that failed, or BLKIF_RSP_OKAY.
        """
        done: list[Bio] = []
        ring = self.ring
        waiting = 0 if self.broken else ring.unconsumed_responses()
        while waiting and not self.broken:
            if waiting > ring.size:
                self._break("the backend claims more responses than the ring has slots")
                break
            for _ in range(waiting):
                problem = self._answered(*ring.get_response(), done)
                if problem:
                    self._break(problem)
                    break
            else:
                waiting = ring.final_check_for_responses()
        self._fill_ring()
        return done

    def _answered(self, request_id: int, operation: int, status: int, done: list[Bio]) -> str:
        """Take one answer; return what is wrong with it, if anything (26379fb9eaab, XSA-396)."""
        piece = self.pieces[request_id] if request_id < self.ring.size else None
        if piece is None:
            return "a response names a request that is not outstanding"
        if operation != BLKIF_OP_WRITE:
            return "a response has another operation than its request"
        if not all(self.grants.end_access(gref) for gref in self.grefs[request_id]):
            return "a response came while the backend still has a page mapped"
        self.pieces[request_id] = None
        self.grefs[request_id] = []
        self.free_ids.append(request_id)
        bio = piece.bio
        bio.unanswered -= 1
        if status != BLKIF_RSP_OKAY:
            bio.status = status
        if not bio.unanswered:
            done.append(bio)
        return ""

    def _break(self, reason: str) -> None:
        """Stop using a backend that broke the rules: no crash, no further use (BLKIF_STATE_ERROR)."""
        self.broken = True
        self.effects.append(FrontendBroken(self.guest, reason))
