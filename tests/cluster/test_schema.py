"""The models of a scenario: defaults, what is expected when, and changing a finished one."""

from lateack.cluster.scenario import from_raw
from lateack.cluster.schema import MISSING, Scenario, value_at


def test_a_name_alone_is_a_complete_scenario() -> None:
    """Every key but the story has a default, so that a scenario says only what matters to it."""
    scenario = Scenario(story="plain")

    assert scenario.strategies.guest == "on-reply"
    assert scenario.links.to_server.delay_us == 500
    assert scenario.rpc.timeo_ms is None
    assert scenario.machine_names() == ["guest1", "backend", "network", "server"]


def test_the_first_expectation_that_holds_counts() -> None:
    """Expectations are read from the top, and a list of values means any of them."""
    scenario = from_raw(
        {
            "story": "plain",
            "expect": [
                {"when": {"strategies.guest": ["full-copy", "frag-destructor"]}, "harms": []},
                {"when": {"server.drc": "none"}, "harms": ["stale-on-wire", "corrupt-at-rest"]},
                {"when": {"server.drc": "none"}, "harms": ["leak"]},
            ],
        }
    )

    safe = scenario.replaced(guest="full-copy").expected()
    uncached = from_raw(scenario.model_dump(by_alias=True) | {"server": {"drc": "none"}}).expected()

    assert safe == []
    assert uncached == ["corrupt-at-rest", "stale-on-wire"]
    assert scenario.expected() is None


def test_replacing_leaves_the_original_alone() -> None:
    """A changed scenario is a new value; None keeps what is there."""
    scenario = Scenario(story="plain", seed=7)

    changed = scenario.replaced(backend="grant-copy", input="/tmp/file")

    assert (changed.strategies.guest, changed.strategies.backend, changed.seed) == ("on-reply", "grant-copy", 7)
    assert changed.workload.input == "/tmp/file"
    assert scenario.strategies.backend == "dev-zerocopy"
    assert scenario.workload.input is None


def test_a_dotted_key_finds_its_value() -> None:
    """Keys are those of the YAML, into faults, lists and frame selectors too; what is not there is MISSING."""
    scenario = from_raw(
        {"story": "plain", "faults": {"late": {"hold": {"from": "server"}, "since": {"fact": "Parked"}}}}
    )

    assert value_at(scenario, "faults.late.hold.from") == "server"
    assert value_at(scenario, "faults.late.since.any.0.fact") == "Parked"
    assert value_at(scenario, "faults.late.since.any.1.fact") is MISSING
    assert value_at(scenario, "faults.early.gate") is MISSING
    assert value_at(scenario, "seed.deeper") is MISSING
