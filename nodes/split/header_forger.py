"""A guest that changes the headers of packets which it has submitted already: what netback's header copy is for.

netback copies the first bytes of a packet before it looks at them (PKT_PROT_LEN, XEN_NETBACK_TX_COPY_LEN), so that what
was inspected is what is sent, whatever the guest writes afterwards.
"""

from lateack.nodes.facts import HeadersForged
from lateack.nodes.node import Effect
from lateack.nodes.split.netfront import Netfront

FORGED_BYTES = 54
"""Ethernet, IPv4 and TCP headers without options."""


class HeaderForger:
    """The switch by which a rule makes a guest turn every bit of the headers of all packets on its transmit ring."""

    __slots__ = ("effects", "netfront")

    def __init__(self, netfront: Netfront, effects: list[Effect]) -> None:
        self.netfront = netfront
        self.effects = effects

    def on(self) -> None:
        """Forge the headers of what was submitted and not answered."""
        view = self.netfront.memory.view
        submitted = {skb.data for skb in self.netfront.tx_skbs if skb is not None}
        for start in submitted:
            view[start : start + FORGED_BYTES] = bytes(byte ^ 0xFF for byte in view[start : start + FORGED_BYTES])
        self.effects.append(HeadersForged(len(submitted)))

    def off(self) -> None:
        """What is forged is forged."""

    def waiting(self) -> int:
        """Return how many packets wait here: none ever do."""
        return 0
