"""What carries a mount's calls: a TCP connection, lost and opened anew, or a UDP socket (net/sunrpc/xprtsock.c).

A connection ends in three ways: the peer, or somebody in its name, resets it; the server closes it; or TCP gives up.
Then what its socket had queued is gone, clones of it that wait below TCP are not, and every call that has no reply is
sent again on the new connection, under its xid. Replies are matched by xid, whichever connection brings them.
"""

from lateack.nodes.application import Copier
from lateack.nodes.facts import Reconnecting
from lateack.nodes.nfs import nfs
from lateack.nodes.nfs.nfs_file import NfsFile
from lateack.nodes.nfs.nfs_mount import NfsMount
from lateack.nodes.nfs.reconnection import NEVER, SAME_PORT, Reconnection
from lateack.nodes.nfs.rpc import RecordReader, RecordTooLong, record_mark
from lateack.nodes.node import Time
from lateack.nodes.stack.host import IpStack
from lateack.nodes.stack.lifetime import Frag
from lateack.nodes.stack.skb import SkBuff
from lateack.nodes.stack.tcp import CLOSE_WAIT, CLOSED, ESTABLISHED, MAY_SEND, TIME_WAIT, TcpSocket
from lateack.nodes.stack.tcp_output import tcp_sendmsg
from lateack.nodes.stack.udp import UdpSocket, ip_make_skb


class RpcTransport(NfsFile):
    """A mount over sockets; `socket` is None until it is mounted, and always over UDP.

    `connected` says that the connection is known to be up, `opened` that the mount has been used.
    """

    __slots__ = ("connected", "opened", "reader", "reconnection", "socket", "stack", "udp")

    def __init__(self, mount: NfsMount, stack: IpStack, copier: Copier) -> None:
        super().__init__(mount, copier, stack.effects)
        self.stack = stack
        self.reader = RecordReader()
        self.reconnection = Reconnection(mount.reconnect)
        self.socket: TcpSocket | None = None
        self.udp: UdpSocket | None = None
        self.connected = False
        self.opened = False

    # --- the connection -----------------------------------------------------------------------------------------------

    def connect(self, now: Time) -> None:
        """Open the transport; once it is open the file is made, and then written."""
        if self.mount.transport == "udp":
            self.udp = self.stack.bind_udp()
            self._begin(now)
        else:
            self.reconnection.started(now)
            self.socket = self.stack.connect(self.mount.server, nfs.PORT, now)

    def received(self, now: Time) -> None:
        """A burst of frames has gone through the stack: look at the connection and take what came for the mount."""
        sk = self.socket
        if sk is not None:
            if not self.connected and sk.state == ESTABLISHED:
                self._established(now)
            if sk.received:
                self._read_replies(sk, now)
            if sk.state != ESTABLISHED:
                self.watch(now)
        elif self.udp is not None:
            for _, _, record in self.udp.take_received():
                self._reply(record, now)

    def watch(self, now: Time) -> None:
        """Do, or tell the application, what the end of the connection means, whichever side has ended it."""
        sk = self.socket
        if sk is None or self.copier.over:
            return
        reconnects = self.mount.reconnect != NEVER
        if self.finishing and sk.state in (TIME_WAIT, CLOSED) and not (reconnects and self.rpc.pending):
            self.copier.finish()
        elif sk.state == CLOSED:
            self._lost("the connection to the server was lost", now)
        elif sk.state == CLOSE_WAIT:
            self.stack.close(sk, now)
            if reconnects:  # when our own end of the old connection is closed, too
                self.reconnection.closed_by_server()
            else:
                self.copier.fail("the server closed the connection")

    def next_deadline(self) -> Time | None:
        """Return when the first call runs out of patience, or the next attempt to connect begins."""
        at, deadline = self.reconnection.at, self.rpc.deadline
        if at is None:
            return deadline
        return at if deadline is None else min(at, deadline)

    def _disconnect(self, now: Time) -> None:
        if self.socket is not None and self.mount.unmount:
            self.stack.close(self.socket, now)
        else:
            self.copier.finish()

    def _begin(self, now: Time) -> None:
        self.opened = True
        self._open(now)

    def _established(self, now: Time) -> None:
        self.connected = True
        self.reconnection.established()
        if self.opened:
            self._send_pending(now)
        else:
            self._begin(now)

    def _lost(self, reason: str, now: Time) -> None:
        """The connection is gone: connect anew now or later, or give up."""
        self.connected = False
        reconnection = self.reconnection
        if reconnection.policy == NEVER:
            self.copier.fail(reason)
            return
        reconnection.lost(reason, now)
        self._reconnect_when_due(now)

    def _reconnect_when_due(self, now: Time) -> None:
        """Connect anew if it is time to, with a stream that begins afresh (`xs_tcp_setup_socket`)."""
        reconnection, former = self.reconnection, self.socket
        if reconnection.at is None or now < reconnection.at or former is None:
            return
        reconnection.started(now)
        if self.copier.over:
            return
        port = former.local_port if reconnection.policy == SAME_PORT else None
        self.reader = RecordReader()
        self.socket = self.stack.connect(self.mount.server, nfs.PORT, now, local_port=port)
        self.effects.append(Reconnecting(self.socket.local_port, reconnection.reason))

    # --- messages -----------------------------------------------------------------------------------------------------

    def _may_send(self) -> bool:
        """Say whether a call can be handed over now; else it waits for the connection (`xprt_connect`)."""
        return self.socket is None or self.socket.state in MAY_SEND

    def _queue(self, head: bytes, frags: list[Frag], data: bytes, tail: bytes) -> list[SkBuff]:
        """Hand a message to the transport, which has not sent it yet; *data* is what the fragments mean to hold."""
        if self.socket is None:
            assert self.udp is not None
            return ip_make_skb(self.udp, (self.mount.server, nfs.PORT), head, frags, tail, head + data + tail)
        head = record_mark(len(head) + len(data) + len(tail)) + head
        return tcp_sendmsg(self.socket, head, frags, tail, b"".join((head, data, tail)))

    def _read_replies(self, sk: TcpSocket, now: Time) -> None:
        try:
            for chunk in sk.take_received():
                for record in self.reader.feed(chunk):
                    self._reply(record, now)
        except RecordTooLong as reason:
            # No stream to go on with: as good as lost (`xs_tcp_read_fraghdr`, xprt_force_disconnect).
            self.stack.abort(sk, str(reason), now)
            self._lost(str(reason), now)
