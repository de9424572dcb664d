"""A blkfront and a blkback over one memory, with nothing between them, and buffers to write."""

from lateack.nodes.application import PageBuffer
from lateack.nodes.memory.grants import GrantTable
from lateack.nodes.memory.hypervisor import Hypervisor
from lateack.nodes.memory.pages import Memory
from lateack.nodes.node import Effect
from lateack.nodes.split.blkback import BlkWrite, DiskImage, Vbd
from lateack.nodes.split.blkfront import Bio, Blkfront
from lateack.nodes.split.vbd import FIRST_FREE_FRAME, GRANT_FRAME

FRAMES = 400


class OneDisk:
    """Both halves of one disk; `length` is that of its image in bytes."""

    def __init__(self, length: int = 1 << 20) -> None:
        self.memory = Memory(1, FRAMES)
        self.grants = GrantTable(self.memory, GRANT_FRAME)
        self.front_effects: list[Effect] = []
        self.back_effects: list[Effect] = []
        self.front = Blkfront("guest1", "backend", self.memory, self.grants, self.front_effects)
        self.hypervisor = Hypervisor()
        self.hypervisor.add_domain(self.memory, GRANT_FRAME)
        self.image = DiskImage("disk.img", self.memory, self.back_effects)
        self.back = Vbd("guest1", 1, self.image, self.hypervisor)
        self.keys = self.front.connect(length)
        self.next_frame = FIRST_FREE_FRAME

    def connect(self) -> "OneDisk":
        """Bring both halves together."""
        assert self.back.attach(self.keys) is None
        self.back.connect()
        return self

    def buffer(self, data: bytes, offset: int = 0) -> PageBuffer:
        """Return a buffer of the application that holds *data* for an offset of the disk."""
        pages = -(-len(data) // 4096)
        buffer = PageBuffer(0, self.memory, self.next_frame, pages)
        self.next_frame += pages
        buffer.fill(self.memory, offset, data)
        return buffer

    def write(self, data: bytes, offset: int = 0) -> list[BlkWrite]:
        """Let the guest write, and return what blkback makes of it."""
        self.front.write(self.buffer(data, offset))
        self.front.flush()
        return self.back.take()

    def finish(self, write: BlkWrite, status: int = 0) -> list[Bio]:
        """Let blkback finish a write; return what that completes at the guest."""
        self.back.finish(write, status)
        self.back.push()
        return self.front.interrupt()
