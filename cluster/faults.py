"""The faults of a scenario as the rules that machines follow, each at the place where it acts."""

from typing import Any

from lateack.cluster.schema import Condition, Fault, FrameSelector, Scenario, Trigger
from lateack.nodes import rules

NETWORK, NIC, RING = "network", "backend.nic", "backend.ring"
PLACES = (NETWORK, NIC, RING)


def rules_at(scenario: Scenario, place: str) -> tuple[rules.Rule, ...]:
    """Return the rules that act at one of `PLACES`, in the order of the scenario."""
    assert place in PLACES, place
    return tuple(_rule(name, fault) for name, fault in scenario.faults.items() if (fault.gate or NETWORK) == place)


def requirements(scenario: Scenario) -> tuple[rules.FactMatch, ...]:
    """Return the facts without which a run of this scenario shows nothing."""
    return tuple(rules.FactMatch(fact.fact, fact.node, _values(fact.where)) for fact in scenario.requires)


def _rule(name: str, fault: Fault) -> rules.Rule:
    selector = fault.hold or fault.drop
    return rules.Rule(
        name=name,
        action="gate" if fault.gate else "hold" if fault.hold else "drop",
        place=fault.gate or NETWORK,
        frames=_frames(selector) if selector else rules.FrameMatch(),
        since=_trigger(fault.since),
        until=_trigger(fault.until),
        nth=fault.nth,
    )


def _trigger(trigger: Trigger | None) -> rules.Trigger | None:
    if trigger is None:
        return None
    return rules.Trigger(
        frames=tuple(_frames(condition.frame) for condition in trigger.any if condition.frame),
        facts=tuple(_fact(condition) for condition in trigger.any if condition.fact),
        nth=trigger.nth,
    )


def _frames(selector: FrameSelector) -> rules.FrameMatch:
    return rules.FrameMatch(selector.source, selector.target, selector.protocol, selector.rpc, selector.kind)


def _fact(condition: Condition) -> rules.FactMatch:
    assert condition.fact is not None
    return rules.FactMatch(condition.fact, condition.node, _values(condition.where))


def _values(where: dict[str, Any]) -> tuple[tuple[str, object], ...]:
    return tuple((name, _frozen(value)) for name, value in where.items())


def _frozen(value: Any) -> object:
    """YAML has lists where facts have tuples."""
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value
