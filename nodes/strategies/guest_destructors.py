"""The guest's strategies that believe `skb->destructor`: a packet is gone, so its pages must be free. They are not.

The destructor runs once per *header*, before the fate of the data is known (`skb_release_head_state`): a clone has none
of its own and outlives it, `skb_orphan` runs it while the packet lives on, and what `tcp_fragment` cuts off has none
(net/core/skbuff.c, net/ipv4/tcp_output.c). AF_PACKET's transmit ring believed it until 2018 (5cd8d46ea156).

In all three the destructor *is* the completion: the reply is not waited for, and neither is anything after an abort.
The application may have its buffer back while the call is still pending, and a call that RPC repeats then reads what
lies in the buffer by that time.
"""

from collections.abc import Callable

from lateack.nodes.stack.skb import SkBuff
from lateack.nodes.strategies.guest import GuestKernel, GuestStrategy, Write

Destructor = Callable[[SkBuff], None]


class PacketCount:
    """How many packets of one call are not gone yet, over all its transmissions."""

    __slots__ = ("alive", "strategy", "write")

    def __init__(self, strategy: "QueueDestructors", write: Write) -> None:
        self.strategy = strategy
        self.write = write
        self.alive = 0

    def gone(self, skb: SkBuff) -> None:
        """A packet's header was freed or orphaned; the last one completes the write, if nothing has done so before."""
        self.alive -= 1
        if not self.alive and not self.write.done:
            self.strategy.kernel.complete(self.write)


class Chained:
    """A packet's destructor beside the one it had: TCP's own (`tcp_wfree`) must still run."""

    __slots__ = ("count", "former")

    def __init__(self, count: PacketCount, former: Destructor) -> None:
        self.count = count
        self.former = former

    def gone(self, skb: SkBuff) -> None:
        """Run the former destructor, then ours."""
        self.former(skb)
        self.count.gone(skb)


class QueueDestructors(GuestStrategy):
    """A destructor on each packet that TCP has queued: it runs when TCP frees the packet, at the acknowledgement.

    E4 is the acknowledgement of the call's last packet, and clones below TCP are not asked: a late acknowledgement
    gives the buffer away under a retransmission that still waits. A datagram is in no queue, so its packets themselves
    carry the destructor, and E4 is the end of their transmission.
    """

    name = "skb-destructor"
    summary = "a destructor on each packet that TCP queued completes the write, clones below it or not"

    def queued(self, write: Write, skbs: list[SkBuff]) -> None:
        """Hang a destructor onto each packet; what is cut off it later will have none."""
        count = self.count_of(write)
        for skb in skbs:
            watch(skb, count)

    def replied(self, write: Write) -> None:
        """The reply says nothing about packets: the destructors decide."""

    def aborted(self, write: Write) -> None:
        """Nor does it matter that nobody waits for the reply any more."""

    def count_of(self, write: Write) -> PacketCount:
        """Return the count of the write's packets, which all its transmissions share."""
        if write.token is None:
            write.token = PacketCount(self, write)
        assert isinstance(write.token, PacketCount)
        return write.token


class CloneDestructors(QueueDestructors):
    """A destructor on each clone that is transmitted: it runs when the device is through with it.

    E4 is the end of transmission of every packet that was queued, which *precedes* the acknowledgement: let one frame
    be lost, and TCP sends the changed page as the first delivery. Only a packet that was never transmitted is waited
    for beside the clones.
    """

    name = "clone-destructor"
    summary = "a destructor on each transmitted clone completes the write, before anybody has acknowledged it"
    watches_clones = True

    def __init__(self, kernel: GuestKernel) -> None:
        super().__init__(kernel)
        self.counts: dict[SkBuff, PacketCount] = {}

    def queued(self, write: Write, skbs: list[SkBuff]) -> None:
        """Remember whose each queued packet is; a datagram's packet is itself what is transmitted."""
        count = self.count_of(write)
        for skb in skbs:
            if skb.nohdr:
                count.alive += 1  # for its first clone
                self.counts[skb] = count
                skb.destructor = self.forget
            else:
                watch(skb, count)

    def skb_shared(self, skb: SkBuff, clone: SkBuff) -> None:
        """Hang a destructor onto the clone, in front of which TCP's own still runs."""
        count = self.counts.get(skb)
        if count is None:
            return  # a packet without a page of ours, or one that was cut off: nobody watches it
        if skb.transmissions == 1:
            count.alive -= 1
        watch(clone, count)

    def forget(self, skb: SkBuff) -> None:
        """A queued packet is gone, and no more clones will be made of it; one that never was transmitted counts itself.

        That one's connection was lost before its turn came.
        """
        count = self.counts.pop(skb, None)
        if count is not None and not skb.transmissions:
            count.gone(skb)


class NoCloneDestructors(QueueDestructors):
    """A flag on each queued packet makes a full copy of every clone, so that the destructor is late enough.

    E4 is the acknowledgement, as for `skb-destructor`, but what is below TCP shows no page of the application. It costs
    a copy for every transmission, since TCP clones everything that it sends; a datagram is not cloned at all.
    """

    name = "no-clone"
    summary = "clones of queued packets are full copies, so that the destructor on the original can be believed"
    watches_clones = True

    def queued(self, write: Write, skbs: list[SkBuff]) -> None:
        """Forbid clones of each packet and hang a destructor onto it."""
        super().queued(write, skbs)
        for skb in skbs:
            skb.no_clone = True

    def skb_shared(self, skb: SkBuff, clone: SkBuff) -> None:
        """Charge for the copy that was made instead of the clone."""
        if skb.no_clone:
            self.kernel.copied(sum([frag.size for frag in clone.shinfo.frags]))


def watch(skb: SkBuff, count: PacketCount) -> None:
    """Count a packet until its destructor runs; a destructor that it has already runs first."""
    count.alive += 1
    former = skb.destructor
    skb.destructor = count.gone if former is None else Chained(count, former).gone
