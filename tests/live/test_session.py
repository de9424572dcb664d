"""The live world carries messages, wakes machines and orders what they say, as each of them may expect."""

from pathlib import Path

import pytest

from lateack.cluster.live import LiveSession
from lateack.cluster.scenario import load
from lateack.cluster.schema import Limits
from lateack.cluster.trace import Trace
from lateack.nodes.facts import Connected, CopyFinished, Counted
from tests.live.machines import (
    HUB,
    Bouncer,
    Burster,
    Caller,
    Clockwork,
    Echo,
    Listener,
    Reporter,
    Sink,
    SmallPlan,
    Waiter,
)

pytestmark = pytest.mark.live

LIMITS = Limits(duration_s=60, idle_s=20)


def amounts(trace: Trace, name: str) -> list[int]:
    """Return what was counted under a name, in the order of the trace."""
    return [fact.amount for _, _, _, fact in trace.of_type(Counted) if fact.name == name]


@pytest.mark.parametrize("target", [HUB, "far"], ids=["to the hub", "through the hub"])
def test_frames_and_notes_keep_their_order(session: LiveSession, target: str) -> None:
    """Whatever mix of frames and notes one machine sends another, it arrives in that order, there and back."""
    plan = SmallPlan({"near": (Caller, target, 500), "far": (Echo,)})

    trace = session.carry(plan, limits=LIMITS)

    assert amounts(trace, "echo") == list(range(500))
    assert amounts(trace, "return") == list(range(500))


def test_a_cause_comes_before_its_effect(session: LiveSession) -> None:
    """In the merged trace each number is called before it is echoed, and echoed before it returns."""
    plan = SmallPlan({"near": (Caller, "far", 200), "far": (Echo,)})

    trace = session.carry(plan, limits=LIMITS)

    places: dict[int, list[str]] = {}
    for _, _, _, fact in trace.of_type(Counted):
        places.setdefault(fact.amount, []).append(fact.name)
    assert set(map(tuple, places.values())) == {("call", "echo", "return")}


def test_a_burst_arrives_in_bursts(session: LiveSession) -> None:
    """Two hundred frames sent at once are four events for the receiver, not two hundred."""
    plan = SmallPlan({"near": (Burster, "far", 200), "far": (Sink,)})

    trace = session.carry(plan, limits=LIMITS)

    assert amounts(trace, "burst") == [64, 64, 64, 8]


def test_guest_and_backend_meet_in_memory(session: LiveSession) -> None:
    """A number that two processes raise by turns in shared memory, waking each other, grows without a gap."""
    plan = SmallPlan({"left": (Bouncer, "right", 300, True), "right": (Bouncer, "left", 300, False)}, {"left": "right"})

    trace = session.carry(plan, limits=LIMITS)

    assert amounts(trace, "bounce") == list(range(301))
    assert [node for _, _, node, _ in trace.of_type(Counted)] == [("left", "right")[n % 2] for n in range(301)]


def test_more_guests_than_processes(session: LiveSession) -> None:
    """Ten guests share five processes, and each of them its memory with the backend."""
    guests = [f"guest{number}" for number in range(10)]
    machines = dict.fromkeys(guests, (Bouncer, "echo", 0, True)) | {"echo": (Echo,)}

    trace = session.carry(SmallPlan(machines, dict.fromkeys(guests, "echo")), limits=LIMITS)

    assert sorted(node for _, _, node, _ in trace.of_type(Counted)) == guests


def test_timers_are_replaced_cancelled_and_never_early(session: LiveSession) -> None:
    """Of two orders with one name the second counts, a cancelled one is void, and one in the past fires at once."""
    trace = session.carry(SmallPlan({"clock": (Clockwork,)}), limits=LIMITS)

    assert [fact.name for _, _, _, fact in trace.of_type(Counted)] == ["past", "early", "late"]


def test_awaited_facts_are_told_at_once_to_others(session: LiveSession) -> None:
    """Who waits for a type of fact hears of it from every machine but itself, and of no other facts."""
    awaited = {"Connected": ("far", HUB)}
    plan = SmallPlan({"near": (Reporter, Connected("x"), Counted("y", 1)), "far": (Listener, 1)}, awaited=awaited)

    trace = session.carry(plan, limits=LIMITS)

    assert [(node, fact.flow) for _, _, node, fact in trace.of_type(Connected)] == [
        ("near", "x"),
        ("far", "near: Connected"),
    ]


def test_each_process_audits_at_the_end(session: LiveSession) -> None:
    """What machines record when the run is over is part of the trace, and comes last."""
    plan = SmallPlan({"near": (Reporter, Connected("x")), "far": (Caller, HUB, 20)})

    trace = session.carry(plan, limits=LIMITS)

    assert [fact for _, _, _, fact in trace][-1] == Counted("end", amounts(trace, "end")[0])


def test_a_run_that_stands_still_is_ended_and_judged(session: LiveSession) -> None:
    """A machine that waits for ever does not keep the run for ever: it ends after the idle limit, with its trace."""
    trace = session.carry(SmallPlan({"stuck": (Waiter,)}), limits=Limits(duration_s=60, idle_s=1))

    assert amounts(trace, "waiting") == [1]


@pytest.mark.parametrize("story", ["calm", "late-ack"])
def test_stories_come_out_as_they_tell(session: LiveSession, folder: Path, story: str) -> None:
    """A story on Ray has the harms that it promises, and the server's file is what the guest was given."""
    from lateack.cluster.oracles import harms

    given = folder.parent / "given.dat"
    given.write_bytes((bytes(range(251)) * 33)[:8192])
    scenario = load(story, [], {"workload.input": str(given)})
    writes: list[tuple[str, int, int]] = []

    trace = session.run(scenario, server_dir=folder, progress=lambda *write: writes.append(write))

    assert harms(trace) == scenario.expected()
    assert (folder / "given.dat").read_bytes() == given.read_bytes()
    assert len(trace.of_type(CopyFinished)) == 1
    assert writes[-1][0] == "guest1" and writes[-1][1] == writes[-1][2] > 0
    assert list(trace) == sorted(trace, key=lambda entry: entry[:3])
