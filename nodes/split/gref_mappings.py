"""netback's half of staging grants: the pages that a guest lends once and for all, by their references.

A frontend that knows which pages it will send from has them mapped through the control ring when it connects. A request
that names one of them later needs no grant operation, and no TLB flush when it is over.

Source: xen's docs/misc/netif-staging-grants.pandoc (revision 4, 2017), netif.h, and the netback series of Joao Martins
(2015-17), in which each mapping is counted: the table's own reference, and one for each packet that shows the page.
"""

from lateack.nodes.errors import RingBroken
from lateack.nodes.memory.hypervisor import GNTMAP_host_map, GNTMAP_readonly, GNTST_okay, Hypervisor
from lateack.nodes.memory.pages import PAGE_SHIFT, Memory, Page
from lateack.nodes.split.control_ring import (
    GREF_LIST_MAX,
    NETIF_GREF,
    XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER,
    XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED,
    XEN_NETIF_CTRL_STATUS_SUCCESS,
    XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING,
    XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING,
    XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE,
    CtrlBackRing,
    XEN_NETIF_CTRLF_GREF_readonly,
)
from lateack.nodes.split.xenbus import DOMAIN_0
from lateack.nodes.stack.lifetime import unmap_page

GREF_MAPPING_SIZE = 256
"""Pages that a guest may keep mapped for each queue (`xenvif_gref_mapping_size`)."""


class GrefMapping:
    """One page that stays mapped (`struct xenvif_grant`): who refers to the mapping, and where it is mapped."""

    __slots__ = ("handle", "page", "ref", "refcount")

    def __init__(self, ref: int, handle: int, page: Page) -> None:
        self.ref = ref
        self.handle = handle
        self.page = page
        self.refcount = 1


class GrefMappings:
    """The table of one guest, and the control ring through which the guest fills it."""

    __slots__ = ("domid", "entries", "hypervisor", "ring", "ring_handle")

    def __init__(self, hypervisor: Hypervisor, domid: int) -> None:
        self.hypervisor = hypervisor
        self.domid = domid
        self.ring: CtrlBackRing | None = None
        self.ring_handle = -1
        self.entries: dict[int, GrefMapping] = {}

    def connect(self, ring_ref: int) -> str | None:
        """Map the control ring; return what is wrong with it, if anything."""
        _, handle, memory, frame = self.hypervisor.map_grant_ref(DOMAIN_0, self.domid, ring_ref, GNTMAP_host_map)
        if memory is None:
            return "the control ring cannot be mapped"
        try:
            self.ring = CtrlBackRing(memory, frame)
        except RingBroken as reason:
            self.hypervisor.unmap_batch(DOMAIN_0, [handle])
            return str(reason)
        self.ring_handle = handle
        self.ring.final_check_for_requests()
        return None

    def serve(self) -> bool:
        """Answer every request on the control ring (`xenvif_ctrl_action`); True when the guest asked to be kicked."""
        ring = self.ring
        if ring is None or ring.requests_overflowed():
            return False
        waiting = ring.unconsumed_requests()
        while waiting:
            for _ in range(waiting):
                request_id, kind, *data = ring.get_request()
                status, answer = self._answer(kind, data)
                ring.put_response(request_id, kind, status, answer)
            waiting = ring.final_check_for_requests()
        return ring.push_responses()

    def find(self, refs: list[int]) -> list[GrefMapping] | None:
        """Return the mappings of all these references, or None unless every one of them is mapped here."""
        found = [self.entries.get(ref) for ref in refs]
        whole = [mapping for mapping in found if mapping is not None]
        return whole if len(whole) == len(found) else None

    def get(self, mapping: GrefMapping) -> None:
        """A packet shows this page (`xenvif_get_grant`)."""
        mapping.refcount += 1

    def put(self, mapping: GrefMapping) -> None:
        """One user less (`xenvif_put_grant`); the last one undoes the mapping."""
        mapping.refcount -= 1
        assert mapping.refcount >= 0, "a mapping was put more often than it was taken"
        if not mapping.refcount:
            self._unmap(mapping)

    def close(self) -> None:
        """The interface goes: unmap the ring and all that no packet shows; the rest follows with its last packet."""
        for mapping in list(self.entries.values()):
            self.put(mapping)
        self.entries.clear()
        if self.ring is not None:
            self.ring = None
            self.hypervisor.unmap_batch(DOMAIN_0, [self.ring_handle])

    def pins(self) -> int:
        """Return how many pins on the guest's frames belong to a connected interface: ring and table."""
        return len(self.entries) + (self.ring is not None)

    def _answer(self, kind: int, data: list[int]) -> tuple[int, int]:
        """Return (status, data) for one request; this netback has one queue, number 0."""
        queue, list_ref, count = data
        if kind not in (
            XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE,
            XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING,
            XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING,
        ):
            return XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED, 0
        if queue:
            return XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER, 0
        if kind == XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE:
            return XEN_NETIF_CTRL_STATUS_SUCCESS, GREF_MAPPING_SIZE - len(self.entries)
        if not 0 < count <= GREF_LIST_MAX:
            return XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER, 0
        status, handle, memory, frame = self.hypervisor.map_grant_ref(DOMAIN_0, self.domid, list_ref, GNTMAP_host_map)
        if status != GNTST_okay or memory is None:
            return XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER, 0
        if kind == XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING:
            answer = self._add(memory, frame, count)
        else:
            answer = self._delete(memory, frame, count)
        self.hypervisor.unmap_batch(DOMAIN_0, [handle])
        return answer

    def _add(self, memory: Memory, frame: int, count: int) -> tuple[int, int]:
        """Map every page of the list, or none of them."""
        if len(self.entries) + count > GREF_MAPPING_SIZE:
            return XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER, 0
        mapped: list[GrefMapping] = []
        for number in range(count):
            ref, flags, _ = NETIF_GREF.unpack_from(memory.buffer, (frame << PAGE_SHIFT) + number * NETIF_GREF.size)
            mapping = None if ref in self.entries else self._map(ref, flags & XEN_NETIF_CTRLF_GREF_readonly)
            if mapping is None:
                for earlier in mapped:
                    del self.entries[earlier.ref]
                    self._unmap(earlier)
                return XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER, 0
            self.entries[ref] = mapping
            mapped.append(mapping)
        return XEN_NETIF_CTRL_STATUS_SUCCESS, count

    def _delete(self, memory: Memory, frame: int, count: int) -> tuple[int, int]:
        """Unmap what of the list is mapped and not in use, and write into each entry whether it was."""
        deleted = 0
        for number in range(count):
            at = (frame << PAGE_SHIFT) + number * NETIF_GREF.size
            ref, flags, _ = NETIF_GREF.unpack_from(memory.buffer, at)
            mapping = self.entries.get(ref)
            status = XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER
            if mapping is not None and mapping.refcount == 1:
                del self.entries[ref]
                self._unmap(mapping)
                deleted += 1
                status = XEN_NETIF_CTRL_STATUS_SUCCESS
            NETIF_GREF.pack_into(memory.buffer, at, ref, flags, status)
        return (XEN_NETIF_CTRL_STATUS_SUCCESS if deleted else XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER), deleted

    def _map(self, ref: int, readonly: int) -> GrefMapping | None:
        flags = GNTMAP_host_map | (GNTMAP_readonly if readonly else 0)
        _, handle, memory, frame = self.hypervisor.map_grant_ref(DOMAIN_0, self.domid, ref, flags)
        return None if memory is None else GrefMapping(ref, handle, Page(memory, frame))

    def _unmap(self, mapping: GrefMapping) -> None:
        statuses = self.hypervisor.unmap_batch(DOMAIN_0, [mapping.handle])
        assert not any(statuses), "a staging grant was unmapped twice"
        unmap_page(mapping.page)
