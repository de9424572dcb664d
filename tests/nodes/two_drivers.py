"""Both halves of a driver that come and go, in the hand: a test orders it, and decides which message arrives next."""

from lateack.nodes.backend import Backend, BackendConfig
from lateack.nodes.facts import CarrierLost, PacketsDropped, Parked
from lateack.nodes.gates import NIC_PLACE
from lateack.nodes.messages import Frames, Noticed
from lateack.nodes.node import Audit, Boot, Received, TimerFired
from lateack.nodes.rules import FactMatch, Rule, Trigger
from lateack.nodes.split.netback_life import NETBACK_PLACE
from lateack.nodes.strategies.backend import BackendStrategy, DevZerocopy
from lateack.nodes.strategies.guest import FragDestructors
from tests.nodes.hand import GUEST_IP, SERVER_IP
from tests.nodes.one_guest import Hand, pattern

ORDERS_MAX = 12
DETACH = Noticed("test", CarrierLost("guest1", 0))
TOGGLE = Noticed("test", PacketsDropped("test", 0, "for a test"))
STALL = Noticed("test", Parked("test", "", 0, 0, False))
STEPS_MAX = 20_000


def on(fact: str, nth: int) -> Trigger:
    """Return a trigger that the test pulls by its own news of a fact."""
    return Trigger(facts=(FactMatch(fact, "test"),), nth=nth)


DETACHES = tuple(
    Rule(f"detach{n}", "detach", "guest1.vif", since=on("CarrierLost", n)) for n in range(1, ORDERS_MAX + 1)
)
CRASHES = tuple(
    Rule(f"crash{n}", "crash", NETBACK_PLACE, since=on("PacketsDropped", n), until=on("PacketsDropped", 1))
    for n in range(1, ORDERS_MAX + 1, 2)
)
STALLS = tuple(
    Rule(f"stall{n}", "gate", NIC_PLACE, since=on("Parked", n), until=on("Parked", 1))
    for n in range(1, ORDERS_MAX + 1, 2)
)


class Drivers(Hand):
    """A guest, a backend and a server; messages between two of them keep their order, and nothing else does."""

    def __init__(self, strategy: type[BackendStrategy] = DevZerocopy, data: bytes = pattern(24_576)) -> None:
        super().__init__(data, FragDestructors, rules=DETACHES, buffers=2)
        addresses = {GUEST_IP: "guest1", SERVER_IP: "server"}
        config = BackendConfig("backend", "network", {"guest1": 1}, addresses, CRASHES + STALLS)
        self.backend = self.machines["backend"] = Backend(config, {"guest1": self.guest.memory}, strategy)

    def boot(self) -> None:
        """Boot all machines; nothing that they say arrives yet."""
        for name in self.machines:
            self.handle(name, Boot())

    def detach(self) -> None:
        """Unplug the guest's interface; it is plugged in again at once."""
        self.handle("guest1", Received("test", DETACH))

    def toggle(self) -> None:
        """Let netback die, or come back."""
        self.handle("backend", Received("test", TOGGLE))

    def stall(self) -> None:
        """Close the gate before the host's card, or open it."""
        self.handle("backend", Received("test", STALL))

    def order(self, action: str) -> None:
        """Do what is ordered by name."""
        {"detach": self.detach, "toggle": self.toggle, "stall": self.stall, "fire": self.fire_one}[action]()

    def channels(self) -> list[tuple[str, str]]:
        """Return who has something for whom on the way."""
        return list(dict.fromkeys((source, target) for source, target, _ in self.queue))

    def deliver(self, channel: tuple[str, str]) -> None:
        """Let the first message of one channel arrive."""
        index = next(index for index, (source, target, _) in enumerate(self.queue) if (source, target) == channel)
        source, target, message = self.queue.pop(index)
        if isinstance(message, Frames):
            target, source = ("server" if source == "backend" else "backend"), "network"
        self.handle(target, Received(source, message))

    def fire_one(self) -> None:
        """Let the earliest timer fire, if there is one."""
        if self.timers:
            name, timer = min(self.timers, key=lambda key: self.timers[key])
            self.now = max(self.now, self.timers.pop((name, timer)))
            self.handle(name, TimerFired(timer))

    def finish(self) -> None:
        """Deliver everything and let time pass until the copy is over."""
        for _ in range(STEPS_MAX):
            if self.queue:
                self.deliver(self.channels()[0])
            elif any(machine.pending() for machine in self.machines.values()) and self.timers:
                self.fire_one()
            else:
                return
        raise AssertionError("the copy does not come to an end")

    def audit(self) -> None:
        """Let all machines take stock."""
        for name in self.machines:
            self.handle(name, Audit())
