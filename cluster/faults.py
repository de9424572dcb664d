"""The faults of a scenario as the rules that machines follow, each at the place where it acts."""

from typing import Any

from lateack.cluster.schema import Scenario
from lateack.cluster.schema_faults import Condition, Fault, FrameSelector, Trigger
from lateack.nodes import rules

NETWORK, SERVER = "network", "server"
SWITCHED = {"rewrite": "buffers", "forge": "headers", "detach": "vif", "crash": "netback"}
"""What is done to a machine, and the place of it at which that is switched."""


def place_of(fault: Fault) -> str:
    """Return the place where a fault acts: "network", or a machine's name and what of it."""
    if fault.gate:
        return fault.gate
    if fault.crash == SERVER:
        return f"{SERVER}.nfsd"
    named = [(kind, getattr(fault, kind)) for kind in SWITCHED]
    return next((f"{machine}.{SWITCHED[kind]}" for kind, machine in named if machine), NETWORK)


def rules_at(scenario: Scenario, machine: str) -> tuple[rules.Rule, ...]:
    """Return the rules that act at one machine, in the order of the scenario."""
    placed = [(name, fault, place_of(fault)) for name, fault in scenario.faults.items()]
    return tuple(_rule(name, fault, place) for name, fault, place in placed if place.split(".")[0] == machine)


def requirements(scenario: Scenario) -> tuple[rules.FactMatch, ...]:
    """Return the facts without which a run of this scenario shows nothing."""
    return tuple(rules.FactMatch(fact.fact, fact.node, _values(fact.where)) for fact in scenario.requires)


def _rule(name: str, fault: Fault, place: str) -> rules.Rule:
    selector = fault.hold or fault.drop or fault.reset
    return rules.Rule(
        name=name,
        action=next(
            action for action in ("gate", "hold", "drop", "reset", *SWITCHED) if getattr(fault, action) is not None
        ),
        place=place,
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
    return rules.FrameMatch(
        selector.source, selector.target, selector.protocol, selector.rpc, selector.kind, selector.port
    )


def _fact(condition: Condition) -> rules.FactMatch:
    assert condition.fact is not None
    return rules.FactMatch(condition.fact, condition.node, _values(condition.where))


def _values(where: dict[str, Any]) -> tuple[tuple[str, object], ...]:
    return tuple((name, _frozen(value)) for name, value in where.items())


def _frozen(value: Any) -> object:
    """YAML has lists where facts have tuples."""
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value
