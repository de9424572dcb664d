"""A session: one Ray cluster, and as many runs on it as wanted, one after the other.

A run goes through the same steps everywhere: open (who listens, where), join (links and memory), boot, and then the
session only looks on, until every machine has nothing left to do and nothing is on its way.
"""

import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lateack.cluster.live.crew import Crew, MachineFailed, Process, ProcessDied
from lateack.cluster.live.plan import Opened, Order, Plan, ScenarioPlan, Status
from lateack.cluster.live.ray_cluster import RayCluster
from lateack.cluster.live.restarts import Restarts
from lateack.cluster.live.stores import CHUNK_BYTES, StoredFile
from lateack.cluster.schema import Limits, Scenario
from lateack.cluster.trace import DECODER, Entry, Trace
from lateack.nodes.errors import LateackError

Progress = Callable[[str, int, int], None]

LOOK_S = 0.025
LOOK_LATER_S = 0.1  # after the first second: a look costs every process a millisecond
STEP_S = 60.0
CLOSE_S = 5.0
SILENCE_S = 10.0
SAMPLES = 5  # of another computer's clock; the quickest answer counts


class InputUnreadable(LateackError):
    """The file that the guests are to copy cannot be read."""


class LiveSession:
    """Runs scenarios on Ray; use it with `with`, and everything is gone at its end."""

    def __init__(self, address: str | None = None, *, silence_s: float = SILENCE_S) -> None:
        """Use the Ray cluster at `address`, or without one a cluster of our own on this machine.

        A process that says nothing for `silence_s` seconds counts as dead.
        """
        self._cluster = RayCluster(address)
        self._silence_s = silence_s
        self._crew: Crew | None = None
        self._epoch = 0

    def __enter__(self) -> Self:
        self._cluster.up()
        self._crew = Crew(sys.modules["ray"], self._cluster.local)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._crew is not None:
                self._crew.dismiss(by_force=not self._cluster.is_alive())
                if not self._cluster.local:
                    self._crew.give_places_back()
        finally:
            self._cluster.down()

    def run(self, scenario: Scenario, *, server_dir: Path | None = None, progress: Progress | None = None) -> Trace:
        """Run a scenario and return what its machines recorded; the server's files are in `server_dir` then.

        Without `server_dir` the server stores into memory. `progress` hears (guest, writes completed, writes issued).
        Raises LateackError when a process or a link fails, MachineFailed when a machine's own code does.
        """
        return self.carry(ScenarioPlan(scenario), server_dir=server_dir, progress=progress, limits=scenario.limits)

    def carry(
        self, plan: Plan, *, limits: Limits, server_dir: Path | None = None, progress: Progress | None = None
    ) -> Trace:
        """Run any plan; see `run`."""
        assert self._crew is not None, "use the session with `with`"
        self._epoch += 1
        run: Run | None = None
        try:
            run = Run(self._crew, plan, epoch=self._epoch, local=self._cluster.local, silence_s=self._silence_s)
            run.prepare(server_dir)
            run.watch(limits, progress)
            trace = run.collect(server_dir)
            run.close()
            return trace
        except BaseException:
            self._crew.dismiss(by_force=not self._cluster.is_alive())  # the next run starts with new processes
            if run is not None:
                run.clean_up()
            raise


class Run:
    """One run, as the session sees it."""

    def __init__(self, crew: Crew, plan: Plan, *, epoch: int, local: bool, silence_s: float) -> None:
        """Find a process for every machine of `plan`."""
        self._crew = crew
        self._plan = plan
        self._epoch = epoch
        self._local = local
        self._silence_s = silence_s
        self._token = secrets.token_hex(16)
        self._processes = crew.muster(plan)
        self._hub = next(process for process in self._processes if plan.hub in process.names)
        self._fetches_store = False
        self._restarts = Restarts(plan, self._token, local=local)
        self._directories: dict[str, Path | None] = {}
        self._others = Opened()
        self._start = 0

    # --- before ------------------------------------------------------------------------------------------------------

    def prepare(self, server_dir: Path | None) -> None:
        """Bring everything up to the moment when all machines are there; then switch them on."""
        directory = server_dir.absolute() if server_dir is not None else None
        self._directories = {process.names[0]: self._visible(process, directory) for process in self._processes}
        opened = self._everywhere("open", self._opening)
        self._others = others = _merged(opened)
        self._everywhere("join", lambda process: (others, self._bring_input(process)))
        self._start = start = time.monotonic_ns()
        offsets = {id(process): self._clock_offset(process) for process in self._processes}
        try:
            self._everywhere("boot", lambda process: (start + offsets[id(process)],))
        except ProcessDied as death:
            self._bring_back(death)

    def _opening(self, process: Process) -> tuple[Order, Path | None]:
        return self._order(process), self._directories[process.names[0]]

    def _order(self, process: Process) -> Order:
        links = tuple(other.names for other in self._processes if other is not process)
        return Order(
            self._plan, process.names, links, self._epoch, self._token,
            local=self._local, silence_s=self._silence_s,
            scratch=self._restarts.scratch, incarnation=self._restarts.incarnation(process),
        )  # fmt: skip

    def _visible(self, process: Process, directory: Path | None) -> Path | None:
        """Return the server's directory as `process` is to use it: None where it does not see ours."""
        if directory is None or self._local:
            return directory
        probe = directory / f".lateack-{secrets.token_hex(8)}"
        proof = secrets.token_bytes(16)
        probe.write_bytes(proof)
        try:
            [seen] = self._ask([process], "sees", (probe, proof))
        finally:
            probe.unlink()
        self._fetches_store = self._fetches_store or not seen
        return directory if seen else None

    def _bring_input(self, process: Process) -> Path | None:
        """Return where the input lies for `process`, which is sent it if it cannot read the file itself."""
        path = self._plan.input
        owners = {part.name for part in self._plan.parts if part.frames}
        if path is None or owners.isdisjoint(process.names):
            return None
        try:
            status = path.stat()
            if self._local or self._ask([process], "sees", (path, (status.st_size, status.st_mtime_ns)))[0]:
                return path
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    self._ask([process], "take_input", (chunk,))
        except OSError as error:
            raise InputUnreadable(
                f"the input {path} cannot be read: {error.strerror}; name another with --input."
            ) from error
        return path

    def _clock_offset(self, process: Process) -> int:
        """Return by how much (ns) a process's monotonic clock is ahead of ours (Cristian 1989; exact on one kernel)."""
        if process.where.kernel == self._kernel():
            return 0
        samples = []
        for _ in range(SAMPLES):
            before = time.monotonic_ns()
            [where] = self._ask([process], "whereabouts", ())
            after = time.monotonic_ns()
            samples.append((after - before, where.clock_ns - (before + after) // 2))
        return int(min(samples)[1])

    def _kernel(self) -> str:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/time")
        return f"{boot} {namespace.readlink() if namespace.exists() else ''}"

    # --- during ------------------------------------------------------------------------------------------------------

    def watch(self, limits: Limits, progress: Progress | None) -> None:
        """Look on until the run is over: nothing left to do, nothing on its way, or a limit reached."""
        started = changed = time.monotonic()
        facts, before = -1, (-1, -1)
        while True:
            states = self._states()
            now = time.monotonic()
            if progress is not None:
                for name, (completed, issued) in _writes(states):
                    progress(name, completed, issued)
            # Messages are counted at both ends. That the counts agree proves nothing unless they agreed a moment ago,
            # too, and nobody has done anything since (Mattern 1987, the four-counter method).
            counts = sum(state.sent for state in states), sum(state.events for state in states)
            in_flight = counts[0] - sum(state.received for state in states)
            if not in_flight and counts == before and not any(state.pending for state in states):
                return
            before = counts
            if (total := sum(state.facts for state in states)) != facts:
                facts, changed = total, now
            if now - changed > limits.idle_s or now - started > limits.duration_s:
                return  # judged as it stands: a stall, if somebody still waits
            time.sleep(LOOK_S if now - started < 1 else LOOK_LATER_S)

    def _bring_back(self, death: ProcessDied) -> None:
        """Put a fresh process in the place of one that a rule has killed; raises `death` if it was none."""
        process, restarts = death.process, self._restarts
        if not restarts.expects(process):
            raise death
        journal = self._order(process).journal
        self._crew.replace(process)
        [left] = self._ask([process], "inherit", (journal,))
        due = restarts.take(process, left)
        if due is None:
            raise death
        self._ask([self._hub], "expect", (process.names,))
        self._ask([process], "open", self._opening(process))
        self._ask([process], "join", (self._others, None))
        time.sleep(max(0, due - (time.monotonic_ns() - self._start)) / 1e9)
        try:
            self._ask([process], "boot", (self._start + self._clock_offset(process),))
        except ProcessDied as again:
            self._bring_back(again)

    def _states(self) -> list[Status]:
        try:
            states = self._everywhere("status", lambda process: (), self._silence_s)
        except ProcessDied as death:
            self._bring_back(death)
            return self._states()
        for state in states:
            if state.crash:
                raise MachineFailed(state.crash)
        for state in states:
            if state.failure:
                raise self._crew.last_words(self._processes, state.failure)
        return list(states)

    # --- after -------------------------------------------------------------------------------------------------------

    def collect(self, server_dir: Path | None) -> Trace:
        """Let every machine take stock, and return everything that they recorded, causes before effects."""
        counts = self._everywhere("audit", lambda process: ())
        self._states()  # taking stock may fail as well
        entries = self._restarts.entries
        for process, count in zip(self._processes, counts, strict=True):
            fetched: list[Entry] = []
            while len(fetched) < count:
                [chunk] = self._ask([process], "entries", (len(fetched),))
                fetched += DECODER.decode(chunk)
            entries += fetched
        entries.sort(key=_stamp)
        if server_dir is not None and self._fetches_store:
            self._fetch_stores(server_dir)
        return Trace(entries)

    def _fetch_stores(self, directory: Path) -> None:
        for process in self._processes:
            [files] = self._ask([process], "stored", ())
            for file in files:
                self._fetch(process, file, directory.joinpath(*file.path))

    def _fetch(self, process: Process, file: StoredFile, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as out:
            while chunk := self._ask([process], "read_stored", (file, out.tell()))[0]:
                out.write(chunk)

    def clean_up(self) -> None:
        """Remove what processes that are gone have left."""
        self._restarts.clean_up()

    def close(self) -> None:
        """End the run everywhere; the processes stay, for the next."""
        self._everywhere("closing", lambda process: (), CLOSE_S)
        self._everywhere("close", lambda process: (), CLOSE_S)

    # --- asking ------------------------------------------------------------------------------------------------------

    def _everywhere(
        self, method: str, arguments: Callable[[Process], tuple[Any, ...]], timeout: float = STEP_S
    ) -> list[Any]:
        references = [getattr(process.handle, method).remote(*arguments(process)) for process in self._processes]
        return self._crew.ask(self._processes, references, timeout)

    def _ask(self, processes: list[Process], method: str, arguments: tuple[Any, ...]) -> list[Any]:
        references = [getattr(process.handle, method).remote(*arguments) for process in processes]
        return self._crew.ask(processes, references, STEP_S)


def _merged(opened: list[Opened]) -> Opened:
    """Return where everybody is, as one answer."""
    return Opened(
        hub="".join(each.hub for each in opened),
        door="".join(each.door for each in opened),
        root=b"".join(each.root for each in opened),
    )


def _writes(states: list[Status]) -> list[tuple[str, tuple[int, int]]]:
    return [item for state in states for item in state.writes.items()]


def _stamp(entry: Entry) -> tuple[int, int, str]:
    return entry[:3]
