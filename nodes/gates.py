"""The gates of a backend's egress: which of two places its rules keep closed, and what waits there.

`backend.ring` is before netback takes a request (the backend is not scheduled), `backend.nic` after it, before the card
reads the bytes. The gates are a part of the backend: it asks `ring_closed` before it takes anything, and tells the
rules what happens; the card asks its own `closed`.
"""

from collections.abc import Sequence

from lateack.nodes.facts import GateClosed, GateOpened, Parked
from lateack.nodes.memory.pages import Memory
from lateack.nodes.rules import ACTIVE, Rule, RuleState
from lateack.nodes.split.netback import Vif
from lateack.nodes.stack.dissect import Dissection, dissect
from lateack.nodes.stack.nic import Nic, NicWatcher

NIC_PLACE = "backend.nic"
RING_PLACE = "backend.ring"

PEEK_BYTES = 128


class Gates(NicWatcher):
    """The rules of one backend, and what they wait for now: frames at either place, or facts that it records itself."""

    __slots__ = (
        "addresses", "effects", "nic", "nic_watched", "ring_closed", "ring_watched", "rules", "vifs",
        "waits_for_itself",
    )  # fmt: skip

    def __init__(
        self, rules: Sequence[Rule], nic: Nic, vifs: dict[str, Vif], *, owner: str, addresses: dict[int, str]
    ) -> None:
        """Guard a card and the rings of *vifs* for the machine *owner*; *addresses* name who sends and receives."""
        self.rules = [RuleState(rule, owner) for rule in rules]
        self.nic = nic
        self.vifs = vifs
        self.addresses = addresses
        self.effects = nic.effects
        self.ring_closed = False
        self._look_out()
        if self.rules:
            nic.watch = self

    def start(self) -> None:
        """Close the gates of the rules that act from the beginning."""
        for rule in self.rules:
            if rule.state == ACTIVE:
                self._close(rule)

    def frame_left(self, headers: bytes, more: int) -> None:
        """A packet has left through the card: rules that gate the card may act now."""
        if self.nic_watched:
            self.passed(NIC_PLACE, dissect(headers, self.addresses, more))

    def passed(self, place: str, frame: Dissection) -> None:
        """A frame has passed one of the places."""
        for rule in self.rules:
            if rule.rule.place == place and rule.frame_passed(frame):
                self.switch(rule)

    def switch(self, rule: RuleState) -> bool:
        """Let a rule whose state has changed close or open its place; return whether the ring has just been opened."""
        self._look_out()
        if rule.state == ACTIVE:
            self._close(rule)
            return False
        was_closed = self.ring_closed
        self._open(rule)
        return was_closed and not self.ring_closed

    def park(self, vif: Vif, memory: Memory) -> None:
        """Record what waits in a ring. netback is not running: it is the observer that peeks, at nobody's cost."""
        if vif.disabled:
            return
        vif.await_any()
        for linear, more in vif.peek_packets(memory, PEEK_BYTES):
            frame = dissect(linear, self.addresses, more)
            again = self.nic.left_before(frame.flow, frame.seq, frame.length)
            self.effects.append(Parked(RING_PLACE, frame.flow, frame.seq, frame.length, again))

    def _look_out(self) -> None:
        """Keep at hand where rules wait for frames now, and whether any waits for this machine's own facts."""
        self.nic_watched = self.ring_watched = self.waits_for_itself = False
        for rule in self.rules:
            if rule.frames_awaited:
                if rule.rule.place == NIC_PLACE:
                    self.nic_watched = True
                else:
                    self.ring_watched = True
            if rule.own_facts_awaited:
                self.waits_for_itself = True

    def _close(self, rule: RuleState) -> None:
        if rule.rule.place == NIC_PLACE:
            self.nic.closed = True
        else:
            self.ring_closed = True
        self.effects.append(GateClosed(rule.rule.name, rule.rule.place))

    def _open(self, rule: RuleState) -> None:
        place = rule.rule.place
        if place == NIC_PLACE:
            waiting = len(self.nic.queue)
        else:
            waiting = sum(vif.tx.unconsumed_requests() for vif in self.vifs.values() if vif.tx is not None)
        self.effects.append(GateOpened(rule.rule.name, place, waiting))
        if any(other.state == ACTIVE and other.rule.place == place for other in self.rules):
            return
        if place == NIC_PLACE:
            self.nic.open()
        else:
            self.ring_closed = False
