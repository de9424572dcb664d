"""The hypercalls' own structures in Xen's bytes, for a frontend or backend that is not ours.

Layouts are those of xen/include/public/grant_table.h on a 64-bit machine, padding included.
"""

from struct import Struct

GNTTABOP_map_grant_ref = 0
GNTTABOP_unmap_grant_ref = 1
GNTTABOP_copy = 5
GNTTABOP_unmap_and_replace = 7

# host_addr, flags, ref, dom, status, handle, dev_bus_addr
MAP_GRANT_REF = Struct("<QIIHhIQ")
# host_addr, dev_bus_addr, handle, status
UNMAP_GRANT_REF = Struct("<QQIh2x")
# source (gref or frame, domid, offset), dest (the same), len, flags, status
COPY = Struct("<QHH4xQHH4xHHh2x")
# host_addr, new_addr, handle, status
UNMAP_AND_REPLACE = Struct("<QQIh2x")
