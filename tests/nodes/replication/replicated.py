"""A bare-metal host that writes to a DRBD peer or a Ceph daemon, and a test that carries frames between them."""

from lateack.nodes.facts import CopyFailed, CopyFinished
from lateack.nodes.memory.pages import Memory
from lateack.nodes.messages import Frames
from lateack.nodes.metal import Metal
from lateack.nodes.node import Received
from lateack.nodes.server import Server, ServerConfig
from lateack.nodes.stack.host import HostAddress
from lateack.nodes.stack.tcp import TcpParameters
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.strategies.guest import GuestStrategy, OnReply
from tests.nodes import one_guest
from tests.nodes.hand import GUEST_IP, GUEST_MAC, SERVER_IP, SERVER_MAC

NAMES = {GUEST_IP: "guest1", SERVER_IP: "server"}
FIRES_MAX = 50


class Pair(one_guest.Hand):
    """The host, the server, and what lies between them; frames that `passes` refuses are lost."""

    def __init__(self, protocol: str, data: bytes, strategy: type[GuestStrategy] = OnReply, **settings: object) -> None:
        self.data = data
        self.store = MemoryStore(handle_bytes=36)
        config = one_guest.config_of(
            root=self.store.root, backend="network", addresses=NAMES, protocol=protocol, **settings
        )
        self.metal = Metal(config, Memory(1, 300), strategy, one_guest.Bytes(data))
        self.server = Server(
            ServerConfig(
                "server", "network", HostAddress(SERVER_IP, SERVER_MAC), {GUEST_IP: GUEST_MAC}, {GUEST_IP: "guest1"},
                TcpParameters(), protocol=protocol, files=((GUEST_IP, "input.bin"),), audit_chunk=32768,
            ),
            self.store,
        )  # fmt: skip
        self.machines = {"guest1": self.metal, "server": self.server}
        self.now = 0
        self.facts = []
        self.timers = {}
        self.queue = []
        self.passes = lambda target, frame: True
        self.held = []

    def carry(self) -> None:
        """Carry bursts of frames until there are none; what `passes` refuses is lost."""
        while self.queue:
            source, _, message = self.queue.pop(0)
            assert isinstance(message, Frames)
            target = "server" if source == "guest1" else "guest1"
            frames = tuple(frame for frame in message.frames if self.passes(target, frame))
            if frames:
                self.handle(target, Received("network", Frames(frames)))

    def lose_data_after(self, count: int) -> None:
        """Lose every full frame to the server but the next *count* ones."""
        seen = 0

        def passes(target: str, frame: bytes) -> bool:
            nonlocal seen
            full = target == "server" and len(frame) > 1000
            seen += full
            return not full or seen <= count

        self.passes = passes

    def scribble(self) -> None:
        """Let the application write into what is being written, and nothing be lost any more."""
        self.metal.switches()["guest1.buffers"].on()
        self.passes = lambda target, frame: True

    def cut(self) -> None:
        """Let the server reset its connections."""
        for sk in list(self.server.stack.sockets.values()):
            self.server.service.drop(sk, "cut", self.now)
        self.handle("server", Received("network", Frames(())))
        self.carry()

    def run(self) -> None:
        """Let time pass until the copy is over."""
        self.carry()
        for _ in range(FIRES_MAX):
            if any(isinstance(fact, CopyFinished | CopyFailed) for fact in self.facts) or not self.timers:
                return
            self.fire()
