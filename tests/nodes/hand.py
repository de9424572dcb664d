"""What tests need to hold a machine in the hand: packets, both halves of the driver over one memory, plain frames."""

from collections.abc import Sequence
from typing import TypeVar

from lateack.nodes.client import Client
from lateack.nodes.facts import Fact
from lateack.nodes.memory.grants import GrantTable
from lateack.nodes.memory.hypervisor import Hypervisor
from lateack.nodes.memory.pages import HeadSlab, Memory, Page, PagePool
from lateack.nodes.nfs.nfs_client import NfsClient
from lateack.nodes.node import Effect, Send
from lateack.nodes.split.netback import Vif, admit_packet
from lateack.nodes.split.netfront import Netfront
from lateack.nodes.split.xenbus import DOMAIN_0, FIRST_FREE_FRAME, GRANT_FRAME
from lateack.nodes.stack.lifetime import Frag
from lateack.nodes.stack.packets import (
    ACK,
    ETH_IP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    TCP_FRAME,
    UDP,
    address_of,
    checksum_of,
    ip_checksum,
    ones_sum,
    pseudo_sum,
)
from lateack.nodes.stack.skb import SkBuff, add_frag, alloc_skb, kfree_skb, skb_put
from lateack.nodes.strategies.backend import BackendStrategy, DevZerocopy, TxSlot

GUEST_IP, SERVER_IP = address_of("10.0.0.11"), address_of("10.0.1.1")
GUEST_MAC, SERVER_MAC = bytes.fromhex("00163e000001"), bytes.fromhex("001e67000001")
F = TypeVar("F", bound=Fact)


def facts_of(effects: Sequence[Effect], kind: type[F]) -> list[F]:
    """Return the facts of one type among effects."""
    return [effect for effect in effects if isinstance(effect, kind)]


def messages_to(effects: Sequence[Effect], target: str) -> list[object]:
    """Return what is sent to one machine."""
    return [effect.message for effect in effects if isinstance(effect, Send) and effect.target == target]


def tcp_frame(payload: bytes = b"", *, seq: int = 1, ack: int = 1, to_server: bool = True, flags: int = ACK) -> bytes:
    """Return a whole TCP frame between the guest and the server, with good checksums."""
    source, target = (GUEST_IP, SERVER_IP) if to_server else (SERVER_IP, GUEST_IP)
    macs = (SERVER_MAC, GUEST_MAC) if to_server else (GUEST_MAC, SERVER_MAC)
    ports = (700, 2049) if to_server else (2049, 700)
    total = 40 + len(payload)
    fields = [
        *macs,
        0x0800,
        0x45,
        0,
        total,
        7,
        0,
        64,
        IPPROTO_TCP,
        ip_checksum(total, 7, 0, IPPROTO_TCP, source, target),
    ]
    fields += [source, target, *ports, seq, ack, 5 << 12 | flags, 1000]
    bare = TCP_FRAME.pack(*fields, 0, 0)
    check = checksum_of(pseudo_sum(source, target, IPPROTO_TCP, total - 20) + ones_sum(bare[34:] + payload))
    return TCP_FRAME.pack(*fields, check, 0) + payload


def udp_frame(payload: bytes, *, source_ip: int = GUEST_IP, ident: int = 7) -> bytes:
    """Return a whole UDP frame from the guest to the server's NFS port, with good checksums."""
    total = 28 + len(payload)
    head = ETH_IP.pack(
        SERVER_MAC, GUEST_MAC, 0x0800, 0x45, 0, total, ident, 0, 64, IPPROTO_UDP,
        ip_checksum(total, ident, 0, IPPROTO_UDP, source_ip, SERVER_IP), source_ip, SERVER_IP,
    )  # fmt: skip
    return head + UDP.pack(700, 2049, 8 + len(payload), 0) + payload


class Kernel:
    """A backend domain of its own, as far as a strategy asks: pages, heads, a hypervisor and a count of copies."""

    def __init__(self, pages: int = 512) -> None:
        self.hypervisor = Hypervisor()
        self.memory = Memory(DOMAIN_0, pages)
        self.pool = PagePool(self.memory, 0, pages)
        self.slab = HeadSlab(self.memory, self.pool)
        self.effects: list[Effect] = []
        self.now = 0
        self.alarm: int | None = None
        self.in_ring: list[Page] = []
        self.copied_bytes = 0

    def wake_at(self, at: int) -> None:
        """Remember when the strategy wants to be woken."""
        self.alarm = at

    def dma_mapped(self, page: Page) -> bool:
        """Say whether the test has put this page into a card's ring."""
        return any(page is mapped for mapped in self.in_ring)

    def copied(self, count: int) -> None:
        """Charge copied payload bytes."""
        self.copied_bytes += count


class Frontend:
    """A real netfront over a guest's memory, and packets to send through it."""

    def __init__(self, *, rx_target: int = 8, queue_max: int = 1000, mac: bytes = GUEST_MAC, domid: int = 1) -> None:
        self.memory = Memory(domid, 1024)
        self.pool = PagePool(self.memory, FIRST_FREE_FRAME, 700)
        self.slab = HeadSlab(self.memory, self.pool)
        self.grants = GrantTable(self.memory, GRANT_FRAME)
        self.effects: list[Effect] = []
        self.netfront = Netfront(
            f"guest{domid}", "backend", self.memory, self.grants, self.pool, self.effects,
            rx_target=rx_target, queue_max=queue_max,
        )  # fmt: skip
        self.keys = self.netfront.connect(mac)
        self.next_frame = 704

    def page(self, data: bytes) -> Page:
        """Return an application's page that begins with *data*."""
        page = Page(self.memory, self.next_frame)
        self.next_frame += 1
        self.memory.write(page.frame, 0, data)
        return page

    def skb(self, head: bytes, pieces: Sequence[bytes] = (), *, gso_size: int = 0) -> SkBuff:
        """Return a packet with *head* in its linear area and one page for each of the pieces."""
        skb = alloc_skb(self.slab)
        skb_put(skb, head)
        for piece in pieces:
            add_frag(skb, Frag(self.page(piece), 0, len(piece)))
        skb.shinfo.gso_size = gso_size
        skb.needs_checksum = False
        return skb

    def send(self, head: bytes, pieces: Sequence[bytes] = (), *, gso_size: int = 0) -> SkBuff:
        """Send a packet and publish it; return it as it lies in the ring."""
        skb = self.skb(head, pieces, gso_size=gso_size)
        self.netfront.xmit(skb, 0)
        self.netfront.flush()
        return skb

    def lie(self, *requests: tuple[int, int, int, int, int]) -> None:
        """Put requests (gref, offset, flags, id, size) into the ring as they are, whatever they claim."""
        for request in requests:
            self.netfront.tx.put_request(*request)
        self.netfront.tx.push_requests()

    def grant(self, data: bytes = b"") -> int:
        """Lend a page that begins with *data* and return its reference."""
        return self.grants.grant_access(DOMAIN_0, self.page(data).frame, True)


class Pair:
    """A netfront and a vif of netback over one memory, with nothing between them."""

    def __init__(
        self, strategy: type[BackendStrategy] = DevZerocopy, *, rx_target: int = 8, queue_max: int = 1000
    ) -> None:
        self.front = Frontend(rx_target=rx_target, queue_max=queue_max)
        self.netfront = self.front.netfront
        self.kernel = Kernel()
        self.kernel.hypervisor.add_domain(self.front.memory, GRANT_FRAME)
        self.strategy = strategy(self.kernel)
        self.effects: list[Effect] = []
        self.vif = Vif("guest1", 1, self.effects)
        assert self.vif.connect(self.front.keys, self.kernel.hypervisor) is None

    def take(self) -> list[SkBuff]:
        """Let netback take whatever it can, and return the packets that it made."""
        skbs = []
        while (packet := self.vif.take_packet()) is not None:
            skb = admit_packet(self.vif, self.strategy, packet)
            if skb is not None:
                skbs.append(skb)
        return skbs

    def finish(self, *skbs: SkBuff) -> None:
        """The stack is through with these packets; netback answers what it may."""
        for skb in skbs:
            kfree_skb(skb)
        self.strategy.settle(self.vif)
        self.vif.push()

    def deliver(self, *frames: bytes) -> list[bytes]:
        """Let frames arrive for the guest; return what netfront makes of them at its interrupt."""
        for frame in frames:
            self.vif.queue_frame(frame)
        self.vif.deliver(self.kernel.hypervisor)
        return self.netfront.interrupt(0)

    def slots(self, grefs: Sequence[int], sizes: Sequence[int]) -> list[TxSlot]:
        """Return slots as netback would have taken them off the ring."""
        assert self.vif.tx is not None
        self.front.lie(*((gref, 0, 0, number, sizes[number]) for number, gref in enumerate(grefs)))
        for _ in grefs:
            self.vif.tx.get_request()
        self.vif.outstanding += len(grefs)
        return [TxSlot(gref, 0, number, size) for number, (gref, size) in enumerate(zip(grefs, sizes, strict=True))]


def nfs_of(client: Client) -> NfsClient:
    """Return a client's remote storage, which is NFS."""
    remote = client.remote
    assert isinstance(remote, NfsClient)
    return remote
