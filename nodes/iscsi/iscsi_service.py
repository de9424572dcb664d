"""A host's iSCSI target: port 3260, a disk for each of its clients, and one session for each initiator."""

from collections.abc import Sequence

from lateack.nodes.iscsi import iscsi
from lateack.nodes.iscsi.iscsi_disk import Disk
from lateack.nodes.iscsi.iscsi_target import TargetConnection
from lateack.nodes.node import Time
from lateack.nodes.service import ServerConfig, Service
from lateack.nodes.stack.host import IpStack
from lateack.nodes.stack.tcp import CLOSED, MAY_SEND, TcpSocket
from lateack.nodes.stack.tcp_output import tcp_sendmsg
from lateack.nodes.storage.store import Store
from lateack.nodes.storage.stream_client import ByteStream, ProtocolError
from lateack.nodes.storage.volume import files_at_rest


class Connected:
    """What belongs to one connection: the stream that comes, and the door to the service's disks and sessions."""

    __slots__ = ("effects", "name", "service", "sk", "stream", "target")

    def __init__(self, service: "IscsiService", sk: TcpSocket) -> None:
        config = service.config
        self.service = service
        self.sk = sk
        self.name = config.name
        self.effects = service.effects
        self.stream = ByteStream()
        self.target = TargetConnection(self, config.iscsi, config.clients.get(sk.remote_address, ""))

    def open_disk(self, size: int | None, now: Time) -> Disk | None:
        """Open the file of the client at the other end."""
        service = self.service
        name = service.files.get(self.sk.remote_address)
        return None if name is None else Disk(service.store, name, size, now)

    def begun(self, initiator: str) -> None:
        """End the session that the same initiator had before; of its commands nothing is executed any more."""
        former = self.service.sessions.get(initiator)
        if former is not None and former is not self.sk:
            self.service.connections.pop(former, None)
            self.service.ended.append(former)
        self.service.sessions[initiator] = self.sk


class IscsiService(Service):
    """The target; its owner says when a connection has something."""

    def __init__(self, config: ServerConfig, store: Store, stack: IpStack) -> None:
        super().__init__(config, store, stack)
        self.files = dict(config.files)
        self.connections: dict[TcpSocket, Connected] = {}
        self.sessions: dict[str, TcpSocket] = {}
        self.ended: list[TcpSocket] = []

    def listen(self) -> None:
        """Take connections from now on."""
        self.stack.listen(iscsi.PORT)

    def serve_tcp(self, sk: TcpSocket, chunks: Sequence[bytes], now: Time) -> None:
        """Take the PDUs that end in these next bytes of an initiator's stream."""
        if sk.state not in MAY_SEND:
            return  # it is being closed, and whatever still comes is nothing to us
        connected = self.connections.get(sk)
        if connected is None:
            connected = self.connections[sk] = Connected(self, sk)
        for chunk in chunks:
            connected.stream.feed(chunk)
        try:
            self._take(connected, now)
        except ProtocolError as reason:
            self._answer(connected)
            self.drop(sk, str(reason), now)
            return
        if connected.target.over:
            self.closed(sk, now)
            self.stack.close(sk, now)
        self.stack.send_queued(sk, now)

    def closed(self, sk: TcpSocket, now: Time) -> None:
        """Forget a connection, and the session on it."""
        if self.connections.pop(sk, None) is not None:
            self.sessions = {name: other for name, other in self.sessions.items() if other is not sk}

    def audit(self) -> None:
        """Record what lies on the disks."""
        self.effects += files_at_rest(self.store, self.files.values(), self.config.audit_chunk)

    def _take(self, connected: Connected, now: Time) -> None:
        target = connected.target
        while not target.over:
            pdu = iscsi.next_pdu(connected.stream, target.digests(), target.segment_max())
            if pdu is None:
                break
            target.take(pdu, now)
            self._answer(connected)
        ended, self.ended = self.ended, []
        for former in ended:
            if former.state != CLOSED:
                self.stack.abort(former, "its initiator has begun another session", now)

    def _answer(self, connected: Connected) -> None:
        """Queue each PDU as a message of its own, so that each begins with a segment."""
        out, connected.target.out = connected.target.out, []
        for pdu in out:
            tcp_sendmsg(connected.sk, pdu, (), b"", pdu)
