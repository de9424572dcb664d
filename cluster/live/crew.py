"""The processes of a session: Ray actors, placed, asked in parallel, replaced when they die, and gone at the end."""

import contextlib
import os
import time
from typing import Any

import msgspec

from lateack.cluster.live.host import Host
from lateack.cluster.live.plan import Part, Plan, Whereabouts
from lateack.cluster.live.processes import see_dead
from lateack.nodes.errors import LateackError

OWNERS_PER_HOST_MAX = 8  # processes for guests on one physical host; more guests than that share them
PLACE_S = 15.0
START_S = 60.0
START_PER_PROCESS_S = 3.0
WAIT_SLICE_S = 0.25
LAST_WORD_S = 1.0
DEATH_S = 3.0
SPARE = -1
"""The number of a process that carries nothing, and waits for another one of its place to die."""


class RunBroken(LateackError):
    """A process or a link of a run has failed; the run was stopped."""


class ProcessDied(RunBroken):
    """One process of a run is dead: a rule may have killed it."""

    def __init__(self, epitaph: str, process: "Process") -> None:
        super().__init__(epitaph)
        self.process = process


class MachineFailed(AssertionError):
    """The code of a machine, or of a strategy in it, has raised an exception: its traceback follows."""


class Process(msgspec.Struct):
    """An actor and what we know of it."""

    handle: Any
    place: str
    number: int
    where: Whereabouts
    pidfd: int = -1
    names: tuple[str, ...] = ()
    """The machines that it carries now; the first stands for it in messages."""


def grouped(plan: Plan) -> list[tuple[str, tuple[str, ...]]]:
    """Return which machines share a process, with its physical host: one each, but guests beyond eight together."""
    places: dict[str, list[Part]] = {}
    for part in plan.parts:
        places.setdefault(part.host, []).append(part)
    groups: list[tuple[str, tuple[str, ...]]] = []
    for place, parts in places.items():
        owners = [part.name for part in parts if part.frames]
        groups += [(place, (part.name,)) for part in parts if not part.frames]
        share = -(-len(owners) // OWNERS_PER_HOST_MAX) or 1
        groups += [(place, tuple(owners[start : start + share])) for start in range(0, len(owners), share)]
    return groups


class Crew:
    """All processes of a session."""

    def __init__(self, ray: Any, local: bool) -> None:
        """Start none yet."""
        self._ray = ray
        self._local = local
        self._processes: dict[tuple[str, int], Process] = {}
        self._placements: dict[str, Any] = {}

    def muster(self, plan: Plan) -> list[Process]:
        """Return a process for each group of machines, started where there is none yet; raises RunBroken.

        Beside the process of a machine that a rule may kill another one waits to take its place.
        """
        groups = grouped(plan)
        wanted: list[tuple[str, int]] = []
        for place, _ in groups:
            wanted.append((place, sum(other == place for other, _ in wanted)))
        spare = [(part.host, SPARE) for part in plan.parts if part.mortal]
        self._start([key for key in (*wanted, *spare) if key not in self._processes])
        for key, (_, names) in zip(wanted, groups, strict=True):
            self._processes[key].names = names
        return [self._processes[key] for key in wanted]

    def replace(self, process: Process) -> None:
        """Let the spare process of a dead one's place, or a new one, stand for it from now on; raises RunBroken."""
        key = (process.place, SPARE)
        if key not in self._processes:
            self._start([key])
        spare = self._processes.pop(key)
        see_dead([process.pidfd] if process.pidfd >= 0 else [], DEATH_S)
        process.handle, process.where, process.pidfd = spare.handle, spare.where, spare.pidfd

    def _start(self, keys: list[tuple[str, int]]) -> None:
        actor = self._ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)(Host)
        handles = [actor.options(scheduling_strategy=self._strategy(place)).remote() for place, _ in keys]
        try:
            found = self._ray.get(
                [handle.whereabouts.remote() for handle in handles], timeout=START_S + START_PER_PROCESS_S * len(keys)
            )
        except BaseException as error:
            for handle in handles:
                self._ray.kill(handle)
            if isinstance(error, self._ray.exceptions.RayError):
                raise RunBroken(_not_started(error)) from error
            raise
        for key, handle, where in zip(keys, handles, found, strict=True):
            process = Process(handle, *key, where)
            if self._local:
                with contextlib.suppress(OSError):  # an old kernel, or already gone
                    process.pidfd = os.pidfd_open(where.pid)
            self._processes[key] = process

    def _strategy(self, place: str) -> Any:
        """Return where actors of a physical host go: those of one host to one node, since they share memory."""
        from ray.util.placement_group import placement_group, remove_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = self._placements.get(place)
        if group is None:
            group = placement_group([{"CPU": 0.01}], strategy="STRICT_PACK")  # Ray refuses a bundle of nothing
            try:
                self._ray.get(group.ready(), timeout=PLACE_S)
            except self._ray.exceptions.GetTimeoutError as error:
                remove_placement_group(group)
                raise RunBroken(
                    f"no machine of the Ray cluster takes {place}: each has to have a CPU left; see `ray status`."
                ) from error
            self._placements[place] = group
        return PlacementGroupSchedulingStrategy(group, 0)

    # --- asking ------------------------------------------------------------------------------------------------------

    def ask(self, processes: list[Process], references: list[Any], timeout: float) -> list[Any]:
        """Wait for one answer from each process; raises RunBroken as soon as one is dead, or silent for `timeout` s."""
        deadline = time.monotonic() + timeout
        waiting = list(references)
        while waiting:
            done, waiting = self._ray.wait(waiting, num_returns=len(waiting), timeout=WAIT_SLICE_S)
            for reference in done:
                self._answer(processes[references.index(reference)], reference)
            if waiting and time.monotonic() > deadline:
                process = processes[references.index(waiting[0])]
                raise RunBroken(
                    f"{process.names[0]}'s actor has not answered for {timeout:.0f} s (stopped, or its machine is "
                    "overloaded?); the run was stopped and everything of it removed."
                )
        return list(self._ray.get(references))

    def _answer(self, process: Process, reference: Any) -> None:
        exceptions = self._ray.exceptions
        try:
            self._ray.get(reference)
        except exceptions.RayActorError as error:
            raise ProcessDied(self._epitaph([process]), process) from error
        except exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, LateackError):
                raise type(cause)(str(cause)) from None
            raise MachineFailed(f"{process.names[0]}: {error}") from None

    def last_words(self, processes: list[Process], failure: str) -> RunBroken:
        """Return the error for a run whose link broke: it names who is dead, since links only break with somebody."""
        references = [process.handle.status.remote() for process in processes]
        self._ray.wait(references, num_returns=len(references), timeout=LAST_WORD_S)
        dead = []
        for process, reference in zip(processes, references, strict=True):
            try:
                self._ray.get(reference, timeout=0)
            except self._ray.exceptions.RayActorError:
                dead.append(process)
            except self._ray.exceptions.RayError:
                pass  # silent, or in trouble of its own
        if dead:
            return RunBroken(self._epitaph(dead))
        return RunBroken(f"{failure.rstrip('.')}; the run was stopped and everything of it removed.")

    def _epitaph(self, dead: list[Process]) -> str:
        names = " and ".join(f"{process.names[0]}'s actor" for process in dead)
        return f"{names} died (killed, or out of memory?); the run was stopped and everything of it removed."

    # --- leaving -----------------------------------------------------------------------------------------------------

    def dismiss(self, *, by_force: bool = False) -> None:
        """End every process, and return when ours are gone; `by_force` without asking Ray, which may be dead."""
        if not by_force:
            for process in self._processes.values():
                with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
                    self._ray.kill(process.handle)
        see_dead(
            [process.pidfd for process in self._processes.values() if process.pidfd >= 0], 0 if by_force else DEATH_S
        )
        self._processes.clear()

    def give_places_back(self) -> None:
        """Let the cluster have the places of our physical hosts."""
        from ray.util.placement_group import remove_placement_group

        for group in self._placements.values():
            with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
                remove_placement_group(group)
        self._placements.clear()


def _not_started(error: BaseException) -> str:
    told = str(error)
    if "No module named 'lateack" in told:
        return "the machines of the Ray cluster have no lateack; install this version of it on each of them."
    lines = told.strip().splitlines() or [type(error).__name__]
    return f"the Ray cluster could not start the machines' processes ({lines[0].rstrip('.')}); see `ray status`."
