"""An OSD of Ceph: it sums every message that comes, writes what is right, and drops the connection over what is not.

A write that is repeated under its number, since its answer was lost with a connection, is answered and not executed
again: the placement group's log knows it.

Source: src/msg/async/ProtocolV1.cc (bad crc in data: fault), src/osd/PrimaryLogPG.cc (do_op: already complete).
"""

from collections.abc import Sequence

from lateack.nodes.facts import DigestFailed, WriteExecuted
from lateack.nodes.node import Time
from lateack.nodes.replication import ceph_messages as messages
from lateack.nodes.replication.ceph_messages import Message, Sums
from lateack.nodes.service import ServerConfig, Service
from lateack.nodes.stack.host import IpStack
from lateack.nodes.stack.packets import digest_of
from lateack.nodes.stack.tcp import MAY_SEND, TcpSocket
from lateack.nodes.stack.tcp_output import tcp_sendmsg
from lateack.nodes.storage.store import Store
from lateack.nodes.storage.stream_client import ByteStream, ProtocolError
from lateack.nodes.storage.volume import Volume, VolumeError, files_at_rest

LOG_MAX = 10_000
"""Writes that the log remembers (osd_max_pg_log_entries); beyond it the oldest is forgotten."""

GREETING, CONNECTING, OPEN = "greeting", "connecting", "open"


class Session:
    """One connection: what came of its stream, how far the greeting is, and the last message's number."""

    __slots__ = ("sequence", "state", "stream")

    def __init__(self) -> None:
        self.stream = ByteStream()
        self.state = GREETING
        self.sequence = 0


class CephService(Service):
    """Port 6800 of one host, and the log of one placement group."""

    def __init__(self, config: ServerConfig, store: Store, stack: IpStack) -> None:
        super().__init__(config, store, stack)
        self.sessions: dict[TcpSocket, Session] = {}
        self.volumes: dict[str, Volume] = {}
        self.files = [name for _, name in config.files]
        self.log: dict[tuple[int, int], None] = {}

    def listen(self) -> None:
        """Take connections from now on."""
        self.stack.listen(messages.PORT)

    def serve_tcp(self, sk: TcpSocket, chunks: Sequence[bytes], now: Time) -> None:
        """Take the messages that end in these next bytes of a client's stream."""
        if sk.state not in MAY_SEND:
            return  # it is being closed, and whatever still comes is nothing to us
        session = self.sessions.setdefault(sk, Session())
        for chunk in chunks:
            session.stream.feed(chunk)
        try:
            while session.state != OPEN and self._greet(sk, session):
                pass
            if session.state == OPEN:
                for message in messages.whole_messages(session.stream):
                    self._message(sk, session, message, now)
        except (ProtocolError, Sums, VolumeError) as reason:
            self.drop(sk, str(reason), now)
            return
        self.stack.send_queued(sk, now)

    def closed(self, sk: TcpSocket, now: Time) -> None:
        """Forget a connection."""
        self.sessions.pop(sk, None)

    def audit(self) -> None:
        """Record what lies in the objects."""
        self.effects += files_at_rest(self.store, self.files, self.config.audit_chunk)

    def _greet(self, sk: TcpSocket, session: Session) -> bool:
        if session.state == GREETING:
            banner = session.stream.take(len(messages.BANNER) + messages.ADDRESS_BYTES)
            if banner is None:
                return False
            if not banner.startswith(messages.BANNER):
                raise ProtocolError("bad banner")
            mine = messages.entity_address(self.config.address.ip, messages.PORT)
            self._say(sk, messages.BANNER + mine + messages.entity_address(sk.remote_address, sk.remote_port))
            session.state = CONNECTING
            return True
        request = session.stream.take(messages.CONNECT.size)
        if request is None:
            return False
        self._say(sk, messages.connect_reply(messages.CONNECT.unpack(request)[2]))
        session.state = OPEN
        return True

    def _message(self, sk: TcpSocket, session: Session, message: Message, now: Time) -> None:
        if message.kind != messages.OSD_OP:
            raise ProtocolError(f"an OSD has no use for message {message.kind}")
        name, offset, count = messages.decode_write_request(message.front)
        if message.summed and messages.raw_sum(message.data) != message.data_sum:
            digest = digest_of(message.data)
            self.effects.append(
                DigestFailed(self.config.name, "ceph", message.number, offset, count, digest, "disconnected")
            )
            raise ProtocolError("bad crc in data")
        key = (sk.remote_address, message.number)
        if key not in self.log:
            self._write(key, (name, offset), message.data, now)
        self._say(sk, messages.acknowledgement(message.sequence))
        self._reply(sk, session, message.number, messages.write_reply(name.encode(), offset, count))

    def _write(self, key: tuple[int, int], place: tuple[str, int], data: bytes, now: Time) -> None:
        """Put a write's data into its object at (name, offset), and its number into the log."""
        name, offset = place
        if name not in self.files:
            raise ProtocolError("no such object")
        volume = self.volumes.get(name)
        if volume is None:
            volume = self.volumes[name] = Volume(self.store, name, now)
        volume.write(offset, data, now)
        self.log[key] = None
        if len(self.log) > LOG_MAX:
            del self.log[next(iter(self.log))]
        client = self.config.clients[key[0]]
        self.effects.append(WriteExecuted(key[1], client, name, offset, len(data), digest_of(data)))

    def _reply(self, sk: TcpSocket, session: Session, number: int, front: bytes) -> None:
        session.sequence += 1
        head = messages.message_head(messages.OSD_OP_REPLY, session.sequence, number, front=front, data_bytes=0)
        self._say(sk, head + messages.message_tail(front, 0))

    def _say(self, sk: TcpSocket, message: bytes) -> None:
        tcp_sendmsg(sk, message, (), b"", message)
