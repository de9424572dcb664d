"""The stories that ship: each is complete, and ends as it says under every combination of strategies."""

import pytest

from lateack.cluster import plugins
from lateack.cluster.experiment import run_experiment
from lateack.cluster.scenario import list_stories, load

GUESTS, BACKENDS = plugins.names("guest"), plugins.names("backend")
STORY_GUESTS = [(story, guest) for story in list_stories() for guest in plugins.names_for(load(story).kind)]
DRC = {
    ("server.drc=none",): ["corrupt-at-rest", "stale-on-wire"],
    ("server.drc=checksum",): ["corrupt-at-rest", "stale-on-wire"],
    ("server.drc=checksum", "workload.common_prefix=1024"): ["stale-on-wire"],
    ("server.drc=no-checksum",): ["stale-on-wire"],
}


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
    scenario = load(story)

    cells = [(guest, backend) for guest in plugins.names_for(scenario.kind) for backend in BACKENDS]
    silent = [pair for pair in cells if scenario.replaced(guest=pair[0], backend=pair[1]).expected() is None]

    assert silent == []


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


def surprises(story: str, guest: str, *overrides: str) -> dict[str, tuple[list[str], list[str] | None]]:
    """Run a story with one strategy of the guest over all of the backend; return what ended otherwise than it says."""
    scenario = load(story, overrides)
    found = {}
    for backend in BACKENDS if scenario.kind == "split" else ["dev-zerocopy"]:
        cell = scenario.replaced(guest=guest, backend=backend)
        verdict = run_experiment(cell, "virtual").verdict
        if verdict.harms != verdict.expected or (not verdict.harms and verdict.missing):
            found[backend] = (verdict.harms, verdict.expected)
    return found


@pytest.mark.parametrize(("story", "guest"), STORY_GUESTS)
def test_every_story_ends_as_it_says(story: str, guest: str) -> None:
    """Harms are found, by running, exactly where the story expects them, and none is absent for want of a situation."""
    assert surprises(story, guest) == {}


@pytest.mark.parametrize("gate", ["backend.ring", "backend.queue"])
@pytest.mark.parametrize("guest", GUESTS)
def test_late_ack_ends_as_it_says_at_other_gates(guest: str, gate: str) -> None:
    """Where the retransmission waits decides which copies come too late."""
    assert surprises("late-ack", guest, f"faults.egress.gate={gate}") == {}


@pytest.mark.parametrize("overrides", DRC, ids=[" ".join(overrides) for overrides in DRC])
@pytest.mark.parametrize("guest", GUESTS)
def test_rpc_retransmit_ends_as_it_says(guest: str, overrides: tuple[str, ...]) -> None:
    """Whether the file is corrupt is found by running the server's cache over the bytes that arrive."""
    assert surprises("rpc-retransmit", guest, *overrides) == {}


@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("guest", GUESTS)
def test_a_calm_day_ends_alike_whatever_the_bytes(guest: str, seed: int) -> None:
    """Without faults nothing depends on the seed."""
    assert surprises("calm", guest, f"seed={seed}") == {}
