"""The primary of a DRBD pair: its own disk has every write at once, and the peer is sent a copy of it.

A write is done when the peer has written it (protocol C), has received it (B), or when its packet is in the send buffer
(A): then nobody but TCP knows whether the pages are still needed. A write whose connection is lost is done, too, since
the own disk has it; its block is out of sync until it has been sent anew, out of the own disk and no more out of the
application's pages. That is what heals a digest that failed, whatever had made it fail.

Source: drivers/block/drbd/drbd_main.c (drbd_send_dblock), drbd_req.c (__req_mod), drbd_receiver.c. Where we differ:
one connection carries data and acknowledgements; an epoch has one write; the bitmap is kept by block, and the source
sends its blocks unasked, under the number of the write; the last block may end within a sector. Linux's DRBD has copied
in protocol A, and wherever it sums, since 8.3: here that is the strategy's to decide (full-copy is what DRBD does).
"""

from collections.abc import Sequence

import crc32c

from lateack.nodes.application import Copier, PageBuffer
from lateack.nodes.facts import SessionRecovered
from lateack.nodes.node import Time
from lateack.nodes.records import Record
from lateack.nodes.replication import drbd_packets as packets
from lateack.nodes.replication.drbd_packets import Block
from lateack.nodes.stack.host import IpStack
from lateack.nodes.stack.lifetime import Frag, frag_view
from lateack.nodes.stack.tcp_output import tcp_sendmsg
from lateack.nodes.storage.page_write import PageWrite
from lateack.nodes.storage.stream_client import Peer, ProtocolError, StreamClient
from lateack.nodes.strategies.guest import GuestStrategy

SEND_BUFFER_BYTES = 128 * 1024
"""Bytes unsent or unacknowledged beyond which the sender waits for room (the old default of sndbuf-size)."""

FLAGS = {"A": 0, "B": packets.DP_SEND_RECEIVE_ACK, "C": packets.DP_SEND_WRITE_ACK}


class DrbdTerms(Record):
    """What a pair agrees on: when a write is done (A, B or C), and whether its data is summed."""

    protocol: str = "C"
    digest: bool = True


class DrbdClient(StreamClient):
    """The primary; `unsynced` are the blocks that the peer may not have: number, offset and bytes on the own disk."""

    __slots__ = ("epoch", "header", "resyncing", "sequence", "terms", "unsynced", "waiting")

    def __init__(self, peer: Peer, terms: DrbdTerms, stack: IpStack, copier: Copier, strategy: GuestStrategy) -> None:
        super().__init__(peer, stack, copier, strategy)
        self.terms = terms
        self.header: list[tuple[int, int]] = []
        self.sequence = 0
        self.epoch: dict[int, int] = {}
        self.unsynced: dict[int, tuple[int, bytes]] = {}
        self.waiting: list[PageWrite] = []
        self.resyncing: list[int] = []

    def greet(self, now: Time) -> None:
        """Say which versions we speak, and what the pair is to agree on."""
        self.header.clear()
        self.say(packets.features() + packets.protocol(self.terms.protocol, digest=self.terms.digest), now)

    def quiet(self) -> bool:
        """Say whether the peer has everything."""
        return not self.unsynced and not self.waiting

    def write(self, buffer: PageBuffer, now: Time) -> PageWrite:
        """Write a buffer to the own disk, which has it now, and replicate it as soon as the send buffer has room."""
        write = self.issue(buffer, now)
        self.unsynced[write.xid] = (write.offset, write.data)
        if self.ready and not self.resyncing:
            self.waiting.append(write)
            self._pump(now)
        else:
            self._done_alone(write)
        return write

    def arrived(self, now: Time) -> None:
        """Take the peer's packets."""
        while True:
            packet = packets.next_packet(self.stream, self.header)
            if packet is None:
                break
            self._packet(packet.command, packet.body, now)

    def received(self, now: Time) -> None:
        """See what came, and whether an acknowledgement has made room for what waits."""
        super().received(now)
        self._pump(now)

    def recover(self, now: Time) -> None:
        """Send the blocks that are out of sync from the own disk, one after the other."""
        self.sent_again += len(self.unsynced)
        self.resyncing = list(self.unsynced)
        self.effects.append(SessionRecovered("drbd", len(self.resyncing)))
        self._resync_next(now)

    def dropped(self, now: Time) -> None:
        """The own disk has every write: all are done, and what the peer has not confirmed is out of sync."""
        self.epoch.clear()
        self.resyncing.clear()
        for write in list(self.pending.values()):
            self.answered_by_disk(write)
        waiting, self.waiting = self.waiting, []
        for write in waiting:
            self._done_alone(write)

    def answered_by_disk(self, write: PageWrite) -> None:
        """The peer is gone, and will not answer: a write that the own disk has is done."""
        reconnects = self.reconnects
        self.answered(write)
        self.reconnects = reconnects

    def ask_for_life(self, now: Time) -> None:
        """Ping the peer."""
        self.say(packets.ping(), now)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _packet(self, command: int, body: bytes, now: Time) -> None:
        if command == packets.P_CONNECTION_FEATURES:
            packets.check_features(body)
        elif command == packets.P_PROTOCOL:
            if packets.decode_protocol(body) != (self.terms.protocol, self.terms.digest):
                raise ProtocolError("the peer does not agree")
            self.ready_now(now)
        elif command in (packets.P_RECV_ACK, packets.P_WRITE_ACK):
            self.replied(packets.decode_ack(body), command)
        elif command == packets.P_BARRIER_ACK:
            self.unsynced.pop(self.epoch.pop(packets.decode_barrier_ack(body), -1), None)
        elif command == packets.P_RS_WRITE_ACK:
            self._synced(packets.decode_ack(body), now)
        elif command == packets.P_PING_ACK:
            pass  # it is there
        else:
            raise ProtocolError(f"a primary has no use for command {command:#x}")

    def _done_alone(self, write: PageWrite) -> None:
        """The peer is not here: nothing of the pages was lent, and the own disk has the bytes."""
        write.replied = True
        if self.peer.pins:
            write.unpin()
        self.strategy.kernel.complete(write)

    def _pump(self, now: Time) -> None:
        """Hand over what waits while the send buffer has room."""
        sk = self.socket
        while self.waiting and self.ready and sk is not None and sk.write_seq - sk.snd_una < SEND_BUFFER_BYTES:
            self._replicate(self.waiting.pop(0), now)

    def _replicate(self, write: PageWrite, now: Time) -> None:
        """Send a write: the digest is over the pages as they are now, and the packet shows them as they will be."""
        sk = self.socket
        assert sk is not None, "a write before the connection"
        self.pending[write.xid] = write
        frags = self.lend(write, packets.P_DATA)
        digest = digest_of_frags(frags) if self.terms.digest else None
        block = Block(write.offset, write.xid, FLAGS[self.terms.protocol], digest, write.data)
        self.sequence += 1
        head = packets.data_head(packets.P_DATA, block, self.sequence)
        skbs = tcp_sendmsg(sk, head, frags, b"", head + write.data)
        self.strategy.queued(write, skbs)
        self.epoch[self.sequence] = write.xid
        self.say(packets.barrier(self.sequence), now)
        if self.terms.protocol == "A":
            self.answered(write)

    def _resync_next(self, now: Time) -> None:
        if not self.resyncing:
            return
        number = self.resyncing[0]
        offset, data = self.unsynced[number]
        digest = crc32c.crc32c(data) if self.terms.digest else None
        head = packets.data_head(packets.P_RS_DATA_REPLY, Block(offset, number, 0, digest, data), 0)
        self.say(head + data, now)

    def _synced(self, number: int, now: Time) -> None:
        self.unsynced.pop(number, None)
        self.reconnects = 0
        if self.resyncing and self.resyncing[0] == number:
            self.resyncing.pop(0)
            # What was written in between went to the own disk alone, and is out of sync, too.
            if not self.resyncing:
                self.resyncing = list(self.unsynced)
            self._resync_next(now)


def digest_of_frags(frags: Sequence[Frag]) -> int:
    """Return the crc32c over what fragments show at this moment (drbd_csum_bio)."""
    total = 0
    for frag in frags:
        total = crc32c.crc32c(frag_view(frag), total)
    return int(total)
