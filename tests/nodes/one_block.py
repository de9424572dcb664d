"""Guests with disks, their backend and a real server in the hand: a test carries messages and lets time pass."""

from collections.abc import Callable
from typing import TypeVar

from lateack.nodes.block_backend import BlockBackend, BlockBackendConfig
from lateack.nodes.block_guest import BlockGuest, BlockGuestConfig
from lateack.nodes.facts import Fact, LeftOver
from lateack.nodes.memory.pages import Memory
from lateack.nodes.messages import Frames, Message
from lateack.nodes.nfs.rpc_client import RpcTimeouts
from lateack.nodes.node import Audit, Boot, CancelTimer, Event, Halt, Node, Received, Send, SetTimer, TimerFired
from lateack.nodes.server import Server, ServerConfig
from lateack.nodes.stack.host import HostAddress
from lateack.nodes.stack.packets import address_of
from lateack.nodes.stack.tcp import TcpParameters
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.strategies.guest import GuestStrategy, OnReply
from tests.nodes.hand import SERVER_IP, SERVER_MAC, facts_of
from tests.nodes.one_guest import Bytes

F = TypeVar("F", bound=Fact)
BACKEND_IP = address_of("10.0.0.2")
BACKEND_MAC = bytes.fromhex("00163e000000")


class Block:
    """The machines; `files` are what each guest copies, by its name. Frames cross the network through `passes`."""

    def __init__(
        self,
        files: dict[str, bytes],
        strategy: type[GuestStrategy] = OnReply,
        *,
        buffers: int = 1,
        write_size: int = 4096,
        **settings: object,
    ) -> None:
        self.store = MemoryStore(handle_bytes=36)
        domids = {name: domid for domid, name in enumerate(files, start=1)}
        memories = {name: Memory(domid, 200) for name, domid in domids.items()}
        given: dict[str, object] = {
            "name": "backend", "network": "network", "guests": domids, "files": {name: name for name in files},
            "address": HostAddress(BACKEND_IP, BACKEND_MAC), "server": SERVER_IP, "neighbours": {SERVER_IP: SERVER_MAC},
            "tcp": TcpParameters(), "rpc": RpcTimeouts.tcp(), "root": self.store.root,
            "addresses": {BACKEND_IP: "backend", SERVER_IP: "server"},
        }  # fmt: skip
        self.backend = BlockBackend(BlockBackendConfig(**(given | settings)), memories, strategy)  # type: ignore[arg-type]
        self.guests = {
            name: BlockGuest(BlockGuestConfig(name, "backend", name, buffers, write_size), memories[name], Bytes(data))
            for name, data in files.items()
        }
        address, neighbours = HostAddress(SERVER_IP, SERVER_MAC), {BACKEND_IP: BACKEND_MAC}
        served = ServerConfig("server", "network", address, neighbours, {BACKEND_IP: "backend"}, TcpParameters())
        self.server = Server(served, self.store)
        self.machines: dict[str, Node] = {**self.guests, "backend": self.backend, "server": self.server}
        self.now = 0
        self.facts: list[tuple[str, Fact]] = []
        self.timers: dict[tuple[str, str], int] = {}
        self.queue: list[tuple[str, str, Message]] = []
        self.passes: Callable[[str], bool] = lambda target: True
        self.held: list[tuple[str, bytes]] = []

    def handle(self, name: str, event: Event) -> None:
        """Let one machine handle one event; keep facts, timers and messages."""
        for effect in self.machines[name].handle(event, self.now):
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
                    self.facts.append((name, effect))

    def boot(self) -> "Block":
        """Boot all machines and carry what follows."""
        for name in self.machines:
            self.handle(name, Boot())
        self.carry()
        return self

    def carry(self) -> None:
        """Carry messages until there are none."""
        while self.queue:
            source, target, message = self.queue.pop(0)
            if target != "network":
                self.handle(target, Received(source, message))
                continue
            assert isinstance(message, Frames)
            way = "server" if source == "backend" else "backend"
            for frame in message.frames:
                if self.passes(way):
                    self.handle(way, Received("network", Frames((frame,))))
                else:
                    self.held.append((way, frame))

    def release(self) -> None:
        """Let all frames pass, those held first."""
        self.passes = lambda target: True
        held, self.held = self.held, []
        for way, frame in held:
            self.handle(way, Received("network", Frames((frame,))))
        self.carry()

    def fire(self, name: str) -> None:
        """Let the earliest timer of one machine fire."""
        timer = min((key for key in self.timers if key[0] == name), key=lambda key: self.timers[key])
        self.now = max(self.now, self.timers.pop(timer))
        self.handle(name, TimerFired(timer[1]))
        self.carry()

    def of(self, kind: type[F], name: str | None = None) -> list[F]:
        """Return the facts of one type so far, of one machine or of all."""
        return facts_of([fact for node, fact in self.facts if name in (None, node)], kind)

    def left_over(self) -> list[LeftOver]:
        """Audit all machines; return what was never given back."""
        for name in self.machines:
            self.handle(name, Audit())
        return self.of(LeftOver)

    def file(self, name: str) -> bytes:
        """Return what lies in a file of the server."""
        return self.store.read(self.store.lookup(self.store.root, name.encode()), 0, 1 << 20)
