"""The network: raw frames in, raw frames out, late, lost, held or dropped in between.

Each direction of the path has a delay, jitter that never reorders, and a loss rate, drawn from dice that the machine
was handed. Rules hold frames that match from one event until another. Frames are forwarded by destination address
alone.
"""

import random
from collections import deque
from collections.abc import Sequence

from lateack.nodes.facts import ConnectionCut, Fact, FrameCaptured, FrameHeld, FrameLost, FramesReleased
from lateack.nodes.messages import Frames, Message, Noticed
from lateack.nodes.node import BURST_MAX, Effect, Event, Received, Send, SetTimer, Time, TimerFired
from lateack.nodes.records import Record
from lateack.nodes.rules import ACTIVE, OVER, Rule, RuleState
from lateack.nodes.stack.dissect import Dissection, dissect
from lateack.nodes.stack.forged_reset import reset_for

LINK_FRAMES_MAX = 100_000
"""Frames that may be under way on one link; beyond it the newest is lost, as on any bounded queue."""


HELD_FRAMES_MAX = 100_000
"""Frames that one rule may hold; beyond it the newest is lost, as on a link."""


class LinkConfig(Record):
    """One direction towards one machine: ns of delay, ns of jitter at most, loss as a probability."""

    target: str
    delay: int
    jitter: int = 0
    loss: float = 0.0


class NetworkConfig(Record):
    """What the network is told at boot: which link leads to which address, who has which IPv4 address, its rules."""

    name: str
    links: tuple[LinkConfig, ...]
    links_by_mac: dict[bytes, str]
    addresses: dict[int, str]
    rules: tuple[Rule, ...] = ()
    seed: int = 1
    capture: bool = False


class Link:
    """Frames under way to one machine, in their order, as bursts of what arrives together: (due, frames)."""

    __slots__ = ("armed", "bursts", "config", "count", "delay", "dice", "last_due", "target")

    def __init__(self, config: LinkConfig, seed: int) -> None:
        self.config = config
        self.target = config.target
        self.delay = config.delay
        self.dice = random.Random(f"{seed} {config.target}") if config.loss or config.jitter else None
        self.bursts: deque[tuple[int, tuple[bytes, ...]]] = deque()
        self.count = 0
        self.last_due = 0
        self.armed: int | None = None


NOWHERE = Link(LinkConfig("", 0), 0)
"""Where a frame to an unknown address would have gone; nothing ever does."""


class Network:
    """The machine."""

    def __init__(self, config: NetworkConfig) -> None:
        self.config = config
        self.name = config.name
        self.effects: list[Effect] = []
        self.links = {link.target: Link(link, config.seed) for link in config.links}
        self.by_mac = {mac: self.links[target] for mac, target in config.links_by_mac.items()}
        self.capture = config.capture
        self.rules = [RuleState(rule, config.name) for rule in config.rules]
        self.judging = self.changed = bool(self.rules)
        self.waits_for_itself = any(rule.own_facts_awaited for rule in self.rules)
        self.held: dict[str, list[bytes]] = {rule.name: [] for rule in config.rules}

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Take one event at `now`; see `Node`."""
        if isinstance(event, Received):
            message = event.message
            if isinstance(message, Frames):
                if self.capture:
                    self.effects += [FrameCaptured(event.source, True, frame) for frame in message.frames]
                self._enqueue(self._judge(message.frames, now) if self.judging else message.frames, now)
            else:
                self._received(message, now)
        elif isinstance(event, TimerFired):
            self._deliver(self.links[event.name], now)
        effects = self.effects
        if self.changed or (self.waits_for_itself and effects):
            self._own_facts(now)
        if self.capture:
            self._capture_deliveries()
        if not effects:
            return []
        done = effects.copy()
        effects.clear()
        return done

    def _capture_deliveries(self) -> None:
        """Record what arrives at the far ends of the links, in front of the orders that deliver it."""
        orders, self.effects[:] = self.effects.copy(), ()
        for effect in orders:
            if isinstance(effect, Send) and isinstance(effect.message, Frames):
                self.effects += [FrameCaptured(effect.target, False, frame) for frame in effect.message.frames]
            self.effects.append(effect)

    def _received(self, message: Message, now: Time) -> None:
        """Take what is no burst of frames."""
        assert isinstance(message, Noticed), f"the network has no use for {message}"
        self._fact_occurred(message.node, message.fact, now)

    def close(self) -> None:
        """The network has no memory of its own to let go of; see `Node`."""

    def pending(self) -> int:
        """Frames under way; held ones wait for their rule and not for time."""
        return sum(link.count for link in self.links.values())

    # --- links --------------------------------------------------------------------------------------------------------

    def _enqueue(self, frames: Sequence[bytes], now: Time) -> None:
        """Put frames on their way: a burst to one machine stays one, unless the link's dice judge each frame."""
        if not frames:
            return
        mac = frames[0][:6]
        link = self.by_mac.get(mac)
        alone = len(frames) == 1
        if link is not None and link.dice is None and (alone or all(frame[:6] == mac for frame in frames)):
            for start in range(0, len(frames), BURST_MAX):
                self._start(link, now + link.delay, tuple(frames[start : start + BURST_MAX]), now)
            return
        for frame in frames:
            link = self.by_mac.get(frame[:6])
            if link is not None:  # else there is no such address: a switch would flood it, and nobody would take it
                self._enqueue_one(link, frame, now)

    def _enqueue_one(self, link: Link, frame: bytes, now: Time) -> None:
        """Put one frame on its way, if the dice let it pass."""
        due = now + link.delay
        if link.dice is not None:
            if link.config.loss and link.dice.random() < link.config.loss:
                self._lost(link, frame)
                return
            if link.config.jitter:
                due = max(link.last_due, due + link.dice.randrange(link.config.jitter + 1))
        self._start(link, due, (frame,), now)

    def _start(self, link: Link, due: Time, burst: tuple[bytes, ...], now: Time) -> None:
        """Let a burst arrive at *due*, behind everything that is under way."""
        if link.count + len(burst) > LINK_FRAMES_MAX:
            for frame in burst:
                self._lost(link, frame)
            return
        link.last_due = due
        if link.armed is None and due <= now:
            self.effects.append(Send(link.target, Frames(burst)))
            return
        link.bursts.append((due, burst))
        link.count += len(burst)
        if link.armed is None:
            link.armed = due
            self.effects.append(SetTimer(link.target, due))

    def _deliver(self, link: Link, now: Time) -> None:
        """Hand over every burst that is due, as one where that is not too long, and wake up for the next."""
        bursts = link.bursts
        arrived: list[bytes] = []
        while bursts and bursts[0][0] <= now:
            burst = bursts.popleft()[1]
            link.count -= len(burst)
            if arrived and len(arrived) + len(burst) > BURST_MAX:
                self.effects.append(Send(link.target, Frames(tuple(arrived))))
                arrived.clear()
            arrived += burst
        if arrived:
            self.effects.append(Send(link.target, Frames(tuple(arrived))))
        if bursts:
            link.armed = bursts[0][0]
            self.effects.append(SetTimer(link.target, link.armed))
        else:
            link.armed = None

    def _lost(self, link: Link, frame: bytes, rule: str = "") -> None:
        seen = dissect(frame, self.config.addresses)
        self.effects.append(FrameLost(link.target, seen.flow, seen.seq, seen.length, rule))

    # --- rules --------------------------------------------------------------------------------------------------------

    def _judge(self, frames: Sequence[bytes], now: Time) -> list[bytes]:
        """Return the frames that no rule keeps back or drops, telling the rules of each that passes."""
        passed = []
        for frame in frames:
            seen = dissect(frame, self.config.addresses)
            if self._kept(frame, seen, now):
                continue
            passed.append(frame)
            for rule in self.rules:
                if rule.frames_awaited and rule.frame_passed(seen):
                    self.changed = True
                    if rule.state == OVER:
                        passed += self._take_held(rule)  # now, so that nothing of this burst overtakes them
        return passed

    def _kept(self, frame: bytes, seen: Dissection, now: Time) -> bool:
        """Say whether a rule keeps a frame from going on; a firewall may refuse one that another rule holds back."""
        kept = refused = False
        for rule in self.rules:
            refuses = rule.rule.action == "reset"
            if rule.state is not ACTIVE or (kept and not refuses) or not rule.picks(seen):
                continue
            if refuses:
                refused = self._refuse(rule, frame, seen, now) or refused
                continue
            held = self.held[rule.rule.name]
            if rule.rule.action == "drop" or len(held) >= HELD_FRAMES_MAX:
                self._lost(self.by_mac.get(frame[:6], NOWHERE), frame, rule.rule.name)
            else:
                held.append(frame)
                self.effects.append(FrameHeld(rule.rule.name, seen.flow, seen.seq, seen.ack, seen.length))
            kept = True
        return kept or refused

    def _refuse(self, rule: RuleState, frame: bytes, seen: Dissection, now: Time) -> bool:
        """Answer a segment with a RST in the receiver's name, as a firewall does that has forgotten the connection."""
        answer = reset_for(frame)
        if answer is None:
            return False
        self.effects.append(ConnectionCut(rule.rule.name, seen.flow))
        self._enqueue([answer], now)
        return True

    def _fact_occurred(self, node: str, fact: Fact, now: Time) -> None:
        changed = [rule for rule in self.rules if rule.fact_occurred(node, fact)]
        if changed:
            self._release(now)

    def _own_facts(self, now: Time) -> None:
        """Rules may wait for what this very machine records, and frames may have ended one: act on both."""
        seen = 0
        while seen < len(self.effects) and any(rule.own_facts_awaited for rule in self.rules):
            effect = self.effects[seen]
            seen += 1
            if isinstance(effect, Fact):
                self._fact_occurred(self.name, effect, now)
        self._release(now)

    def _release(self, now: Time) -> None:
        """Let the frames of every rule that is over go on, in the order in which they came."""
        self.changed = False
        self.judging = any(rule.looks_at_frames() for rule in self.rules)
        self.waits_for_itself = any(rule.own_facts_awaited for rule in self.rules)
        for rule in self.rules:
            if rule.state == OVER and self.held[rule.rule.name]:
                self._enqueue(self._take_held(rule), now)

    def _take_held(self, rule: RuleState) -> list[bytes]:
        """Return what a rule has kept back, which is over now."""
        held = self.held[rule.rule.name]
        if held:
            self.held[rule.rule.name] = []
            self.effects.append(FramesReleased(rule.rule.name, len(held)))
        return held
