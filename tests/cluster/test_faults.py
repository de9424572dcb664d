"""Faults as rules: each at its place, with everything that the YAML said."""

from lateack.cluster.faults import requirements, rules_at
from lateack.cluster.scenario import from_raw, load
from lateack.nodes.rules import FactMatch, FrameMatch, Rule, Trigger


def test_every_rule_acts_at_its_own_place() -> None:
    """Holds act on the network and gates where they stand."""
    scenario = load("late-ack")

    places = {
        machine: [(rule.name, rule.place) for rule in rules_at(scenario, machine)]
        for machine in ("network", "backend", "guest1")
    }

    assert places == {"network": [("acks", "network")], "backend": [("egress", "backend.nic")], "guest1": []}


def test_a_gate_moves_with_its_setting() -> None:
    """The place of a gate is a key like any other."""
    scenario = load("late-ack", ["faults.egress.gate=backend.ring"])

    assert [rule.place for rule in rules_at(scenario, "backend")] == ["backend.ring"]


def test_a_rule_says_what_the_story_says() -> None:
    """Frames, facts, values and counts arrive in the rule as they stand in the story."""
    [rule] = rules_at(load("late-ack"), "network")

    assert rule == Rule(
        name="acks",
        action="hold",
        place="network",
        frames=FrameMatch(source="server", target="guest1"),
        since=Trigger(frames=(FrameMatch(source="guest1", rpc="WRITE"),)),
        until=Trigger(
            facts=(FactMatch("Parked", "backend", (("again", True),)), FactMatch("DuplicateDropped", "server"))
        ),
    )


def test_what_a_crash_kills_depends_on_the_machine() -> None:
    """On the backend it is netback alone; the server dies as a whole."""
    scenario = load("calm", ["faults={one: {crash: backend}, other: {crash: server}}"])

    (one,), (other,) = rules_at(scenario, "backend"), rules_at(scenario, "server")

    assert (one.action, one.place) == ("crash", "backend.netback")
    assert (other.action, other.place) == ("crash", "server.nfsd")


def test_the_forms_of_a_trigger_mean_the_same() -> None:
    """One condition, a list of one, and `any` with one are the same trigger, but for its nth."""
    condition = {"fact": "Parked", "where": {"place": "backend.nic"}}
    forms = [condition | {"nth": 2}, {"any": [condition], "nth": 2}, [condition]]
    scenario = from_raw({"story": "forms", "faults": {f"f{i}": {"hold": {}, "until": f} for i, f in enumerate(forms)}})

    triggers = [rule.until for rule in rules_at(scenario, "network")]

    expected = (FactMatch("Parked", None, (("place", "backend.nic"),)),)
    assert triggers == [Trigger(facts=expected, nth=2), Trigger(facts=expected, nth=2), Trigger(facts=expected)]


def test_single_frames_are_dropped_by_number() -> None:
    """A drop says which of the matching frames it means, and lasts from beginning to end if nothing else is said."""
    scenario = from_raw({"story": "loss", "faults": {"third": {"drop": {"rpc": "WRITE"}, "nth": [1, 3]}}})

    [rule] = rules_at(scenario, "network")

    assert (rule.action, rule.nth, rule.since, rule.until) == ("drop", (1, 3), None, None)


def test_a_firewall_is_a_rule_of_the_network() -> None:
    """What it refuses is named as any frame is, down to the port."""
    fault = {"reset": {"from": "guest1", "port": 700}, "nth": [1]}
    scenario = from_raw({"story": "cut", "faults": {"firewall": fault}})

    [rule] = rules_at(scenario, "network")

    assert (rule.action, rule.frames, rule.nth) == ("reset", FrameMatch(source="guest1", port=700), (1,))


def test_values_that_are_lists_match_tuples() -> None:
    """A fact's tuple is written as a list in YAML, and compares equal all the same."""
    scenario = from_raw({"story": "frames", "requires": [{"fact": "BufferRefilled", "where": {"frames": [8, 9]}}]})

    assert requirements(scenario) == (FactMatch("BufferRefilled", None, (("frames", (8, 9)),)),)
