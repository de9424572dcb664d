"""An NFS server with an RDMA adapter: calls come as Sends, and what a call left out it reads from its client's memory.

frames -> adapter -> queue pairs -> RPC over RDMA -> NFS procedures -> the store     and the replies the same way back

Source: net/sunrpc/xprtrdma/svc_rdma_recvfrom.c and svc_rdma_rw.c.
"""

from collections.abc import Sequence
from typing import Final

from lateack.nodes.memory.pages import HeadSlab, Memory, PagePool
from lateack.nodes.messages import Frames
from lateack.nodes.nfs.nfs import TRANSFER_BYTES_MAX
from lateack.nodes.nfs.nfs_service import NfsService
from lateack.nodes.nfs.xdr import XdrError
from lateack.nodes.node import Audit, Boot, Effect, Event, Received, Time, TimerFired, send_frames
from lateack.nodes.rdma import connection
from lateack.nodes.rdma.adapter import Adapter
from lateack.nodes.rdma.connection import ConnectionMessage
from lateack.nodes.rdma.packets import flow_of
from lateack.nodes.rdma.queue_pair import READY, QueuePair
from lateack.nodes.rdma.rpc_rdma import RdmaHeader, decode_header, encode_header
from lateack.nodes.rdma.work import Completion, Failed, Incoming, RdmaParameters
from lateack.nodes.records import Record
from lateack.nodes.service import ServerConfig
from lateack.nodes.stack.host import HostAddress, IpStack
from lateack.nodes.stack.packets import address_text
from lateack.nodes.storage.store import Store

SERVER_DOMID = 0x7FF0
FIRST_PSN_BIT: Final = 0x8_0000
"""What the first PSN of the server's side differs by from its client's.

Answers to its READs have PSNs of its own numbering and leave in the client's flow: far apart, facts can tell them from
what the client numbers itself.
"""
CALLER_PORT: Final = 0
"""The port of every client, to the request cache: the real one is arbitrary over RDMA and changes with each connection
(handle_connect_req, net/sunrpc/xprtrdma/svc_rdma_transport.c)."""
CREDITS: Final = 32
CONNECTIONS_MAX: Final = 1024
"""Queue pairs that the server keeps; beyond it the oldest goes, for the goodbye of its client may have been lost."""


class Peer(Record):
    """Who is at the other end of a queue pair, and the communication identifier that it has chosen."""

    ip: int
    local: int


class WaitingCall(Record):
    """A call whose payload is being read from its client: the header, and the message without the payload."""

    header: RdmaHeader
    record: bytes


class RdmaServer:
    """The machine; `store` is the disk that it was handed."""

    def __init__(
        self, config: ServerConfig, parameters: RdmaParameters, store: Store, *, remote_invalidation: bool = False
    ) -> None:
        self.config = config
        self.name = config.name
        self.effects: list[Effect] = []
        self.remote_invalidation = remote_invalidation
        self.memory = Memory(SERVER_DOMID, 1)
        pool = PagePool(self.memory, 0, 1)
        # The file service wants a host's stack for its sockets; nothing listens on these here.
        self.stack = IpStack(
            config.address, config.neighbours, slab=HeadSlab(self.memory, pool), pool=pool, effects=self.effects,
            parameters=config.tcp, mtu=config.mtu, isn=0,
        )  # fmt: skip
        self.service = NfsService(config, store, self.stack)
        self.adapter = Adapter(
            f"{config.name}.nic", config.address, self.effects,
            parameters=parameters, queue_max=config.queue_frames,
        )  # fmt: skip
        self.pairs: dict[Peer, QueuePair] = {}
        self.peers: dict[QueuePair, Peer] = {}

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Take one event at `now`; see `Node`."""
        self.adapter.now = now
        if isinstance(event, Received):
            assert isinstance(event.message, Frames), "only frames come to the server"
            self.adapter.receive(event.message.frames, now)
        elif isinstance(event, TimerFired):
            self.adapter.timer_fired(event.name, now)
        elif isinstance(event, Audit):
            self.service.audit()
        else:
            assert isinstance(event, Boot)
        self._settle(now)
        if self.adapter.frames:
            self.effects += send_frames(self.config.network, self.adapter.take_frames())
        done = self.effects.copy()
        self.effects.clear()
        return done

    def pending(self) -> int:
        """Replies that the clients have not acknowledged yet, and READs that they have not answered."""
        return self.adapter.pending()

    def close(self) -> None:
        """Let go of the machine's memory; see `Node`."""
        self.memory.close()
        self.adapter.pairs.clear()

    def _settle(self, now: Time) -> None:
        """Look at what the adapter has for the server until nothing is left."""
        adapter = self.adapter
        while adapter.management or adapter.happened:
            while adapter.management:
                self._managed(*adapter.management.pop(0))
            happened, adapter.happened = adapter.happened, []
            for pair, outcome in happened:
                match outcome:
                    case Incoming():
                        self._incoming(pair, outcome.message, now)
                    case Completion():
                        self._read(pair, outcome, now)
                    case Failed():
                        self._failed(pair)

    # --- connections --------------------------------------------------------------------------------------------------

    def _managed(self, source: int, datagram: bytes) -> None:
        try:
            message = connection.decode(datagram)
        except connection.Malformed:
            return
        if source not in self.config.neighbours:
            return
        peer = Peer(source, message.local)
        if message.kind == connection.CONNECT_REQUEST:
            self._connect(peer, message)
        elif message.kind == connection.DISCONNECT_REQUEST:
            pair = self.pairs.get(peer)
            if pair is not None:
                self._forget(pair)
                self.adapter.destroy_pair(pair)
            self._send(source, ConnectionMessage(connection.DISCONNECT_REPLY, message.remote, message.local))

    def _connect(self, peer: Peer, request: ConnectionMessage) -> None:
        """Give a client a queue pair of its own; if it asks again, the reply was lost, and it is told again."""
        pair = self.pairs.get(peer)
        if pair is None:
            if len(self.pairs) >= CONNECTIONS_MAX:
                self._failed(next(iter(self.peers)))
            pair = self.adapter.create_pair(request.psn ^ FIRST_PSN_BIT)
            host = HostAddress(peer.ip, self.config.neighbours[peer.ip])
            taken = flow_of(peer.ip, request.qpn, self.config.address.ip)
            pair.connect(self.adapter.route_to(pair, host, request.qpn), request.psn, taken)
            self.pairs[peer] = pair
            self.peers[pair] = peer
            first_psn = pair.next_psn
        else:
            first_psn = request.psn ^ FIRST_PSN_BIT
        self._send(peer.ip, ConnectionMessage(connection.CONNECT_REPLY, pair.qpn, peer.local, pair.qpn, first_psn))

    def _failed(self, pair: QueuePair) -> None:
        """A queue pair is of no use any more: let its client know, which connects anew."""
        peer = self.peers.get(pair)
        if peer is not None:
            self._send(peer.ip, ConnectionMessage(connection.DISCONNECT_REQUEST, pair.qpn, peer.local, pair.qpn))
            self._forget(pair)
        self.adapter.destroy_pair(pair)

    def _forget(self, pair: QueuePair) -> None:
        del self.pairs[self.peers.pop(pair)]

    def _send(self, ip: int, message: ConnectionMessage) -> None:
        host = HostAddress(ip, self.config.neighbours[ip])
        self.adapter.send_management(host, connection.encode(message), 0)

    # --- calls --------------------------------------------------------------------------------------------------------

    def _incoming(self, pair: QueuePair, message: bytes, now: Time) -> None:
        """A call has come: serve it, or first read what was left out of it."""
        try:
            header = decode_header(message)
        except XdrError:
            return  # a real server answers RDMA_ERROR; no client of ours makes it do so
        record = message[header.message :]
        if not header.chunks:
            self._serve(pair, header, record, now)
            return
        chunk = header.chunks[0]
        if chunk.position <= len(record) and 0 < chunk.length <= TRANSFER_BYTES_MAX and pair.state == READY:
            pair.post_read(WaitingCall(header, record), chunk.address, chunk.rkey, chunk.length, now)

    def _read(self, pair: QueuePair, completion: Completion, now: Time) -> None:
        """A READ is over: put the payload and its padding where the message lacks them (RFC 8166, 3.4.5)."""
        call = completion.context
        if completion.flushed or not isinstance(call, WaitingCall):
            return
        position, data = call.header.chunks[0].position, completion.data
        padding = bytes(-len(data) & 3)
        self._serve(pair, call.header, b"".join((call.record[:position], data, padding, call.record[position:])), now)

    def _serve(self, pair: QueuePair, header: RdmaHeader, record: bytes, now: Time) -> None:
        """Serve a whole call and send its reply, if its client still is there."""
        peer = self.peers.get(pair)
        if peer is None:
            return
        reply = self.service.serve(record, (address_text(peer.ip), CALLER_PORT), peer.ip, now)
        if reply is None or pair.state != READY:
            return
        message = encode_header(header.xid, CREDITS) + reply
        invalidates = header.chunks[0].rkey if header.chunks and self.remote_invalidation else 0
        pair.post_send(None, [message], message, now, invalidates=invalidates)
