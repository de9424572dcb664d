"""The NFS server: a card, an IP stack, RPC records, and the file service with its duplicate request cache.

frames -> NIC -> TCP or UDP -> RPC records -> NFS procedures -> the store       and the replies the same way back
"""

from collections.abc import Sequence

from lateack.nodes.facts import Counted, DuplicateCall, FileAtRest, LeftOver, WriteExecuted
from lateack.nodes.memory.pages import HeadSlab, Memory, PagePool
from lateack.nodes.messages import Frames
from lateack.nodes.node import Boot, Effect, Event, Received, Time, TimerFired, send_frames
from lateack.nodes.records import Record
from lateack.nodes.stack.host import HostAddress, IpStack
from lateack.nodes.stack.nic import Nic
from lateack.nodes.stack.packets import address_text, digest_of
from lateack.nodes.stack.skb import pages_holding
from lateack.nodes.stack.tcp import CLOSE_WAIT, MAY_SEND, TcpParameters, TcpSocket
from lateack.nodes.stack.tcp_output import tcp_sendmsg
from lateack.nodes.stack.udp import UdpSocket, udp_sendmsg
from lateack.nodes.storage import nfs, server_events
from lateack.nodes.storage.drc import DuplicateRequestCache, Mode
from lateack.nodes.storage.nfs import TRANSFER_BYTES_MAX, NfsError
from lateack.nodes.storage.nfs_server import NfsServer
from lateack.nodes.storage.rpc import RecordReader, RecordTooLong, record_mark
from lateack.nodes.storage.store import Store

SERVER_DOMID = 0x7FF0
"""The server is no guest; its memory only needs a name that no guest has (DOMID_FIRST_RESERVED)."""

REPLY_HEAD_BYTES = 256
"""How much of a datagram's reply lies in the packet's linear area; the rest is put into pages."""


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
    queue_frames: int = 10_000
    verifier: bytes = b"lateack1"
    pages: int = 1024
    audit_chunk: int = 4096


class Server:
    """The machine; `store` is the disk that it was handed."""

    def __init__(self, config: ServerConfig, store: Store) -> None:
        self.config = config
        self.name = config.name
        self.store = store
        self.effects: list[Effect] = []
        self.memory = Memory(SERVER_DOMID, config.pages)
        self.pool = PagePool(self.memory, 0, config.pages)
        self.slab = HeadSlab(self.memory, self.pool)
        self.stack = IpStack(
            config.address, config.neighbours, slab=self.slab, pool=self.pool, effects=self.effects,
            parameters=config.tcp, mtu=config.mtu, isn=0x2000_0000,
        )  # fmt: skip
        self.nic = Nic(f"{config.name}.nic", self.effects, pool=self.pool, queue_max=config.queue_frames)
        self.stack.device = self.nic
        self.drc = DuplicateRequestCache(config.drc, entries_max=config.drc_entries, expiry=config.drc_expiry)
        self.service = NfsServer(store, config.verifier, self.drc, TRANSFER_BYTES_MAX)
        self.readers: dict[TcpSocket, RecordReader] = {}
        self.udp: UdpSocket | None = None
        self.files: dict[str, None] = {}

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Take one event at `now`; see `Node`."""
        if isinstance(event, Received):
            message = event.message
            assert isinstance(message, Frames), "only frames come to the server"
            self._receive(message.frames, now)
        elif isinstance(event, TimerFired):
            self.stack.timer_fired(event.name, now)
        elif isinstance(event, Boot):
            self.stack.listen(nfs.PORT)
            self.udp = self.stack.bind_udp(nfs.PORT)
        else:
            self._audit()
        if self.stack.touched:
            self.stack.flush(now)
        frames = self.nic.take_frames()
        effects = self.effects
        if frames:
            effects += send_frames(self.config.network, frames)
        if not effects:
            return []
        done = effects.copy()
        effects.clear()
        return done

    def close(self) -> None:
        """Let go of the machine's memory; see `Node`."""
        self.memory.close()
        self.pool.pages.clear()
        self.stack.forget_sockets()

    def pending(self) -> int:
        """Replies that the clients have not acknowledged yet."""
        return self.stack.pending()

    def _receive(self, frames: Sequence[bytes], now: Time) -> None:
        stack = self.stack
        stack.receive_burst(frames, now)
        for sk in tuple(stack.touched_sockets()):
            if sk.received:
                self._serve_tcp(sk, now)
            if sk.fin_received and sk.state == CLOSE_WAIT:
                stack.close(sk, now)
        if self.udp is not None and self.udp.received:
            self._serve_udp(self.udp, now)

    def _serve_tcp(self, sk: TcpSocket, now: Time) -> None:
        reader = self.readers.get(sk)
        if reader is None:
            reader = self.readers[sk] = RecordReader()
        client = (address_text(sk.remote_address), sk.remote_port)
        try:
            for chunk in sk.take_received():
                for record in reader.feed(chunk):
                    reply = self._serve(record, client, sk.remote_address, now)
                    if reply is not None and sk.state in MAY_SEND:
                        message = record_mark(len(reply)) + reply
                        tcp_sendmsg(sk, message, (), b"", message)
        except RecordTooLong as reason:
            self.stack.abort(sk, str(reason), now)
            del self.readers[sk]
            return
        self.stack.send_queued(sk, now)

    def _serve_udp(self, sk: UdpSocket, now: Time) -> None:
        for address, port, record in sk.take_received():
            reply = self._serve(record, (address_text(address), port), address, now)
            if reply is not None and address in self.config.neighbours:  # a forged source has no way back
                frags = pages_holding(reply[REPLY_HEAD_BYTES:], self.pool)
                udp_sendmsg(sk, (address, port), reply[:REPLY_HEAD_BYTES], frags, b"", reply, now)

    def _serve(self, record: bytes, client: tuple[str, int], address: int, now: Time) -> bytes | None:
        reply = self.service.handle_call(record, client, now)
        events = self.service.events
        if events:
            self._tell(self.service.drain_events(), self.config.clients.get(address, client[0]))
        return reply

    def _tell(self, events: Sequence[server_events.ServerEvent], client: str) -> None:
        """Turn what the service says happened into facts."""
        effects = self.effects
        for event in events:
            if isinstance(event, server_events.WriteExecuted):
                self.files[event.name] = None
                effects.append(WriteExecuted(event.xid, client, event.name, event.offset, event.count, event.digest))
            elif isinstance(event, server_events.DuplicateSeen):
                outcome = "executed" if event.outcome == "executed-again" else event.outcome
                effects.append(DuplicateCall(event.xid, client, event.proc, outcome, event.payload_differs))

    def _audit(self) -> None:
        effects = self.effects
        for name in self.files:
            try:
                effects.append(self._file_at_rest(name))
            except NfsError:
                continue  # it was removed or renamed after it was written
        effects.append(Counted("drc_hits", self.drc.hits))
        effects.append(Counted("drc_misses", self.drc.misses))
        effects.append(Counted("payload_misses", self.drc.payload_misses))
        effects.append(Counted("calls", self.service.calls))
        if self.slab.outstanding:
            effects.append(LeftOver("socket buffers of the server", self.slab.outstanding))

    def _file_at_rest(self, name: str) -> FileAtRest:
        """Read the whole file back from the store, in chunks of the audit."""
        handle = self.store.root
        for part in name.encode().split(b"/"):
            handle = self.store.lookup(handle, part)
        size = self.store.getattr(handle).size
        chunk = self.config.audit_chunk
        digests = [digest_of(self.store.read(handle, at, chunk)) for at in range(0, size, chunk)]
        return FileAtRest(name, size, chunk, tuple(digests))
