"""A bare-metal host with an iSCSI initiator, and a target, in the hand: a test carries frames between them."""

from lateack.nodes.facts import FileAtRest
from lateack.nodes.iscsi.iscsi_initiator import IscsiInitiator
from lateack.nodes.iscsi.iscsi_login import IscsiParameters
from lateack.nodes.memory.pages import Memory
from lateack.nodes.messages import Frames
from lateack.nodes.metal import Metal
from lateack.nodes.node import Audit, Received
from lateack.nodes.server import Server, ServerConfig
from lateack.nodes.stack.dissect import dissect
from lateack.nodes.stack.host import HostAddress
from lateack.nodes.stack.tcp import TcpParameters
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.strategies.guest import GuestStrategy, OnReply
from tests.nodes import one_guest
from tests.nodes.hand import GUEST_IP, GUEST_MAC, SERVER_IP, SERVER_MAC

NAMES = {GUEST_IP: "guest1", SERVER_IP: "server"}


class Hand(one_guest.Hand):
    """The host writes `data` through `wanted`; the target, unless told otherwise, wants the same."""

    def __init__(
        self, data: bytes, wanted: IscsiParameters, strategy: type[GuestStrategy] = OnReply, *,
        server_wants: IscsiParameters | None = None, capacity: int = 1 << 20, **settings: object,
    ) -> None:  # fmt: skip
        self.data = data
        self.store = MemoryStore(capacity_bytes=capacity)
        config = one_guest.config_of(
            root=self.store.root, backend="network", addresses=NAMES, protocol="iscsi", iscsi=wanted, **settings
        )
        self.metal = Metal(config, Memory(1, 300), strategy, one_guest.Bytes(data))
        self.server = Server(
            ServerConfig(
                "server", "network", HostAddress(SERVER_IP, SERVER_MAC), {GUEST_IP: GUEST_MAC}, {GUEST_IP: "guest1"},
                TcpParameters(), protocol="iscsi", files=((GUEST_IP, "input.bin"),), iscsi=server_wants or wanted,
            ),
            self.store,
        )  # fmt: skip
        self.machines = {"guest1": self.metal, "server": self.server}
        self.now = 0
        self.facts = []
        self.timers = {}
        self.queue = []
        self.passes = lambda target, frame: True
        self.seen: list[tuple[str, str]] = []
        self.damage: dict[str, int] = {}

    def initiator(self) -> IscsiInitiator:
        """Return the host's initiator."""
        remote = self.metal.remote
        assert isinstance(remote, IscsiInitiator)
        return remote

    def carry(self) -> None:
        """Carry frames one by one; note what each begins, and turn a bit of the first of a kind that is to be damaged.

        The network repairs the checksums that it breaks, as a router that rewrites headers does.
        """
        while self.queue:
            source, _, message = self.queue.pop(0)
            assert isinstance(message, Frames)
            target = "server" if source == "guest1" else "guest1"
            for frame in message.frames:
                found = dissect(frame, NAMES)
                if found.rpc:
                    self.seen.append((found.kind, found.rpc))
                if found.rpc in self.damage:
                    frame = damaged(frame, self.damage.pop(found.rpc))
                if self.passes(target, frame):
                    self.handle(target, Received("network", Frames((frame,))))

    def names(self, kind: str = "call") -> list[str]:
        """Return what the frames so far began, of the calls or of the replies."""
        return [name for which, name in self.seen if which == kind]

    def at_rest(self) -> FileAtRest:
        """Audit the server and return what it says of the file."""
        self.handle("server", Audit())
        return self.of(FileAtRest)[-1]


def damaged(frame: bytes, at: int) -> bytes:
    """Return a frame with two bytes of its payload exchanged for others of the same sum, from byte *at* of it on."""
    start = 34 + (frame[46] >> 4) * 4 + at
    a, b = frame[start], frame[start + 2]
    # One less here and one more there: the internet checksum cannot tell.
    changed = ((a - 1) & 0xFF, (b + 1) & 0xFF) if a and b < 0xFF else ((a + 1) & 0xFF, (b - 1) & 0xFF)
    assert (a and b < 0xFF) or (a < 0xFF and b)
    return frame[:start] + bytes((changed[0], frame[start + 1], changed[1])) + frame[start + 3 :]
