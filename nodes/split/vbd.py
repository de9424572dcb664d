"""The xenbus keys by which the two halves of a block driver find each other (xen/io/blkif.h, xen/io/xenbus.h).

backend InitWait (features) -> frontend writes its keys, Initialised -> backend maps the ring and opens the image,
Connected (sectors) -> frontend Connected ... frontend Closing -> backend lets go, Closed
"""

from lateack.nodes.memory.blkif import SECTOR_SIZE
from lateack.nodes.split.xenbus import EVENT_CHANNEL

GRANT_FRAME, RING_FRAME, FIRST_FREE_FRAME = range(3)
"""Where a guest keeps its grant table and its ring; the toolstack knows the first, xenstore tells the other."""

PROTOCOL = "x86_64-abi"
"""The layout of the ring's slots (`XEN_IO_PROTO_ABI_X86_64`); we speak no other."""

HANDLE = 51712
"""The number of xvda, major 202 and minor 0: what a guest calls its first disk (docs/man/xen-vbd-interface.7)."""

IMAGE_BYTES_MAX = 1 << 40
"""The longest image that is made for a guest."""


def backend_features() -> dict[str, str | int]:
    """Return what the backend publishes before it knows the disk: that it can neither flush nor order writes."""
    return {"feature-barrier": 0, "feature-flush-cache": 0, "feature-persistent": 0}


def frontend_keys(ring_ref: int, image_bytes: int) -> dict[str, str | int]:
    """Return what a frontend publishes under device/vbd/51712.

    The last key is not Xen's. A toolstack would have made the image before the guest started; there is none here, so
    the frontend says how long (bytes) the image is to be.
    """
    return {
        "ring-ref": ring_ref,
        "event-channel": EVENT_CHANNEL,
        "protocol": PROTOCOL,
        "image-bytes": image_bytes,
    }


def disk_keys(image_bytes: int) -> dict[str, str | int]:
    """Return what the backend publishes about the disk; a last sector that the image does not fill counts, too."""
    return {"sectors": sectors_of(image_bytes), "sector-size": SECTOR_SIZE, "info": 0}


def sectors_of(image_bytes: int) -> int:
    """Return how many sectors an image of so many bytes has."""
    return -(-image_bytes // SECTOR_SIZE)
