"""The process that carries machines: a plain class, made a Ray actor where it is placed.

It outlives a run and carries the next one with fresh machines: starting a process costs a second of processor time,
a run of a story often less.
"""

import ctypes
import gc
import os
import signal
import time
from pathlib import Path

import msgspec

from lateack.cluster.live.carrier import Carrier
from lateack.cluster.live.plan import Opened, Order, Status, Whereabouts
from lateack.cluster.live.stores import StoredFile, files_of, read_stored

PR_SET_PDEATHSIG = 1  # linux/prctl.h
LOOPBACK = "127.0.0.1"
ENTRIES_PER_CHUNK = 20_000

_ENCODER = msgspec.msgpack.Encoder()


class Host:
    """What the session asks of one process; every method is an actor call, and none is on the way of a packet."""

    def __init__(self) -> None:
        """Die with whoever started this process: the kernel sees to it, since nothing else survives a SIGKILL."""
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        self._carrier: Carrier | None = None
        self._input = -1

    async def whereabouts(self) -> Whereabouts:
        """Say where this process is."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # Monotonic clocks agree within one kernel and one time namespace (time_namespaces(7)).
        clock = os.readlink("/proc/self/ns/time") if os.path.exists("/proc/self/ns/time") else ""
        return Whereabouts(os.getpid(), f"{boot} {clock}", time.monotonic_ns())

    async def sees(self, path: Path, proof: tuple[int, int] | bytes) -> bool:
        """Say whether a path is the same file here as for the asker: of this size and time (ns), or this content."""
        try:
            if isinstance(proof, bytes):
                return path.read_bytes() == proof
            found = path.stat()
            return (found.st_size, found.st_mtime_ns) == proof and os.access(path, os.R_OK)
        except OSError:
            return False

    async def take_input(self, chunk: bytes) -> None:
        """Append to a nameless file, which then stands in for an input that does not lie on this computer."""
        if self._input < 0:
            self._input = os.memfd_create("lateack-input", os.MFD_CLOEXEC)
        os.write(self._input, chunk)

    async def open(self, order: Order, store_directory: Path | None) -> Opened:
        """Begin a run; see `Carrier.open`."""
        await self.close()
        self._carrier = Carrier(order)
        address = LOOPBACK if order.local else _own_address()
        return await self._carrier.open(address, store_directory)

    async def join(self, others: Opened, input: Path | None) -> None:
        """Connect to the other processes and build the machines; see `Carrier.join`."""
        if self._input >= 0:
            input = Path(f"/proc/self/fd/{self._input}")
        await self._run.join(others, input)

    async def boot(self, start_ns: int) -> None:
        """Switch the machines on; see `Carrier.boot`."""
        self._run.boot(start_ns)

    async def status(self) -> Status:
        """Say how far the machines are."""
        return self._run.status()

    async def audit(self) -> int:
        """End the run; return how many facts there are to fetch."""
        return self._run.audit()

    async def entries(self, start: int) -> bytes:
        """Return at most ENTRIES_PER_CHUNK of the trace's entries, as one msgpack array."""
        return _ENCODER.encode(self._run.entries[start : start + ENTRIES_PER_CHUNK])

    async def expect(self, names: tuple[str, ...]) -> None:
        """Another process takes the place of a dead one; see `Carrier.expect`."""
        self._run.expect(names)

    async def inherit(self, journal: Path) -> bytes:
        """Return what a process wrote down in whose place this one comes."""
        return journal.read_bytes()

    async def stored(self) -> list[StoredFile]:
        """Return the files that lie in this process's store."""
        return [file for store in self._run.stores.values() if store for file in files_of(store)]

    async def read_stored(self, file: StoredFile, offset: int) -> bytes:
        """Return a chunk of a stored file, empty at its end."""
        store = next(store for store in self._run.stores.values() if store)
        return read_stored(store, file, offset)

    async def closing(self) -> None:
        """The run is over: from here on nobody minds that a link ends."""
        self._run.closing = True

    async def close(self) -> None:
        """Forget the run and give back all that it held."""
        if self._carrier is not None:
            await self._carrier.close()
            self._carrier = None
            gc.collect()  # machines are cycles; with them go the last windows on shared memory
        if self._input >= 0:
            os.close(self._input)
            self._input = -1

    @property
    def _run(self) -> Carrier:
        assert self._carrier is not None, "no run has been opened"
        return self._carrier


def _own_address() -> str:
    import ray.util

    return str(ray.util.get_node_ip_address())
