"""The secondary of a DRBD pair: it sums what comes, writes it, and answers as the primary asks.

A block whose digest is wrong is not written: the connection is dropped, and the primary will send it again. For each
client there is one file, which stands for the device.

Source: drivers/block/drbd/drbd_receiver.c (read_in_block: "Digest integrity check FAILED"; receive_Data; e_end_block).
"""

from collections.abc import Sequence

import crc32c

from lateack.nodes.facts import DigestFailed, WriteExecuted
from lateack.nodes.node import Time
from lateack.nodes.replication import drbd_packets as packets
from lateack.nodes.replication.drbd_packets import Block
from lateack.nodes.service import ServerConfig, Service
from lateack.nodes.stack.host import IpStack
from lateack.nodes.stack.packets import digest_of
from lateack.nodes.stack.tcp import MAY_SEND, TcpSocket
from lateack.nodes.stack.tcp_output import tcp_sendmsg
from lateack.nodes.storage.store import Store
from lateack.nodes.storage.stream_client import ByteStream, ProtocolError
from lateack.nodes.storage.volume import Volume, VolumeError, files_at_rest


class Session:
    """One connection: what came of its stream, and what was agreed on."""

    __slots__ = ("digest", "header", "protocol", "stream")

    def __init__(self) -> None:
        self.stream = ByteStream()
        self.header: list[tuple[int, int]] = []
        self.protocol: str | None = None
        self.digest = False


class DrbdService(Service):
    """Port 7788 of one host: a secondary for each of its clients."""

    def __init__(self, config: ServerConfig, store: Store, stack: IpStack) -> None:
        super().__init__(config, store, stack)
        self.sessions: dict[TcpSocket, Session] = {}
        self.volumes: dict[int, Volume] = {}
        self.files = dict(config.files)

    def listen(self) -> None:
        """Take connections from now on."""
        self.stack.listen(packets.PORT)

    def serve_tcp(self, sk: TcpSocket, chunks: Sequence[bytes], now: Time) -> None:
        """Take the packets that end in these next bytes of a primary's stream."""
        session = self.sessions.setdefault(sk, Session())
        for chunk in chunks:
            session.stream.feed(chunk)
        try:
            while sk.state in MAY_SEND:
                packet = packets.next_packet(session.stream, session.header)
                if packet is None:
                    break
                self._packet(sk, session, packet, now)
        except (ProtocolError, VolumeError) as reason:
            self.drop(sk, str(reason), now)
            return
        self.stack.send_queued(sk, now)

    def closed(self, sk: TcpSocket, now: Time) -> None:
        """Forget a connection."""
        self.sessions.pop(sk, None)

    def audit(self) -> None:
        """Record what lies on the secondary's disks."""
        self.effects += files_at_rest(self.store, self.files.values(), self.config.audit_chunk)

    def _packet(self, sk: TcpSocket, session: Session, packet: packets.Packet, now: Time) -> None:
        command, body = packet
        if command == packets.P_CONNECTION_FEATURES:
            packets.check_features(body)
            self._say(sk, packets.features())
        elif command == packets.P_PING:
            self._say(sk, packets.ping_ack())
        elif command == packets.P_PROTOCOL:
            session.protocol, session.digest = packets.decode_protocol(body)
            self._say(sk, packets.protocol(session.protocol, digest=session.digest))
        elif session.protocol is None:
            raise ProtocolError("a packet before P_PROTOCOL")
        elif command in (packets.P_DATA, packets.P_RS_DATA_REPLY):
            self._block(sk, command, packets.decode_data(body, digest=session.digest), now)
        elif command == packets.P_BARRIER:
            self._say(sk, packets.barrier_ack(body))
        else:
            raise ProtocolError(f"a secondary has no use for command {command:#x}")

    def _block(self, sk: TcpSocket, command: int, block: Block, now: Time) -> None:
        """Write a block if its sum is right, and answer."""
        if block.digest is not None and crc32c.crc32c(block.payload) != block.digest:
            digest = digest_of(block.payload)
            self.effects.append(
                DigestFailed(
                    self.config.name, "drbd", block.number, block.offset, len(block.payload), digest, "disconnected"
                )
            )
            raise ProtocolError("Digest integrity check FAILED")
        if block.flags & packets.DP_SEND_RECEIVE_ACK:
            self._say(sk, packets.block_ack(packets.P_RECV_ACK, block))
        self._write(sk.remote_address, block, now)
        if command == packets.P_RS_DATA_REPLY:
            self._say(sk, packets.block_ack(packets.P_RS_WRITE_ACK, block))
        elif block.flags & packets.DP_SEND_WRITE_ACK:
            self._say(sk, packets.block_ack(packets.P_WRITE_ACK, block))

    def _write(self, address: int, block: Block, now: Time) -> None:
        volume = self.volumes.get(address)
        if volume is None:
            volume = self.volumes[address] = Volume(self.store, self.files[address], now)
        volume.write(block.offset, block.payload, now)
        client = self.config.clients[address]
        self.effects.append(
            WriteExecuted(block.number, client, volume.name, block.offset, len(block.payload), digest_of(block.payload))
        )

    def _say(self, sk: TcpSocket, message: bytes) -> None:
        tcp_sendmsg(sk, message, (), b"", message)
