"""How a machine dies in the middle of what it does: the rule that kills it, and what of its last event still counts.

A crash is a place in the order of effects. What the machine recorded before it has happened, frames that its card had
read before it have left, and nothing behind it happens at all: no reply, no timer, no note.
"""

from collections.abc import Sequence

from lateack.nodes.facts import Fact, FrameSent, ServerCrashed
from lateack.nodes.gates import Gates
from lateack.nodes.node import Effect, Halt, Time, send_frames
from lateack.nodes.rules import Rule
from lateack.nodes.stack.dissect import dissect
from lateack.nodes.stack.nic import Nic, NicWatcher


def rules_in_force(rules: Sequence[Rule], incarnation: int) -> tuple[Rule, ...]:
    """Return the rules that a machine follows which has died *incarnation* times.

    Crashes come one after the other: the next one begins to wait when the machine is back from the one before.
    """
    crashes = [rule for rule in rules if rule.action == "crash"]
    turn = crashes[incarnation : incarnation + 1]
    return tuple(rule for rule in rules if rule.action != "crash" or rule in turn)


class Doom(NicWatcher):
    """Follows the rules that kill a machine; `struck` says that one has, and from then on the machine does nothing."""

    __slots__ = (
        "addresses",
        "cut",
        "effects",
        "frames_before",
        "frames_left",
        "gates",
        "nic",
        "owner",
        "seen",
        "struck",
    )

    def __init__(
        self, rules: Sequence[Rule], effects: list[Effect], nic: Nic, *, owner: str, addresses: dict[int, str]
    ) -> None:
        """Watch the card *nic* and the *effects* of the machine *owner*; *addresses* name who sends and receives."""
        self.addresses = addresses
        self.effects = effects
        self.nic = nic
        self.owner = owner
        self.struck = False
        self.cut = self.frames_left = 0
        self.seen = self.frames_before = 0
        switches = {rule.place: self for rule in rules}
        self.gates = Gates(rules, switches, effects, owner=owner, addresses=addresses)
        self.nic_watched = True  # for the order of what happens, even where no rule waits for a frame
        nic.watch = self

    def close(self) -> None:
        """Let go of the machine, which holds this."""
        self.gates.close()

    # --- what the rules do (`Switch`) ---------------------------------------------------------------------------------

    def on(self) -> None:
        """The machine dies here."""
        self.struck = True

    def off(self) -> None:
        """Nothing: what is dead comes back by itself."""

    def waiting(self) -> int:
        """Return that nothing waits here."""
        return 0

    # --- what they wait for -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The machine boots: a rule that waits for nothing kills it at once."""
        self.gates.start()
        self._cut_here()

    def notice(self, node: str, fact: Fact) -> None:
        """Another machine has recorded a fact that a rule waits for."""
        self.gates.fact_occurred(node, fact)
        self._cut_here()

    def frame_came(self, frame: bytes) -> bool:
        """A frame has come through the card; return whether the machine died of it, before it could look at it."""
        if self.gates.nic_watched:
            self.gates.passed(self.gates.nic_place, dissect(frame, self.addresses))
            self._cut_here()
        return self.struck

    def frame_left(self, headers: bytes, more: int) -> None:
        """A packet with these first bytes, and *more* behind them, has left."""
        if self.look():
            return
        if self.gates.nic_watched:
            self.gates.passed(self.gates.nic_place, dissect(headers, self.addresses, more))
            self._cut_here()
        self.frames_before = len(self.nic.frames)

    def look(self) -> bool:
        """Look at the facts that the machine has recorded since the last look; return whether it died of one."""
        effects, gates = self.effects, self.gates
        while not self.struck and self.seen < len(effects) and gates.waits_for_itself:
            effect = effects[self.seen]
            self.seen += 1
            if isinstance(effect, Fact):
                gates.fact_occurred(self.owner, effect)
                if self.struck:
                    self.cut = self.seen
                    # What a packet's own fact kills has left with it; of any other, only what went before it has.
                    sent = isinstance(effect, FrameSent)
                    self.frames_left = len(self.nic.frames) if sent else self.frames_before
        return self.struck

    def _cut_here(self) -> None:
        if self.struck:
            self.cut, self.frames_left = len(self.effects), len(self.nic.frames)

    # --- the end of an event ------------------------------------------------------------------------------------------

    def next_event(self) -> None:
        """Begin with the next event: what the last one had to say has been taken."""
        self.seen = self.frames_before = 0

    def last_words(self, place: str, network: str, restart_after: Time) -> list[Effect]:
        """Return what of the last event has happened, and the order to be killed; back after *restart_after* ns."""
        frames = self.nic.take_frames()[: self.frames_left]
        done = self.effects[: self.cut]
        self.effects.clear()
        if frames:
            done += send_frames(network, frames)
        return [*done, ServerCrashed(place), Halt(restart_after)]
