"""What a server's host runs on its sockets: the door for services, and those that there are.

A service is a part of whatever host serves: the server's own machine, or one that mounts its own export (`loopback`).
Its owner feeds it what its sockets have received; what it wants told comes out of the shared list of effects.
"""

from collections.abc import Sequence

from lateack.nodes.iscsi.iscsi_login import IscsiParameters
from lateack.nodes.nfs.drc import Mode
from lateack.nodes.node import Time
from lateack.nodes.records import Record
from lateack.nodes.rules import Rule
from lateack.nodes.stack.host import HostAddress, IpStack
from lateack.nodes.stack.tcp import TcpParameters, TcpSocket
from lateack.nodes.stack.udp import UdpSocket
from lateack.nodes.storage.store import Store


class ServerConfig(Record):
    """What the server is told at boot."""

    name: str
    network: str
    address: HostAddress
    neighbours: dict[int, bytes]
    clients: dict[int, str]
    tcp: TcpParameters
    mtu: int = 1500
    drc: Mode = "checksum"
    drc_entries: int = 1024
    drc_expiry: int = 120_000_000_000
    files: tuple[tuple[int, str], ...] = ()
    """The address of each client and its file, for protocols that name none."""
    drc_port: bool = True
    drc_high_water: int = 64
    execute: int = 0
    """How long a call is being executed, in nanoseconds."""
    write_back: bool = True
    """Whether UNSTABLE bytes stay in memory until they are committed."""
    queue_frames: int = 10_000
    verifier: bytes = b"lateack1"
    pages: int = 1024
    audit_chunk: int = 4096
    protocol: str = "nfs"
    iscsi: IscsiParameters = IscsiParameters()
    reboot: int = 200_000_000
    rules: tuple[Rule, ...] = ()
    incarnation: int = 0
    """How often the server has died before."""


class Service:
    """The door: a service overrides what it has a use for."""

    udp: UdpSocket | None = None
    """The socket whose datagrams it serves, if it serves any."""

    def __init__(self, config: ServerConfig, store: Store, stack: IpStack) -> None:
        """Serve what lies in `store`, the disk that the host was handed, over its `stack`."""
        self.config = config
        self.store = store
        self.stack = stack
        self.effects = stack.effects

    def listen(self) -> None:
        """Take connections and datagrams from now on."""
        raise NotImplementedError

    def serve_tcp(self, sk: TcpSocket, chunks: Sequence[bytes], now: Time) -> None:
        """Serve what has come on a connection: the next bytes of its stream."""
        raise NotImplementedError

    def serve_udp(self, now: Time) -> None:
        """Serve the datagrams that have come."""

    def timer(self, name: str, now: Time) -> None:
        """A timer that this service has set is due."""

    def pending(self) -> int:
        """Return how much the service still has to do by itself."""
        return 0

    def closed(self, sk: TcpSocket, now: Time) -> None:
        """A connection is gone, if it ever was one of ours: forget what was kept for it."""

    def drop(self, sk: TcpSocket, reason: str, now: Time) -> None:
        """Reset a connection, for what has come on it makes no sense, and forget it."""
        self.closed(sk, now)
        self.stack.abort(sk, reason, now)

    def audit(self) -> None:
        """Record what lies in the files that were written, and what the service has counted."""
        raise NotImplementedError
