"""The deaths that a run expects, what the dead have left, and when they are to be back."""

import os
import shutil
import tempfile
from pathlib import Path

from lateack.cluster.live.crew import Process
from lateack.cluster.live.journal import read_journal
from lateack.cluster.live.plan import Plan
from lateack.cluster.trace import Entry
from lateack.nodes.node import Time


class Restarts:
    """Which machines of a run a rule may kill, how often each has died, and the entries that the dead wrote down."""

    def __init__(self, plan: Plan, token: str, *, local: bool) -> None:
        """Expect the deaths that `plan` speaks of; `token` tells this run's folder from every other's."""
        self._mortal = {part.name for part in plan.parts if part.mortal}
        self._died: dict[str, int] = {}
        self.entries: list[Entry] = []
        # On our own computer the folder is named as the cluster's own is, which the next session removes if this one
        # is killed; the processes of another computer make theirs.
        owner = str(os.getpid()) if local else "run"
        self.scratch = Path(tempfile.gettempdir()) / f"lateack-{owner}-{token}" if self._mortal else None

    def clean_up(self) -> None:
        """Remove what a broken run has left on this computer; otherwise the last to use it has done so."""
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def expects(self, process: Process) -> bool:
        """Say whether a rule may have killed this process."""
        return process.names[0] in self._mortal

    def incarnation(self, process: Process) -> int:
        """Return how often the machine of a process has died."""
        return self._died.get(process.names[0], 0)

    def take(self, process: Process, journal: bytes) -> Time | None:
        """Keep what a dead process wrote down, and return when it is to be back (ns since the run began).

        That is None where no rule killed it.
        """
        entries, restart_after = read_journal(journal)
        self.entries += entries
        if restart_after is None:
            return None
        name = process.names[0]
        self._died[name] = self._died.get(name, 0) + 1
        return (entries[-1][0] if entries else 0) + restart_after
