"""One foreign frontend at the door: what it says, what it hands over, and why it may be refused.

It says what docs/netback-door.md allows and nothing else. Nothing that it hands over is believed: the memory must not
be able to shrink (or touching it could kill us with SIGBUS), and the bells must be event counters that never wait.
"""

import array
import fcntl
import mmap
import os
import re
import socket
import stat
from typing import TypeVar

import msgspec

from lateack.cluster.capacity import available_memory
from lateack.nodes.bridge import HOST_MAC
from lateack.nodes.errors import LateackError
from lateack.nodes.memory.hypervisor import MAX_GRANT_FRAMES
from lateack.nodes.memory.pages import PAGE_SIZE, Memory
from lateack.nodes.messages import Xenbus
from lateack.nodes.split.xenbus import CLOSED, CONNECTED, INITIALISING

LINE_MAX = 4096
"""Bytes in a line, its end included."""
DESCRIPTORS = 3
"""The memory, the bell at the door, the bell at the frontend."""
DESCRIPTORS_TAKEN = 16
"""Descriptors that fit into what the kernel may put; it closes those beyond, and we close these."""
MEMORY_MAX = 64 << 20
"""Bytes of memory that one frontend may lend from."""
NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
EVENTFD = "anon_inode:[eventfd]"
GROUP_BIT = 1


class Refused(LateackError):
    """A frontend has said or handed over something that cannot be; the message is what it is told."""


class Word(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line: the frontend's xenbus state and its xenstore keys."""

    state: int
    keys: dict[str, str | int] = {}


class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """The first line, which says besides who comes and where its grant table lies, in frames of its memory."""

    attach: str
    state: int = CONNECTED
    keys: dict[str, str | int] = {}
    grant_frame: int = 0
    grant_frames: int = 1


Said = TypeVar("Said", Word, Greeting)


class Caller:
    """A connection, and from its greeting on a frontend; `name` is empty before, and `memory` None."""

    def __init__(self, link: socket.socket) -> None:
        """Talk over this socket, which never waits."""
        self.link = link
        self.name = ""
        self.domid = 0
        self.memory: Memory | None = None
        self.bells: tuple[int, int] | None = None
        """The one at which we are woken, and the one by which we wake the frontend."""

    def hear(self) -> tuple[bytes, list[int]]:
        """Return the next line, empty when the other end is gone, and descriptors that are the receiver's to close.

        Raises BlockingIOError when there is none, and Refused, with all descriptors closed, for a line that is too
        long or brings more descriptors than the kernel would give us.
        """
        room = socket.CMSG_SPACE(DESCRIPTORS_TAKEN * array.array("i").itemsize)
        try:
            line, control, flags, _ = self.link.recvmsg(LINE_MAX, room, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
        except ConnectionError:
            return b"", []
        descriptors = _descriptors_in(control)
        if flags & socket.MSG_CTRUNC or flags & socket.MSG_TRUNC:
            close_all(descriptors)
            what = "line is too long" if flags & socket.MSG_TRUNC else "line brings too many descriptors"
            raise Refused(f"The {what}: at most {LINE_MAX} bytes and {DESCRIPTORS} descriptors are taken.")
        return line, descriptors

    def say(self, line: dict[str, object]) -> bool:
        """Send a line; False if the frontend is gone or has not read for long."""
        try:
            self.link.send(msgspec.json.encode(line) + b"\n", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def take_over(self, greeting: Greeting, descriptors: list[int]) -> None:
        """Take what came with the greeting and is in order; raises Refused. Descriptors that are kept leave the list.

        The memory's own is closed by the caller with those that are left: the mapping needs none.
        """
        if len(descriptors) != DESCRIPTORS:
            raise Refused(f"A greeting brings {DESCRIPTORS} descriptors (memory, two bells), not {len(descriptors)}.")
        for bell in descriptors[1:]:
            _check_bell(bell)
        self.memory = map_guest(descriptors[0], greeting)
        self.bells = (descriptors[1], descriptors[2])
        del descriptors[1:]

    def close(self) -> None:
        """Hang up, and let go of the bells; the memory is whoever's that still works on it."""
        self.link.close()
        if self.bells is not None:
            close_all(list(self.bells))
            self.bells = None
        self.memory = None


# --- what is said -----------------------------------------------------------------------------------------------------


def greeting_in(line: bytes) -> Greeting:
    """Decode the first line; raises Refused."""
    greeting = _decode(line, Greeting)
    if not NAME.fullmatch(greeting.attach):
        raise Refused("attach must be a name of 1 to 32 letters a-z, digits and hyphens, beginning with a letter.")
    if greeting.state not in (INITIALISING, CONNECTED):
        raise Refused(f"A frontend begins in state {INITIALISING} (Initialising) or {CONNECTED} (Connected).")
    if not 1 <= greeting.grant_frames <= MAX_GRANT_FRAMES or greeting.grant_frame < 0:
        raise Refused(f"A grant table has 1 to {MAX_GRANT_FRAMES} frames, from frame 0 or a later one on.")
    check_keys(greeting.state, greeting.keys)
    return greeting


def word_in(line: bytes) -> Xenbus:
    """Decode a later line; raises Refused."""
    word = _decode(line, Word)
    if not INITIALISING <= word.state <= CLOSED:
        raise Refused(f"There is no xenbus state {word.state} for a frontend.")
    check_keys(word.state, word.keys)
    return Xenbus(word.state, word.keys)


def check_keys(state: int, keys: dict[str, str | int]) -> None:
    """Refuse what netback does not look at by itself; the rings are its own business.

    Source: read_xenbus_vif_flags (request-rx-copy), xen_net_read_mac, is_valid_ether_addr.
    """
    if state != CONNECTED:
        return
    missing = [key for key in ("mac", "tx-ring-ref", "rx-ring-ref") if key not in keys]
    if missing:
        raise Refused(f"The key {missing[0]} is missing.")
    if str(keys.get("request-rx-copy", 0)) != "1":
        raise Refused("request-rx-copy must be 1: pages are not flipped here.")
    try:
        mac = bytes.fromhex(str(keys["mac"]).replace(":", ""))
    except ValueError:
        mac = b""
    if len(mac) != 6 or mac[0] & GROUP_BIT or not any(mac) or mac == HOST_MAC:
        raise Refused("mac must be an Ethernet address of one station, such as 00:16:3e:00:00:01, and not the host's.")


def _decode(line: bytes, kind: type[Said]) -> Said:
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused(f"This is no line of this protocol: {error}.") from error


# --- what is handed over ----------------------------------------------------------------------------------------------


def map_guest(descriptor: int, greeting: Greeting) -> Memory:
    """Map a frontend's memory, if it can never shrink under us; raises Refused. Its domain gets its number later."""
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError as error:
        raise Refused("The first descriptor must be a memfd that may be sealed (MFD_ALLOW_SEALING).") from error
    if not seals & fcntl.F_SEAL_SHRINK:
        raise Refused("The memory must be sealed against shrinking (F_SEAL_SHRINK).")
    status = os.fstat(descriptor)
    frames = status.st_size // PAGE_SIZE
    if not stat.S_ISREG(status.st_mode) or status.st_size % PAGE_SIZE or not 0 < status.st_size <= MEMORY_MAX:
        raise Refused(f"The memory must have whole frames of {PAGE_SIZE} bytes, {MEMORY_MAX >> 20} MiB at most.")
    if greeting.grant_frame + greeting.grant_frames > frames:
        raise Refused("The grant table lies outside of the memory.")
    if status.st_size > available_memory():
        raise Refused("This computer has not so much memory left.")
    try:
        mapped = mmap.mmap(descriptor, status.st_size, flags=mmap.MAP_SHARED)
    except OSError as error:
        raise Refused(f"The memory cannot be mapped for reading and writing ({error.strerror}).") from error
    return Memory(0, frames, mapped, shared=True)


def close_all(descriptors: list[int]) -> None:
    """Close what nobody is to use."""
    for descriptor in descriptors:
        os.close(descriptor)


def _check_bell(descriptor: int) -> None:
    if os.readlink(f"/proc/self/fd/{descriptor}") != EVENTFD:
        raise Refused("The second and third descriptor must be eventfds.")
    if not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_NONBLOCK:
        raise Refused("The eventfds must be made with EFD_NONBLOCK.")


def _descriptors_in(control: list[tuple[int, int, bytes]]) -> list[int]:
    descriptors = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return list(descriptors)
