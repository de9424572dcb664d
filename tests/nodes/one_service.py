"""One service in the hand: a host with an open connection, into which a test puts what a client would say."""

from typing import TypeVar

from lateack.nodes.facts import Fact
from lateack.nodes.memory.pages import HeadSlab, Memory, PagePool
from lateack.nodes.node import Effect
from lateack.nodes.service import ServerConfig, Service
from lateack.nodes.stack.host import HostAddress, IpStack
from lateack.nodes.stack.nic import Nic
from lateack.nodes.stack.tcp import CLOSED, ESTABLISHED, TcpParameters
from lateack.nodes.storage.memory_store import MemoryStore
from tests.nodes.hand import GUEST_IP, GUEST_MAC, SERVER_IP, SERVER_MAC, facts_of

F = TypeVar("F", bound=Fact)


class Bed:
    """A service over an empty store, and one established connection of guest1's."""

    def __init__(self, service: type[Service]) -> None:
        self.effects: list[Effect] = []
        self.store = MemoryStore(handle_bytes=36)
        memory = Memory(9, 64)
        pool = PagePool(memory, 0, 64)
        address, neighbours = HostAddress(SERVER_IP, SERVER_MAC), {GUEST_IP: GUEST_MAC}
        stack = IpStack(
            address, neighbours, slab=HeadSlab(memory, pool), pool=pool, effects=self.effects,
            parameters=TcpParameters(),
        )  # fmt: skip
        stack.device = Nic("server.nic", self.effects, queue_max=100)
        config = ServerConfig(
            "server", "network", address, neighbours, {GUEST_IP: "guest1"}, TcpParameters(),
            files=((GUEST_IP, "copies/f"),),
        )  # fmt: skip
        self.service = service(config, self.store, stack)
        self.socket = stack.connect(GUEST_IP, 700, 0)
        self.socket.state = ESTABLISHED
        self.said_before = self.socket.write_seq

    def say(self, *pieces: bytes) -> None:
        """Let these pieces of a client's stream arrive, until the connection is given up."""
        for piece in pieces:
            if self.socket.state != CLOSED:
                self.service.serve_tcp(self.socket, (piece,), 0)

    def of(self, kind: type[F]) -> list[F]:
        """Return the facts of one type so far."""
        return facts_of(self.effects, kind)
