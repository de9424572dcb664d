"""What the rules of a scenario switch inside one machine: the places where packets can be kept, and what can be done.

A machine names its places and hands each a `Switch`; the rules say when it is on. A place of action "gate" lets nothing
pass while it is on, and `GateClosed` and `GateOpened` tell of that; every other switch tells of itself.

    backend.ring   before netback takes a request (the backend is not scheduled)
    *.queue        before a packet is handed to the driver (the qdisc): nothing of it has been summed, cut or copied
    *.nic          after that, before the card reads the bytes (the driver's ring)
    *.tap *.socket *.mirror *.reader *.rx      whoever was given a packet does not read it
"""

from collections.abc import Mapping, Sequence, Sized
from typing import Protocol

from lateack.nodes.facts import Fact, GateClosed, GateOpened, Parked
from lateack.nodes.memory.pages import Memory
from lateack.nodes.node import Effect
from lateack.nodes.rules import ACTIVE, OVER, Rule, RuleState
from lateack.nodes.split.netback import Vif
from lateack.nodes.stack.dissect import Dissection, dissect
from lateack.nodes.stack.egress import Egress
from lateack.nodes.stack.nic import Nic, NicWatcher

NIC_PLACE = "backend.nic"
RING_PLACE = "backend.ring"

PEEK_BYTES = 128


class Switch(Protocol):
    """What a rule switches at one place."""

    def on(self) -> None:
        """The rule acts: nothing passes here any more, or what the rule names is done."""
        ...

    def off(self) -> None:
        """No rule acts here any more: what has waited goes on, or what was done is undone."""
        ...

    def waiting(self) -> int:
        """Return how many packets wait here."""
        ...


class Gates(NicWatcher):
    """The rules of one machine, and what they wait for now: frames at its places, or facts that it records itself."""

    __slots__ = (
        "addresses",
        "effects",
        "nic_place",
        "ring_watched",
        "rules",
        "switches",
        "waits_for_itself",
    )

    def __init__(
        self,
        rules: Sequence[Rule],
        switches: Mapping[str, Switch],
        effects: list[Effect],
        *,
        owner: str,
        addresses: dict[int, str],
    ) -> None:
        """Follow *rules* at the machine *owner*; *addresses* name who sends and receives."""
        self.rules = [RuleState(rule, owner) for rule in rules]
        self.switches = switches
        self.effects = effects
        self.addresses = addresses
        self.nic_place = f"{owner}.nic"
        assert all(rule.place in switches for rule in rules), "a rule names a place that this machine does not have"
        self._look_out()

    def close(self) -> None:
        """The run is over: let go of the switches, which hold the machine that holds these rules."""
        self.switches = {}

    def start(self) -> None:
        """Switch on what the rules name that act from the beginning."""
        for rule in self.rules:
            if rule.state == ACTIVE:
                self._on(rule)

    def frame_left(self, headers: bytes, more: int) -> None:
        """A packet has left through the card: rules may act now."""
        self.passed(self.nic_place, dissect(headers, self.addresses, more))

    def passed(self, place: str, frame: Dissection) -> None:
        """A frame has passed the card or the ring; a rule of any other place looks at what passes the card."""
        for rule in self.rules:
            if self._looks_at(rule.rule) == place and rule.frame_passed(frame):
                self._switch(rule)

    def fact_occurred(self, node: str, fact: Fact) -> None:
        """A machine, this one or another, has recorded a fact."""
        for rule in self.rules:
            if rule.fact_occurred(node, fact):
                self._switch(rule)

    def own_facts(self, owner: str, seen: int) -> int:
        """Rules may wait for what this very machine records, and acting on one may record more.

        Looks at the effects from position *seen* on and returns where it has come to.
        """
        while seen < len(self.effects) and self.waits_for_itself:
            effect = self.effects[seen]
            seen += 1
            if isinstance(effect, Fact):
                self.fact_occurred(owner, effect)
        return len(self.effects)

    def _looks_at(self, rule: Rule) -> str:
        return RING_PLACE if rule.place == RING_PLACE else self.nic_place

    def _look_out(self) -> None:
        """Keep at hand where rules wait for frames now, and whether any waits for this machine's own facts."""
        self.nic_watched = self.ring_watched = self.waits_for_itself = False
        for rule in self.rules:
            if rule.frames_awaited:
                if self._looks_at(rule.rule) == RING_PLACE:
                    self.ring_watched = True
                else:
                    self.nic_watched = True
            if rule.own_facts_awaited:
                self.waits_for_itself = True

    def _switch(self, rule: RuleState) -> None:
        self._look_out()
        if rule.state == ACTIVE:
            self._on(rule)
        elif rule.state == OVER:
            self._off(rule)

    def _on(self, rule: RuleState) -> None:
        place = rule.rule.place
        self.switches[place].on()
        if rule.rule.action == "gate":
            self.effects.append(GateClosed(rule.rule.name, place))

    def _off(self, rule: RuleState) -> None:
        place = rule.rule.place
        switch = self.switches[place]
        if rule.rule.action == "gate":
            self.effects.append(GateOpened(rule.rule.name, place, switch.waiting()))
        if not any(other.state == ACTIVE and other.rule.place == place for other in self.rules):
            switch.off()


class Gated(Protocol):
    """A queue that is kept back while it is `closed`."""

    closed: bool

    @property
    def queue(self) -> Sized:
        """What waits."""
        ...

    def open(self) -> None:
        """Let everything that waits go on."""
        ...


class QueueGate:
    """The gate behind a host's queue, or in front of its card's DMA."""

    __slots__ = ("gated",)

    def __init__(self, gated: Gated) -> None:
        self.gated = gated

    def on(self) -> None:
        """Nothing is handed over, or read, any more."""
        self.gated.closed = True

    def off(self) -> None:
        """Everything that waits is handed over, or read, now."""
        self.gated.open()

    def waiting(self) -> int:
        """Return how many packets wait here."""
        return len(self.gated.queue)


def egress_switches(egress: Egress) -> dict[str, Switch]:
    """Return the two gates of a host's way out, by place."""
    return {egress.place: QueueGate(egress), egress.nic.place: QueueGate(egress.nic)}


class Consumer(Protocol):
    """Whoever takes requests from the rings of guests."""

    vifs: dict[str, Vif]
    memories: dict[str, Memory]
    effects: list[Effect]
    nic: Nic

    def consume_rings(self) -> None:
        """Take what has waited in all rings."""
        ...


class RingGate:
    """The gate between the guests' rings and netback, which is not scheduled while it is closed."""

    __slots__ = ("addresses", "backend", "closed")
    __deletable__ = ("backend",)  # what mypyc asks for

    def __init__(self, backend: Consumer, addresses: dict[int, str]) -> None:
        self.backend = backend
        self.addresses = addresses
        self.closed = False

    def close(self) -> None:
        """The run is over: let go of the machine, as its rules let go of this."""
        del self.backend

    def on(self) -> None:
        """netback takes nothing any more."""
        self.closed = True

    def off(self) -> None:
        """netback takes what has waited."""
        self.closed = False
        self.backend.consume_rings()

    def waiting(self) -> int:
        """Return how many requests wait."""
        return sum(vif.tx.unconsumed_requests() for vif in self.backend.vifs.values() if vif.tx is not None)

    def park(self, vif: Vif) -> None:
        """Record what waits in a ring. netback is not running: it is the observer that peeks, at nobody's cost."""
        if vif.disabled:
            return
        vif.await_any()
        for linear, more in vif.peek_packets(self.backend.memories[vif.guest], PEEK_BYTES):
            frame = dissect(linear, self.addresses, more)
            again = self.backend.nic.left_before(frame.flow, frame.seq, frame.length)
            self.backend.effects.append(Parked(RING_PLACE, frame.flow, frame.seq, frame.length, again))
