"""One host that serves itself, in the hand: a test lets its softirqs run and its rules act."""

from typing import TypeVar

from lateack.nodes.facts import Fact, LeftOver
from lateack.nodes.loopback import Loopback
from lateack.nodes.memory.pages import Memory
from lateack.nodes.node import Audit, Boot, CancelTimer, Event, Halt, Send, SetTimer, TimerFired
from lateack.nodes.service import ServerConfig
from lateack.nodes.stack.host import HostAddress
from lateack.nodes.stack.tcp import TcpParameters
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.strategies.guest import GuestStrategy, OnReply
from tests.nodes.hand import GUEST_IP, GUEST_MAC, facts_of
from tests.nodes.one_guest import Bytes, config_of, pattern

F = TypeVar("F", bound=Fact)


class Hand:
    """The host, its facts so far, and the timers that it has set."""

    def __init__(
        self, data: bytes = pattern(8192), strategy: type[GuestStrategy] = OnReply, **settings: object
    ) -> None:
        self.store = MemoryStore(handle_bytes=36)
        own, neighbours = HostAddress(GUEST_IP, GUEST_MAC), {GUEST_IP: GUEST_MAC}
        names = {GUEST_IP: "guest1"}
        config = config_of(
            root=self.store.root, server=GUEST_IP, neighbours=neighbours, addresses=names, mtu=9000, **settings
        )
        service = ServerConfig("guest1", "network", own, neighbours, names, TcpParameters(), audit_chunk=4096)
        self.host = Loopback(config, service, Memory(1, 200), strategy, Bytes(data), store=self.store)
        self.now = 0
        self.facts: list[Fact] = []
        self.timers: dict[str, int] = {}

    def handle(self, event: Event) -> None:
        """Let the host handle one event; keep facts and timers."""
        for effect in self.host.handle(event, self.now):
            match effect:
                case SetTimer(name, at):
                    self.timers[name] = at
                case CancelTimer(name):
                    self.timers.pop(name, None)
                case Send():
                    raise AssertionError("there is nobody else")
                case Halt():
                    raise AssertionError("nobody here dies")
                case _:
                    self.facts.append(effect)

    def run(self, *, until: int = 0) -> None:
        """Let every timer fire that is due by *until* (ns), in order."""
        while self.timers:
            name = min(self.timers, key=lambda key: self.timers[key])
            if self.timers[name] > until:
                return
            self.now = max(self.now, self.timers.pop(name))
            self.handle(TimerFired(name))

    def boot(self) -> None:
        """Switch the host on and let everything happen that needs no time."""
        self.handle(Boot())
        self.run()

    def of(self, kind: type[F]) -> list[F]:
        """Return the facts of one type so far."""
        return facts_of(self.facts, kind)

    def left_over(self) -> list[LeftOver]:
        """Audit; return what was never given back."""
        self.handle(Audit())
        return self.of(LeftOver)

    def file(self) -> bytes:
        """Return what lies in the file."""
        return self.store.read(self.store.lookup(self.store.root, b"input.bin"), 0, 1 << 20)
