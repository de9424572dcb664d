"""Packets for tests of cards and queues: headers by the slow encoder, payload in an owner's pages."""

from __future__ import annotations

from lateack.nodes.memory.pages import Page
from lateack.nodes.node import Effect
from lateack.nodes.stack.lifetime import Frag
from lateack.nodes.stack.packets import ACK
from lateack.nodes.stack.skb import SkBuff, alloc_skb, skb_push, skb_put
from tests.nodes.stack.fakes import GUEST, SERVER, Host, slow_checksum, slow_tcp

FLOW = "10.0.0.1:700>10.0.0.2:2049"


class Packets:
    """A host whose packets are built by hand, and what is recorded of them; it is the owner of their pages, too."""

    def __init__(self) -> None:
        self.host = Host(GUEST)
        self.facts: list[Effect] = []
        self.told: list[object] = []

    def zerocopy_complete(self, token: object, success: bool) -> None:
        """Note what the owner of the pages is told through a `UbufInfo`."""
        self.told.append((token, success))

    def frags_released(self, token: object) -> None:
        """Note what the owner of the pages is told through a `FragDestructor`."""
        self.told.append(token)

    def page(self, data: bytes) -> Page:
        """Return a page of an owner who keeps it: one reference is the owner's, the other for a fragment."""
        page = self.host.pool.alloc()
        page.refs += 1
        page.memory.write(page.frame, 0, data)
        return page

    def tcp(
        self, frags: list[Frag], length: int, *, seq: int = 1, flags: int = ACK, gso_size: int = 0, copied: bytes = b""
    ) -> SkBuff:
        """Return a TCP packet with *copied* behind its CHECKSUM_PARTIAL headers and *length* paged bytes."""
        length += len(copied)
        frame = slow_tcp(
            source=GUEST, target=SERVER, sport=700, dport=2049, seq=seq, flags=flags, payload=bytes(length)
        )  # fmt: skip
        header = bytearray(frame[:54])
        pseudo = frame[26:34] + bytes([0, 6]) + (20 + length).to_bytes(2, "big")
        header[50:52] = (0xFFFF - slow_checksum(pseudo)).to_bytes(2, "big")
        skb = alloc_skb(self.host.slab)
        skb_put(skb, copied)
        skb_push(skb, bytes(header))
        skb.shinfo.frags = frags
        skb.shinfo.gso_size = gso_size
        return skb

    def of(self, kind: type) -> list:  # type: ignore[type-arg]
        """Return the facts of one type."""
        return [fact for fact in self.facts if type(fact) is kind]
