"""A scenario as a plan, and which of its machines share a process."""

import pickle

from lateack.cluster.live.crew import OWNERS_PER_HOST_MAX, grouped
from lateack.cluster.live.plan import ScenarioPlan
from lateack.cluster.scenario import load


def plan_of(guests: int) -> ScenarioPlan:
    """Return the plan of a calm scenario with so many guests."""
    return ScenarioPlan(load("calm", [f"guests.count={guests}"], {}))


def test_a_process_for_each_machine() -> None:
    """Few guests have a process each, on the host of their backend; server and network are elsewhere."""
    groups = grouped(plan_of(2))

    assert sorted(groups) == [
        ("host1", ("backend",)),
        ("host1", ("guest1",)),
        ("host1", ("guest2",)),
        ("network", ("network",)),
        ("server", ("server",)),
    ]


def test_many_guests_share_processes() -> None:
    """Twenty guests make do with as many processes as eight would have, and none is forgotten."""
    groups = [names for _, names in grouped(plan_of(20)) if names[0].startswith("guest")]

    assert len(groups) <= OWNERS_PER_HOST_MAX
    assert [name for names in groups for name in names] == [f"guest{number}" for number in range(1, 21)]


def test_a_plan_survives_the_way_to_another_process() -> None:
    """A plan that was pickled says the same, its strategies found anew."""
    plan = plan_of(3)

    copy = pickle.loads(pickle.dumps(plan))

    assert (copy.parts, copy.awaited, copy.scenario) == (plan.parts, plan.awaited, plan.scenario)
