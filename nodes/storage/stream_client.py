"""What clients of one TCP connection to a storage server have in common: it is opened, lost, and opened again.

The next connection comes from the next local port. What becomes of the writes under way is the protocol's to say.

A server that has died tells nobody, and where everything was acknowledged TCP has nothing to ask for. So these clients
ask for a sign of life when they wait and hear nothing (NOP-Out in iSCSI, P_PING in DRBD, KEEPALIVE in Ceph): it is
answered with a RST by a server that is back, and by nobody, until TCP gives up, by one that is not. Where we differ:
they have limits of their own for the answer, such as 5 s and 0.5 s, and drop the connection themselves.
"""

from lateack.nodes.application import Copier, PageBuffer
from lateack.nodes.facts import CallTransmitted, CompletionDeferred, Reconnecting, ReplyMatched, WriteIssued
from lateack.nodes.node import S, Time
from lateack.nodes.records import Record
from lateack.nodes.stack.host import IpStack
from lateack.nodes.stack.lifetime import Frag
from lateack.nodes.stack.tcp import CLOSE_WAIT, CLOSED, ESTABLISHED, MAY_SEND, TIME_WAIT, TcpSocket
from lateack.nodes.stack.tcp_output import tcp_sendmsg
from lateack.nodes.storage.page_write import PageWrite
from lateack.nodes.storage.remote import RemoteStorage
from lateack.nodes.strategies.guest import GuestStrategy

RECONNECTS_MAX = 64
"""Connections in a row that brought nothing forward, after which the copy is given up."""
SILENCE_MAX = 5 * S
"""How long a client waits in silence before it asks for a sign of life (node.conn[0].timeo.noop_out_interval of
open-iscsi, osd_keepalive_timeout of Ceph's; DRBD's ping-int is 10 s)."""
GREETING_MAX = 10 * S
"""How long a server may take over its half of the greeting, before the connection is given up."""


class Peer(Record):
    """Where the server is found, and how a client behaves: the first number of its writes, whether it says goodbye."""

    address: int
    port: int
    first_number: int
    unmount: bool = True
    pins: bool = False


class ByteStream:
    """What has come of a stream and was not taken yet."""

    __slots__ = ("data",)

    def __init__(self) -> None:
        self.data = bytearray()

    def feed(self, chunk: bytes) -> None:
        """Append the stream's next bytes."""
        self.data += chunk

    def take(self, count: int) -> bytes | None:
        """Return the next *count* bytes and forget them, or None while fewer are here."""
        if len(self.data) < count:
            return None
        taken = bytes(self.data[:count])
        del self.data[:count]
        return taken


class ProtocolError(Exception):
    """The other side said something that its protocol does not allow: the connection is given up, and no more."""


class StreamClient(RemoteStorage):
    """The door for protocols over one connection at a time; `pending` are the writes that were not answered."""

    __slots__ = (
        "begun", "copier", "effects", "heard_at", "next_number", "opened", "peer", "pending", "ready", "reconnects",
        "sent_again", "socket", "stack", "strategy", "stream",
    )  # fmt: skip

    def __init__(self, peer: Peer, stack: IpStack, copier: Copier, strategy: GuestStrategy) -> None:
        super().__init__()
        self.peer = peer
        self.stack = stack
        self.effects = stack.effects
        self.copier = copier
        self.strategy = strategy
        self.next_number = peer.first_number
        self.pending: dict[int, PageWrite] = {}
        self.socket: TcpSocket | None = None
        self.stream = ByteStream()
        self.opened = False
        self.ready = False
        self.begun = False
        self.heard_at: Time = 0
        self.reconnects = 0
        self.sent_again = 0

    # --- what a protocol says -----------------------------------------------------------------------------------------

    def greet(self, now: Time) -> None:
        """The connection is open: say who we are."""
        raise NotImplementedError

    def arrived(self, now: Time) -> None:
        """More of the stream is here: take what is whole. Raises ProtocolError."""
        raise NotImplementedError

    def recover(self, now: Time) -> None:
        """Another connection is ready: send what the last one did not carry to its end."""
        raise NotImplementedError

    def ask_for_life(self, now: Time) -> None:
        """Send what a server that is there answers, or at least acknowledges."""
        raise NotImplementedError

    def dropped(self, now: Time) -> None:
        """The connection is lost, and another one is on its way."""

    def quiet(self) -> bool:
        """Say whether nothing is to be waited for before the connection is closed."""
        return not self.pending

    # --- the connection -----------------------------------------------------------------------------------------------

    def connect(self, now: Time) -> None:
        """Open the connection; once both sides have greeted, the first buffers are written."""
        self.socket = self.stack.connect(self.peer.address, self.peer.port, now)

    def received(self, now: Time) -> None:
        """A burst of frames has gone through the stack: look at the connection and take what came."""
        sk = self.socket
        assert sk is not None, "frames came before the host was booted"
        if not self.opened and sk.state == ESTABLISHED:
            self.opened = True
            self.heard_at = now
            self.greet(now)
        if sk.received:
            self.heard_at = now
            for chunk in sk.take_received():
                self.stream.feed(chunk)
            self._arrived(sk, now)
        if sk.state != ESTABLISHED:
            self.watch(now)
        elif self.finishing and self.quiet():
            self._close(now)

    def watch(self, now: Time) -> None:
        """See what has become of the connection: it was closed as wanted, or it is lost and opened anew."""
        sk = self.socket
        if sk is None or self.copier.over:
            return
        if sk.state == CLOSE_WAIT:
            self.stack.close(sk, now)
        if self.finishing and self.quiet():
            if sk.state in (TIME_WAIT, CLOSED):
                self.copier.finish()
        elif sk.state == CLOSED or sk.fin_received:
            self._reconnect(now)

    def next_deadline(self) -> Time | None:
        """Return when the silence has lasted too long, if anything is waited for that is not TCP's to care about."""
        if not self.opened or self.copier.over or (self.ready and self.quiet()):
            return None
        return self.heard_at + (SILENCE_MAX if self.ready else GREETING_MAX)

    def timed_out(self, now: Time) -> None:
        """Nothing has come for too long: see whether the server still is there."""
        deadline, sk = self.next_deadline(), self.socket
        if deadline is None or now < deadline or sk is None:
            return
        self.heard_at = now
        if not self.ready:
            self.stack.abort(sk, "the server does not greet", now)
            self.watch(now)
        elif sk.snd_una == sk.write_seq:  # else TCP asks already
            self.ask_for_life(now)

    def finish(self, now: Time) -> None:
        """Every byte is written: close the connection once nothing is to be waited for."""
        self.finishing = True
        if self.quiet():
            self._close(now)

    def ready_now(self, now: Time) -> None:
        """Both sides have greeted: begin to write, or go on where the last connection ended."""
        self.ready = True
        if self.begun:
            self.recover(now)
            return
        self.begun = True
        for buffer in self.copier.first_fill():
            self.write(buffer, now)
        if self.copier.finished():
            self.finish(now)

    def _arrived(self, sk: TcpSocket, now: Time) -> None:
        try:
            self.arrived(now)
        except ProtocolError as reason:
            self.stack.abort(sk, str(reason), now)

    def _close(self, now: Time) -> None:
        sk = self.socket
        if self.peer.unmount and sk is not None and sk.state == ESTABLISHED:
            self.stack.close(sk, now)
        elif not self.peer.unmount and not self.copier.over:
            self.copier.finish()

    def _reconnect(self, now: Time) -> None:
        self.reconnects += 1
        if self.reconnects > RECONNECTS_MAX:
            self.copier.fail(f"the server dropped {RECONNECTS_MAX} connections one after the other")
            return
        self.opened = self.ready = False
        self.stream = ByteStream()
        self.connect(now)
        assert self.socket is not None
        self.effects.append(Reconnecting(self.socket.local_port, "the connection was lost"))
        self.dropped(now)

    # --- writes -------------------------------------------------------------------------------------------------------

    def issue(self, buffer: PageBuffer, now: Time) -> PageWrite:
        """Number a write of what lies in *buffer*, and record it."""
        write = PageWrite(buffer, now)
        if self.peer.pins:
            write.pin()
        write.xid = self.next_number
        self.next_number = (self.next_number + 1) & 0x7FFF_FFFF
        self.payload_bytes += write.count
        self.effects.append(
            WriteIssued(
                write.xid, self.copier.file, write.offset, write.count, buffer.digest, buffer.index, buffer.frames
            )
        )
        return write

    def lend(self, write: PageWrite, command: int) -> list[Frag]:
        """Record that a write goes to the transport by this command; return what the strategy lets it show."""
        write.transmissions += 1
        if write.transmissions > 1:
            self.sent_again += 1
        self.effects.append(CallTransmitted(write.xid, command, write.transmissions))
        return self.strategy.take(write)

    def replied(self, number: int, command: int) -> None:
        """The storage has answered the write of this number, by this command; a second answer finds nobody."""
        write = self.pending.get(number)
        if write is not None:
            self.effects.append(ReplyMatched(number, command))
            self.answered(write)

    def answered(self, write: PageWrite) -> None:
        """A write is done as far as the protocol goes: let the strategy judge when the application may hear of it."""
        self.pending.pop(write.xid, None)
        self.reconnects = 0
        write.replied = True
        if self.peer.pins:
            write.unpin()
        self.strategy.replied(write)
        if not write.done:
            self.effects.append(CompletionDeferred(write.xid))

    def say(self, message: bytes, now: Time) -> None:
        """Send a message that carries no pages."""
        sk = self.socket
        if sk is not None and sk.state in MAY_SEND:
            tcp_sendmsg(sk, message, (), b"", message)
            self.stack.send_queued(sk, now)

    def writes_in_flight(self) -> list[PageWrite]:
        """Return the writes that have not been answered."""
        return list(self.pending.values())

    def counted(self) -> dict[str, int]:
        """Return how many writes were sent again."""
        return {"rpc_retransmissions": self.sent_again}
