"""The stories that ship: each is complete, and ends as it says under every combination of strategies."""

import pytest

from lateack.cluster import plugins
from lateack.cluster.scenario import list_stories, load
from lateack.cluster.schema import Scenario

CELLS = [(guest, backend) for guest in plugins.names("guest") for backend in plugins.names("backend")]
DRC = {
    ("server.drc=none",): ["corrupt-at-rest", "stale-on-wire"],
    ("server.drc=checksum",): ["corrupt-at-rest", "stale-on-wire"],
    ("server.drc=checksum", "workload.common_prefix=1024"): ["stale-on-wire"],
    ("server.drc=no-checksum",): ["stale-on-wire"],
}


def harms(scenario: Scenario) -> list[str]:
    """Run a scenario in the virtual world, see that there was enough to judge, and return what the oracles found."""
    from lateack.cluster.experiment import run_experiment

    result = run_experiment(scenario, "virtual", out=None, address=None, progress=None)
    assert result.verdict.missing == ()
    return result.harms


@pytest.mark.parametrize("story", list_stories())
def test_a_story_tells_what_happens(story: str) -> None:
    """A story has a title of one line, prose for a newcomer, something to require, and is named after its file."""
    scenario = load(story)

    assert scenario.story == story
    assert 10 < len(scenario.title) < 100
    assert len(scenario.tells.split()) > 80
    assert scenario.requires


@pytest.mark.parametrize("story", list_stories())
def test_a_story_says_what_to_expect_of_every_strategy(story: str) -> None:
    """For each built-in pair of strategies the story has an expectation."""
    for guest, backend in CELLS:
        assert load(story).replaced(guest=guest, backend=backend).expected() is not None


@pytest.mark.parametrize(("overrides", "expected"), DRC.items(), ids=[" ".join(overrides) for overrides in DRC])
def test_rpc_retransmit_expects_what_the_cache_decides(overrides: tuple[str, ...], expected: list[str]) -> None:
    """A second execution needs a cache that misses: none, or a checksum over bytes that have changed."""
    scenario = load("rpc-retransmit", overrides)

    assert scenario.expected() == expected
    assert scenario.replaced(backend="grant-copy").expected() == []
    assert scenario.replaced(guest="full-copy").expected() == []


def test_late_ack_expects_the_harm_back_at_the_ring() -> None:
    """A backend that copies early protects only from the queue below it."""
    scenario = load("late-ack", ["strategies.backend=grant-copy"])
    moved = load("late-ack", ["strategies.backend=grant-copy", "faults.egress.gate=backend.ring"])

    assert scenario.expected() == []
    assert moved.expected() == ["stale-on-wire"]


@pytest.mark.parametrize("gate", ["backend.nic", "backend.ring"])
@pytest.mark.parametrize(("guest", "backend"), CELLS)
def test_late_ack_ends_as_it_says(guest: str, backend: str, gate: str) -> None:
    """The harm is found, by running, exactly where the story expects it, and the file is intact everywhere."""
    scenario = load("late-ack", [f"faults.egress.gate={gate}"]).replaced(guest=guest, backend=backend)

    found = harms(scenario)

    assert found == scenario.expected()


@pytest.mark.parametrize("overrides", DRC, ids=[" ".join(overrides) for overrides in DRC])
@pytest.mark.parametrize(("guest", "backend"), CELLS)
def test_rpc_retransmit_ends_as_it_says(guest: str, backend: str, overrides: tuple[str, ...]) -> None:
    """Whether the file is corrupt is found by running the server's cache over the bytes that arrive."""
    scenario = load("rpc-retransmit", overrides).replaced(guest=guest, backend=backend)

    found = harms(scenario)

    assert found == scenario.expected()


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("guest", "backend"), CELLS)
def test_on_a_calm_day_every_strategy_is_safe(guest: str, backend: str, seed: int) -> None:
    """Without faults no scheme can be told from another but by its cost."""
    found = harms(load("calm").replaced(guest=guest, backend=backend, seed=seed))

    assert found == []
