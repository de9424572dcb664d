"""The live world's speed: NFS writes per second over the whole path, beside the same path without a protocol.

Both are carried by the same processes, one after the other in every round. Links have no delay here: what is measured
is what a request costs, not what a network is told to cost. Processor time is that of the machines' processes, from the
moment they are switched on; Ray's own processes and the one that looks on are not in it.

There are two floors. One cuts a write into frames as our NIC does, so that as many frames cross; the other sends it in
one frame, however long, which no network takes: that is what a stack could win at most by not cutting at all.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lateack.cluster import oracles
from lateack.cluster.bench.figures import BenchFailed, Compared, Figures, Shares, compared, middle, series, shares
from lateack.cluster.bench.floor import GUEST, FloorPlan, Shape
from lateack.cluster.live.plan import Part, Plan, ScenarioPlan
from lateack.cluster.scenario import load
from lateack.cluster.schema import Limits
from lateack.cluster.topology import BACKEND, NETWORK, SERVER
from lateack.cluster.trace import Trace
from lateack.nodes.facts import Connected, CopyFinished, Counted, Fact, WriteCompleted, WriteIssued
from lateack.nodes.memory.pages import Memory
from lateack.nodes.node import Audit, Boot, Effect, Event, Node, Time
from lateack.nodes.storage.store import Store

if TYPE_CHECKING:
    from lateack.cluster.live import LiveSession

PATH = (GUEST, BACKEND, NETWORK, SERVER)
HEADERS = 40  # IP and TCP, as the frames of a run carry them
CPU_US, EVENTS = "bench_cpu_us", "bench_events"
WARM_UP_REQUESTS = 100
REQUESTS_MIN, REQUESTS_MAX = 32, 100_000
LIMITS = Limits(idle_s=600)


class Load(msgspec.Struct, frozen=True):
    """Writes of `size` bytes, `window` at a time, over a link whose packets have at most `mtu` bytes."""

    name: str
    size: int
    window: int
    mtu: int
    what: str

    def requests(self, rate: float, seconds: float) -> int:
        """Return how many requests take so many seconds at so many a second."""
        return max(REQUESTS_MIN, min(REQUESTS_MAX, int(rate * seconds)))


GSO_WHOLE = 65_521
"""An MTU that lets a GSO packet cross the link in one piece: Xen's slots count 65535 bytes with the Ethernet header."""

LOADS = (
    Load("writes_4k", 4096, 16, 1500, "4 KiB, 16 at a time, MTU 1500"),
    Load("writes_4k_jumbo", 4096, 16, 9000, "4 KiB, 16 at a time, MTU 9000"),
    Load("writes_64k_gso", 65536, 8, GSO_WHOLE, "64 KiB, 8 at a time, GSO kept whole on the link"),
    Load("writes_64k", 65536, 8, 1500, "64 KiB, 8 at a time, cut to MTU 1500"),
)


class Metered:
    """A machine that says at the end how much processor time its process took (us), and for how many events."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.start = 0
        self.events = 0

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Let the machine handle it; see `Node`."""
        self.events += 1
        if isinstance(event, Boot):
            self.start = time.process_time_ns()
        elif isinstance(event, Audit):
            spent = (time.process_time_ns() - self.start) // 1000
            return [Counted(CPU_US, spent), Counted(EVENTS, self.events), *self.node.handle(event, now)]
        return self.node.handle(event, now)

    def pending(self) -> int:
        """Return what the machine still waits for; see `Node`."""
        return self.node.pending()

    def close(self) -> None:
        """Let go of memory; see `Node`."""
        self.node.close()


class MeteredPlan:
    """Any plan, its machines metered."""

    def __init__(self, plan: Plan) -> None:
        """Meter the machines of `plan`."""
        self.plan = plan

    @property
    def parts(self) -> tuple[Part, ...]:
        """All machines."""
        return self.plan.parts

    @property
    def hub(self) -> str:
        """The machine in the middle."""
        return self.plan.hub

    @property
    def awaited(self) -> Mapping[str, tuple[str, ...]]:
        """Who waits for which facts."""
        return self.plan.awaited

    @property
    def input(self) -> Path | None:
        """The file that is read."""
        return self.plan.input

    def store(self, name: str, directory: Path | None) -> Store | None:
        """Return the files that this machine serves."""
        return self.plan.store(name, directory)

    def build(
        self,
        name: str,
        *,
        memories: dict[str, Memory],
        store: Store | None,
        root: bytes,
        input: Path | None,
        incarnation: int,
    ) -> Node:
        """Return a fresh machine with its meter."""
        return Metered(
            self.plan.build(name, memories=memories, store=store, root=root, input=input, incarnation=incarnation)
        )


class Run(msgspec.Struct, frozen=True):
    """What one run of a load took."""

    requests: int
    seconds: float
    cpu_us: dict[str, float]
    """Processor time per request, by machine."""
    events: dict[str, float]
    """Events per request, by machine."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


Runner = Callable[["LiveSession", Load, int], Run]


def run_ours(session: "LiveSession", load_: Load, requests: int) -> Run:
    """Copy a file of so many writes, as any run would; the time is from the first write to the last completion."""
    settings = {
        "workload.bytes": load_.size * requests,
        "workload.write_size": load_.size,
        "workload.buffers": load_.window,
        "links.mtu": load_.mtu,
        "links.to_server.delay_us": 0,
        "links.to_guests.delay_us": 0,
    }
    scenario = load("calm", [f"{key}={value}" for key, value in settings.items()])
    trace = session.carry(MeteredPlan(ScenarioPlan(scenario)), limits=LIMITS)
    completed = len(trace.of_type(WriteCompleted))
    if completed != requests or oracles.harms(trace):
        raise BenchFailed(f"{completed} of {requests} writes of {load_.size} bytes came out right: run calm with them.")
    return _run(trace, requests, WriteIssued, WriteCompleted)


def run_floor(session: "LiveSession", load_: Load, requests: int) -> Run:
    """Send as many requests over the bare path, in frames as long as the link's MTU allows."""
    payload = min(load_.size, load_.mtu - HEADERS)
    trace = session.carry(MeteredPlan(FloorPlan(Shape(load_.size, load_.window, requests, payload))), limits=LIMITS)
    if not trace.of_type(CopyFinished):
        raise BenchFailed("the bare path did not finish: the computer is overloaded, try again.")
    return _run(trace, requests, Connected, CopyFinished)


RUNNERS: dict[str, Runner] = {"ours": run_ours, "floor": run_floor}


def _run(trace: Trace, requests: int, first: type[Fact], last: type[Fact]) -> Run:
    seconds = (trace.of_type(last)[-1][0] - trace.of_type(first)[0][0]) / 1e9
    return Run(requests, seconds, _counted(trace, CPU_US, requests), _counted(trace, EVENTS, requests))


def _counted(trace: Trace, name: str, requests: int) -> dict[str, float]:
    return {node: fact.amount / requests for _, _, node, fact in trace.of_type(Counted) if fact.name == name}


def measure(seconds: float, rounds: int, say: Callable[[str], None]) -> tuple[Figures, Shares]:
    """Bring the world up, and measure each load and its floors in turns for about so many seconds each.

    Return the figures, and by figure which machine's process spends the time.
    """
    from lateack.cluster.live import LiveSession

    figures: Figures = {}
    busiest: Shares = {}
    say("bringing Ray up")
    with LiveSession() as session:
        for each in LOADS:
            say(f"writes of {each.size} bytes over Ray, and the bare path")
            runs = _take_turns(session, each, seconds / rounds, rounds)
            figures[each.name] = _figure(each, runs)
            busiest[each.name] = shares(_cpu(runs["ours"]))
    return figures, busiest


def _take_turns(session: "LiveSession", each: Load, seconds: float, rounds: int) -> dict[str, list[Run]]:
    rates = {name: run(session, each, WARM_UP_REQUESTS).rate for name, run in RUNNERS.items()}
    runs: dict[str, list[Run]] = {name: [] for name in RUNNERS}
    for _ in range(rounds):
        for name, run in RUNNERS.items():
            runs[name].append(run(session, each, each.requests(rates[name], seconds)))
    return runs


def _figure(each: Load, runs: dict[str, list[Run]]) -> Compared:
    rates = {name: [run.rate for run in several] for name, several in runs.items()}
    ours = series(f"NFS writes of {each.what}", "requests/s", rates["ours"])
    floor = series("the same path without a protocol", "requests/s", rates["floor"])
    cpu = {name: _cpu(several) for name, several in runs.items()}
    about: dict[str, float | dict[str, float]] = {
        "requests_per_run": runs["ours"][0].requests,
        "mb_per_s": ours.value * each.size / 1e6,
        "floor_mb_per_s": floor.value * each.size / 1e6,
        "cpu_us_per_request": cpu["ours"],
        "floor_cpu_us_per_request": cpu["floor"],
        "cpu_ratio": sum(cpu["floor"].values()) / sum(cpu["ours"].values()),
        "events_per_request": _events(runs["ours"]),
        "floor_events_per_request": _events(runs["floor"]),
    }
    return compared(ours, floor, about)


def _events(runs: list[Run]) -> dict[str, float]:
    """Return how many events each machine handled for a request: the fewer, the more came together."""
    return {name: middle([run.events[name] for run in runs]) for name in PATH}


def _cpu(runs: list[Run]) -> dict[str, float]:
    """Return each machine's median processor time per request (us)."""
    return {name: middle([run.cpu_us[name] for run in runs]) for name in PATH}
