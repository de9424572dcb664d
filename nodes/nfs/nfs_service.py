"""A host's file service: RPC records in from its sockets, replies out, and facts about what became of the files.

It is a part of whatever host serves: the NFS server's own machine, or one that mounts its own export (`loopback`).
"""

from collections.abc import Sequence

from lateack.nodes.facts import Counted, DuplicateCall, WriteExecuted
from lateack.nodes.nfs import nfs, server_events
from lateack.nodes.nfs.drc import Client
from lateack.nodes.nfs.drc_ganesha import request_cache
from lateack.nodes.nfs.nfs import TRANSFER_BYTES_MAX
from lateack.nodes.nfs.nfs_procedures import AdmittedCall
from lateack.nodes.nfs.nfs_server import NfsServer
from lateack.nodes.nfs.rpc import RecordReader, RecordTooLong, record_mark
from lateack.nodes.node import SetTimer, Time
from lateack.nodes.service import ServerConfig, Service
from lateack.nodes.stack.host import IpStack
from lateack.nodes.stack.packets import address_text
from lateack.nodes.stack.skb import pages_holding
from lateack.nodes.stack.tcp import MAY_SEND, TcpSocket
from lateack.nodes.stack.tcp_output import tcp_sendmsg
from lateack.nodes.stack.udp import udp_sendmsg
from lateack.nodes.storage.store import Store, readable
from lateack.nodes.storage.volume import files_at_rest
from lateack.nodes.storage.walk import regular_files

REPLY_HEAD_BYTES = 256
"""How much of a datagram's reply lies in the packet's linear area; the rest is put into pages."""
EXECUTING_MAX = 1024
"""The most calls that are executed at once; beyond it the server drops what comes, and is asked again."""


class Asker:
    """Who has made a call, and where its answer goes: a connection, or by UDP to the port that it came from."""

    __slots__ = ("address", "client", "sk")

    def __init__(self, client: Client, address: int, sk: TcpSocket | None) -> None:
        self.client = client
        self.address = address
        self.sk = sk


class NfsService(Service):
    """Port 2049 of one host over the `store` that it was handed; its owner says when a socket has something."""

    def __init__(self, config: ServerConfig, store: Store, stack: IpStack) -> None:
        super().__init__(config, store, stack)
        self.drc = request_cache(
            config.drc, entries_max=config.drc_entries, expiry=config.drc_expiry, include_port=config.drc_port,
            high_water=config.drc_high_water,
        )  # fmt: skip
        self.server = NfsServer(store, config.verifier, self.drc, TRANSFER_BYTES_MAX, write_back=config.write_back)
        self.readers: dict[TcpSocket, RecordReader] = {}
        self.files: dict[str, None] = {}
        self.executing: dict[str, tuple[AdmittedCall, Asker]] = {}  # by the timer that ends it
        self.begun = 0

    def listen(self) -> None:
        """Take calls from now on, over TCP and UDP."""
        self.stack.listen(nfs.PORT)
        self.udp = self.stack.bind_udp(nfs.PORT)

    def serve_tcp(self, sk: TcpSocket, chunks: Sequence[bytes], now: Time) -> None:
        """Serve the calls that end in these next bytes of a connection's stream."""
        reader = self.readers.get(sk)
        if reader is None:
            reader = self._connected(sk, now)
        client = (address_text(sk.remote_address), sk.remote_port)
        slow = self.config.execute > 0
        try:
            for chunk in chunks:
                for record in reader.feed(chunk):
                    if slow:
                        reply = self._begin(record, Asker(client, sk.remote_address, sk), now)
                    else:
                        reply = self.serve(record, client, sk.remote_address, now)
                    if reply is not None:
                        _reply_tcp(sk, reply)
        except RecordTooLong as reason:
            self.drop(sk, str(reason), now)
            return
        self.stack.send_queued(sk, now)

    def serve_udp(self, now: Time) -> None:
        """Serve the datagrams that have come."""
        sk = self.udp
        assert sk is not None, "the service does not listen"
        for address, port, record in sk.take_received():
            client = (address_text(address), port)
            if self.config.execute:
                reply = self._begin(record, Asker(client, address, None), now)
            else:
                reply = self.serve(record, client, address, now)
            if reply is not None:
                self._reply_udp(address, port, reply, now)

    def serve(self, record: bytes, client: tuple[str, int], address: int, now: Time) -> bytes | None:
        """Serve one call of a client's (address in text, port) and give the reply, if it gets one."""
        reply = self.server.handle_call(record, client, now)
        if self.server.events:
            self._tell(self.server.drain_events(), self.config.clients.get(address, client[0]))
        return reply

    def timer(self, name: str, now: Time) -> None:
        """A call has been executed for as long as it takes: now it takes effect, and is answered."""
        begun = self.executing.pop(name, None)
        if begun is None:
            return
        admitted, asker = begun
        reply = self.server.execute(admitted, now)
        self._tell_of(asker)
        if asker.sk is None:
            self._reply_udp(asker.address, asker.client[1], reply, now)
        else:
            _reply_tcp(asker.sk, reply)
            self.stack.send_queued(asker.sk, now)

    def pending(self) -> int:
        """Return how many calls are being executed."""
        return len(self.executing)

    def closed(self, sk: TcpSocket, now: Time) -> None:
        """A connection is gone: forget what was kept for it, and tell the request cache."""
        if self.readers.pop(sk, None) is not None:
            self.server.disconnected((address_text(sk.remote_address), sk.remote_port), now)

    def audit(self) -> None:
        """Record what lies in the files that were written, and what the request cache has counted.

        What was never committed is written back first, as a server's flusher does in time.
        """
        self.server.sync()
        effects = self.effects
        if self.config.incarnation:  # what was written before the crash lies there as well
            self.files |= {readable(b"/".join(path)): None for path, _ in regular_files(self.store)}
        effects += files_at_rest(self.store, self.files, self.config.audit_chunk)
        effects.append(Counted("drc_hits", self.drc.hits))
        effects.append(Counted("drc_misses", self.drc.misses))
        effects.append(Counted("payload_misses", self.drc.payload_misses))
        effects.append(Counted("calls", self.server.calls))

    def _connected(self, sk: TcpSocket, now: Time) -> RecordReader:
        self.server.connected((address_text(sk.remote_address), sk.remote_port), now)
        reader = self.readers[sk] = RecordReader()
        return reader

    def _begin(self, record: bytes, asker: Asker, now: Time) -> bytes | None:
        """Admit a call and let it take its time; a reply is due now only if there is nothing to execute."""
        if len(self.executing) >= EXECUTING_MAX:
            return None
        admitted = self.server.admit(record, asker.client, now)
        self._tell_of(asker)
        if not isinstance(admitted, AdmittedCall):
            return admitted
        self.begun += 1
        name = f"nfsd-{self.begun}"
        self.executing[name] = (admitted, asker)
        self.effects.append(SetTimer(name, now + self.config.execute))
        return None

    def _reply_udp(self, address: int, port: int, reply: bytes, now: Time) -> None:
        sk = self.udp
        if sk is None or address not in self.config.neighbours:
            return  # a forged source has no way back
        frags = pages_holding(reply[REPLY_HEAD_BYTES:], self.stack.pool)
        udp_sendmsg(sk, (address, port), reply[:REPLY_HEAD_BYTES], frags, b"", reply, now)

    def _tell_of(self, asker: Asker) -> None:
        if self.server.events:
            self._tell(self.server.drain_events(), self.config.clients.get(asker.address, asker.client[0]))

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


def _reply_tcp(sk: TcpSocket, reply: bytes) -> None:
    """Queue a reply on its connection, if that still may send."""
    if sk.state in MAY_SEND:
        message = record_mark(len(reply)) + reply
        tcp_sendmsg(sk, message, (), b"", message)
