"""The data of an iSCSI write on its way down: the strategy's fragments, a header before them, a digest behind.

This is where what is *meant* and what the pages hold part: the digest is over the fragments as they are now, and the
card reads them later (`iscsi_sw_tcp_xmit_segment`, drivers/scsi/iscsi_tcp.c).
"""

import crc32c

from lateack.nodes.iscsi import iscsi, iscsi_pdus
from lateack.nodes.iscsi.iscsi_login import Agreed
from lateack.nodes.stack.lifetime import Frag, frag_view
from lateack.nodes.stack.tcp import MAY_SEND, TcpSocket
from lateack.nodes.stack.tcp_output import tcp_sendmsg
from lateack.nodes.storage.page_write import PageWrite
from lateack.nodes.strategies.guest import GuestStrategy


class Burst:
    """What goes out of one write, over one connection."""

    __slots__ = ("agreed", "sk", "strategy", "write")

    def __init__(self, sk: TcpSocket, strategy: GuestStrategy, write: PageWrite, agreed: Agreed) -> None:
        self.sk = sk
        self.strategy = strategy
        self.write = write
        self.agreed = agreed

    def send(self, header: bytes, start: int, length: int) -> None:
        """Queue one PDU with *length* bytes of the write from *start* on.

        What lies behind the application's last byte fills its last block: zeros, which are copied.
        """
        write, digests = self.write, self.agreed.digests
        there = min(length, max(write.count - start, 0))
        frags: list[Frag] = []
        if there:
            write.narrow(start, there)
            frags = self.strategy.take(write)
        head = iscsi.segment_head(header, digests)
        filling = bytes(length - there)
        crc = crc32c.crc32c(filling, crc_of(frags)) if digests.data else 0
        tail = filling + iscsi.segment_tail(length, crc, digests)
        witness = b"".join((head, write.data[start : start + there], tail))
        skbs = tcp_sendmsg(self.sk, head, frags, tail, witness)
        if frags:
            self.strategy.queued(write, skbs)


def send_burst(burst: Burst, transfer_tag: int, expected_status: int, *, start: int, end: int) -> None:
    """Queue a write's bytes from *start* to *end* as Data-Out PDUs, none longer than the target takes."""
    tag, longest = burst.write.xid, burst.agreed.send_max
    if burst.sk.state not in MAY_SEND:
        return  # the connection has come to its end meanwhile, and the command will be given anew
    for number, offset in enumerate(range(start, end, longest)):
        length = min(longest, end - offset)
        header = iscsi_pdus.data_out(
            tag, transfer_tag, expected_status, number, offset=offset, length=length, final=offset + length == end
        )
        burst.send(header, offset, length)


def crc_of(frags: list[Frag]) -> int:
    """Return the CRC32C of what the fragments show now."""
    crc = 0
    for frag in frags:
        crc = crc32c.crc32c(frag_view(frag), crc)
    return crc
