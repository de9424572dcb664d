"""Guest and backend: memory that both map, an event channel each way, and a socket whose end is the other's death.

The owner of the memory makes a memfd, seals its size, and passes it with two eventfds over a Unix socket in the
abstract namespace (SCM_RIGHTS). The kernel frees all of it with the last process that holds it.

An event channel has one pending bit, as Xen's has (public/event_channel.h): an eventfd, however often it was written,
wakes once. A page behind the guest's own frames carries what Xen's shared info page would: the port that was kicked. It
holds the sender's hybrid clock as well, since an eventfd brings no stamp along.
"""

import errno
import fcntl
import mmap
import os
import socket
from collections.abc import Callable

from lateack.cluster.capacity import MemoryUnavailable, available_memory
from lateack.cluster.clock import HybridClock
from lateack.cluster.live.plan import Part
from lateack.nodes.memory.pages import PAGE_SIZE, Memory

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
MAP_POPULATE = 0x8000  # linux/mman.h; the mmap module of Python 3.11 names no such flag
DESCRIPTORS = 3  # the memory, the mapper's bell, the owner's bell
GREETING_MAX = 1024

# Words of the control page, a cache line apart; each has one writer.
OWNER_PORT, OWNER_STAMP, MAPPER_PORT, MAPPER_STAMP = 0, 8, 16, 24


def room_for(byte_count: int) -> None:
    """Raise MemoryUnavailable unless so many bytes can be had here now; the kernel would promise more than it has."""
    available = available_memory()
    if byte_count > available:
        raise MemoryUnavailable(
            f"the guests need {byte_count >> 20} MiB of memory and their machine has {available >> 20} MiB left: lower "
            "guests.memory_pages or guests.count."
        )


def make_memory(part: Part) -> tuple[int, Memory, mmap.mmap]:
    """Return a new memfd (the caller's to close), the memory in it, and its control page; raises MemoryUnavailable."""
    size = part.frames * PAGE_SIZE
    descriptor = os.memfd_create(f"lateack-{part.name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size + PAGE_SIZE)
        os.posix_fallocate(descriptor, 0, size + PAGE_SIZE)  # now and not when a machine first touches a page
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
        return descriptor, *map_memory(descriptor, part)
    except OSError as error:
        os.close(descriptor)
        if error.errno not in (errno.ENOMEM, errno.ENOSPC, errno.EFBIG, errno.EINVAL):
            raise
        raise MemoryUnavailable(
            f"{part.name} cannot have {size >> 20} MiB of memory ({error.strerror}); lower guests.memory_pages."
        ) from error


def map_memory(descriptor: int, part: Part) -> tuple[Memory, mmap.mmap]:
    """Map a memfd of `part`'s size: its frames, and the control page behind them."""
    size = part.frames * PAGE_SIZE
    flags = mmap.MAP_SHARED | MAP_POPULATE
    frames = mmap.mmap(descriptor, size, flags=flags)
    return Memory(part.domid, part.frames, frames, shared=True), mmap.mmap(
        descriptor, PAGE_SIZE, flags=flags, offset=size
    )


class Channel:
    """One process's end: `local` is the machine here, `peer` the one there."""

    __slots__ = (
        "_bell", "_control", "_port_word", "_ring", "_stamp_word", "_words",
        "link", "local", "memory", "part", "peer", "port",
    )  # fmt: skip

    def __init__(self, part: Part, memory: Memory, control: mmap.mmap, *, owner: bool, bells: tuple[int, int]) -> None:
        """Take the memory of `part`, and `bells`: the eventfd that wakes this end, and the one that wakes the other."""
        self.part = part
        self.memory = memory
        self.local, self.peer = (part.name, part.shares_with) if owner else (part.shares_with, part.name)
        self.link: socket.socket | None = None
        self.port = -1  # the one on which the peer has kicked us
        self._bell, self._ring = bells
        self._control = control
        self._words = memoryview(control).cast("Q")
        self._port_word, self._stamp_word = (OWNER_PORT, OWNER_STAMP) if owner else (MAPPER_PORT, MAPPER_STAMP)

    @property
    def bell(self) -> int:
        """The eventfd to wait on."""
        return self._bell

    def kick(self, port: int, clock: HybridClock) -> None:
        """Set the pending bit of `port` at the other end."""
        # A word is one store; whoever reads it has seen everything that was stored before (x86 keeps stores in order).
        self._words[self._stamp_word] = clock.wall + 1  # later than all that we have done, whatever its logical part
        self._words[self._port_word] = port + 1
        os.eventfd_write(self._ring, 1)

    def collect(self, now: int, clock: HybridClock) -> int:
        """Clear our pending bit and return the port that it was for, or -1 when nobody has kicked yet."""
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:
            return self.port  # another wake-up has taken it
        self.port = self._words[self._port_word ^ MAPPER_PORT] - 1
        clock.observe(now, self._words[self._stamp_word ^ MAPPER_PORT], 0)
        return self.port

    def close(self) -> None:
        """Give everything back; the memory is unusable afterwards."""
        os.close(self._bell)
        os.close(self._ring)
        if self.link is not None:
            self.link.close()
        self._words.release()
        self._control.close()
        self.memory.close()  # the mapping goes with the last machine that holds a window on it


def offer(part: Part, address: str, token: str) -> Channel:
    """Make the memory of `part` and hand it to whoever listens at `address`; raises MemoryUnavailable or OSError."""
    descriptor, memory, control = make_memory(part)
    own, other = (os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2))
    channel = Channel(part, memory, control, owner=True, bells=(own, other))
    channel.link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        channel.link.connect(address)
        socket.send_fds(channel.link, [f"{token} {part.name}".encode()], [descriptor, other, own])
    finally:
        os.close(descriptor)
    channel.link.setblocking(False)
    return channel


class Door:
    """Where the mapper waits for each owner's memory: a socket in the abstract namespace, which cannot stay behind."""

    def __init__(self, parts: dict[str, Part], token: str, take: Callable[[Channel], None]) -> None:
        """Listen for the owners `parts`, which know `token`, and give each channel to `take`."""
        self.address = f"\0lateack-{os.urandom(12).hex()}"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setblocking(False)
        self.socket.bind(self.address)
        self.socket.listen(len(parts))
        self._parts = parts
        self._token = token
        self._take = take

    def answer(self) -> None:
        """Let in whoever has just knocked, if it is one of those we wait for."""
        link, _ = self.socket.accept()
        link.settimeout(1.0)  # an owner sends at once; a stranger must not keep us
        try:
            greeting, descriptors, _, _ = socket.recv_fds(link, GREETING_MAX, DESCRIPTORS)
        except OSError:
            link.close()
            return
        token, _, name = greeting.decode(errors="replace").partition(" ")
        part = self._parts.get(name)
        if token != self._token or part is None or len(descriptors) != DESCRIPTORS:
            for descriptor in (*descriptors, link.detach()):
                os.close(descriptor)
            return
        del self._parts[name]
        self._take(self._channel(part, link, descriptors))

    def _channel(self, part: Part, link: socket.socket, descriptors: list[int]) -> Channel:
        descriptor, own, other = descriptors
        assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & SEALS == SEALS, "memory whose size is not sealed"
        memory, control = map_memory(descriptor, part)
        os.close(descriptor)
        link.setblocking(False)
        channel = Channel(part, memory, control, owner=False, bells=(own, other))
        channel.link = link
        return channel
