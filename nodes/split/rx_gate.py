"""A guest that takes what it is sent and never offers its buffers again: the gate `guestN.rx`."""

from lateack.nodes.split.netfront import Netfront


class ReceiveGate:
    """The switch at a guest's receive buffers; whatever finds none waits in the backend."""

    __slots__ = ("netfront",)

    def __init__(self, netfront: Netfront) -> None:
        self.netfront = netfront

    def on(self) -> None:
        """Buffers that were used are not offered again."""
        self.netfront.withhold()

    def off(self) -> None:
        """All buffers are offered again."""
        self.netfront.offer_again()

    def waiting(self) -> int:
        """Return how many buffers are kept back; how many packets wait for them only the backend knows."""
        return len(self.netfront.withheld or ())
