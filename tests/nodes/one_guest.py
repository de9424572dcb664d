"""One guest in the hand, with a real backend and a real server: a test carries messages and lets time pass."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from lateack.nodes.application import Source
from lateack.nodes.backend import Backend, BackendConfig
from lateack.nodes.client import ClientConfig
from lateack.nodes.facts import Fact, LeftOver
from lateack.nodes.guest import Guest
from lateack.nodes.memory.pages import Memory
from lateack.nodes.messages import Frames, Message
from lateack.nodes.nfs.rpc_client import RpcTimeouts
from lateack.nodes.node import Audit, Boot, CancelTimer, Effect, Event, Halt, Node, Received, Send, SetTimer, TimerFired
from lateack.nodes.server import Server, ServerConfig
from lateack.nodes.stack.host import HostAddress
from lateack.nodes.stack.tcp import TcpParameters
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.strategies.backend import DevZerocopy
from lateack.nodes.strategies.guest import GuestStrategy, OnReply
from tests.nodes.hand import GUEST_IP, GUEST_MAC, SERVER_IP, SERVER_MAC, facts_of

F = TypeVar("F", bound=Fact)


class Bytes:
    """A file in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, offset: int, count: int) -> bytes:
        """Return *count* bytes from *offset*."""
        return self.data[offset : offset + count]


def pattern(size: int) -> bytes:
    """Return bytes that tell where they are from."""
    return bytes((at * 7 + at // 4096) % 251 for at in range(size))


def config_of(**settings: object) -> ClientConfig:
    """Return a guest's configuration with some settings changed."""
    given: dict[str, object] = {
        "name": "guest1", "backend": "backend", "address": HostAddress(GUEST_IP, GUEST_MAC), "server": SERVER_IP,
        "neighbours": {SERVER_IP: SERVER_MAC}, "addresses": {}, "tcp": TcpParameters(), "rpc": RpcTimeouts.tcp(),
        "root": b"", "file": "input.bin", "buffers": 1, "write_size": 4096, "rx_target": 8,
    }  # fmt: skip
    return ClientConfig(**(given | settings))  # type: ignore[arg-type]


class Hand:
    """A guest, a backend and a server that a test carries messages between, one moment after the other."""

    def __init__(
        self, data: bytes = pattern(8192), strategy: type[GuestStrategy] = OnReply, **settings: object
    ) -> None:
        self.store = MemoryStore(handle_bytes=36)
        memory = Memory(1, 200)
        source: Source = Bytes(data)
        self.guest = Guest(config_of(root=self.store.root, **settings), memory, strategy, source)
        addresses = {GUEST_IP: "guest1", SERVER_IP: "server"}
        self.backend = Backend(
            BackendConfig("backend", "network", {"guest1": 1}, addresses), {"guest1": memory}, DevZerocopy
        )
        server = HostAddress(SERVER_IP, SERVER_MAC)
        clients = {GUEST_IP: "guest1"}
        self.server = Server(
            ServerConfig("server", "network", server, {GUEST_IP: GUEST_MAC}, clients, TcpParameters()), self.store
        )
        self.machines: dict[str, Node] = {"guest1": self.guest, "backend": self.backend, "server": self.server}
        self.now = 0
        self.facts: list[Fact] = []
        self.timers: dict[tuple[str, str], int] = {}
        self.queue: list[tuple[str, str, Message]] = []
        self.passes: Callable[[str, bytes], bool] = lambda target, frame: True
        self.held: list[tuple[str, bytes]] = []

    def handle(self, name: str, event: Event) -> Sequence[Effect]:
        """Let one machine handle one event; keep facts, timers and messages."""
        effects = self.machines[name].handle(event, self.now)
        for effect in effects:
            match effect:
                case Send(target, message):
                    self.queue.append((name, target, message))
                case SetTimer(timer, at):
                    self.timers[name, timer] = at
                case CancelTimer(timer):
                    self.timers.pop((name, timer), None)
                case Halt():
                    raise AssertionError("nobody here dies")
                case _:
                    self.facts.append(effect)
        return effects

    def boot(self) -> None:
        """Boot all machines and carry what follows."""
        for name in self.machines:
            self.handle(name, Boot())
        self.carry()

    def carry(self) -> None:
        """Carry messages until there are none; frames through `passes`."""
        while self.queue:
            source, target, message = self.queue.pop(0)
            if target != "network":
                self.handle(target, Received(source, message))
                continue
            assert isinstance(message, Frames)
            way = "server" if source == "backend" else "backend"
            for frame in message.frames:
                if self.passes(way, frame):
                    self.handle(way, Received("network", Frames((frame,))))
                else:
                    self.held.append((way, frame))

    def release(self) -> None:
        """Let all frames pass, those held first."""
        self.passes = lambda target, frame: True
        held, self.held = self.held, []
        for way, frame in held:
            self.handle(way, Received("network", Frames((frame,))))
        self.carry()

    def fire(self) -> None:
        """Let the earliest timer fire."""
        name, timer = min(self.timers, key=lambda key: self.timers[key])
        self.now = max(self.now, self.timers.pop((name, timer)))
        self.handle(name, TimerFired(timer))
        self.carry()

    def of(self, kind: type[F]) -> list[F]:
        """Return the facts of one type so far."""
        return facts_of(self.facts, kind)

    def left_over(self) -> list[LeftOver]:
        """Audit all machines; return what was never given back."""
        for name in self.machines:
            self.handle(name, Audit())
        return self.of(LeftOver)

    def file(self, name: bytes = b"input.bin") -> bytes:
        """Return what lies in a file of the server."""
        handle = self.store.lookup(self.store.root, name)
        return self.store.read(handle, 0, 1 << 20)
