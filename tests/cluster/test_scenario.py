"""Reading scenarios: stories, files, overrides, and what `dump` writes for a replay."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from lateack.cluster.scenario import (
    Scenario,
    ScenarioError,
    apply_overrides,
    dump,
    from_raw,
    list_stories,
    load,
    load_file,
)


@pytest.mark.parametrize("story", list_stories())
def test_a_dumped_story_replays(story: str, tmp_path: Path) -> None:
    """What a run folder holds as scenario.yaml reads back as the same scenario."""
    scenario = load(story, ["seed=5", "links.to_server.loss=0.25"])
    file = tmp_path / "scenario.yaml"

    file.write_text(dump(scenario), encoding="utf-8")

    assert load_file(file) == scenario


def test_a_file_may_leave_out_its_name(tmp_path: Path) -> None:
    """A scenario file is named after itself, and a section with nothing in it has its defaults."""
    file = tmp_path / "mine.yaml"
    file.write_text("faults:\nserver: {drc: none}\n", encoding="utf-8")

    scenario = load(str(file))

    assert scenario.story == "mine"
    assert scenario.server.drc == "none"
    assert scenario.faults == {}


def test_an_input_lies_beside_the_file_that_names_it(tmp_path: Path) -> None:
    """The path of `workload.input` in a file is relative to that file, and absolute once read."""
    (tmp_path / "data.bin").write_bytes(b"bytes")
    file = tmp_path / "mine.yaml"
    file.write_text("workload: {input: data.bin}\n", encoding="utf-8")

    scenario = load_file(file)

    assert scenario.workload.input == str(tmp_path / "data.bin")


def test_overrides_apply_in_order_and_options_last() -> None:
    """A later override replaces an earlier one, sections are made as needed, and options have the last word."""
    scenario = load("calm", ["seed=2", "seed=3", "server={drc: none}", "server.drc_entries=9"], {"seed": 4})

    assert scenario.seed == 4
    assert (scenario.server.drc, scenario.server.drc_entries) == ("none", 9)


def test_an_option_of_none_changes_nothing() -> None:
    """An option that was not given keeps what the story says."""
    scenario = load("calm", (), {"seed": None, "strategies.guest": None})

    assert (scenario.seed, scenario.strategies.guest) == (1, "frag-destructor")


def test_overrides_reach_into_faults_and_lists() -> None:
    """Faults are known by their names, list items by their positions, and short forms stay short."""
    scenario = load("late-ack", ["faults.egress.until.1.fact=WriteCompleted", "faults.acks.since.nth=2"])

    assert scenario.faults["egress"].until is not None
    assert [each.fact for each in scenario.faults["egress"].until.any] == [
        "BufferRefilled",
        "WriteCompleted",
        "CompletionDeferred",
    ]
    assert scenario.faults["acks"].since is not None
    assert scenario.faults["acks"].since.nth == 2


def test_a_fault_can_be_added_and_all_can_be_dropped() -> None:
    """`--set` may give a whole fault a new name, or take every fault away."""
    added = load("late-ack", ["faults.loss={drop: {from: guest1}, nth: [3]}"])
    none = load("late-ack", ["faults={}"])

    assert added.faults["loss"].nth == (3,)
    assert none.faults == {}


def test_overrides_leave_what_they_are_given_alone() -> None:
    """Plain data is copied before anything is put into it."""
    raw = {"server": {"drc": "none"}}

    changed = apply_overrides(raw, ["server.drc=checksum"])

    assert raw == {"server": {"drc": "none"}}
    assert changed == {"server": {"drc": "checksum"}}


KEYS = st.lists(st.sampled_from(["faults", "egress", "until", "0", "any", "workload", "x", "", "expect"]), max_size=5)
VALUES = st.one_of(
    st.integers(), st.text(max_size=5), st.sampled_from(["{a: b}", "[1]", "null", "{", "&a [*a]", "1e999"])
)


@given(KEYS, VALUES)
def test_an_override_is_taken_or_refused_in_one_sentence(keys: list[str], value: object) -> None:
    """Whatever `--set` is given, the outcome is a scenario or a sentence, never another error."""
    override = f"{'.'.join(keys)}={value}"

    outcome = outcome_of(lambda: load("late-ack", [override]))

    if isinstance(outcome, Scenario):
        assert from_raw(outcome.model_dump(by_alias=True, exclude_none=True)) == outcome
    else:
        assert outcome.endswith(".")


@given(st.binary(max_size=60))
def test_any_bytes_are_a_scenario_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """A file with anything in it is read or refused in one sentence."""
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content)

    outcome = outcome_of(lambda: load_file(file))

    assert outcome.story == "any" if isinstance(outcome, Scenario) else outcome.endswith(".")


def outcome_of(reading: Callable[[], Scenario]) -> Scenario | str:
    """Return the scenario, or the sentence with which it was refused."""
    try:
        return reading()
    except ScenarioError as error:
        return str(error)
