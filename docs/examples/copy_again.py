"""Whatever goes out a second time is a copy: when RPC repeats a call, and when TCP repeats a segment of it."""

from lateack import GuestStrategy
from lateack.nodes.stack.lifetime import Frag
from lateack.nodes.stack.skb import SkBuff
from lateack.nodes.strategies.guest import Write, by_copy, by_reference


class CopyAgain(GuestStrategy):
    """The repair that comes to mind: the retransmission is what goes wrong, so copy that, while there is time."""

    name = "copy-again"
    summary = "lends the pages to the first transmission and copies them for every later one; completes on the reply"
    watches_clones = True

    def take(self, write: Write) -> list[Frag]:
        """RPC transmits the call: return what is to go out, the pages themselves or copies of them."""
        return by_reference(write) if write.transmissions == 1 else by_copy(write, self.kernel)

    def skb_shared(self, skb: SkBuff, clone: SkBuff) -> None:
        """TCP has made this clone of a queued packet for the device: let every later one be a full copy."""
        if skb.no_clone:
            self.kernel.copied(sum(frag.size for frag in clone.shinfo.frags))
        skb.no_clone = True

    def replied(self, write: Write) -> None:
        """The reply is here: give the application its buffer back."""
        self.kernel.complete(write)
