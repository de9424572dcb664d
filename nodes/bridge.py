"""The host's path between a guest's packet and whoever gets it: taps, filters, ports, and the host's own sockets.

    netback -> tap -> filter -> bridge -> mirror port (a clone)
                                       -> the card, another guest, or a socket of the host

In the kernel's order (__netif_receive_skb_core, br_handle_frame, br_forward). Nothing here reads a packet that is only
passed on. What is set up beyond that are the ways in which netback's pages get further users, or lose them: a tap keeps
a clone, a filter pulls headers out of the pages, a second port gets a clone and pushes a tag onto it, and a socket of
the host keeps the packet for as long as its reader pleases.
"""

from typing import Protocol

from lateack.nodes.echo import EchoHost
from lateack.nodes.facts import FrameDropped
from lateack.nodes.gates import RING_PLACE, Gates, Switch
from lateack.nodes.memory.pages import HeadSlab, PagePool
from lateack.nodes.node import Time
from lateack.nodes.records import Record
from lateack.nodes.stack.dissect import dissect, first_bytes
from lateack.nodes.stack.egress import Egress
from lateack.nodes.stack.gso import affords, is_cut, skb_gso_segment
from lateack.nodes.stack.local_socket import LocalSocket
from lateack.nodes.stack.packets import IPPROTO_TCP, IPPROTO_UDP
from lateack.nodes.stack.readers import Reader, faults, orphan_frags_rx, paged_bytes
from lateack.nodes.stack.skb import (
    HEADROOM,
    SkBuff,
    kfree_skb,
    read_frags,
    skb_length,
    skb_linear,
    skb_orphan,
)
from lateack.nodes.stack.skb_copy import clone_copies, must_copy, pskb_expand_head, skb_clone
from lateack.nodes.stack.skb_cut import pskb_pull_tail

BRIDGE_PLACE = "backend.bridge"
TAP_PLACE = "backend.tap"
MIRROR_PLACE = "backend.mirror"
SOCKET_PLACE = "backend.socket"

HOST_MAC = bytes.fromhex("00163effff01")
"""The bridge's own Ethernet address: what is sent there is for the host's kernel."""

HEAD_BYTES = 54
"""Ethernet, IPv4 and TCP headers without options."""
ETH_IPV4 = b"\x08\x00\x45"
COPIES_MAX = 3
"""How often a packet that must not be cloned may be copied: for the tap, for the mirror, and for whom it is meant."""
SEGMENTS_MAX = 256
"""Into how many pieces a packet is cut for a guest: 64 KiB at the smallest MTU of 576 are half as many."""


class BridgeConfig(Record):
    """What is set up on the host's bridge; sizes in bytes."""

    tap: bool = False
    mirror: bool = False
    inspect_bytes: int = 0
    expand: bool = False
    orphans: bool = False
    socket_buffer: int = 212_992
    address: int = 0
    """The host's IPv4 address on this bridge, where it answers (see echo); 0 where nobody is to find it."""


class Port(Protocol):
    """Where the bridge sends what is meant for one Ethernet address of this host."""

    def queue_frame(self, frame: bytes) -> None:
        """Take a frame that came from the wire."""
        ...

    def queue_packet(self, skb: SkBuff) -> None:
        """Take over a packet that a guest has sent, and that nobody has read."""
        ...


class Bridge:
    """The part of the backend that passes packets on; `fresh` says that somebody was given one who has yet to look."""

    __slots__ = (
        "card", "config", "copied_bytes", "crossed", "echo", "effects", "fresh", "gates", "memory", "mirror", "pool",
        "ports", "slab", "socket", "tap", "touches",
    )  # fmt: skip
    gates: Gates

    def __init__(self, config: BridgeConfig, card: Egress, *, slab: HeadSlab, pool: PagePool) -> None:
        """Pass on what the backend's netback takes; *card* leads out of the host. `gates` is given later."""
        effects = card.effects
        self.config = config
        self.card = card
        self.effects = effects
        self.slab = slab
        self.memory = slab.memory
        self.pool = pool
        self.tap = Reader(TAP_PLACE, effects)
        self.mirror = Reader(MIRROR_PLACE, effects)
        self.socket = LocalSocket(SOCKET_PLACE, effects, pool, buffer=config.socket_buffer)
        self.ports: dict[bytes, Port] = {HOST_MAC: self.socket}
        self.echo = EchoHost(config.address, HOST_MAC, self.ports) if config.address else None
        self.socket.listener = self.echo
        self.touches = config.tap or config.mirror or config.expand or config.inspect_bytes > 0
        self.copied_bytes = 0
        self.fresh = False
        self.crossed = False

    def switches(self) -> dict[str, Switch]:
        """Return what rules can switch here, by place."""
        return {TAP_PLACE: self.tap, MIRROR_PLACE: self.mirror, SOCKET_PLACE: self.socket}

    def forward(self, skb: SkBuff, now: Time) -> None:
        """Pass on a packet that netback has taken: to another guest, to the host itself, else out of the card."""
        data = skb.data
        linear = skb.tail - data
        head = self.memory.view[data : data + HEAD_BYTES].tobytes()  # a whole cell lies there, however short it is
        if not is_carried(head, linear, skb.shinfo.gso_size):
            if self.echo is None:
                self._drop(skb, "neither TCP nor UDP over IPv4, or broken headers")
            else:
                self._show_neighbours(skb)
            return
        if self.gates.ring_watched:
            seen = first_bytes(skb)
            self.gates.passed(RING_PLACE, dissect(seen, self.gates.addresses, skb_length(skb) - len(seen)))
        port = self.ports.get(head[:6])
        if port is None and head[0] & 1 and self.echo is not None:
            self._show_neighbours(skb)  # to everybody
            return
        if (self.touches or port is not None) and not self._affords(skb):
            self._drop(skb, "no memory to copy or to cut the packet")
            return
        if self.touches and not self._touch(skb):
            return
        if port is None:
            self.card.xmit(skb, now)
            return
        self.fresh = self.crossed = True
        if self.config.orphans:
            skb_orphan(skb)  # as at every other device: dev_hard_start_xmit of 2.6.35 did it before calling any driver
        if is_cut(skb):
            self._cut(skb, port)
        else:
            port.queue_packet(skb)

    def read(self) -> None:
        """The end of an event: let the readers read whose gates are open."""
        self.fresh = False
        self.tap.read()
        self.mirror.read()
        self.socket.read()

    def _affords(self, skb: SkBuff) -> bool:
        """Say whether there is memory for all that may be done here; pages of an owner who is told are copied once."""
        return affords(skb, self.pool, COPIES_MAX if skb.no_clone else int(skb.shinfo.ubuf is not None))

    def _cut(self, skb: SkBuff, port: Port) -> None:
        """No port of this host has said that it takes packets longer than the MTU: the kernel cuts them first."""
        if skb_length(skb) > skb.shinfo.gso_size * SEGMENTS_MAX:
            self._drop(skb, "it is to be cut into more pieces than an honest guest would ask for")
            return
        if must_copy(skb):
            if faults(skb, BRIDGE_PLACE, self.effects):
                return
            self.copied_bytes += paged_bytes(skb)
        for segment in skb_gso_segment(skb, self.pool):
            port.queue_packet(segment)

    def _show_neighbours(self, skb: SkBuff) -> None:
        """Read what the emulator's own guests never send, such as ARP, at once, and give it to whom it is meant for."""
        assert self.echo is not None
        if not faults(skb, BRIDGE_PLACE, self.effects):
            frame = skb_linear(skb) + b"".join(read_frags(skb))
            kfree_skb(skb)
            self.copied_bytes += len(frame)
            self.fresh = self.crossed = True
            self.echo.pass_on(frame)

    # --- what is done to packets on their way -------------------------------------------------------------------------

    def _touch(self, skb: SkBuff) -> bool:
        """Do what is set up, in the kernel's order; False if the packet was dropped on the way."""
        config = self.config
        self.fresh = True
        return (
            (not config.tap or self._show_tap(skb))
            and (not config.inspect_bytes or self._inspect(skb))
            and (not config.mirror or self._flood(skb))
            and (config.mirror or not config.expand or self._expand(skb))
        )

    def _show_tap(self, skb: SkBuff) -> bool:
        """deliver_skb: whoever listens gets a clone, after the pages of a tracking owner were copied."""
        if skb.shinfo.ubuf is not None and faults(skb, TAP_PLACE, self.effects):
            return False
        self.copied_bytes += orphan_frags_rx(skb, self.pool)
        clone = self._clone(skb, TAP_PLACE)
        if clone is None:
            return False
        self.tap.take(clone)
        return True

    def _inspect(self, skb: SkBuff) -> bool:
        """A filter looks at the first bytes (pskb_may_pull): it moves them out of the pages, as far as they fit.

        Room is what a cell has behind the headroom. Where the kernel would make the head larger we pull less.
        """
        wanted = min(self.config.inspect_bytes, skb_length(skb), self.slab.size - HEADROOM)
        missing = wanted - (skb.tail - skb.data)
        if missing > 0:
            if faults(skb, BRIDGE_PLACE, self.effects):
                return False
            self.copied_bytes += missing
            pskb_pull_tail(skb, missing, self.pool)
        return True

    def _flood(self, skb: SkBuff) -> bool:
        """br_flood: the second port gets a clone; where it carries tags the clone needs a head of its own."""
        clone = self._clone(skb, MIRROR_PLACE)
        if clone is None:
            return False
        if self.config.expand:
            pskb_expand_head(clone, self.pool)
        self.mirror.take(clone)
        return True

    def _expand(self, skb: SkBuff) -> bool:
        """skb_vlan_push: make room for a tag. The tag itself is left out: nobody behind the bridge would know it."""
        if skb.shinfo.ubuf is not None and skb.cloned and faults(skb, BRIDGE_PLACE, self.effects):
            return False
        pskb_expand_head(skb, self.pool)
        return True

    def _clone(self, skb: SkBuff, place: str) -> SkBuff | None:
        """Clone a packet, and charge the host for what had to be copied first; None if that touched a lost page."""
        if clone_copies(skb):
            if faults(skb, place, self.effects):
                return None
            self.copied_bytes += paged_bytes(skb)
        return skb_clone(skb, self.pool)

    def _drop(self, skb: SkBuff, reason: str) -> None:
        self.effects.append(FrameDropped(BRIDGE_PLACE, reason))
        kfree_skb(skb)

    def copied(self) -> int:
        """Return how many payload bytes had to be copied here."""
        return self.copied_bytes + self.socket.copied_bytes

    # --- audit --------------------------------------------------------------------------------------------------------

    def audit(self) -> tuple[int, int]:
        """Tell what the readers would get that never came; return the heads and pages of ours that wait for them.

        What waits in a reader's queue is charged to its owner, and is no leak of the host's. Whatever a guest waits for
        because of it is counted where it was lent.
        """
        heads: set[int] = set()
        frames: set[int] = set()
        for reader in (self.tap, self.mirror, self.socket):
            reader.look()
            for skb in reader.queue:
                heads.add(skb.shinfo.head)
                pages = [frag.page for frag in skb.shinfo.frags]
                frames.update(page.frame for page in pages if page.memory is self.slab.memory)
        return len(heads), len(frames)


def is_carried(head: bytes, linear: int, gso_size: int) -> bool:
    """Say whether the host can carry a packet: IPv4 with TCP or UDP, its headers whole within *linear* bytes.

    *head* is `HEAD_BYTES` from the packet's first one on; beyond *linear* they mean nothing. Only TCP without options
    can be cut (*gso_size*). What a guest sends must never stop the host; Linux's skb_checksum_setup drops what it
    cannot make sense of, too.
    """
    if head[12:15] != ETH_IPV4 or linear < 34:
        return False
    if head[23] == IPPROTO_TCP:
        if linear < HEAD_BYTES:
            return False
        offset = head[46] >> 4
        return offset == 5 or (offset > 5 and not gso_size and 34 + offset * 4 <= linear)
    is_fragment = head[20] & 0x3F or head[21]
    return head[23] == IPPROTO_UDP and not gso_size and bool(is_fragment or linear >= 42)
