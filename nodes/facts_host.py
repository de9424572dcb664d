"""Facts of what lies between an owner's page and the wire: readers that keep packets, and drivers that come and go.

See `facts`, where all of them are gathered.
"""

from lateack.nodes.fact import Fact

# --- readers that keep a packet for later -----------------------------------------------------------------------------


class PacketRead(Fact, frozen=True, gc=False, tag=True):
    """Somebody who had kept a packet has read its bytes: a tap, a local socket, another guest's ring.

    Fields as in `FrameSent`; what was read is judged as what leaves on a wire is.
    """

    place: str
    flow: str
    seq: int
    length: int
    mss: int
    digests: tuple[int, ...]
    pages: tuple[tuple[int, int, int, int], ...] = ()


class PacketsDropped(Fact, frozen=True, gc=False, tag=True):
    """A place gave up packets that had waited there too long, or for which there is no room any more."""

    place: str
    count: int
    reason: str


class CarrierLost(Fact, frozen=True, gc=False, tag=True):
    """A guest took nothing for so long that its interface was switched off (`rx_stall_timeout_msecs`)."""

    guest: str
    waited: int


# --- pages of others --------------------------------------------------------------------------------------------------


class ForeignPageFreed(Fact, frozen=True, gc=False, tag=True):
    """A guest's page went to the host's general allocator, though it is not the host's: nobody will give it back."""

    place: str
    domid: int
    frame: int


class LingeringCopied(Fact, frozen=True, gc=False, tag=True):
    """A page that the stack had kept too long was copied and its grant released; `busy` if a card has it mapped."""

    guest: str
    frame: int
    waited: int
    busy: bool


class BufferRewritten(Fact, frozen=True, gc=False, tag=True):
    """The application rewrote a buffer while the write out of it was still under way."""

    buffer: int
    frames: tuple[int, ...]
    offset: int
    held: int
    holds: int


class HeadersForged(Fact, frozen=True, gc=False, tag=True):
    """The guest changed the headers of so many packets that it had submitted and that were not answered yet."""

    packets: int


class CallAborted(Fact, frozen=True, gc=False, tag=True):
    """The application gave up on a call, by a signal or a soft timeout, before its reply came."""

    xid: int


class HostQueueHit(Fact, frozen=True, gc=False, tag=True):
    """A retransmission was due while an earlier clone was still below TCP (`TCPSpuriousRtxHostQueues`)."""

    flow: str
    seq: int
    suppressed: bool


# --- drivers that come and go -----------------------------------------------------------------------------------------


class VifConnected(Fact, frozen=True, gc=False, tag=True):
    """A guest's virtual interface reached xenbus state Connected at the backend."""

    guest: str
    domid: int


class VifDisabled(Fact, frozen=True, gc=False, tag=True):
    """The backend shut a guest's virtual interface after a request that no honest frontend makes."""

    guest: str
    reason: str


class AccessFault(Fact, frozen=True, gc=False, tag=True):
    """Something touched a page that is no longer mapped, and read poison."""

    place: str
    domid: int
    frame: int


class FrontendBroken(Fact, frozen=True, gc=False, tag=True):
    """netfront found a response for a page that the backend still maps, and disabled itself (XSA-396)."""

    guest: str
    reason: str


class FrontendClosing(Fact, frozen=True, gc=False, tag=True):
    """A frontend detaches itself: it went to xenbus state Closing with so many requests not answered."""

    guest: str
    unanswered: int


class VifDisconnected(Fact, frozen=True, gc=False, tag=True):
    """The backend has let go of a guest's interface: nothing of it is in flight, its rings are unmapped."""

    guest: str
    domid: int


class NetbackDied(Fact, frozen=True, gc=False, tag=True):
    """netback died and its mappings were taken from it by force, with so many packets still in the host's stack."""

    place: str
    in_flight: int


class NetbackRestarted(Fact, frozen=True, gc=False, tag=True):
    """netback is back, knows nothing of before, and offers every frontend to connect anew."""

    place: str


class VbdConnected(Fact, frozen=True, gc=False, tag=True):
    """A guest's virtual disk of so many 512-byte sectors reached xenbus state Connected at the backend."""

    guest: str
    domid: int
    sectors: int


class VbdDisabled(Fact, frozen=True, gc=False, tag=True):
    """The backend processes a guest's block ring no more, after something that no honest frontend does."""

    guest: str
    reason: str


class VbdDisconnected(Fact, frozen=True, gc=False, tag=True):
    """The backend has let go of a guest's disk: nothing of it is in flight, its ring is unmapped."""

    guest: str
    domid: int
