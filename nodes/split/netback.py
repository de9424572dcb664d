"""netback: the backend's half of the network driver, one virtual interface per guest (drivers/net/xen-netback).

A request is copied off the ring before it is believed (XSA-155), checked, and handed to the strategy; what the strategy
releases is answered in batches, and only then is the guest kicked. A frontend that lies shuts its own interface, nobody
else's.
"""

from lateack.nodes.errors import MemoryExhausted, RingBroken
from lateack.nodes.facts import FrameDropped, VifDisabled
from lateack.nodes.memory.grants import GRANTS_PER_PAGE
from lateack.nodes.memory.hypervisor import GNTMAP_host_map, GNTST_okay, Hypervisor
from lateack.nodes.memory.netif import (
    NETIF_RSP_ERROR,
    NETIF_RSP_NULL,
    TX_REQUEST,
    XEN_NETIF_EXTRA_FLAG_MORE,
    XEN_NETIF_EXTRA_TYPE_GSO,
    XEN_NETIF_GSO_TYPE_TCPV4,
    XEN_NETIF_NR_SLOTS_MIN,
    NETTXF_csum_blank,
    NETTXF_extra_info,
    NETTXF_more_data,
    RxBackRing,
    TxBackRing,
)
from lateack.nodes.memory.pages import PAGE_SHIFT, PAGE_SIZE, WORDS_PER_PAGE, Memory
from lateack.nodes.memory.ring import INDEX_MASK, REQ_EVENT, full_fence
from lateack.nodes.messages import Notify
from lateack.nodes.node import Effect, Send
from lateack.nodes.split.gref_mappings import GrefMappings
from lateack.nodes.split.netback_rx import RX_QUEUE_BYTES_MAX as RX_QUEUE_BYTES_MAX, GuestReceive
from lateack.nodes.split.xenbus import DOMAIN_0, EVENT_CHANNEL, GRANT_FRAME
from lateack.nodes.stack.skb import SkBuff
from lateack.nodes.strategies.backend import BackendStrategy, TxSlot

MAX_PENDING_REQS = 256
"""Requests that may be unanswered at once, per queue (2014 on); the old pool was one for all guests."""

OUTSTANDING_MAX = MAX_PENDING_REQS - XEN_NETIF_NR_SLOTS_MIN
"""Beyond that another whole packet might not find room, so none is taken."""

FATAL_SKB_SLOTS = 20
"""Slots beyond which a frontend is malicious; one with more than 18 only loses the packet (xenvif_count_requests)."""

GSO_TYPES = (XEN_NETIF_GSO_TYPE_TCPV4,)
XEN_NETIF_EXTRA_TYPE_MAX = 6
ETH_HLEN = 14
CROSSES_PAGE = "a slot crosses the end of its page"


class Clock:
    """The time as the machine that owns some interfaces was last told it (ns)."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0


class FatalRequest(Exception):
    """The guest put something into the ring that no honest frontend does."""


class Vif(GuestReceive):
    """One guest's interface: its rings, its requests that are not answered yet, and its queue of arrived frames."""

    __slots__ = (
        "clock", "kick", "longest_held", "mac", "notifications", "outstanding", "peeked", "polled", "released",
        "staging", "tx", "unpushed",
    )  # fmt: skip

    def __init__(self, guest: str, domid: int, effects: list[Effect], clock: Clock | None = None) -> None:
        super().__init__(guest, domid, effects)
        self.clock = clock or Clock()
        self.longest_held = 0
        self.kick = Send(guest, Notify(EVENT_CHANNEL))
        self.mac = b""
        self.tx: TxBackRing | None = None
        self.staging: GrefMappings | None = None
        self.outstanding = 0
        self.released: list[TxSlot] = []
        self.unpushed = False
        self.notifications = 0
        self.peeked = 0
        self.polled = 0  # packets since its ring was last looked into, where there is a budget

    # --- connecting ---------------------------------------------------------------------------------------------------

    def connect(self, keys: dict[str, str | int], hypervisor: Hypervisor) -> str | None:
        """Map both rings by the grants that the frontend published; return what is wrong with them, if anything."""
        try:
            self.mac = bytes.fromhex(str(keys["mac"]).replace(":", ""))
            refs = [int(keys["tx-ring-ref"]), int(keys["rx-ring-ref"])]
        except (KeyError, ValueError):
            return "the frontend's keys are incomplete"
        if len(self.mac) != 6:
            return "the frontend's keys are incomplete"
        mapped = [hypervisor.map_grant_ref(DOMAIN_0, self.domid, ref, GNTMAP_host_map) for ref in refs]
        problem = self._attach(mapped)
        if problem is not None:
            self.tx = self.rx = None
            hypervisor.unmap_batch(DOMAIN_0, [handle for status, handle, *_ in mapped if status == GNTST_okay])
        return problem

    def connect_control(self, keys: dict[str, str | int], hypervisor: Hypervisor) -> str | None:
        """Map the control ring, by which the frontend lends pages for good; return what is wrong, if anything."""
        staging = GrefMappings(hypervisor, self.domid)
        ref = keys["ctrl-ring-ref"]
        problem = staging.connect(ref) if isinstance(ref, int) else "the frontend's keys are incomplete"
        if problem is None:
            self.staging = staging
        return problem

    def _attach(self, mapped: list[tuple[int, int, Memory | None, int]]) -> str | None:
        """Find the rings in what was mapped; return what is wrong with them, if anything."""
        if any(status != GNTST_okay for status, *_ in mapped):
            return "the rings cannot be mapped"
        memory = mapped[0][2]
        assert memory is not None
        try:
            self.tx = TxBackRing(memory, mapped[0][3])
            self.rx = RxBackRing(memory, mapped[1][3])
        except RingBroken as reason:
            return str(reason)
        self.tx.final_check_for_requests()
        return None

    # --- guest transmit -----------------------------------------------------------------------------------------------

    def take_packet(self) -> tuple[list[TxSlot], int, int] | None:
        """Take one packet off the ring: its slots, its flags and its GSO size; None when none can be taken now."""
        tx = self.tx
        assert tx is not None
        if self.disabled or self.outstanding >= OUTSTANDING_MAX or not tx.unconsumed_requests():
            return None
        gref, offset, flags, request_id, size = tx.get_request()
        gso_size = self._take_extras(tx) if flags & NETTXF_extra_info else 0
        slots = [TxSlot(gref, offset, request_id, size, taken=self.clock.now)]
        if flags & NETTXF_more_data:
            self._take_more(tx, slots)
        elif offset + size > PAGE_SIZE:
            raise FatalRequest(CROSSES_PAGE)
        self.outstanding += len(slots)
        return slots, flags, gso_size

    def await_any(self) -> None:
        """Ask to be kicked for the very next request, although those that wait are not taken: a gate is closed."""
        tx = self.tx
        if tx is not None:
            memory = tx.memory
            memory.words[tx.header + REQ_EVENT] = (tx.req_cons + tx.unconsumed_requests() + 1) & INDEX_MASK
            if memory.shared:
                full_fence()

    def respond(self, slot: TxSlot, status: int) -> None:
        """Answer one request; the guest sees it at the next push. An interface that is gone answers nobody."""
        tx = self.tx
        if tx is None:
            return
        tx.put_response(slot.request_id, status)
        held = self.clock.now - slot.taken
        if held > self.longest_held:
            self.longest_held = held
        self.outstanding -= 1
        self.unpushed = True

    def push(self) -> None:
        """Publish the answers, and kick the guest if it asked for that."""
        if self.unpushed:
            self.unpushed = False
            assert self.tx is not None
            if self.tx.push_responses():
                self.notify()

    def fatal(self, reason: str) -> None:
        """Shut this interface for good (xenvif_fatal_tx_err); what waited for the guest is dropped."""
        self.stop()
        self.effects.append(VifDisabled(self.guest, reason))

    def stop(self) -> None:
        """Take nothing from the guest and bring it nothing any more; what the stack gives back is still answered."""
        self.disabled = True
        self.drop_waiting()

    def end(self) -> None:
        """The rings are about to be unmapped: whatever still refers to this interface meets nobody."""
        self.stop()
        self.tx = self.rx = None
        self.staging = None
        self.released = []
        self.unpushed = False

    def notify(self) -> None:
        """Kick the guest's event channel."""
        self.notifications += 1
        self.effects.append(self.kick)

    def peek_packets(self, memory: Memory, length: int) -> list[tuple[bytes, int]]:
        """Show the first bytes of each packet that came into the ring since the last look, and how many more follow.

        This is the emulator looking on, not netback: nothing is consumed, mapped, or charged to anybody.
        """
        tx = self.tx
        if tx is None:
            return []
        index = self.peeked if (self.peeked - tx.req_cons) & INDEX_MASK <= tx.size else tx.req_cons
        end = (tx.req_cons + tx.unconsumed_requests()) & INDEX_MASK
        if (end - index) & INDEX_MASK > tx.size:
            return []  # the guest took its producer index back
        seen = []
        more = extra = 0
        while index != end:
            gref, offset, flags, _, size = TX_REQUEST.unpack_from(
                memory.buffer, tx.first_slot + (index & tx.mask) * tx.slot_size
            )
            index = (index + 1) & INDEX_MASK
            if extra:
                extra = 0
                continue
            if not more:
                entry = GRANT_FRAME * WORDS_PER_PAGE + gref * 2
                frame = memory.words[entry + 1] if gref < GRANTS_PER_PAGE else memory.frames
                start = (frame << PAGE_SHIFT) + offset
                shown = memory.view[start : start + min(size, length)].tobytes()
                seen.append((shown, size - len(shown)))
            more, extra = flags & NETTXF_more_data, flags & NETTXF_extra_info
        self.peeked = index
        return seen

    def _take_extras(self, tx: TxBackRing) -> int:
        """Take the extra slots behind the first request and answer each with RSP_NULL; return the GSO size."""
        gso_size, flags = 0, XEN_NETIF_EXTRA_FLAG_MORE
        waiting = tx.unconsumed_requests()  # once: each answer makes room for another, and a liar's ring never ends
        while flags & XEN_NETIF_EXTRA_FLAG_MORE:
            waiting -= 1
            if waiting < 0:
                raise FatalRequest("an extra slot is missing")
            kind, flags, size, gso_type, _, _ = tx.get_extra()
            if kind == XEN_NETIF_EXTRA_TYPE_GSO:
                gso_size = size
                if not size or gso_type not in GSO_TYPES:
                    raise FatalRequest("an extra slot says nothing about how to cut the packet")
            elif not 0 < kind < XEN_NETIF_EXTRA_TYPE_MAX:
                raise FatalRequest("an extra slot has a type that there is not")
            tx.put_response(0, NETIF_RSP_NULL)
            self.unpushed = True
        return gso_size

    def _take_more(self, tx: TxBackRing, slots: list[TxSlot]) -> None:
        """Take the slots behind the first, which so far has the size of the whole packet (xenvif_count_requests)."""
        left = slots[0].size
        waiting = tx.unconsumed_requests()
        more = NETTXF_more_data
        while more & NETTXF_more_data:
            if not waiting or len(slots) >= FATAL_SKB_SLOTS:
                raise FatalRequest("a packet has missing or too many slots")
            waiting -= 1
            gref, offset, more, request_id, size = tx.get_request()
            left -= size
            slots.append(TxSlot(gref, offset, request_id, size, taken=slots[0].taken))
        # Linux only drops a packet whose sizes exceed its total; we are stricter, and shut the interface.
        if left < 0:
            raise FatalRequest("the sizes of a packet's slots do not add up")
        slots[0].size = left
        for slot in slots:
            if slot.offset + slot.size > PAGE_SIZE:
                raise FatalRequest(CROSSES_PAGE)


def is_refused(slots: list[TxSlot]) -> bool:
    """Say whether a packet is answered with errors: more slots than the protocol knows, or less than a header."""
    if len(slots) > XEN_NETIF_NR_SLOTS_MIN:
        return True
    return slots[0].size < ETH_HLEN and sum([slot.size for slot in slots]) < ETH_HLEN


def admit_packet(vif: Vif, strategy: BackendStrategy, packet: tuple[list[TxSlot], int, int]) -> SkBuff | None:
    """Hand one packet to the strategy; a bad grant, or want of memory, costs the guest that packet and nothing more."""
    slots, flags, gso_size = packet
    try:
        skb = None if is_refused(slots) else strategy.admit(vif, slots)
    except MemoryExhausted:
        skb = None
        vif.effects.append(FrameDropped(f"{vif.guest}.vif", "the host has no memory left for a guest's packet"))
    if skb is None:
        for slot in slots:
            vif.respond(slot, NETIF_RSP_ERROR)
        return None
    if gso_size:
        skb.shinfo.gso_size = gso_size
    skb.needs_checksum = flags & NETTXF_csum_blank != 0
    return skb
