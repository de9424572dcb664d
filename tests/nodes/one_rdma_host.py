"""A host and a server with RDMA adapters in the hand: a test carries frames between them and lets time pass."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from lateack.nodes.facts import Fact, LeftOver
from lateack.nodes.memory.pages import Memory
from lateack.nodes.messages import Frames
from lateack.nodes.nfs.rpc_client import RpcTimeouts
from lateack.nodes.node import Audit, Boot, Effect, Event, Node, Received, Send, SetTimer, TimerFired
from lateack.nodes.rdma.work import RdmaParameters
from lateack.nodes.rdma_host import RdmaHost, RdmaHostConfig
from lateack.nodes.rdma_server import RdmaServer
from lateack.nodes.service import ServerConfig
from lateack.nodes.stack.dissect import Dissection, dissect
from lateack.nodes.stack.host import HostAddress
from lateack.nodes.stack.tcp import TcpParameters
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.strategies.rdma import RdmaOnReply, RdmaStrategy
from tests.nodes.hand import GUEST_IP, GUEST_MAC, SERVER_IP, SERVER_MAC, facts_of
from tests.nodes.one_guest import Bytes, pattern

F = TypeVar("F", bound=Fact)
NAMES = {GUEST_IP: "guest1", SERVER_IP: "server"}
PARAMETERS = RdmaParameters(1024, 100, 3)


class RdmaHand:
    """The two machines; `passes` says which frames get through, and those that do not are kept in `held`."""

    def __init__(
        self,
        strategy: type[RdmaStrategy] = RdmaOnReply,
        *,
        data: bytes = pattern(12288),
        remote_invalidation: bool = False,
        **settings: object,
    ) -> None:
        self.data = data
        self.store = MemoryStore(handle_bytes=36)
        client, server = HostAddress(GUEST_IP, GUEST_MAC), HostAddress(SERVER_IP, SERVER_MAC)
        given: dict[str, object] = {
            "name": "guest1", "network": "network", "address": client, "server": server, "addresses": NAMES,
            "rpc": RpcTimeouts.tcp(timeo=1000), "root": self.store.root, "file": "input.bin", "rdma": PARAMETERS,
            "buffers": 1, "write_size": 4096,
        }  # fmt: skip
        config = RdmaHostConfig(**(given | settings))  # type: ignore[arg-type]
        self.host = RdmaHost(config, Memory(1, 64), strategy, Bytes(data))
        server_config = ServerConfig(
            "server", "network", server, {GUEST_IP: GUEST_MAC}, {GUEST_IP: "guest1"}, TcpParameters()
        )
        self.server = RdmaServer(server_config, PARAMETERS, self.store, remote_invalidation=remote_invalidation)
        self.machines: dict[str, Node] = {"guest1": self.host, "server": self.server}
        self.now = 0
        self.facts: list[Effect] = []
        self.timers: dict[tuple[str, str], int] = {}
        self.queue: list[tuple[str, bytes]] = []
        self.held: list[tuple[str, bytes]] = []
        self.passes: Callable[[Dissection], bool] = lambda frame: True

    def handle(self, name: str, event: Event) -> None:
        """Let one machine handle one event; keep facts, timers and frames."""
        for effect in self.machines[name].handle(event, self.now):
            if isinstance(effect, Send):
                assert isinstance(effect.message, Frames)
                self.queue += [("server" if name == "guest1" else "guest1", f) for f in effect.message.frames]
            elif isinstance(effect, SetTimer):
                self.timers[name, effect.name] = effect.at
            else:
                self.facts.append(effect)

    def boot(self) -> None:
        """Boot both machines and carry what follows."""
        for name in self.machines:
            self.handle(name, Boot())
        self.carry()

    def carry(self) -> None:
        """Carry frames until there are none."""
        while self.queue:
            target, frame = self.queue.pop(0)
            if self.passes(dissect(frame, NAMES)):
                self.handle(target, Received("network", Frames((frame,))))
            else:
                self.held.append((target, frame))

    def release(self) -> None:
        """Let all frames pass, those held first."""
        self.passes = lambda frame: True
        self.queue, self.held = self.held + self.queue, []
        self.carry()

    def fire(self, name: str | None = None) -> None:
        """Let the earliest timer fire, or the earliest of one machine's."""
        due = [key for key in self.timers if name is None or key[0] == name]
        key = min(due, key=lambda each: self.timers[each])
        self.now = max(self.now, self.timers.pop(key))
        self.handle(key[0], TimerFired(key[1]))
        self.carry()

    def of(self, kind: type[F]) -> list[F]:
        """Return the facts of one type so far."""
        return facts_of(self.facts, kind)

    def left_over(self) -> Sequence[LeftOver]:
        """Audit both machines; return what was never given back."""
        for name in self.machines:
            self.handle(name, Audit())
        return self.of(LeftOver)

    def file(self) -> bytes:
        """Return what lies in the file of the server."""
        handle = self.store.lookup(self.store.root, b"input.bin")
        return bytes(self.store.read(handle, 0, 1 << 20))
