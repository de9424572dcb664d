"""The guest-receive half of netback: what arrives for a guest waits here until it offers buffers, and not for ever.

Frames from the wire come as bytes. Packets of other guests come as socket buffers, and may show those guests' pages:
they are read only when they are copied into a receive buffer. Hence the bounds: a queue of 512 KiB (f48da8b14d04), ten
seconds in it (093507885ae5, so that foreign pages go home), and no carrier after a minute (ecf08d2dbb96).

Source: drivers/net/xen-netback/rx.c. Where we differ: a packet's checksum is finished when its bytes are read, as if
the frontend had published feature-no-csum-offload, and so a page of another guest is read through its mapping, where
Linux names the source's grant (GNTCOPY_source_gref). A packet whose page is no longer mapped is dropped.
"""

from collections import deque

from lateack.nodes.facts import CarrierLost, FrameDropped, PacketsDropped
from lateack.nodes.memory.hypervisor import GNTST_okay, Hypervisor
from lateack.nodes.memory.netif import NETIF_RSP_ERROR, NETRXF_data_validated, NETRXF_more_data, RxBackRing
from lateack.nodes.memory.pages import PAGE_SIZE
from lateack.nodes.memory.ring import INDEX_MASK, REQ_EVENT, full_fence
from lateack.nodes.node import Effect, S, Time
from lateack.nodes.split.xenbus import DOMAIN_0
from lateack.nodes.stack.readers import faults, read_frame
from lateack.nodes.stack.skb import SkBuff, kfree_skb, skb_length

RX_QUEUE_BYTES_MAX = 512 * 1024
"""Bytes that may wait for a guest's receive buffers before frames are dropped (f48da8b14d04)."""

RX_DRAIN_TIMEOUT: Time = 10 * S
RX_STALL_TIMEOUT: Time = 60 * S


class GuestReceive:
    """The receive half of one guest's interface; `Vif` adds the half that takes what the guest sends."""

    __slots__ = (
        "carrier_off", "disabled", "domid", "effects", "guest", "rx", "rx_armed", "rx_arrivals", "rx_bytes", "rx_queue",
        "rx_waits_since",
    )  # fmt: skip

    def __init__(self, guest: str, domid: int, effects: list[Effect]) -> None:
        self.guest = guest
        self.domid = domid
        self.effects = effects
        self.rx: RxBackRing | None = None
        self.disabled = False
        self.carrier_off = False
        self.rx_queue: deque[bytes | SkBuff] = deque()
        self.rx_bytes = 0
        self.rx_arrivals: deque[Time] = deque()  # of those that were still here at the end of an event, first to last
        self.rx_waits_since: Time = -1
        self.rx_armed = False

    def notify(self) -> None:
        """Kick the guest's event channel."""
        raise NotImplementedError

    # --- what arrives -------------------------------------------------------------------------------------------------

    def queue_frame(self, frame: bytes) -> None:
        """Let a frame wait for receive buffers; beyond the bound it is dropped."""
        if self.disabled or self.carrier_off:
            return
        waiting = self.rx_bytes + len(frame)
        if waiting > RX_QUEUE_BYTES_MAX:
            self.effects.append(FrameDropped(f"{self.guest}.vif", "the guest's receive queue is full"))
            return
        self.rx_bytes = waiting
        self.rx_queue.append(frame)

    def queue_packet(self, skb: SkBuff) -> None:
        """Let another guest's packet wait, which nobody has read yet; what cannot wait is freed."""
        waiting = self.rx_bytes + skb_length(skb)
        if self.disabled or self.carrier_off:
            kfree_skb(skb)
        elif waiting > RX_QUEUE_BYTES_MAX:
            self.effects.append(FrameDropped(f"{self.guest}.vif", "the guest's receive queue is full"))
            kfree_skb(skb)
        else:
            self.rx_bytes = waiting
            self.rx_queue.append(skb)

    def drop_waiting(self) -> None:
        """Let go of everything that waits: the interface is going away."""
        waiting = self.rx_queue
        self.rx_queue = deque()
        self.rx_bytes = 0
        self.rx_arrivals.clear()
        self.rx_waits_since = -1
        for each in waiting:
            if not isinstance(each, bytes):
                kfree_skb(each)

    # --- what waits too long ------------------------------------------------------------------------------------------

    def deadline(self, now: Time, drain: Time, stall: Time) -> Time | None:
        """The end of an event, and something still waits: take note, and return when to call `expire`, if it is new.

        A packet may stay for *drain* ns, and the guest may take nothing for *stall* ns.
        """
        if self.rx_waits_since < 0:
            self.rx_waits_since = now
        arrivals = self.rx_arrivals
        while len(arrivals) < len(self.rx_queue):
            arrivals.append(now)
        if self.rx_armed:
            return None  # an earlier wake-up is on its way, and asks again
        self.rx_armed = True
        expires = arrivals[0] + drain
        return expires if self.carrier_off else min(expires, self.rx_waits_since + stall)

    def expire(self, now: Time, drain: Time, stall: Time) -> None:
        """Drop what has waited too long, and switch the carrier off if the guest has taken nothing for too long."""
        self.rx_armed = False
        arrivals = self.rx_arrivals
        waited = now - self.rx_waits_since
        if arrivals and waited >= stall and not self.carrier_off:
            self.carrier_off = True
            self.effects.append(CarrierLost(self.guest, waited))
        expired = 0
        while arrivals and now - arrivals[0] >= drain:
            arrivals.popleft()
            self._let_go(self.rx_queue.popleft())
            expired += 1
        if expired:
            reason = "the guest offered no receive buffers for them in time"
            self.effects.append(PacketsDropped(f"{self.guest}.vif", expired, reason))

    def look_for_buffers(self) -> None:
        """The guest has kicked: if it offers buffers again, its carrier comes back (xenvif_queue_carrier_on)."""
        if self.rx is not None and self.rx.unconsumed_requests():
            self.carrier_off = False
            self.rx_waits_since = -1

    def _let_go(self, packet: bytes | SkBuff) -> None:
        if isinstance(packet, bytes):
            self.rx_bytes -= len(packet)
        else:
            self.rx_bytes -= skb_length(packet)
            kfree_skb(packet)

    # --- into the guest -----------------------------------------------------------------------------------------------

    def deliver(self, hypervisor: Hypervisor) -> None:
        """Copy waiting frames into the guest's receive buffers (GNTTABOP_copy into the granted frames)."""
        rx = self.rx
        if rx is None or not self.rx_queue or self.disabled:
            return
        queue = self.rx_queue
        delivered = 0
        while queue:
            first = queue[0]
            length = len(first) if isinstance(first, bytes) else skb_length(first)
            needed = 1 if length <= PAGE_SIZE else -(-length // PAGE_SIZE)
            if rx.unconsumed_requests() < needed and not self._await_buffers(rx, needed):
                break
            self.rx_bytes -= length
            delivered += 1
            queue.popleft()
            frame = first if isinstance(first, bytes) else self._read(first)
            if not frame:
                continue
            if needed == 1:
                self._put_piece(rx, frame, NETRXF_data_validated, hypervisor)
            else:
                self._put_frame(rx, frame, hypervisor)
        if delivered:
            if self.rx_waits_since >= 0 or self.rx_arrivals:
                self._waited_no_longer(delivered)
            if rx.push_responses():
                self.notify()

    def _waited_no_longer(self, delivered: int) -> None:
        """Forget since when those waited that the guest has now."""
        self.rx_waits_since = -1
        arrivals = self.rx_arrivals
        for _ in range(min(delivered, len(arrivals))):
            arrivals.popleft()

    def _read(self, skb: SkBuff) -> bytes:
        """Read another guest's packet, now that there is a buffer for it, and let go of it."""
        place = f"{self.guest}.vif"
        if faults(skb, place, self.effects):
            return b""
        frame, fact = read_frame(skb, place)
        kfree_skb(skb)
        if fact.length:
            self.effects.append(fact)
        return frame

    def _await_buffers(self, rx: RxBackRing, needed: int) -> bool:
        """Ask to be kicked when the guest offers more buffers, then look once more."""
        memory = rx.memory
        memory.words[rx.header + REQ_EVENT] = (rx.req_cons + needed) & INDEX_MASK
        if memory.shared:
            full_fence()
        return rx.unconsumed_requests() >= needed

    def _put_frame(self, rx: RxBackRing, frame: bytes, hypervisor: Hypervisor) -> None:
        """Put a frame longer than a page in pieces, each of which says whether more follows."""
        for start in range(0, len(frame), PAGE_SIZE):
            more = NETRXF_more_data if start + PAGE_SIZE < len(frame) else 0
            self._put_piece(rx, frame[start : start + PAGE_SIZE], NETRXF_data_validated | more, hypervisor)

    def _put_piece(self, rx: RxBackRing, piece: bytes, flags: int, hypervisor: Hypervisor) -> None:
        request_id, gref = rx.get_request()
        status = hypervisor.copy_to_grant(DOMAIN_0, self.domid, gref, 0, piece)
        rx.put_response(request_id, 0, flags, len(piece) if status == GNTST_okay else NETIF_RSP_ERROR)
