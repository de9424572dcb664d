"""What the slots of a network ring say, in the bytes of xen/include/public/io/netif.h.

A typed end for each side of each ring. A slot is unpacked once into a tuple of integers and the tuple is what gets
checked and used, so that a guest that rewrites the slot afterwards changes nothing (XSA-155, `RING_COPY_REQUEST`).
"""

from array import array
from struct import Struct

from lateack.nodes.memory.pages import Memory
from lateack.nodes.memory.ring import INDEX_MASK, NO_REQUEST, BackRing, FrontRing

NETTXF_csum_blank = 1
NETTXF_data_validated = 2
NETTXF_more_data = 4
NETTXF_extra_info = 8

NETRXF_data_validated = 1
NETRXF_csum_blank = 2
NETRXF_more_data = 4
NETRXF_extra_info = 8
NETRXF_gso_prefix = 16

NETIF_RSP_DROPPED = -2
NETIF_RSP_ERROR = -1
NETIF_RSP_OKAY = 0
NETIF_RSP_NULL = 1

XEN_NETIF_EXTRA_TYPE_NONE = 0
XEN_NETIF_EXTRA_TYPE_GSO = 1
XEN_NETIF_EXTRA_TYPE_MCAST_ADD = 2
XEN_NETIF_EXTRA_TYPE_MCAST_DEL = 3
XEN_NETIF_EXTRA_TYPE_HASH = 4
XEN_NETIF_EXTRA_TYPE_MAX = 5
XEN_NETIF_EXTRA_FLAG_MORE = 1

XEN_NETIF_GSO_TYPE_NONE = 0
XEN_NETIF_GSO_TYPE_TCPV4 = 1
XEN_NETIF_GSO_TYPE_TCPV6 = 2

XEN_NETIF_NR_SLOTS_MIN = 18
XEN_NETIF_MAX_TX_SIZE = 0xFFFF

# gref, offset, flags, id, size (of the first slot: the whole packet)
TX_REQUEST = Struct("<IHHHH")
# id, status
TX_RESPONSE = Struct("<Hh")
# id, padding, gref
RX_REQUEST = Struct("<HHI")
# id, offset, flags, status (a length where it is not negative)
RX_RESPONSE = Struct("<HHHh")
# type, flags, gso size, gso type, padding, gso features
EXTRA_GSO = Struct("<BBHBBH")

# A slot is the union of request and response.
TX_SLOT_SIZE = TX_REQUEST.size
RX_SLOT_SIZE = RX_REQUEST.size

_put_tx_request = TX_REQUEST.pack_into
_get_tx_request = TX_REQUEST.unpack_from
_put_tx_response = TX_RESPONSE.pack_into
_get_tx_response = TX_RESPONSE.unpack_from
_put_rx_request = RX_REQUEST.pack_into
_get_rx_request = RX_REQUEST.unpack_from
_put_rx_response = RX_RESPONSE.pack_into
_get_rx_response = RX_RESPONSE.unpack_from
_put_extra_gso = EXTRA_GSO.pack_into
_get_extra_gso = EXTRA_GSO.unpack_from


class TxFrontRing(FrontRing):
    """The guest's end of its transmit ring."""

    __slots__ = ()

    def __init__(self, memory: Memory, frame: int) -> None:
        """Attach to the ring in `frame` of the guest's own memory."""
        super().__init__(memory, frame, TX_SLOT_SIZE)

    def put_request(self, gref: int, offset: int, flags: int, request_id: int, size: int) -> None:
        """Ask for a piece of a packet to be sent; `size` of the first piece is that of the whole packet, in bytes.

        Ask `free_requests` before the first piece of a packet.
        """
        index = self.req_prod_pvt
        self.req_prod_pvt = (index + 1) & INDEX_MASK
        slot = self.first_slot + (index & self.mask) * TX_SLOT_SIZE
        _put_tx_request(self.memory.buffer, slot, gref, offset, flags, request_id, size)

    def put_extra_gso(self, gso_size: int, gso_type: int) -> None:
        """Say, in the slot after the first request, how the packet is to be cut: segment size in bytes, GSO type."""
        _put_extra_gso(self.memory.buffer, self.next_request(), XEN_NETIF_EXTRA_TYPE_GSO, 0, gso_size, gso_type, 0, 0)

    def get_response(self) -> tuple[int, int]:
        """Take the next answer: (id, status)."""
        index = self.rsp_cons
        self.rsp_cons = (index + 1) & INDEX_MASK
        return _get_tx_response(self.memory.buffer, self.first_slot + (index & self.mask) * TX_SLOT_SIZE)


class TxBackRing(BackRing):
    """The backend's end of a guest's transmit ring."""

    __slots__ = ()

    def __init__(self, memory: Memory, frame: int) -> None:
        """Attach to the ring in `frame` of the guest's memory; raises RingBroken on impossible indices."""
        super().__init__(memory, frame, TX_SLOT_SIZE)

    def get_request(self) -> tuple[int, int, int, int, int]:
        """Take the next request off the ring: (gref, offset, flags, id, size)."""
        index = self.req_cons
        self.req_cons = (index + 1) & INDEX_MASK
        return _get_tx_request(self.memory.buffer, self.first_slot + (index & self.mask) * TX_SLOT_SIZE)

    def get_extra(self) -> tuple[int, int, int, int, int, int]:
        """Take the next slot as extra information: (type, flags, gso size, gso type, padding, gso features).

        The last four mean something only when the type is XEN_NETIF_EXTRA_TYPE_GSO. Answer it with NETIF_RSP_NULL.
        """
        return _get_extra_gso(self.memory.buffer, self.next_request())

    def put_response(self, request_id: int, status: int) -> None:
        """Answer a request; the answers may come in any order, since the frontend goes by the id."""
        index = self.rsp_prod_pvt
        assert index != self.req_cons, NO_REQUEST
        self.rsp_prod_pvt = (index + 1) & INDEX_MASK
        slot = self.first_slot + (index & self.mask) * TX_SLOT_SIZE
        _put_tx_response(self.memory.buffer, slot, request_id, status)


class RxFrontRing(FrontRing):
    """The guest's end of its receive ring."""

    __slots__ = ()

    def __init__(self, memory: Memory, frame: int) -> None:
        """Attach to the ring in `frame` of the guest's own memory."""
        super().__init__(memory, frame, RX_SLOT_SIZE)

    def put_request(self, request_id: int, gref: int) -> None:
        """Offer a writable frame to receive into: one of the first `size` frames, or one for each response taken."""
        index = self.req_prod_pvt
        self.req_prod_pvt = (index + 1) & INDEX_MASK
        slot = self.first_slot + (index & self.mask) * RX_SLOT_SIZE
        _put_rx_request(self.memory.buffer, slot, request_id, 0, gref)

    def get_response(self) -> tuple[int, int, int, int]:
        """Take the next filled frame: (id, offset, flags, status); status is a length in bytes or a NETIF_RSP < 0."""
        index = self.rsp_cons
        self.rsp_cons = (index + 1) & INDEX_MASK
        return _get_rx_response(self.memory.buffer, self.first_slot + (index & self.mask) * RX_SLOT_SIZE)

    def get_extra(self) -> tuple[int, int, int, int, int, int]:
        """Take the next slot as extra information, as `TxBackRing.get_extra` does; its request's frame was not used."""
        return _get_extra_gso(self.memory.buffer, self.next_response())


class RxBackRing(BackRing):
    """The backend's end of a guest's receive ring.

    A response must go into the slot of its own request (Linux frontends find the buffer by slot), so requests are
    answered in the order in which they were taken. `taken_ids` remembers that order, privately.
    """

    __slots__ = ("taken_ids",)

    def __init__(self, memory: Memory, frame: int) -> None:
        """Attach to the ring in `frame` of the guest's memory; raises RingBroken on impossible indices."""
        super().__init__(memory, frame, RX_SLOT_SIZE)
        self.taken_ids = array("H", bytes(2 * self.size))

    def get_request(self) -> tuple[int, int]:
        """Take the next offered frame off the ring: (id, gref)."""
        index = self.req_cons
        self.req_cons = (index + 1) & INDEX_MASK
        index &= self.mask
        request_id, _, gref = _get_rx_request(self.memory.buffer, self.first_slot + index * RX_SLOT_SIZE)
        self.taken_ids[index] = request_id
        return request_id, gref

    def put_response(self, request_id: int, offset: int, flags: int, status: int) -> None:
        """Answer the oldest request taken: data at `offset`, `status` its length in bytes or a negative NETIF_RSP."""
        index = self.rsp_prod_pvt
        assert index != self.req_cons, NO_REQUEST
        self.rsp_prod_pvt = (index + 1) & INDEX_MASK
        index &= self.mask
        assert self.taken_ids[index] == request_id, "a response missed the slot of its request"
        slot = self.first_slot + index * RX_SLOT_SIZE
        _put_rx_response(self.memory.buffer, slot, request_id, offset, flags, status)

    def put_extra_gso(self, gso_size: int, gso_type: int) -> None:
        """Say, in the slot of a request taken for nothing else, how the packet before it was cut."""
        _put_extra_gso(self.memory.buffer, self.next_response(), XEN_NETIF_EXTRA_TYPE_GSO, 0, gso_size, gso_type, 0, 0)
