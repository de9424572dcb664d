"""Two adapters with a connected queue pair each, and a test between them that carries, loses and repeats frames."""

from typing import TypeVar

from lateack.nodes.fact import Fact
from lateack.nodes.memory.pages import Memory, Page
from lateack.nodes.node import Effect, SetTimer
from lateack.nodes.rdma.adapter import Adapter
from lateack.nodes.rdma.packets import flow_of
from lateack.nodes.rdma.queue_pair import QueuePair
from lateack.nodes.rdma.work import Completion, Failed, Incoming, RdmaParameters
from lateack.nodes.stack.host import HostAddress
from lateack.nodes.stack.packets import address_of
from tests.nodes.hand import facts_of

F = TypeVar("F", bound=Fact)
HERE = HostAddress(address_of("10.0.0.11"), bytes.fromhex("00163e000001"))
THERE = HostAddress(address_of("10.0.1.1"), bytes.fromhex("001e67000001"))
TIMEOUT = 100


class TwoAdapters:
    """`here` asks and `there` answers; nothing passes between them until a test carries it."""

    def __init__(self, *, first_psn: int = 7, path_mtu: int = 256, retries_max: int = 2) -> None:
        parameters = RdmaParameters(path_mtu, TIMEOUT, retries_max)
        self.facts: list[Effect] = []
        self.here = Adapter("here.nic", HERE, self.facts, parameters=parameters, queue_max=100)
        self.there = Adapter("there.nic", THERE, self.facts, parameters=parameters, queue_max=100)
        self.asking, self.answering = self.here.create_pair(first_psn), self.there.create_pair(5000)
        self._connect(self.here, self.asking, THERE, self.answering)
        self._connect(self.there, self.answering, HERE, self.asking)
        self.memory = Memory(1, 4)
        self.now = 0

    def _connect(self, adapter: Adapter, pair: QueuePair, peer: HostAddress, other: QueuePair) -> None:
        taken = flow_of(peer.ip, other.qpn, adapter.address.ip)
        pair.connect(adapter.route_to(pair, peer, other.qpn), other.next_psn, taken)

    def window(self, data: bytes, frame: int = 0) -> tuple[Page, int, int]:
        """Put bytes into a frame of the memory here and return the window on them."""
        self.memory.write(frame, 0, data)
        return Page(self.memory, frame), 0, len(data)

    def carry(self) -> None:
        """Carry frames both ways until there are none."""
        while self.here.frames or self.there.frames:
            self.there.receive(self.here.take_frames(), self.now)
            self.here.receive(self.there.take_frames(), self.now)

    def wait(self) -> None:
        """Let the timeout of the side that asks pass, once."""
        self.now = self.here.now = self.there.now = self.now + TIMEOUT
        self.here.timer_fired(f"ack-{self.asking.qpn}", self.now)

    def of(self, kind: type[F]) -> list[F]:
        """Return the facts of one type so far."""
        return facts_of(self.facts, kind)

    def timers(self) -> list[str]:
        """Return the names of the timers that were set, once each."""
        return list(dict.fromkeys(effect.name for effect in self.facts if isinstance(effect, SetTimer)))


def messages(adapter: Adapter) -> list[bytes]:
    """Return the messages that an adapter has taken."""
    return [outcome.message for _, outcome in adapter.happened if isinstance(outcome, Incoming)]


def completions(adapter: Adapter) -> list[Completion]:
    """Return the requests that are over at an adapter."""
    return [outcome for _, outcome in adapter.happened if isinstance(outcome, Completion)]


def failures(adapter: Adapter) -> list[str]:
    """Return why queue pairs of an adapter are of no use any more."""
    return [outcome.reason for _, outcome in adapter.happened if isinstance(outcome, Failed)]
