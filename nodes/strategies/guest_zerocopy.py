"""The guest's strategies that lend pages by reference and ask the stack to say when it is through, or copy in time.

The first two share a `UbufInfo` over all packets of a call, as MSG_ZEROCOPY does (Documentation/networking/
msg_zerocopy.rst, 2017): it counts data blocks, so that clones, splits and retransmissions are covered, and whoever
would keep a packet on this host (a tap, a local receiver) copies first (`skb_orphan_frags_rx`).
"""

from lateack.nodes.stack.lifetime import Frag, UbufInfo
from lateack.nodes.stack.skb import SkBuff
from lateack.nodes.strategies.guest import GuestStrategy, Write, by_copy, by_reference


class MsgZerocopy(GuestStrategy):
    """One counted owner over all packets of a call; the write is done when reply *and* notification are in.

    E4 is E2: the notification means that the kernel holds no reference any more, not that anything was delivered.
    """

    name = "msg-zerocopy"
    summary = "one counted owner over all packets of a call; completes on the reply and the stack's notification"

    def queued(self, write: Write, skbs: list[SkBuff]) -> None:
        """Let each packet that shows a page count for the owner (`skb_zcopy_set`); the reply is counted, too."""
        if write.token is None:
            write.token = UbufInfo(self, write, refcounted=True)
        ubuf = write.token
        assert isinstance(ubuf, UbufInfo)
        for skb in skbs:
            shinfo = skb.shinfo
            if shinfo.frags:
                ubuf.get()
                shinfo.ubuf = ubuf
                shinfo.shared_frag = True

    def replied(self, write: Write) -> None:
        """Drop the call's own reference; if the stack has none left either, that completes the write."""
        assert isinstance(write.token, UbufInfo)
        write.token.put(True)

    def aborted(self, write: Write) -> None:
        """The application waits for the notification before it touches its buffer, whatever became of the call."""
        self.replied(write)

    def zerocopy_complete(self, token: object, success: bool) -> None:
        """The stack holds nothing any more; that some of it was copied on the way makes no difference."""
        self.kernel.complete(token)  # type: ignore[arg-type]


class ZerocopyOnReply(MsgZerocopy):
    """The same owner, but the write is done on the reply alone: the notification comes, and nobody waits for it.

    What the owner buys is that those who must copy know it: taps and local receivers, and software sums.
    """

    name = "zerocopy-on-reply"
    summary = "the stack knows the owner and would tell it, but the write completes on the reply alone"

    def replied(self, write: Write) -> None:
        """Complete at once; the reference is dropped so that the count comes out even."""
        super().replied(write)
        self.kernel.complete(write)

    def aborted(self, write: Write) -> None:
        """Give the buffer back at once, as the reply would have."""
        self.replied(write)

    def zerocopy_complete(self, token: object, success: bool) -> None:
        """Too late, or not needed any more: the reply has decided."""


class CopyOnRetransmit(GuestStrategy):
    """SUNRPC since a6b31d18b02f (2013): over TCP a call that is sent again is copied while it is still pending.

    E4 is the reply. The first transmission goes by reference, and so does everything over UDP (`xs_udp_send_request`
    passes zerocopy as before); what TCP repeats by itself is a clone of the first.
    """

    name = "copy-on-retransmit"
    summary = "over TCP, copies the data of a call that RPC sends again; TCP's own retransmissions stay by reference"

    def take(self, write: Write) -> list[Frag]:
        """Lend the pages the first time, and copy them later, while the buffer still holds the right bytes."""
        if write.transmissions > 1 and self.kernel.transport == "tcp":
            return by_copy(write, self.kernel)
        return by_reference(write)
