"""blkback: the backend's half of the block driver, as blktap was in 2008, one virtual block device per guest.

A request is copied off the ring before it is believed (XSA-155), checked, and its pages are mapped for reading. Who
writes them to the disk's image is the machine's business; when it is done the pages are unmapped and the guest is
answered, in this order: a frontend takes its grants back at once. A frontend whose ring lies shuts its own disk,
nobody else's.

Source: drivers/block/xen-blkback/blkback.c. Where we differ: nothing but writes is served, and pages are never kept
mapped between requests (feature-persistent came in 2012).
"""

from lateack.nodes.application import Copier, PageBuffer
from lateack.nodes.errors import RingBroken
from lateack.nodes.facts import VbdConnected, VbdDisabled, VbdDisconnected
from lateack.nodes.memory.blkif import (
    BLKIF_MAX_SEGMENTS_PER_REQUEST,
    BLKIF_OP_WRITE,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
    SECTOR_SIZE,
    SECTORS_PER_PAGE,
    BlkBackRing,
    BlkRequest,
    Segment,
)
from lateack.nodes.memory.hypervisor import GNTMAP_host_map, GNTMAP_readonly, GNTST_okay, Hypervisor
from lateack.nodes.memory.pages import Memory, Page
from lateack.nodes.messages import Notify, Xenbus
from lateack.nodes.node import Effect, Send
from lateack.nodes.split.vbd import IMAGE_BYTES_MAX, PROTOCOL, disk_keys, sectors_of
from lateack.nodes.split.xenbus import CLOSED, CONNECTED, DOMAIN_0, EVENT_CHANNEL
from lateack.nodes.stack.lifetime import unmap_page
from lateack.nodes.stack.packets import digest_of

MAP_FOR_READING = GNTMAP_host_map | GNTMAP_readonly
"""A write to the disk only reads the guest's pages, and they are granted for no more than that."""


class ImageSize:
    """How long an image is; to the copier that `DiskImage` is, the file to be copied, from which it never reads."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0

    def read(self, offset: int, count: int) -> bytes:
        """Return nothing: what goes into an image comes from its guest."""
        return b""


class DiskImage(Copier):
    """The file behind a disk: what the NFS client takes for the application that it works for.

    It has no buffers of its own and is never finished by itself: requests come when the guest makes them, and the end
    when the frontend closes.
    """

    __slots__ = ("length", "opened")

    def __init__(self, file: str, memory: Memory, effects: list[Effect]) -> None:
        self.length = ImageSize()
        super().__init__(self.length, file, memory, effects, first_frame=0, buffers=0, write_size=SECTOR_SIZE)
        self.opened = False

    def first_fill(self) -> list[PageBuffer]:
        """The file has been made: the disk is open."""
        self.opened = True
        return []

    def finished(self) -> bool:
        """Say no: the guest may always write more."""
        return False


class BlkWrite(PageBuffer):
    """One request of a guest while it is under way: its mapped pages, and the range of the image that they are for.

    `data` is what the pages held when the request came, as a witness; whoever sends the write reads the pages.
    """

    __slots__ = ("handles", "ranges", "request", "vbd")

    def __init__(
        self, vbd: "Vbd", number: int, request: BlkRequest, mapped: list[tuple[int, Memory, int]], *, count: int
    ) -> None:
        """Take the pages `mapped`, (handle, memory, frame) for each segment, of which `count` bytes are meant."""
        super().__init__(number, mapped[0][1], 0, 0)
        self.vbd = vbd
        self.request = request
        self.handles = [handle for handle, _, _ in mapped]
        self.pages = [Page(memory, frame) for _, memory, frame in mapped]
        self.frames = tuple([frame for _, _, frame in mapped])
        self.ranges = ranges_of(request.segments, count)
        self.offset = request.sector_number * SECTOR_SIZE
        self.count = count
        self.data = b"".join([page.memory.read(page.frame, offset, size) for page, offset, size in self.windows()])
        self.digest = digest_of(self.data)

    def windows(self) -> list[tuple[Page, int, int]]:
        """Return the (page, offset, size) windows that hold the bytes."""
        return [(page, offset, size) for page, (offset, size) in zip(self.pages, self.ranges, strict=False)]


class Vbd:
    """One guest's disk: its ring, its image, and its requests that are not answered yet."""

    __slots__ = (
        "disabled", "domid", "effects", "failed", "guest", "handle", "hypervisor", "image", "kick", "notifications",
        "ring", "taken", "unpushed", "writes",
    )  # fmt: skip

    def __init__(self, guest: str, domid: int, image: DiskImage, hypervisor: Hypervisor) -> None:
        self.guest = guest
        self.domid = domid
        self.image = image
        self.hypervisor = hypervisor
        self.effects = image.effects
        self.kick = Send(guest, Notify(EVENT_CHANNEL))
        self.ring: BlkBackRing | None = None
        self.handle = -1
        self.writes: list[BlkWrite] = []
        self.taken = 0
        self.failed = 0
        self.unpushed = False
        self.disabled = False
        self.notifications = 0

    # --- connecting ---------------------------------------------------------------------------------------------------

    def attach(self, keys: dict[str, str | int]) -> str | None:
        """Map the ring by the grant that the frontend published; return what is wrong with it, if anything."""
        try:
            ring_ref, image_bytes = int(keys["ring-ref"]), int(keys["image-bytes"])
        except (KeyError, ValueError):
            return "the frontend's keys are incomplete"
        if keys.get("protocol") != PROTOCOL or not 0 <= image_bytes <= IMAGE_BYTES_MAX:
            return "the frontend speaks another protocol, or wants a disk that is too long"
        status, handle, memory, frame = self.hypervisor.map_grant_ref(DOMAIN_0, self.domid, ring_ref, GNTMAP_host_map)
        if status != GNTST_okay or memory is None:
            return "the ring cannot be mapped"
        try:
            self.ring = BlkBackRing(memory, frame)
        except RingBroken as reason:
            self.hypervisor.unmap_grant_ref(DOMAIN_0, handle)
            return str(reason)
        self.handle = handle
        self.image.length.size = image_bytes
        return None

    def connect(self) -> None:
        """Ring and image are there: tell the frontend of the disk."""
        assert self.ring is not None
        self.ring.final_check_for_requests()
        self.effects.append(VbdConnected(self.guest, self.domid, sectors_of(self.image.length.size)))
        self.effects.append(Send(self.guest, Xenbus(CONNECTED, disk_keys(self.image.length.size))))

    def disconnect(self) -> None:
        """Nothing is in flight any more: unmap the ring, and tell the frontend that it is free."""
        assert not self.writes, "a disk was disconnected while requests of it were under way"
        self.ring = None
        if self.handle >= 0:
            self.hypervisor.unmap_grant_ref(DOMAIN_0, self.handle)
            self.handle = -1
        self.effects.append(VbdDisconnected(self.guest, self.domid))
        self.effects.append(Send(self.guest, Xenbus(CLOSED, {})))

    def disable(self, reason: str) -> None:
        """Process this ring no more; what is under way is finished (blkback halts the ring)."""
        self.disabled = True
        self.effects.append(VbdDisabled(self.guest, reason))

    # --- requests -----------------------------------------------------------------------------------------------------

    def take(self) -> list[BlkWrite]:
        """Take everything off the ring, and look once more; return the writes to begin, the rest is answered."""
        ring = self.ring
        taken: list[BlkWrite] = []
        while ring is not None and not self.disabled:
            if ring.requests_overflowed():
                self.disable("the ring claims more requests than it has slots")
                break
            while ring.unconsumed_requests():
                write = self._admit(ring.get_request())
                if write is not None:
                    taken.append(write)
            if not ring.final_check_for_requests():
                break
        self.writes += taken
        return taken

    def finish(self, write: BlkWrite, status: int) -> None:
        """The write is over: unmap its pages, whoever still looks at them, and answer its request."""
        self.writes.remove(write)
        for page in write.pages:
            unmap_page(page)
        self.hypervisor.unmap_batch(DOMAIN_0, write.handles)
        self._respond(write.request, status)

    def push(self) -> None:
        """Publish the answers, and kick the guest if it asked for that."""
        if self.unpushed and self.ring is not None:
            self.unpushed = False
            if self.ring.push_responses():
                self.notifications += 1
                self.effects.append(self.kick)

    def _admit(self, request: BlkRequest) -> BlkWrite | None:
        """Check a request and map its pages; one that is wrong is answered so, and costs the guest nothing more."""
        if request.operation != BLKIF_OP_WRITE:
            self._respond(request, BLKIF_RSP_EOPNOTSUPP)
            return None
        length = self.image.length.size
        if self.image.over or not is_sound(request, sectors_of(length)):
            self._respond(request, BLKIF_RSP_ERROR)
            return None
        mapped: list[tuple[int, Memory, int]] = []
        for segment in request.segments:
            status, handle, memory, frame = self.hypervisor.map_grant_ref(
                DOMAIN_0, self.domid, segment.gref, MAP_FOR_READING
            )
            if status != GNTST_okay or memory is None:
                self.hypervisor.unmap_batch(DOMAIN_0, [handle for handle, _, _ in mapped])
                self._respond(request, BLKIF_RSP_ERROR)
                return None
            mapped.append((handle, memory, frame))
        self.taken += 1
        # The image ends where the guest's file does, which may be within its last sector.
        count = min(sectors_in(request) * SECTOR_SIZE, length - request.sector_number * SECTOR_SIZE)
        return BlkWrite(self, self.taken, request, mapped, count=count)

    def _respond(self, request: BlkRequest, status: int) -> None:
        assert self.ring is not None
        self.ring.put_response(request.id, request.operation, status)
        self.unpushed = True
        self.failed += status != BLKIF_RSP_OKAY


def is_sound(request: BlkRequest, sectors: int) -> bool:
    """Say whether a request's segments are what they may be, and lie within a disk of so many sectors.

    The checks of `dispatch_rw_block_io` and `xen_vbd_translate`.
    """
    if not 0 < request.nr_segments <= BLKIF_MAX_SEGMENTS_PER_REQUEST:
        return False
    if any(not segment.first_sect <= segment.last_sect < SECTORS_PER_PAGE for segment in request.segments):
        return False
    return request.sector_number + sectors_in(request) <= sectors


def sectors_in(request: BlkRequest) -> int:
    """Return how many sectors a request moves."""
    return sum([segment.last_sect - segment.first_sect + 1 for segment in request.segments])


def ranges_of(segments: tuple[Segment, ...], count: int) -> list[tuple[int, int]]:
    """Return (offset, size) in bytes of each segment's part of its page, as far as `count` bytes reach."""
    ranges = []
    for segment in segments:
        size = min(count, (segment.last_sect - segment.first_sect + 1) * SECTOR_SIZE)
        if size:
            ranges.append((segment.first_sect * SECTOR_SIZE, size))
        count -= size
    return ranges
