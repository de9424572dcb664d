"""Whether this machine has the memory that a scenario asks for, asked before anything is brought up."""

import os
from pathlib import Path

from lateack.cluster.schema import PAGE_SIZE, Scenario
from lateack.nodes.errors import LateackError

GIB = 2**30
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class MemoryUnavailable(LateackError):
    """The guests would need more memory than this machine can give."""


def refuse_what_does_not_fit(scenario: Scenario) -> None:
    """Raise MemoryUnavailable if all guests' memory together is more than this machine has to give.

    Linux would promise it all the same and kill somebody later.
    """
    needed = scenario.guests.count * scenario.guests.memory_pages * PAGE_SIZE
    available = available_memory()
    if needed > available:
        raise MemoryUnavailable(
            f"guests.memory_pages={scenario.guests.memory_pages} for {scenario.guests.count} guest(s) asks for "
            f"{needed / GIB:.1f} GiB of memory, and {available / GIB:.1f} GiB are free: ask for less."
        )


def available_memory() -> int:
    """Return the bytes that a new process could use here: free or reclaimable, and within the container's limit."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), available)
        limit = CGROUP_LIMIT.read_text(encoding="ascii").strip()
    except OSError:
        return available
    return min(available, int(limit)) if limit.isdecimal() else available
