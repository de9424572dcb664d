"""A host's file service: RPC records in from its sockets, replies out, and facts about what became of the files.

It is a part of whatever host serves: the NFS server's own machine, or one that mounts its own export (`loopback`).
"""

from collections.abc import Sequence

from lateack.nodes.facts import Counted, DuplicateCall, FileAtRest, WriteExecuted
from lateack.nodes.node import Time
from lateack.nodes.service import ServerConfig, Service
from lateack.nodes.stack.host import IpStack
from lateack.nodes.stack.packets import address_text, digest_of
from lateack.nodes.stack.skb import pages_holding
from lateack.nodes.stack.tcp import MAY_SEND, TcpSocket
from lateack.nodes.stack.tcp_output import tcp_sendmsg
from lateack.nodes.stack.udp import udp_sendmsg
from lateack.nodes.storage import nfs, server_events
from lateack.nodes.storage.drc import DuplicateRequestCache
from lateack.nodes.storage.nfs import TRANSFER_BYTES_MAX, NfsError
from lateack.nodes.storage.nfs_server import NfsServer
from lateack.nodes.storage.rpc import RecordReader, RecordTooLong, record_mark
from lateack.nodes.storage.store import Store

REPLY_HEAD_BYTES = 256
"""How much of a datagram's reply lies in the packet's linear area; the rest is put into pages."""


class NfsService(Service):
    """Port 2049 of one host over the `store` that it was handed; its owner says when a socket has something."""

    def __init__(self, config: ServerConfig, store: Store, stack: IpStack) -> None:
        super().__init__(config, store, stack)
        self.drc = DuplicateRequestCache(config.drc, entries_max=config.drc_entries, expiry=config.drc_expiry)
        self.server = NfsServer(store, config.verifier, self.drc, TRANSFER_BYTES_MAX)
        self.readers: dict[TcpSocket, RecordReader] = {}
        self.files: dict[str, None] = {}

    def listen(self) -> None:
        """Take calls from now on, over TCP and UDP."""
        self.stack.listen(nfs.PORT)
        self.udp = self.stack.bind_udp(nfs.PORT)

    def serve_tcp(self, sk: TcpSocket, chunks: Sequence[bytes], now: Time) -> None:
        """Serve the calls that end in these next bytes of a connection's stream."""
        reader = self.readers.get(sk)
        if reader is None:
            reader = self.readers[sk] = RecordReader()
        client = (address_text(sk.remote_address), sk.remote_port)
        try:
            for chunk in chunks:
                for record in reader.feed(chunk):
                    reply = self.serve(record, client, sk.remote_address, now)
                    if reply is not None and sk.state in MAY_SEND:
                        message = record_mark(len(reply)) + reply
                        tcp_sendmsg(sk, message, (), b"", message)
        except RecordTooLong as reason:
            self.stack.abort(sk, str(reason), now)
            del self.readers[sk]
            return
        self.stack.send_queued(sk, now)

    def serve_udp(self, now: Time) -> None:
        """Serve the datagrams that have come."""
        sk = self.udp
        assert sk is not None, "the service does not listen"
        for address, port, record in sk.take_received():
            reply = self.serve(record, (address_text(address), port), address, now)
            if reply is not None and address in self.config.neighbours:  # a forged source has no way back
                frags = pages_holding(reply[REPLY_HEAD_BYTES:], self.stack.pool)
                udp_sendmsg(sk, (address, port), reply[:REPLY_HEAD_BYTES], frags, b"", reply, now)

    def serve(self, record: bytes, client: tuple[str, int], address: int, now: Time) -> bytes | None:
        """Serve one call of a client's (address in text, port) and give the reply, if it gets one."""
        reply = self.server.handle_call(record, client, now)
        events = self.server.events
        if events:
            self._tell(self.server.drain_events(), self.config.clients.get(address, client[0]))
        return reply

    def audit(self) -> None:
        """Record what lies in the files that were written, and what the request cache has counted."""
        effects = self.effects
        for name in self.files:
            try:
                effects.append(self._file_at_rest(name))
            except NfsError:
                continue  # it was removed or renamed after it was written
        effects.append(Counted("drc_hits", self.drc.hits))
        effects.append(Counted("drc_misses", self.drc.misses))
        effects.append(Counted("payload_misses", self.drc.payload_misses))
        effects.append(Counted("calls", self.server.calls))

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

    def _file_at_rest(self, name: str) -> FileAtRest:
        """Read the whole file back from the store, in chunks of the audit."""
        handle = self.store.root
        for part in name.encode().split(b"/"):
            handle = self.store.lookup(handle, part)
        size = self.store.getattr(handle).size
        chunk = self.config.audit_chunk
        digests = [digest_of(self.store.read(handle, at, chunk)) for at in range(0, size, chunk)]
        return FileAtRest(name, size, chunk, tuple(digests))
