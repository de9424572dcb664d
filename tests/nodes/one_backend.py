"""One backend in the hand, with two real frontends; the network is a list of frames."""

from collections.abc import Sequence

from lateack.nodes.backend import Backend, BackendConfig
from lateack.nodes.bridge import BridgeConfig
from lateack.nodes.facts import BufferRefilled, Fact, LeftOver
from lateack.nodes.messages import Frames, Noticed, Notify, Xenbus
from lateack.nodes.node import Audit, Boot, Effect, Received, TimerFired
from lateack.nodes.rules import FactMatch, Rule, Trigger
from lateack.nodes.split.xenbus import CONNECTED
from lateack.nodes.strategies.backend import BackendStrategy, DevZerocopy
from tests.nodes.hand import GUEST_IP, GUEST_MAC, SERVER_IP, Frontend, facts_of, messages_to, tcp_frame

OTHER_MAC = bytes.fromhex("00163e000002")
PLAIN_BRIDGE = BridgeConfig()
REFILLED = BufferRefilled(0, (1,), 0, 0, 0)
UNTIL_REFILLED = Trigger(facts=(FactMatch("BufferRefilled", "guest1"),))


class Hand:
    """The backend with two frontends, connected."""

    def __init__(
        self, *rules: Rule, strategy: type[BackendStrategy] = DevZerocopy, queue_frames: int = 100,
        connect: bool = True, bridge: BridgeConfig = PLAIN_BRIDGE,
    ) -> None:  # fmt: skip
        self.fronts = {"guest1": Frontend(), "guest2": Frontend(mac=OTHER_MAC, domid=2)}
        self.front = self.fronts["guest1"]
        config = BackendConfig(
            "backend", "network", {"guest1": 1, "guest2": 2}, {GUEST_IP: "guest1", SERVER_IP: "server"}, rules,
            queue_frames=queue_frames, bridge=bridge, macs={"guest1": GUEST_MAC, "guest2": OTHER_MAC},
        )  # fmt: skip
        memories = {name: front.memory for name, front in self.fronts.items()}
        self.backend = Backend(config, memories, strategy)
        self.now = 0
        self.frames: list[bytes] = []
        self.facts: list[Fact] = []
        self.booted = self.handle(Boot())
        if connect:
            for name, front in self.fronts.items():
                self.handle(Received(name, Xenbus(CONNECTED, front.keys)))

    def handle(self, event: Boot | Received | TimerFired | Audit) -> Sequence[Effect]:
        """Handle one event; keep the frames that left and the facts."""
        effects = self.backend.handle(event, self.now)
        for message in messages_to(effects, "network"):
            assert isinstance(message, Frames)
            self.frames += message.frames
        self.facts += facts_of(effects, Fact)
        return effects

    def kick(self, name: str = "guest1") -> Sequence[Effect]:
        """A guest kicks; afterwards it looks at what was answered."""
        effects = self.handle(Received(name, Notify(1)))
        self.fronts[name].netfront.interrupt(0)
        return effects

    def notice(self, fact: Fact, node: str = "guest1") -> Sequence[Effect]:
        """Bring the news of a fact."""
        return self.handle(Received(node, Noticed(node, fact)))  # type: ignore[arg-type]

    def left_over(self) -> dict[str, int]:
        """Audit, and return what was never given back."""
        return {fact.what: fact.count for fact in facts_of(self.handle(Audit()), LeftOver)}


def segment(seq: int = 1, payload: bytes = b"") -> bytes:
    """Return the headers of a TCP segment whose payload lies elsewhere."""
    return tcp_frame(payload, seq=seq)[:54]
