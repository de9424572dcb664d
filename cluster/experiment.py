"""One run from scenario to verdict, in either world, with the folder that it leaves.

runs/<story>-<guest>-<backend>-<seed>/   scenario.yaml  trace.msgpack  trace.txt  verdict.json  server/  input/
                                         capture.pcapng, where links.capture is set
"""

import gc
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import msgspec

from lateack.cluster.capacity import refuse_what_does_not_fit
from lateack.cluster.capture import CAPTURE_FILE, CaptureError, split, write_captures
from lateack.cluster.capture_comments import Captured
from lateack.cluster.faults import requirements
from lateack.cluster.folders import FolderError, new_run_folder
from lateack.cluster.scenario import Scenario, dump, load
from lateack.cluster.topology import Topology
from lateack.cluster.trace import Trace
from lateack.cluster.verdict import Verdict, judge
from lateack.cluster.virtual import VirtualWorld
from lateack.nodes.errors import LateackError
from lateack.nodes.node import Node, S
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.storage.mirror_store import MirrorStore
from lateack.nodes.storage.store import Store

Progress = Callable[[str, int, int], None]


class Result(msgspec.Struct, frozen=True):
    """A finished run: what was asked, what happened, and what it means."""

    scenario: Scenario
    trace: Trace
    verdict: Verdict
    run_dir: Path | None

    @property
    def harms(self) -> list[str]:
        """The names of the harms that were found, sorted; empty is safe."""
        return self.verdict.harms


class World(Protocol):
    """A place where scenarios run: brought up once, used many times."""

    def run(self, scenario: Scenario, *, server_dir: Path | None, progress: Progress | None) -> Trace:
        """Run a scenario; the server stores into *server_dir*, or into memory where it is None."""
        ...


class VirtualSession:
    """The virtual world as a session: there is nothing to bring up."""

    def run(self, scenario: Scenario, *, server_dir: Path | None, progress: Progress | None) -> Trace:
        """Run a scenario in virtual time; see `World`."""
        handle_bytes = scenario.server.handle_bytes
        if server_dir is None:
            return run_virtually(Topology(scenario), MemoryStore(handle_bytes=handle_bytes), progress=progress)
        store = MirrorStore(server_dir, handle_bytes)
        try:
            return run_virtually(Topology(scenario), store, progress=progress)
        finally:
            store.close()


def run_virtually(
    topology: Topology, store: Store, *, seed: int | None = None, progress: Progress | None = None
) -> Trace:
    """Build fresh machines and run them to the end in virtual time; *seed* overrides the scenario's.

    Nothing is left to the garbage collector, which would only walk the growing trace again and again: it rests.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _run_virtually(topology, store, seed, progress)
    finally:
        if collecting:
            gc.enable()


def _run_virtually(topology: Topology, store: Store, seed: int | None, progress: Progress | None) -> Trace:
    inputs = {guest: topology.source(guest, seed) for guest in topology.guests}
    memories = {guest: topology.memory(guest) for guest in topology.guests}

    def build(name: str, incarnation: int = 0) -> Node:
        return topology.build(
            name, memories=memories, store=store, inputs=inputs, root=store.root, seed=seed, incarnation=incarnation
        )

    machines = {name: build(name) for name in reversed(topology.names)}
    world = VirtualWorld(machines, topology.awaited_facts(), topology.scenario.limits.duration_s * S, build)
    trace = world.run(progress)
    world.close()
    return trace


class Session:
    """A world that several scenarios run in, one after the other; use it with `with`."""

    def __init__(self, world: str = "ray", address: str | None = None) -> None:
        self.world = world
        self.address = address
        self._session: World | None = None
        self._manager: AbstractContextManager[World] | None = None

    def __enter__(self) -> Self:
        if self.world == "virtual":
            self._session = VirtualSession()
        elif self.world == "ray":
            from lateack.cluster.live import LiveSession

            self._manager = LiveSession(self.address)
            self._session = self._manager.__enter__()
        else:
            raise LateackError(f"there is no world {self.world!r}: choose ray or virtual")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._manager is not None:
            self._manager.__exit__(kind, error, traceback)

    def run(self, scenario: Scenario, *, out: Path | None = None, progress: Progress | None = None) -> Result:
        """Run and judge a scenario; with *out* it leaves a run folder there, without it only the result."""
        assert self._session is not None, "use the session with `with`"
        refuse_what_does_not_fit(scenario)
        if scenario.links.capture and out is None:
            raise CaptureError(
                f"links.capture asks for {CAPTURE_FILE} in the run's folder, and this run leaves none: say where "
                "folders go, with out= in Python or with --out"
            )
        run_dir = new_run_folder(out, scenario) if out is not None else None
        server_dir = _prepare(run_dir, scenario) if run_dir is not None else None
        trace = self._carry(scenario, server_dir, progress)
        captured: list[Captured] | None = None
        if scenario.links.capture:
            trace, captured = split(trace)
        verdict = _judge(scenario, trace, self.world, run_dir)
        if run_dir is not None:
            _write_results(run_dir, trace, verdict)
            if captured is not None:
                _write_capture(run_dir, scenario, trace, captured)
        return Result(scenario, trace, verdict, run_dir)

    def _carry(self, scenario: Scenario, server_dir: Path | None, progress: Progress | None) -> Trace:
        """Run a scenario; what a user's own strategy does wrong is told as that, and is no crash of ours."""
        assert self._session is not None
        own = [name for name in (scenario.strategies.guest, scenario.strategies.backend) if ":" in name]
        try:
            return self._session.run(scenario, server_dir=server_dir, progress=progress)
        except LateackError:
            raise
        except (Exception, SystemExit) as error:
            if not own:
                raise
            raise StrategyFailed(
                f"a run with {' and '.join(own)} broke off: {_last_words(error)}; see that each hook does what "
                "GuestStrategy or BackendStrategy says, and completes a write once"
            ) from error


class StrategyFailed(LateackError):
    """A strategy that is not one of ours has raised an exception, or has made a machine's assertion fail."""


def _last_words(error: BaseException) -> str:
    """Say in one line what an exception was and, where it is known, which line of code it came from."""
    said = str(error).strip().splitlines()
    words = said[-1] if said else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    named = words if words.startswith(type(error).__name__) or len(said) > 1 else f"{type(error).__name__}: {words}"
    return f"{named} ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else named


def run_experiment(
    scenario: Scenario,
    world: str = "ray",
    *,
    out: Path | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Bring a world up, run one scenario in it, judge it, and take everything down again."""
    with Session(world, address) as session:
        return session.run(scenario, out=out, progress=progress)


def run(
    story: str,
    *,
    world: str = "ray",
    guest: str | None = None,
    backend: str | None = None,
    seed: int | None = None,
    input: str | Path | None = None,
    out: str | Path | None = None,
    address: str | None = None,
    settings: Sequence[str] = (),
    capture: bool = False,
) -> Result:
    """Run a story (or a scenario's file) and return its result; the public way in from Python.

    *settings* are `KEY=VALUE` pairs as for `--set`. Without *out* nothing is left on disk in the virtual world; the ray
    world's server needs a directory, which is then a temporary one. With *capture* every frame that passes an end of a
    link is kept as capture.pcapng in the run's folder, so *out* must be given. Raises LateackError for what the caller
    can mend.
    """
    options = {
        "strategies.guest": guest,
        "strategies.backend": backend,
        "seed": seed,
        "workload.input": None if input is None else str(input),
        "links.capture": capture or None,
    }
    scenario = load(story, settings, {key: value for key, value in options.items() if value is not None})
    return run_experiment(scenario, world, out=None if out is None else Path(out), address=address)


def _judge(scenario: Scenario, trace: Trace, world: str, run_dir: Path | None) -> Verdict:
    return judge(
        trace,
        story=scenario.story,
        world=world,
        guest=scenario.strategies.guest,
        backend=scenario.strategies.backend,
        seed=scenario.seed,
        expected=scenario.expected(),
        requires=requirements(scenario),
        run_dir=run_dir,
    )


def _prepare(run_dir: Path, scenario: Scenario) -> Path:
    """Write down what is about to run, and make the server's directory."""
    server_dir = run_dir / "server"
    try:
        (run_dir / "scenario.yaml").write_text(dump(scenario), encoding="utf-8")
        server_dir.mkdir()
        if scenario.workload.input is None:
            _keep_generated_inputs(run_dir / "input", Topology(scenario))
    except OSError as error:
        raise FolderError(f"cannot write into {run_dir}: {error.strerror}; name another place with --out") from error
    return server_dir


def _keep_generated_inputs(folder: Path, topology: Topology) -> None:
    """Keep what the guests were given to copy, so that it can be compared with what arrived."""
    for guest in topology.guests:
        source = topology.source(guest)
        path = folder / topology.file_name(guest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read(0, source.size))


def _write_results(run_dir: Path, trace: Trace, verdict: Verdict) -> None:
    try:
        trace.write_msgpack(run_dir / "trace.msgpack")
        trace.write_text(run_dir / "trace.txt")
        (run_dir / "verdict.json").write_bytes(msgspec.json.format(msgspec.json.encode(verdict.to_json())) + b"\n")
    except OSError as error:
        raise FolderError(f"cannot write into {run_dir}: {error.strerror}; name another place with --out") from error


def _write_capture(run_dir: Path, scenario: Scenario, trace: Trace, captured: list[Captured]) -> None:
    strategies = scenario.strategies
    who = f"{strategies.guest} over {strategies.backend}" if scenario.kind == "split" else strategies.guest
    title = f"{scenario.story}: {who}, seed {scenario.seed}"
    try:
        write_captures(run_dir, trace, captured, title)
    except OSError as error:
        raise FolderError(f"cannot write into {run_dir}: {error.strerror}; name another place with --out.") from error
