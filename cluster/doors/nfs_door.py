"""The emulator's NFS server on real sockets: what the machines of a story talk to, for any NFSv3 client.

connections, datagrams -> RPC records -> the NfsServer of nodes/storage -> a real directory      and the replies back
One thread and one loop serve everybody, one call after the other, as the emulated server does.
"""

import contextlib
import errno
import selectors
import socket
import time
from collections.abc import Callable, Sequence

from lateack.cluster.doors.connection import Connection
from lateack.cluster.doors.listening import DoorRefused
from lateack.nodes.nfs.drc import Client
from lateack.nodes.nfs.nfs import VERIFIER_BYTES
from lateack.nodes.nfs.nfs_server import NfsServer
from lateack.nodes.nfs.rpc import RecordTooLong
from lateack.nodes.nfs.server_events import CommitExecuted, DuplicateSeen, ServerEvent, WriteExecuted

CONNECTIONS_MAX = 128
"""Connections at a time; for one more, the one that has been silent longest is closed (svc_check_conn_limits)."""
DATAGRAM_BYTES_MAX = 65_535
DATAGRAMS_AT_ONCE = 64
"""How many datagrams are served before connections have their turn."""
DATAGRAM_TRANSFER_MAX = 32_768
"""The longest READ or WRITE over UDP, whose answers must fit into a datagram (RPCSVC_MAXPAYLOAD_UDP)."""
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


def new_verifier() -> bytes:
    """Return what no other start of a server has as its write verifier: the time, which has gone on since."""
    return time.time_ns().to_bytes(VERIFIER_BYTES)


class NfsDoor:
    """A loop over a listening socket, a socket for datagrams and the connections; it owns all of them.

    `stop` may be called from a signal handler. After `run` has returned, `close` gives everything back.
    """

    def __init__(self, server: NfsServer, stream: socket.socket, datagrams: socket.socket) -> None:
        self.server = server
        self.stream = stream
        self.datagrams = datagrams
        self.selector = selectors.DefaultSelector()
        self.connections: dict[Connection, None] = {}  # the one that has been silent longest comes first
        self.stopped = False
        self.writes = 0
        self.commits = 0
        self.duplicates = 0
        self._awake, self._alarm = socket.socketpair()
        self._alarm.setblocking(False)
        self._watch(self._awake, self._take_alarm)
        self._watch(stream, self._accept)
        self._watch(datagrams, self._serve_datagrams)

    def run(self) -> None:
        """Serve until somebody says stop."""
        while not self.stopped:
            for key, ready in self.selector.select():
                key.data(ready)

    def stop(self) -> None:
        """Let `run` return after the call that it serves just now."""
        self.stopped = True
        with contextlib.suppress(BlockingIOError):  # it rings already
            self._alarm.send(b"!")

    def close(self) -> None:
        """Close every socket; what clients were answered is in the store afterwards, stable or not."""
        for connection in list(self.connections):
            self._drop(connection)
        self.selector.close()
        for each in (self.stream, self.datagrams, self._awake, self._alarm):
            each.close()
        self.server.sync()

    # --- connections

    def _accept(self, ready: int) -> None:
        try:
            sock, address = self.stream.accept()
        except OSError as error:
            if error.errno in TOO_MANY_FILES:  # and not that the client has gone again
                self._drop_silent(error)
            return
        if len(self.connections) >= CONNECTIONS_MAX:
            self._drop_silent(None)
        connection = Connection(sock, address)
        self.connections[connection] = None
        self.server.drc.attach(connection.client, time.time_ns())
        self.selector.register(sock, READ, lambda ready: self._attend(connection, ready))

    def _attend(self, connection: Connection, ready: int) -> None:
        """Read, serve and send as far as it goes now."""
        if connection not in self.connections:
            return  # it was closed for another one after the selector had spoken of it
        del self.connections[connection]
        self.connections[connection] = None
        try:
            if ready & READ:
                connection.receive()
            self._serve(connection)
        except (OSError, RecordTooLong):
            self._drop(connection)
            return
        if connection.is_done():
            self._drop(connection)
            return
        wanted = (READ if connection.wants_to_read() else 0) | (WRITE if connection.answers else 0)
        key = self.selector.get_key(connection.socket)
        if key.events != wanted:
            self.selector.modify(connection.socket, wanted, key.data)

    def _serve(self, connection: Connection) -> None:
        """Serve calls and send answers until no call is left, or the client takes no more."""
        connection.send()
        while connection.may_serve() and not self.stopped:
            reply = self._reply(connection.calls.popleft(), connection.client)
            if reply is not None:
                connection.answer(reply)
            if not connection.may_serve():
                connection.send()

    def _drop(self, connection: Connection) -> None:
        del self.connections[connection]
        self.selector.unregister(connection.socket)
        connection.socket.close()
        self.server.drc.detach(connection.client, time.time_ns())

    def _drop_silent(self, error: OSError | None) -> None:
        """Close the connection that has been silent longest; without one, whoever leads here is at a loss."""
        if not self.connections:
            raise DoorRefused("this process may open no more files: raise the limit with `ulimit -n`.") from error
        self._drop(next(iter(self.connections)))

    # --- datagrams

    def _serve_datagrams(self, ready: int) -> None:
        for _ in range(DATAGRAMS_AT_ONCE):
            try:
                call, address = self.datagrams.recvfrom(DATAGRAM_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                continue  # news of an answer that nobody was there for
            self._serve_datagram(call, address)

    def _serve_datagram(self, call: bytes, client: Client) -> None:
        """Serve one datagram; an answer that cannot be sent is lost, as answers over UDP may be."""
        procedures = self.server.procedures
        transfer_max = procedures.transfer_max
        procedures.transfer_max = DATAGRAM_TRANSFER_MAX  # each transport has its own, which FSINFO tells
        try:
            reply = self._reply(call, client)
        finally:
            procedures.transfer_max = transfer_max
        if reply is not None:
            with contextlib.suppress(OSError):
                self.datagrams.sendto(reply, client)

    # --- calls

    def _reply(self, call: bytes, client: Client) -> bytes | None:
        reply = self.server.handle_call(call, client, time.time_ns())
        if self.server.events:
            self._count(self.server.drain_events())
        return reply

    def _count(self, events: Sequence[ServerEvent]) -> None:
        for event in events:
            if isinstance(event, WriteExecuted):
                self.writes += 1
            elif isinstance(event, CommitExecuted):
                self.commits += 1
            elif isinstance(event, DuplicateSeen):
                self.duplicates += 1

    # --- the loop

    def _watch(self, sock: socket.socket, attend: Callable[[int], None]) -> None:
        self.selector.register(sock, READ, attend)

    def _take_alarm(self, ready: int) -> None:
        self._awake.recv(1)
