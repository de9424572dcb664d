"""The control ring between netfront and netback: requests about the interface itself, not about packets.

Layouts are those of xen/include/public/io/netif.h: struct xen_netif_ctrl_request (16 bytes), struct
xen_netif_ctrl_response (12 bytes, in the same slot), and struct xen_netif_gref (8 bytes), of which lists of grant
references are made. One page holds 128 slots.
"""

from struct import Struct

from lateack.nodes.memory.pages import PAGE_SIZE, Memory
from lateack.nodes.memory.ring import BackRing, FrontRing

XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE = 8
XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING = 9
XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING = 10

XEN_NETIF_CTRL_STATUS_SUCCESS = 0
XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED = 1
XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER = 2
XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW = 3

XEN_NETIF_CTRLF_GREF_readonly = 1

# id, type, data[3]
CTRL_REQUEST = Struct("<HHIII")
# id, type, status, data
CTRL_RESPONSE = Struct("<HHII")
# grant reference, flags, status
NETIF_GREF = Struct("<IHH")

GREF_LIST_MAX = PAGE_SIZE // NETIF_GREF.size
"""References that one request can name: as many as its page holds."""


class CtrlFrontRing(FrontRing):
    """The guest's end: it asks."""

    __slots__ = ()

    def __init__(self, memory: Memory, frame: int) -> None:
        """Attach to the ring in `frame` of the guest's own memory."""
        super().__init__(memory, frame, CTRL_REQUEST.size)

    def put_request(self, request_id: int, kind: int, *data: int) -> None:
        """Ask something; up to three words say what about, and those that are not given are zero."""
        words = (*data, 0, 0, 0)[:3]
        CTRL_REQUEST.pack_into(self.memory.buffer, self.next_request(), request_id, kind, *words)

    def get_response(self) -> tuple[int, int, int, int]:
        """Take the next answer: (id, type, status, data)."""
        return CTRL_RESPONSE.unpack_from(self.memory.buffer, self.next_response())


class CtrlBackRing(BackRing):
    """The backend's end: it answers."""

    __slots__ = ()

    def __init__(self, memory: Memory, frame: int) -> None:
        """Attach to the ring in `frame` of the guest's memory; raises RingBroken on impossible indices."""
        super().__init__(memory, frame, CTRL_REQUEST.size)

    def get_request(self) -> tuple[int, int, int, int, int]:
        """Take the next request off the ring: (id, type, data[0], data[1], data[2])."""
        return CTRL_REQUEST.unpack_from(self.memory.buffer, self.next_request())

    def put_response(self, request_id: int, kind: int, status: int, data: int) -> None:
        """Answer a request."""
        CTRL_RESPONSE.pack_into(self.memory.buffer, self.next_response(), request_id, kind, status, data)
