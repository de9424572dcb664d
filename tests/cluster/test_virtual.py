"""The virtual world: the same seed gives the same trace, time moves only when nothing else can, and every run ends."""

import copy
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lateack.cluster.experiment import run, run_virtually
from lateack.cluster.scenario import load
from lateack.cluster.schema import Scenario
from lateack.cluster.topology import Topology
from lateack.cluster.virtual import NOTICE_DELAY, VirtualWorld
from lateack.nodes.backend import Backend
from lateack.nodes.block_backend import BlockBackend
from lateack.nodes.block_guest import BlockGuest
from lateack.nodes.client import Client
from lateack.nodes.facts import CopyFinished, Counted, Fact, GateClosed, LeftOver
from lateack.nodes.messages import Frames, Noticed, Notify
from lateack.nodes.network import Network
from lateack.nodes.node import (
    MS,
    Audit,
    Boot,
    CancelTimer,
    Effect,
    Event,
    Halt,
    Node,
    Received,
    S,
    Send,
    SetTimer,
    TimerFired,
)
from lateack.nodes.server import Server
from lateack.nodes.storage.memory_store import MemoryStore

HOME = Path(__file__).parent.parent.parent
MACHINES = (Client, Backend, BlockBackend, BlockGuest, Server, Network)
Script = Callable[[Event, int], Sequence[Effect]]


class Actor:
    """A machine that does what a script says and remembers what it saw: (time, event)."""

    def __init__(self, script: Script, *, busy: bool = False) -> None:
        self.script = script
        self.busy = busy
        self.seen: list[tuple[int, Event]] = []

    def handle(self, event: Event, now: int) -> Sequence[Effect]:
        """Remember the event and follow the script."""
        self.seen.append((now, event))
        return self.script(event, now)

    def pending(self) -> int:
        """Be busy for ever, or never."""
        return int(self.busy)

    def close(self) -> None:
        """Hold nothing."""


def idle(event: Event, now: int) -> Sequence[Effect]:
    """Do nothing."""
    return []


def on_boot(*effects: Effect) -> Script:
    """Do these things at boot, and nothing later."""

    def script(event: Event, now: int) -> Sequence[Effect]:
        return effects if isinstance(event, Boot) else []

    return script


def world_of(duration: int = S, awaited: dict[str, tuple[str, ...]] | None = None, **machines: Actor) -> VirtualWorld:
    """Return a world of such machines."""
    nodes: dict[str, Node] = dict(machines)
    return VirtualWorld(nodes, awaited or {}, duration)


def build(scenario: Scenario) -> VirtualWorld:
    """Return a world with the machines of a scenario, not yet begun."""
    shape = Topology(scenario)
    store = MemoryStore(handle_bytes=scenario.server.handle_bytes)
    inputs = {guest: shape.source(guest) for guest in shape.guests}
    memories = {guest: shape.memory(guest) for guest in shape.guests}
    machines = {
        name: shape.build(name, memories=memories, store=store, inputs=inputs, root=store.root)
        for name in ("server", "network", "backend", *shape.guests)
    }
    return VirtualWorld(machines, shape.awaited_facts(), scenario.limits.duration_s * S)


# --- time and order ---------------------------------------------------------------------------------------------------


def test_every_machine_boots_first_and_is_audited_last() -> None:
    """Whatever happens in between, and even if nothing does."""
    world = world_of(a=Actor(idle), b=Actor(idle))

    world.run()

    for machine in world.machines.values():
        assert isinstance(machine, Actor)
        assert [event for _, event in machine.seen] == [Boot(), Audit()]


def test_messages_arrive_at_once_and_in_order() -> None:
    """Two frames sent in one event arrive as they were sent, before time moves."""
    first, second = Frames((b"1",)), Frames((b"2",))
    world = world_of(a=Actor(on_boot(Send("b", first), Send("b", second), SetTimer("x", 5)), busy=True), b=Actor(idle))

    world.run()

    b = world.machines["b"]
    assert isinstance(b, Actor)
    assert b.seen[1:3] == [(0, Received("a", first)), (0, Received("a", second))]


def test_an_event_channel_is_one_pending_bit() -> None:
    """Kicks on top of one that was not seen yet are that one; a kick after it was seen is another."""

    def kicks(event: Event, now: int) -> Sequence[Effect]:
        if isinstance(event, Boot):
            return [Send("b", Notify(1)), Send("b", Notify(1)), Send("c", Notify(1)), SetTimer("again", 3 * MS)]
        return [Send("b", Notify(1))] if isinstance(event, TimerFired) else []

    world = world_of(a=Actor(kicks, busy=True), b=Actor(idle), c=Actor(idle))

    world.run()

    for name, times in (("b", [0, 3 * MS]), ("c", [0])):
        machine = world.machines[name]
        assert isinstance(machine, Actor)
        assert [now for now, event in machine.seen if isinstance(event, Received)] == times


def test_a_timer_set_again_replaces_the_first() -> None:
    """One name is one timer, whether it moves forth or back."""
    later = Actor(on_boot(SetTimer("x", 3 * MS), SetTimer("x", 7 * MS)), busy=True)
    sooner = Actor(on_boot(SetTimer("x", 7 * MS), SetTimer("x", 3 * MS)), busy=True)

    world_of(later=later, sooner=sooner).run()

    assert [now for now, event in later.seen if isinstance(event, TimerFired)] == [7 * MS]
    assert [now for now, event in sooner.seen if isinstance(event, TimerFired)] == [3 * MS]


def test_a_cancelled_timer_does_not_fire() -> None:
    """Cancelling one that is not set is no mistake."""
    actor = Actor(on_boot(SetTimer("x", MS), CancelTimer("x"), CancelTimer("y"), SetTimer("z", 2 * MS)), busy=True)

    world_of(a=actor).run()

    assert [event for _, event in actor.seen if isinstance(event, TimerFired)] == [TimerFired("z")]


def test_a_timer_in_the_past_fires_now() -> None:
    """Time never runs backwards."""

    def script(event: Event, now: int) -> Sequence[Effect]:
        if isinstance(event, Boot):
            return [SetTimer("x", 5 * MS)]
        return [SetTimer("y", 1)] if event == TimerFired("x") else []

    actor = Actor(script, busy=True)

    world_of(a=actor).run()

    assert [now for now, event in actor.seen if isinstance(event, TimerFired)] == [5 * MS, 5 * MS]


def test_news_of_a_fact_reaches_those_who_wait_for_it() -> None:
    """With a delay, and not the machine that recorded it; the fact is in the trace at its own time."""
    fact = CopyFinished("f", 1)
    waiter, other = Actor(idle), Actor(idle)
    recorder = Actor(on_boot(fact, GateClosed("r", "p")))
    world = world_of(awaited={"CopyFinished": ("waiter", "recorder")}, recorder=recorder, waiter=waiter, other=other)

    trace = world.run()

    assert waiter.seen[1] == (NOTICE_DELAY, Received("recorder", Noticed("recorder", fact)))
    assert len(other.seen) == len(recorder.seen) == 2
    assert trace.entries == [(0, 0, "recorder", fact), (0, 0, "recorder", GateClosed("r", "p"))]


# --- the end ----------------------------------------------------------------------------------------------------------


def test_it_ends_when_nobody_waits_for_anything() -> None:
    """A timer that is left over keeps no run alive."""
    actor = Actor(on_boot(SetTimer("keepalive", 1000 * S)))

    world = world_of(10_000 * S, a=actor)
    world.run()

    assert world.now == 0
    assert actor.seen[-1] == (0, Audit())


@pytest.mark.parametrize("step", [1_000, MS, 100 * MS])
def test_a_run_that_never_ends_is_ended_at_its_limit(step: int) -> None:
    """A machine that is busy for ever is cut off, however small its steps are, and is audited all the same."""

    def tick(event: Event, now: int) -> Sequence[Effect]:
        return [] if isinstance(event, Audit) else [SetTimer("tick", now + step)]

    actor = Actor(tick, busy=True)
    duration = 50 * step

    world_of(duration, a=actor).run()

    assert actor.seen[-1] == (duration, Audit())
    assert len(actor.seen) == 50 + 2


def test_a_story_in_which_nothing_arrives_ends_at_its_limit() -> None:
    """A hard mount tries for ever; the scenario's limit does not."""
    result = run(
        "calm", world="virtual",
        settings=["links.to_guests.loss=1.0", "workload.transport=udp", "limits.duration_s=100"],
    )  # fmt: skip

    assert result.trace.entries[-1][0] <= 100 * S
    assert not set(result.harms) & {"stale-on-wire", "corrupt-at-rest", "fault"}
    assert result.verdict.missing


# --- the same seed, the same trace ------------------------------------------------------------------------------------


@pytest.mark.parametrize("story", ["late-ack", "rpc-retransmit", "calm"])
def test_the_same_seed_gives_the_same_trace(story: str) -> None:
    """Byte for byte; another seed gives another."""
    first, second, other = (run(story, world="virtual", seed=seed) for seed in (3, 3, 4))

    assert first.trace.digest() == second.trace.digest()
    assert first.trace.digest() != other.trace.digest()


def test_the_seed_may_be_given_beside_the_scenario() -> None:
    """One topology serves all seeds, and each run is what a scenario with that seed would give."""
    shape = Topology(load("late-ack"))

    digests = [run_virtually(shape, MemoryStore(handle_bytes=36), seed=seed).digest() for seed in (1, 5, 5)]

    assert digests[1] == digests[2] == run("late-ack", world="virtual", seed=5).trace.digest()
    assert digests[0] == run("late-ack", world="virtual").trace.digest()


def test_the_trace_does_not_hang_on_how_python_hashes() -> None:
    """Under another PYTHONHASHSEED the digests are the same: nothing walks through a set of names."""
    program = (
        "from lateack.cluster.experiment import run\n"
        "lossy = ['links.to_server.loss=0.05', 'guests.count=3', 'links.to_guests.jitter_us=900']\n"
        "for story, settings in (('late-ack', []), ('calm', lossy)):\n"
        "    print(run(story, world='virtual', settings=settings).trace.digest())\n"
    )
    seen = set()
    for seed in ("0", "1", "4711"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(HOME / "src")}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        seen.add(done.stdout)

    assert len(seen) == 1


# --- state is plain data ----------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """The run was stopped in the middle."""


class Interruptible(VirtualWorld):
    """A world that can be stopped between two moments, copied, and run on."""

    moments_left = -1

    def _step_ready(self) -> None:
        if self.moments_left == 0:
            raise Interrupted
        self.moments_left -= 1
        super()._step_ready()

    def begin(self, moments: int) -> None:
        """Boot and run that many moments."""
        self.moments_left = moments
        try:
            self.run()
        except Interrupted:
            return
        raise AssertionError("the run was over before")

    def go_on(self) -> str:
        """Run to the end; return the digest of the whole trace."""
        self.moments_left = -1
        self._run_queue(None)
        for name in self.machines:
            self.ready.append((name, Audit(), None))
        self._step_ready()
        return self.trace.digest()


def rounds(story: str) -> tuple[Scenario, int]:
    """Return a story and how many moments it takes."""
    scenario = load(story, ["workload.bytes=65536"] if story == "calm" else [])
    world = build(scenario)
    world.__class__ = Interruptible
    assert isinstance(world, Interruptible)
    world.run()
    return scenario, -1 - world.moments_left


@pytest.mark.parametrize("story", ["late-ack", "rpc-retransmit", "calm"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_world_can_be_copied_in_the_middle_of_a_run(story: str, share: float) -> None:
    """Both copies run to the end with the same trace as one that was never stopped: all state is plain data."""
    scenario, moments = rounds(story)
    world = build(scenario)
    world.__class__ = Interruptible
    assert isinstance(world, Interruptible)
    world.begin(int(moments * share))

    twin = copy.deepcopy(world)
    first = world.go_on()
    second = twin.go_on()

    assert first == second == build(scenario).run().digest()


# --- many guests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 8])
def test_many_guests_share_one_backend(count: int) -> None:
    """Each copies its own file to its own folder, and nothing is left over anywhere."""
    result = run("calm", world="virtual", settings=[f"guests.count={count}", "workload.bytes=40000"])

    finished = [(node, fact.count) for _, _, node, fact in result.trace.of_type(CopyFinished)]
    assert sorted(finished) == sorted((f"guest{number}", 40000) for number in range(1, count + 1))
    assert result.harms == []
    assert result.trace.of_type(LeftOver) == []


def test_progress_is_told_in_writes() -> None:
    """Who, how many are done, how many were issued; at the end all are."""
    told: list[tuple[str, int, int]] = []
    shape = Topology(load("calm", ["guests.count=2"]))

    def hear(*progress: object) -> None:
        told.append(progress)  # type: ignore[arg-type]

    run_virtually(shape, MemoryStore(handle_bytes=36), progress=hear)

    assert told[-2:] == [("guest1", 8, 8), ("guest2", 8, 8)]


def test_facts_are_the_only_thing_in_a_trace() -> None:
    """Orders are carried out and forgotten."""
    trace = run("late-ack", world="virtual").trace

    assert all(isinstance(fact, Fact) for _, _, _, fact in trace)
    assert [at for at, _, _, _ in trace] == sorted(at for at, _, _, _ in trace)


@pytest.mark.parametrize(
    "story", ["late-ack", "late-ack-metal", "block-path", "loopback-server", "packet-tap", "netback-crash"]
)
def test_no_machine_waits_for_the_garbage_collector(story: str) -> None:
    """It rests during a run, and a search of thousands would pay for it: a closed machine goes with its last name."""
    gc.collect()
    gc.disable()
    others = {id(each) for each in gc.get_objects() if isinstance(each, MACHINES)}  # that other tests hold on to
    try:
        run_virtually(Topology(load(story)), MemoryStore())
        machines = [each for each in gc.get_objects() if isinstance(each, MACHINES)]
        left = [type(each).__name__ for each in machines if id(each) not in others]
    finally:
        gc.enable()

    assert left == []


# --- machines that die ------------------------------------------------------------------------------------------------


class Mortal:
    """Sends and dies at its first message; each life is told how many there were before it."""

    def __init__(self, deaths: int) -> None:
        self.deaths = deaths
        self.closed = False
        self.seen: list[tuple[int, Event]] = []

    def handle(self, event: Event, now: int) -> Sequence[Effect]:
        """Set a timer at boot; die at a message; see `Node`."""
        self.seen.append((now, event))
        if isinstance(event, Boot):
            return [Counted("life", self.deaths), SetTimer("late", now + 40 * MS)]
        if isinstance(event, Received):
            return [Counted("before", now), Halt(100 * MS), Counted("behind", now), Send("a", Frames((b"no",)))]
        return []

    def pending(self) -> int:
        """Nothing to wait for."""
        return 0

    def close(self) -> None:
        """Remember it."""
        self.closed = True


def mortal_world(calls: Sequence[int], duration: int = S) -> tuple[VirtualWorld, list[Mortal]]:
    """Return a world in which one machine sends to a mortal one at these times (ns), and all lives of that one."""

    def script(event: Event, now: int) -> Sequence[Effect]:
        if isinstance(event, Boot):
            return [SetTimer(str(at), at) for at in calls]
        return [Send("m", Frames((b"x",)))] if isinstance(event, TimerFired) else []

    lives = [Mortal(0)]

    def rebuild(name: str, deaths: int) -> Node:
        lives.append(Mortal(deaths))
        return lives[-1]

    machines: dict[str, Node] = {"a": Actor(script), "m": lives[0]}
    return VirtualWorld(machines, {}, duration, rebuild), lives


def test_what_is_behind_a_death_never_happens() -> None:
    """Facts before it are kept; facts, messages and timers behind it are not, nor are timers set long before."""
    world, lives = mortal_world([10 * MS])

    trace = world.run()

    assert [fact for _, _, _, fact in trace] == [Counted("life", 0), Counted("before", 10 * MS), Counted("life", 1)]
    assert lives[0].closed
    assert lives[0].seen == [(0, Boot()), (10 * MS, Received("a", Frames((b"x",))))]


def test_a_machine_is_back_when_it_said_and_hears_nothing_before() -> None:
    """A message to a host that is off is lost; the run waits for the boot though nobody else has work to do."""
    world, lives = mortal_world([10 * MS, 20 * MS, 120 * MS])

    world.run()

    assert [at for at, event in lives[1].seen if isinstance(event, Boot)] == [110 * MS]
    assert [at for at, event in lives[1].seen if isinstance(event, Received)] == [120 * MS]
    assert [life.deaths for life in lives] == [0, 1, 2]


def test_who_is_down_at_the_end_stays_so() -> None:
    """The limit of the run is also that of who would be back later; nobody audits a dead machine."""
    world, lives = mortal_world([10 * MS], duration=100 * MS)

    world.run()

    assert len(lives) == 1
    assert not any(isinstance(event, Audit) for _, event in lives[0].seen)


def test_a_closed_world_has_let_go_of_every_life() -> None:
    """The one that is there at the end is closed with the world, those before it when they died."""
    world, lives = mortal_world([10 * MS])
    world.run()

    world.close()

    assert [life.closed for life in lives] == [True, True]
