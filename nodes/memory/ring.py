"""Xen's shared ring: one page in which a frontend puts requests and a backend puts the responses in the same slots.

Layout and rules are those of xen/include/public/io/ring.h: four 32-bit index words, then slots from byte 64 on. Indices
run freely modulo 2^32; slot `index & (size - 1)`. Each side keeps private indices and publishes a whole burst at once.
The generic rings hand out byte addresses of slots; `netif` says what is in them.
"""

import threading

from lateack.nodes.errors import RingBroken
from lateack.nodes.memory.pages import PAGE_SHIFT, PAGE_SIZE, WORDS_PER_PAGE, Memory

REQ_PROD = 0
REQ_EVENT = 1
RSP_PROD = 2
RSP_EVENT = 3
RING_HEADER_SIZE = 64
INDEX_MASK = 0xFFFFFFFF
NO_REQUEST = "a response was put for which no request was taken"


def full_fence() -> None:
    """Let no later load overtake an earlier store (Xen's `mb()`).

    Even x86 lets a load overtake a store to another word: each side could publish its index, still read the other's old
    event or index, and both would sleep. Needed only where processes share the memory, so callers ask `memory.shared`.
    """
    # Taking a free lock is a lock-prefixed instruction on x86, and so a full barrier: the only one that Python offers.
    # The lock is new each time, so that no thread and no interrupted caller of ours can be holding it.
    threading.Lock().acquire()


def ring_size(slot_size: int) -> int:
    """Count the slots of one page: the greatest power of two that fits after the header (`__CONST_RING_SIZE`)."""
    return 1 << (((PAGE_SIZE - RING_HEADER_SIZE) // slot_size).bit_length() - 1)


def init_shared_ring(memory: Memory, frame: int) -> None:
    """Make a frame an empty ring: producers 0, events 1, padding zero (`SHARED_RING_INIT`; the frontend does it)."""
    memory.write(frame, 0, bytes(RING_HEADER_SIZE))
    header = frame * WORDS_PER_PAGE
    memory.words[header + REQ_EVENT] = 1
    memory.words[header + RSP_EVENT] = 1


class SharedRing:
    """What both sides know of a ring: its page, its slots, and where the index words lie."""

    __slots__ = ("first_slot", "header", "mask", "memory", "size", "slot_size")

    def __init__(self, memory: Memory, frame: int, slot_size: int) -> None:
        """Find the ring in `frame` of `memory`, with slots of `slot_size` bytes."""
        self.memory = memory
        self.header = frame * WORDS_PER_PAGE
        self.first_slot = (frame << PAGE_SHIFT) + RING_HEADER_SIZE
        self.slot_size = slot_size
        self.size = ring_size(slot_size)
        self.mask = self.size - 1


class FrontRing(SharedRing):
    """The frontend's end: it produces requests and consumes responses."""

    __slots__ = ("req_prod_pvt", "rsp_cons")

    def __init__(self, memory: Memory, frame: int, slot_size: int) -> None:
        """Attach where the shared indices stand; the ring must have been initialised (`init_shared_ring`)."""
        super().__init__(memory, frame, slot_size)
        self.req_prod_pvt = memory.words[self.header + REQ_PROD]
        self.rsp_cons = memory.words[self.header + RSP_PROD]

    def free_requests(self) -> int:
        """Count the slots that can take a request now (`RING_FREE_REQUESTS`)."""
        return self.size - ((self.req_prod_pvt - self.rsp_cons) & INDEX_MASK)

    def next_request(self) -> int:
        """Take the next slot for a request and return its byte address; the backend sees it after `push_requests`."""
        index = self.req_prod_pvt
        assert (index - self.rsp_cons) & INDEX_MASK < self.size, "a request was put into a full ring"
        self.req_prod_pvt = (index + 1) & INDEX_MASK
        return self.first_slot + (index & self.mask) * self.slot_size

    def push_requests(self) -> bool:
        """Publish all requests put so far; True when the backend asked to be notified of one of them.

        `RING_PUSH_REQUESTS_AND_CHECK_NOTIFY`. The slots were stored before the index; x86 and CPython keep that order.
        """
        words = self.memory.words
        header = self.header
        old = words[header]
        new = self.req_prod_pvt
        words[header] = new
        if self.memory.shared:
            full_fence()
        return (new - words[header + REQ_EVENT]) & INDEX_MASK < (new - old) & INDEX_MASK

    def unconsumed_responses(self) -> int:
        """Count the responses that wait (`RING_HAS_UNCONSUMED_RESPONSES`)."""
        return (self.memory.words[self.header + RSP_PROD] - self.rsp_cons) & INDEX_MASK

    def responses_overflowed(self) -> bool:
        """Tell whether the backend claims more responses than there are slots (`RING_RESPONSE_PROD_OVERFLOW`)."""
        return self.unconsumed_responses() > self.size

    def next_response(self) -> int:
        """Consume the next response and return its byte address; ask `unconsumed_responses` first."""
        index = self.rsp_cons
        self.rsp_cons = (index + 1) & INDEX_MASK
        return self.first_slot + (index & self.mask) * self.slot_size

    def final_check_for_responses(self) -> int:
        """Ask to be notified of the next response, then count once more (`RING_FINAL_CHECK_FOR_RESPONSES`).

        Without the second count a response that came in between would wait for ever.
        """
        memory, header, cons = self.memory, self.header, self.rsp_cons
        words = memory.words
        waiting = words[header + RSP_PROD] - cons
        if not waiting:
            words[header + RSP_EVENT] = (cons + 1) & INDEX_MASK
            if memory.shared:
                full_fence()
            waiting = words[header + RSP_PROD] - cons
        return waiting & INDEX_MASK


class BackRing(SharedRing):
    """The backend's end: it consumes requests and produces responses."""

    __slots__ = ("req_cons", "rsp_prod_pvt")

    def __init__(self, memory: Memory, frame: int, slot_size: int) -> None:
        """Attach where the last backend stopped answering; raises RingBroken when the indices are impossible.

        `BACK_RING_ATTACH` from the shared rsp_prod, and the check that netback makes in `xenvif_connect_data`.
        """
        super().__init__(memory, frame, slot_size)
        start = memory.words[self.header + RSP_PROD]
        requests = (memory.words[self.header + REQ_PROD] - start) & INDEX_MASK
        if requests > self.size:
            raise RingBroken(
                f"domain {memory.domid} offers a ring of {self.size} slots with {requests} requests outstanding: "
                "do not connect this frontend; let it initialise the ring again"
            )
        self.req_cons = start
        self.rsp_prod_pvt = start

    def unconsumed_requests(self) -> int:
        """Count the requests that can be taken and answered now (`RING_HAS_UNCONSUMED_REQUESTS`)."""
        cons = self.req_cons
        produced = self.memory.words[self.header]
        if produced == cons:
            return 0
        requests = (produced - cons) & INDEX_MASK
        room = self.size - ((cons - self.rsp_prod_pvt) & INDEX_MASK)
        if requests > room:
            return room
        return requests

    def requests_overflowed(self) -> bool:
        """Tell whether the frontend claims more requests than there are slots (`RING_REQUEST_PROD_OVERFLOW`)."""
        return (self.memory.words[self.header] - self.rsp_prod_pvt) & INDEX_MASK > self.size

    def next_request(self) -> int:
        """Consume the next request and return its byte address; ask `unconsumed_requests` first."""
        index = self.req_cons
        self.req_cons = (index + 1) & INDEX_MASK
        return self.first_slot + (index & self.mask) * self.slot_size

    def final_check_for_requests(self) -> int:
        """Ask to be notified of the next request, then count once more (`RING_FINAL_CHECK_FOR_REQUESTS`)."""
        memory, header, cons = self.memory, self.header, self.req_cons
        words = memory.words
        if words[header] != cons:
            waiting = self.unconsumed_requests()
            if waiting:
                return waiting
        words[header + REQ_EVENT] = (cons + 1) & INDEX_MASK
        if memory.shared:
            full_fence()
        return self.unconsumed_requests() if words[header] != cons else 0

    def next_response(self) -> int:
        """Take the slot of the oldest unanswered request for a response and return its byte address."""
        index = self.rsp_prod_pvt
        assert index != self.req_cons, NO_REQUEST
        self.rsp_prod_pvt = (index + 1) & INDEX_MASK
        return self.first_slot + (index & self.mask) * self.slot_size

    def push_responses(self) -> bool:
        """Publish all responses put so far; True when the frontend asked to be notified of one of them."""
        words = self.memory.words
        header = self.header
        old = words[header + RSP_PROD]
        new = self.rsp_prod_pvt
        words[header + RSP_PROD] = new
        if self.memory.shared:
            full_fence()
        return (new - words[header + RSP_EVENT]) & INDEX_MASK < (new - old) & INDEX_MASK
