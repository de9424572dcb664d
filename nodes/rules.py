"""Causal rules: from one event until another, something is held, gated or dropped; judged where the rule acts.

A rule waits for *frames* that pass its own place and for *facts*, its own machine's or another's (the world brings
those that a rule waits for, see `Noticed`). It never waits for a time: a story made of such rules ends the same way on
any machine, however fast or slow.
"""

from collections.abc import Sequence

from lateack.nodes.facts import Fact
from lateack.nodes.records import Record
from lateack.nodes.stack.dissect import Dissection


class FrameMatch(Record):
    """Which frames are meant, by their decoded headers; what is not named matches everything.

    `source` and `target` are machine names; `rpc` names an NFS procedure ("WRITE") found at the start of the payload;
    `kind` is "call", "reply" or "ack" (no payload); `port` is the sender's or the receiver's TCP or UDP port, which
    tells a client's connections apart.
    """

    source: str | None = None
    target: str | None = None
    protocol: str | None = None
    rpc: str | None = None
    kind: str | None = None
    port: int | None = None

    def fits(self, frame: Dissection) -> bool:
        """Say whether a dissected frame is one of those meant."""
        return (
            # First what tells most frames apart.
            (self.rpc is None or self.rpc == frame.rpc)
            and (self.kind is None or self.kind == frame.kind)
            and (self.source is None or self.source == frame.source)
            and (self.target is None or self.target == frame.target)
            and (self.protocol is None or self.protocol == frame.protocol)
            and (self.port is None or f":{self.port}>" in frame.flow or frame.flow.endswith(f":{self.port}"))
        )


class FactMatch(Record):
    """Which facts are meant: the name of the type, who recorded it, and the values that its fields must have."""

    fact: str
    node: str | None = None
    where: tuple[tuple[str, object], ...] = ()

    def fits(self, node: str, fact: Fact) -> bool:
        """Say whether a fact that *node* recorded is one of those meant."""
        return (
            type(fact).__name__ == self.fact
            and (self.node is None or self.node == node)
            and all(getattr(fact, name) == value for name, value in self.where)
        )


class Trigger(Record):
    """The nth time that any of these frames passes or facts occurs; counted from the moment the rule starts to wait."""

    frames: tuple[FrameMatch, ...] = ()
    facts: tuple[FactMatch, ...] = ()
    nth: int = 1


class Rule(Record):
    """One rule of a scenario: what it does, where, and from when until when.

    `action` is "hold", "drop" or "reset" (frames of the network that match `frames`: keep them back, lose them, or lose
    them and tell their sender that its connection is gone), "gate" (nothing passes `place`), or what
    is done to a machine at `place`: "rewrite" (its application scribbles over buffers that are being written), "forge"
    (the guest changes the headers of packets that it has submitted), "detach"
    (its frontend closes and connects anew), "crash" (its netback dies, and comes back when the rule is over;
    a server dies as a whole, and is back by itself).
    `nth` picks single frames, counted among those that match; empty means all of them. Without `since` the rule
    acts from the start, without `until` to the end.
    """

    name: str
    action: str
    place: str = "network"
    frames: FrameMatch = FrameMatch()
    since: Trigger | None = None
    until: Trigger | None = None
    nth: tuple[int, ...] = ()


NETWORK_ACTIONS = ("hold", "drop", "reset")
"""What is done to frames; everything else is done to a machine."""

WAITING, ACTIVE, OVER = "waiting", "active", "over"
NO_FRAMES: tuple[FrameMatch, ...] = ()
NO_FACTS: frozenset[str] = frozenset()


class RuleState:
    """Where one rule stands: it waits for `since`, acts, and is over after `until`."""

    __slots__ = (
        "awaited", "facts_awaited", "frames_awaited", "matched", "own_facts_awaited", "owner", "rule", "seen", "state",
    )  # fmt: skip

    def __init__(self, rule: Rule, owner: str = "") -> None:
        """Start a rule at the machine *owner*, whose own facts it will see, too."""
        self.rule = rule
        self.owner = owner
        self.seen = 0
        self.matched = 0
        self._enter(WAITING if rule.since else ACTIVE)

    def looks_at_frames(self) -> bool:
        """Say whether frames that pass mean anything to the rule now."""
        return bool(self.frames_awaited) or (self.state == ACTIVE and self.rule.action in NETWORK_ACTIONS)

    def frame_passed(self, frame: Dissection) -> bool:
        """Take note of a frame that has passed the rule's place; return whether the rule's state changed."""
        for match in self.frames_awaited:
            if match.fits(frame):
                return self._count()
        return False

    def fact_occurred(self, node: str, fact: Fact) -> bool:
        """Take note of a fact; return whether the rule's state changed."""
        if type(fact).__name__ not in self.facts_awaited:
            return False
        trigger = self.awaited
        assert trigger is not None
        for match in trigger.facts:
            if match.fits(node, fact):
                return self._count()
        return False

    def picks(self, frame: Dissection) -> bool:
        """Say whether an active hold, drop or reset applies to this frame."""
        if self.state != ACTIVE or not self.rule.frames.fits(frame):
            return False
        self.matched += 1
        return not self.rule.nth or self.matched in self.rule.nth

    def _count(self) -> bool:
        trigger = self.awaited
        assert trigger is not None
        self.seen += 1
        if self.seen < trigger.nth:
            return False
        self.seen = 0
        self._enter(ACTIVE if self.state == WAITING else OVER)
        return True

    def _enter(self, state: str) -> None:
        """Take the next state and keep at hand what it waits for."""
        self.state = state
        trigger = self.rule.since if state == WAITING else self.rule.until if state == ACTIVE else None
        self.awaited = trigger
        self.frames_awaited = NO_FRAMES if trigger is None else trigger.frames
        self.facts_awaited = NO_FACTS
        self.own_facts_awaited = False
        if trigger is not None and trigger.facts:
            self.facts_awaited = frozenset([match.fact for match in trigger.facts])
            self.own_facts_awaited = any(match.node in (None, self.owner) for match in trigger.facts)


def facts_awaited(rules: Sequence[Rule]) -> frozenset[str]:
    """Return the names of the fact types that any of these rules waits for."""
    triggers = [trigger for rule in rules for trigger in (rule.since, rule.until) if trigger]
    return frozenset(match.fact for trigger in triggers for match in trigger.facts)
