"""The virtual world's speed: whole stories and simulated packets, per second of processor time of one core.

Two floors stand beside them: a bare heap of events with as many callbacks as a story has events, and a plain copy of as
many bytes as the guest copies to the server.
"""

import cProfile
from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from pathlib import Path
from time import process_time
from types import CodeType

from lateack.cluster import oracles
from lateack.cluster.bench.figures import (
    BenchFailed,
    Compared,
    Figures,
    Share,
    Shares,
    compared,
    middle,
    series,
    shares,
)
from lateack.cluster.experiment import run_virtually
from lateack.cluster.scenario import load
from lateack.cluster.schema import Scenario
from lateack.cluster.topology import NETWORK, SERVER, Topology
from lateack.nodes.application import Source
from lateack.nodes.memory.pages import PAGE_SIZE, Memory
from lateack.nodes.messages import Frames
from lateack.nodes.node import Effect, Event, Node, Send, Time
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.storage.store import Store

STORY, COPY = "late-ack", "calm"
BYTES_PER_SECOND = 16 * 1024 * 1024  # of the file that is copied, for each second that a figure may take
BYTES_MIN = 256 * 1024
CHAINS = 10  # events that wait at once, in the bare loop as in a story
LOOP_EVENTS = 20_000
STORIES_PROFILED = 100
BYTES_PROFILED = 2 * 1024 * 1024
PACKAGE = Path(__file__).parents[2]


class Tally:
    """A machine that counts its events, and the frames that it hands over."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.events = 0
        self.frames: dict[str, int] = {}

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Let the machine handle it; see `Node`."""
        self.events += 1
        effects = self.node.handle(event, now)
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, Frames):
                self.frames[effect.target] = self.frames.get(effect.target, 0) + len(effect.message.frames)
        return effects

    def pending(self) -> int:
        """Return what the machine still waits for; see `Node`."""
        return self.node.pending()

    def close(self) -> None:
        """Let go of memory; see `Node`."""
        self.node.close()


class TalliedTopology(Topology):
    """A topology whose machines count. Runs of one seed are alike, so it counts once what is then timed uncounted."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.tallies: dict[str, Tally] = {}

    def build(
        self,
        name: str,
        *,
        memories: Mapping[str, Memory],
        store: Store | None,
        inputs: Mapping[str, Source],
        root: bytes,
        seed: int | None = None,
        incarnation: int = 0,
    ) -> Node:
        """Return one fresh machine; see `Topology.build`."""
        node = super().build(
            name, memories=memories, store=store, inputs=inputs, root=root, seed=seed, incarnation=incarnation
        )
        tally = self.tallies[name] = Tally(node)
        return tally


class Stories:
    """The story again and again: machines built afresh, another seed each time, judged each time."""

    def __init__(self) -> None:
        """Count the events of one story; that is the warm-up, too."""
        scenario = load(STORY)
        self.topology = Topology(scenario)
        self.expected = scenario.expected()
        self.seed = 0
        tallied = TalliedTopology(scenario)
        run_virtually(tallied, MemoryStore(), seed=0)
        self.events = sum(tally.events for tally in tallied.tallies.values())

    def one(self) -> None:
        """Run and judge the next story."""
        self.seed += 1
        trace = run_virtually(self.topology, MemoryStore(), seed=self.seed)
        if oracles.harms(trace) != self.expected:
            raise BenchFailed(f"{STORY} came out wrong with seed {self.seed}: look at it with --seed {self.seed}.")

    def many(self, count: int) -> None:
        """Run so many stories."""
        for _ in range(count):
            self.one()

    def rate(self, seconds: float) -> float:
        """Return stories per second, measured for about so many seconds of processor time."""
        start, first = process_time(), self.seed
        while (spent := process_time() - start) < seconds or self.seed == first:
            self.one()
        return (self.seed - first) / spent


class BulkCopy:
    """A guest copies one file to the server on a quiet network; pages are tracked and facts recorded as ever."""

    def __init__(self, size: int) -> None:
        """Prepare to copy `size` bytes, and count the frames that it takes."""
        self.size = size
        scenario = load(COPY, [f"workload.bytes={size}"])
        self.topology = Topology(scenario)
        tallied = TalliedTopology(scenario)
        trace = run_virtually(tallied, MemoryStore())
        if oracles.harms(trace):
            raise BenchFailed(f"{COPY} came out wrong: look at it with --set workload.bytes={size}.")
        self.frames = tallied.tallies[NETWORK].frames

    def have_input(self) -> None:
        """See that the file is there: making it is no part of copying it, and stories crowd it out of the cache."""
        for guest in self.topology.guests:
            self.topology.source(guest)

    def copy(self) -> None:
        """Copy the file once."""
        run_virtually(self.topology, MemoryStore())

    def rate(self) -> float:
        """Return frames delivered per second of processor time."""
        self.have_input()
        start = process_time()
        self.copy()
        return sum(self.frames.values()) / (process_time() - start)


class BareLoop:
    """A heap of (time, order, callback, argument) and a clock: the least that a simulation in Python can be."""

    def __init__(self) -> None:
        self.now = 0
        self.order = 0
        self.heap: list[tuple[int, int, Callable[[int], None], int]] = []

    def schedule(self, delay: int, callback: Callable[[int], None], argument: int) -> None:
        """Call back after `delay` ns."""
        self.order += 1
        heappush(self.heap, (self.now + delay, self.order, callback, argument))

    def again(self, delay: int) -> None:
        """Be an event that causes the next."""
        self.schedule(delay, self.again, delay)

    def run(self, events: int) -> None:
        """Let so many events happen."""
        heap = self.heap
        for _ in range(events):
            self.now, _, callback, argument = heappop(heap)
            callback(argument)


def loop_rate() -> float:
    """Return events per second of the bare loop."""
    loop = BareLoop()
    for chain in range(CHAINS):
        loop.schedule(chain, loop.again, 1000 + chain)
    start = process_time()
    loop.run(LOOP_EVENTS)
    return LOOP_EVENTS / (process_time() - start)


def copy_rate(size: int) -> float:
    """Return bytes per second of a plain copy of `size` bytes, page by page."""
    source, target = memoryview(bytes(range(256)) * -(-size // 256)), memoryview(bytearray(size))
    pages = [slice(at, min(at + PAGE_SIZE, size)) for at in range(0, size, PAGE_SIZE)]
    start = process_time()
    for page in pages:
        target[page] = source[page]
    return size / (process_time() - start)


def measure(seconds: float, rounds: int) -> Figures:
    """Measure both figures and their floors in turns, each for about so many seconds in all."""
    stories, bulk = Stories(), BulkCopy(max(BYTES_MIN, int(BYTES_PER_SECOND * seconds / rounds)))
    story_rates, loop_rates, packet_rates, copy_rates = [], [], [], []
    for _ in range(rounds):
        story_rates.append(stories.rate(seconds / rounds))
        loop_rates.append(loop_rate())
        packet_rates.append(bulk.rate())
        copy_rates.append(copy_rate(bulk.size))
    return {
        "stories": _stories(stories, story_rates, loop_rates),
        "packets": _packets(bulk, packet_rates, copy_rates),
    }


def _stories(stories: Stories, rates: list[float], loop_rates: list[float]) -> Compared:
    ours = series(f"{STORY} stories: machines built afresh, real bytes, judged", "per core-second", rates)
    bare = [rate / stories.events for rate in loop_rates]
    floor = series(f"bare heap of events, {stories.events} callbacks a story", "per core-second", bare)
    return compared(ours, floor, {"events_per_story": stories.events, "bare_events_per_s": middle(loop_rates)})


def _packets(bulk: BulkCopy, rates: list[float], copy_rates: list[float]) -> Compared:
    frames = sum(bulk.frames.values())
    ours = series("frames that the network delivered, both directions, in a bulk copy", "per core-second", rates)
    bare = [frames * rate / bulk.size for rate in copy_rates]
    floor = series("plain copy of the same file's bytes, page by page", "frames' worth per core-second", bare)
    about: dict[str, float | dict[str, float]] = {
        "file_bytes": bulk.size,
        "frames_to_server": bulk.frames.get(SERVER, 0),
        "frames_to_guests": frames - bulk.frames.get(SERVER, 0),
        "file_mb_per_s": ours.value * bulk.size / frames / 1e6,
        "bare_copy_mb_per_s": middle(copy_rates) / 1e6,
    }
    return compared(ours, floor, about)


def busiest(seconds: float) -> Shares:
    """Return by figure which modules spend the time, by a short profile."""
    stories, bulk = Stories(), BulkCopy(max(BYTES_MIN, int(BYTES_PROFILED * min(1.0, seconds))))
    by_stories = _profile(lambda: stories.many(STORIES_PROFILED))
    bulk.have_input()
    return {"stories": by_stories, "packets": _profile(bulk.copy)}


def _profile(work: Callable[[], None]) -> list[Share]:
    """Return each module's share of the time; what C functions take counts for the module that calls them."""
    profile = cProfile.Profile(builtins=False)
    profile.runcall(work)
    times: dict[str, float] = {}
    for entry in profile.getstats():
        module = _module(entry.code)
        times[module] = times.get(module, 0.0) + entry.inlinetime
    return shares(times)


def _module(code: CodeType | str) -> str:
    if isinstance(code, str):
        return "C functions"
    path = Path(code.co_filename)
    return str(path.relative_to(PACKAGE)) if path.is_relative_to(PACKAGE) else path.name
