"""A scenario as a plan, and which of its machines share a process."""

import pickle
from pathlib import Path

from lateack.cluster.live.crew import OWNERS_PER_HOST_MAX, grouped
from lateack.cluster.live.plan import Order, ScenarioPlan
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


def test_who_may_be_killed_is_known_before() -> None:
    """A rule that kills the server makes its process one that writes everything down; netback dies within its own."""
    plans = [ScenarioPlan(load("calm", [f"faults.death={{crash: {name}}}"])) for name in ("server", "backend")]

    mortal = [[part.name for part in plan.parts if part.mortal] for plan in plans]

    assert mortal == [["server"], []]


def test_every_life_of_a_process_has_its_own_journal(tmp_path: Path) -> None:
    """They lie in the run's folder, beside what has to last longer than one life."""
    plan = ScenarioPlan(load("calm", ["faults.death={crash: server}"]))
    lives = [
        Order(plan, ("server",), (), 1, "token", local=True, silence_s=1.0, scratch=tmp_path, incarnation=number)
        for number in range(2)
    ]

    assert all(life.is_mortal() for life in lives)
    assert not Order(plan, ("network",), (), 1, "token", local=True, silence_s=1.0).is_mortal()
    assert len({life.journal for life in lives}) == 2
    assert lives[0].scratch_folder("store") == lives[1].scratch_folder("store")


def test_a_plan_survives_the_way_to_another_process() -> None:
    """A plan that was pickled says the same, its strategies found anew."""
    plan = plan_of(3)

    copy = pickle.loads(pickle.dumps(plan))

    assert (copy.parts, copy.awaited, copy.scenario) == (plan.parts, plan.awaited, plan.scenario)
