"""`lateack serve netback`: a Unix socket at which frontends that nobody here wrote attach to the emulated netback.

    frontend: greeting, memory, two bells -> InitWait and what netback can -> Connected -> rings, until it hangs up

docs/netback-door.md has every line and every state. A frontend that lies is told so in one line and shut out, alone;
the door goes on for the others. Nothing that it hands over can stop us: its memory cannot shrink, its slots are copied
before they are believed, its ring is left after 64 packets, and a bell that it lets us wait at is cut short by a clock.
"""

import asyncio
import os
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from lateack.cluster.doors.listening import DoorRefused
from lateack.cluster.doors.netback_caller import Caller, Greeting, Refused, close_all, greeting_in, word_in
from lateack.cluster.doors.netback_carrier import NetbackCarrier
from lateack.nodes.messages import Xenbus
from lateack.nodes.node import Received
from lateack.nodes.split.xenbus import INITIALISING

GREETING_S = 5.0
"""How long somebody may stand at the door without a word."""
STRANGERS_MAX = 8
"""Connections beyond the guests, for those who have yet to say who they are."""
STALL_S = 1.0
"""How often a clock looks whether a bell makes us wait; see `_clock_against_stalls`."""
RETRY_S = 1.0
GUESTS_MOST = 256


class NetbackDoor:
    """The socket, whoever is connected to it, and the machine behind it; it says on standard output what happens."""

    def __init__(self, listener: socket.socket, backend: str, guests_max: int, *, as_json: bool = False) -> None:
        """Serve at most *guests_max* frontends at *listener*, by the strategy *backend*; raises StrategyNotFound."""
        self.carrier = NetbackCarrier(backend, guests_max, self)
        self._listener = listener
        self._guests_max = guests_max
        self._as_json = as_json
        self._loop = asyncio.get_running_loop()
        self._callers: set[Caller] = set()
        self._guests: dict[str, Caller] = {}
        self._closed = False
        self._open()

    def close(self) -> None:
        """Hang up on everybody, and let go of the machine."""
        self._closed = True
        guests = list(self._guests)
        for caller in list(self._callers):
            self._hang_up(caller)
        for guest in guests:
            self.carrier.detach(guest)
        self._loop.remove_reader(self._listener)
        self.carrier.close()
        for (place, reason), count in sorted(self.carrier.losses.items()):
            self.report("lost", place=place, count=count, reason=reason)

    def report(self, event: str, **details: object) -> None:
        """Say on standard output what has happened, in a line of text or of JSON."""
        if self._as_json:
            print(msgspec.json.encode({"event": event} | details).decode(), flush=True)
        else:
            print(event, *(f"{name}={value}" for name, value in details.items()), flush=True)

    # --- who comes ----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        """Let somebody in; when the house is full, or has no descriptors left, they wait in the kernel's queue."""
        try:
            link, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:
            self._loop.remove_reader(self._listener)
            self._loop.call_later(RETRY_S, self._open)
            return
        link.setblocking(False)
        caller = Caller(link)
        self._callers.add(caller)
        self._loop.add_reader(link, self._hear, caller)
        self._loop.call_later(GREETING_S, self._forget_stranger, caller)
        if len(self._callers) >= self._guests_max + STRANGERS_MAX:
            self._loop.remove_reader(self._listener)

    def _forget_stranger(self, caller: Caller) -> None:
        if caller in self._callers and not caller.name:
            self._refuse(caller, f"Nobody has said anything for {GREETING_S:g} seconds.")

    def _hear(self, caller: Caller) -> None:
        """Take one line of a caller; what it gets wrong costs it the connection."""
        descriptors: list[int] = []
        try:
            line, descriptors = caller.hear()
            if not line:
                self._hang_up(caller)
            elif caller.name:
                self._take_word(caller, line, descriptors)
            else:
                self._take_greeting(caller, greeting_in(line), descriptors)
        except BlockingIOError:
            pass
        except Refused as reason:
            self._refuse(caller, str(reason))
        finally:
            close_all(descriptors)

    def _take_greeting(self, caller: Caller, greeting: Greeting, descriptors: list[int]) -> None:
        if self.carrier.knows(greeting.attach):
            raise Refused(f"There is a frontend {greeting.attach} already, or its last packets are not gone yet.")
        if len(self.carrier.backend.vifs) >= self._guests_max:
            raise Refused(f"There are {self._guests_max} frontends already, which is as many as may come.")
        caller.take_over(greeting, descriptors)
        assert caller.memory is not None and caller.bells is not None
        name = caller.name = greeting.attach
        self._guests[name] = caller
        caller.domid = self.carrier.attach(
            name, caller.memory, grant_frame=greeting.grant_frame, grant_frames=greeting.grant_frames
        )
        self.report("attached", name=name, domid=caller.domid)
        if caller in self._callers:
            self._loop.add_reader(caller.bells[0], self._woken, caller)
            if greeting.state != INITIALISING:
                self.carrier.deliver(Received(name, Xenbus(greeting.state, greeting.keys)))

    def _take_word(self, caller: Caller, line: bytes, descriptors: list[int]) -> None:
        if descriptors:
            raise Refused("Only the greeting brings descriptors.")
        self.carrier.deliver(Received(caller.name, word_in(line)))

    def _woken(self, caller: Caller) -> None:
        """The frontend has kicked: clear the pending bit, then look into its rings."""
        assert caller.bells is not None
        try:
            os.eventfd_read(caller.bells[0])
        except BlockingIOError:
            pass  # the frontend has taken it back, or it was never there
        except OSError:
            self._refuse(caller, "Your bell kept the door waiting.")
            return
        self.carrier.kick(caller.name)

    # --- who goes -----------------------------------------------------------------------------------------------------

    def _refuse(self, caller: Caller, reason: str) -> None:
        """Tell a frontend what is wrong, in the last line that it gets."""
        if caller in self._callers:
            caller.say({"error": reason})
            self.report("refused", name=caller.name, reason=reason)
            self._hang_up(caller)

    def _hang_up(self, caller: Caller) -> None:
        if caller not in self._callers:
            return
        self._callers.discard(caller)
        self._loop.remove_reader(caller.link)
        if caller.bells is not None:
            self._loop.remove_reader(caller.bells[0])
        caller.close()
        if self._guests.pop(caller.name, None) is not None:
            # Later: the machine may be in the middle of an event that is carried out.
            self._loop.call_soon(self._detach, caller.name)
        self._open()

    def _detach(self, guest: str) -> None:
        if not self._closed:
            self.carrier.detach(guest)

    # --- what the machine orders (`Told`) -----------------------------------------------------------------------------

    def kicked(self, guest: str) -> None:
        """Set the pending bit of the guest's event channel."""
        caller = self._guests.get(guest)
        if caller is None or caller.bells is None:
            return
        try:
            os.eventfd_write(caller.bells[1], 1)
        except BlockingIOError:
            pass  # it is as pending as can be
        except OSError:
            self._refuse(caller, "Your bell kept the door waiting.")

    def announced(self, guest: str, message: Xenbus) -> None:
        """Tell a frontend netback's state; one that does not read what it is told is gone for us."""
        caller = self._guests.get(guest)
        if caller is not None and not caller.say({"state": message.state, "keys": message.keys}):
            self._hang_up(caller)

    def shut(self, guest: str, reason: str) -> None:
        """Netback has caught the frontend lying."""
        caller = self._guests.get(guest)
        if caller is not None:
            self._refuse(caller, f"Your interface is shut: {reason}.")

    def left(self, guest: str) -> None:
        """Say that nothing of a frontend is left."""
        self.report("left", name=guest)


# --- the command ------------------------------------------------------------------------------------------------------


def serve(socket_path: Path, backend: str, guests_max: int, as_json: bool) -> int:
    """Serve netback at a Unix socket until SIGINT or SIGTERM, and return the exit code; raises LateackError.

    Everything is said on standard output. The socket is its owner's alone (mode 0600), and removed at the end.
    """
    if not 1 <= guests_max <= GUESTS_MOST:
        raise DoorRefused(f"--guests-max {guests_max}: give a number from 1 to {GUESTS_MOST}.")
    with listening(socket_path) as listener:
        return asyncio.run(_serve(listener, socket_path, backend, guests_max=guests_max, as_json=as_json))


async def _serve(listener: socket.socket, path: Path, backend: str, *, guests_max: int, as_json: bool) -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    failures: list[BaseException] = []

    def give_up(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """A mistake of ours, which asyncio would only print."""
        error = context.get("exception")
        failures.append(error if isinstance(error, BaseException) else RuntimeError(str(context["message"])))
        stopped.set()

    loop.set_exception_handler(give_up)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    door = NetbackDoor(listener, backend, guests_max, as_json=as_json)
    grants = "compare-exchange" if door.carrier.library is not None else "load and store"
    with _clock_against_stalls():
        door.report("serving", path=str(path), backend=backend, grants=grants)
        await stopped.wait()
        if failures:
            raise failures[0]
        door.close()
    door.report("closed")
    return 0


@contextmanager
def _clock_against_stalls() -> Iterator[None]:
    """Interrupt a bell at which we wait.

    An eventfd that a frontend has filled, and made wait by taking O_NONBLOCK back (its flags are shared with us), would
    keep us for ever. A signal breaks that off: it must not be asyncio's, which restarts what it has interrupted.
    """
    before = signal.signal(signal.SIGALRM, lambda _number, _frame: None)
    signal.setitimer(signal.ITIMER_REAL, STALL_S, STALL_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Make the socket, and remove it in the end if it is still the same; raises DoorRefused if it cannot be made."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
    except (OSError, ValueError) as error:
        listener.close()
        raise DoorRefused(f"{path}: {_why(path, error)}") from error
    finally:
        os.umask(before)
    made = os.stat(path)
    listener.listen()
    listener.setblocking(False)
    try:
        yield listener
    finally:
        listener.close()
        try:
            found = os.stat(path)
            if (found.st_dev, found.st_ino) == (made.st_dev, made.st_ino):
                os.unlink(path)
        except OSError:
            pass  # somebody has removed it, and the folder perhaps


def _why(path: Path, error: OSError | ValueError) -> str:
    """Say why no socket could be made at *path*, and what to do about it."""
    if not os.path.lexists(path):
        reason = getattr(error, "strerror", None) or str(error)
        return f"no socket can be made there ({reason}); choose another --socket."
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return "there is something else by that name; choose another --socket."
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return "a door that was killed has left its socket there; remove it, or choose another --socket."
    return "another door listens there; choose another --socket."
