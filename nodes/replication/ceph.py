"""A client of one Ceph OSD: writes as OSD_OP messages, whose data goes by reference and is summed as it is handed over.

The sum is made page by page, behind the page's hand-over to TCP, and follows the data in the message's footer. Pages
that change before the card has read them make it wrong: the OSD gives the connection up, the client connects anew and
sends what was not answered again, under the same numbers. The sum is then made anew, over what the pages hold now. So a
page that changes each time makes a loop, and one that was changed only once ends in the object as it is.

Source: net/ceph/messenger_v1.c (prepare_write_message, write_partial_message_data), net/ceph/osd_client.c (osd_fault,
kick_osd_requests). Where we differ: there is one OSD and one object, which is the file; there are no maps and no keys.
"""

from lateack.nodes.application import Copier, PageBuffer
from lateack.nodes.facts import SessionRecovered
from lateack.nodes.node import Time
from lateack.nodes.replication import ceph_messages as messages
from lateack.nodes.replication.ceph_messages import Sums
from lateack.nodes.stack.host import IpStack
from lateack.nodes.stack.lifetime import frag_view
from lateack.nodes.stack.tcp_output import tcp_sendmsg
from lateack.nodes.storage.page_write import PageWrite
from lateack.nodes.storage.stream_client import Peer, ProtocolError, StreamClient
from lateack.nodes.strategies.guest import GuestStrategy

GREETED = len(messages.BANNER) + 2 * messages.ADDRESS_BYTES
BANNER, CONNECTING, OPEN = "banner", "connecting", "open"
"""What a client waits for, before it has a session."""


class CephClient(StreamClient):
    """The client; `sums` says whether data is summed."""

    __slots__ = ("connects", "heard", "sequence", "state", "sums")

    def __init__(
        self, peer: Peer, stack: IpStack, copier: Copier, strategy: GuestStrategy, *, sums: bool = True
    ) -> None:
        super().__init__(peer, stack, copier, strategy)
        self.sums = sums
        self.connects = 0
        self.state = BANNER
        self.sequence = 0
        self.heard = 0

    def greet(self, now: Time) -> None:
        """Send the banner and our address."""
        sk = self.socket
        assert sk is not None, "a greeting before the connection"
        self.state = BANNER
        self.sequence = self.heard = 0
        self.connects += 1
        self.say(messages.BANNER + messages.entity_address(self.stack.address, sk.local_port), now)

    def write(self, buffer: PageBuffer, now: Time) -> PageWrite:
        """Write a buffer, now or as soon as there is a session."""
        write = self.issue(buffer, now)
        self.pending[write.xid] = write
        if self.ready:
            self._send(write, now)
        return write

    def arrived(self, now: Time) -> None:
        """Take what the OSD says."""
        if self.state != OPEN and not self._greeted(now):
            return
        heard = self.heard
        try:
            for message in messages.whole_messages(self.stream):
                self.heard = message.sequence
                if message.kind == messages.OSD_OP_REPLY:
                    self.replied(message.number, message.kind)
        except Sums as reason:
            raise ProtocolError(str(reason)) from reason
        if self.heard > heard:
            self.say(messages.acknowledgement(self.heard), now)

    def recover(self, now: Time) -> None:
        """Send every write that has no reply again, with its old number (kick_osd_requests)."""
        self.effects.append(SessionRecovered("ceph", len(self.pending)))
        for write in list(self.pending.values()):
            self._send(write, now)

    def ask_for_life(self, now: Time) -> None:
        """Say that we are still here; TCP acknowledges that, and nobody answers it (`ceph_con_keepalive`)."""
        self.say(bytes((messages.TAG_KEEPALIVE,)), now)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _greeted(self, now: Time) -> bool:
        """Take the OSD's greeting; return whether the session is ready."""
        stream = self.stream
        if self.state == BANNER:
            banner = stream.take(GREETED)
            if banner is None:
                return False
            if not banner.startswith(messages.BANNER):
                raise ProtocolError("bad banner")
            self.state = CONNECTING
            self.say(messages.connect_request(self.connects), now)
        reply = stream.take(messages.CONNECT_REPLY.size)
        if reply is None:
            return False
        if reply[0] != messages.TAG_READY:
            raise ProtocolError("the OSD refused the session")
        self.state = OPEN
        self.ready_now(now)
        return True

    def _send(self, write: PageWrite, now: Time) -> None:
        """Send a write: first its pages, by reference, and then the sum over what they held at that moment."""
        sk = self.socket
        assert sk is not None, "a write before the connection"
        name = self.copier.file.encode()
        front = messages.write_request(name, write.offset, write.count, attempt=write.transmissions)
        self.sequence += 1
        frags = self.lend(write, messages.OSD_OP)
        total: int | None = None
        if self.sums:
            total = 0
            for frag in frags:
                total = messages.raw_sum(frag_view(frag), total)
        head = messages.message_head(messages.OSD_OP, self.sequence, write.xid, front=front, data_bytes=write.count)
        tail = messages.message_tail(front, total)
        skbs = tcp_sendmsg(sk, head, frags, tail, b"".join((head, write.data, tail)))
        self.strategy.queued(write, skbs)
        self.stack.send_queued(sk, now)
