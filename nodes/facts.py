"""What machines record: typed, immutable facts, past events of one sentence each, from which every verdict is read.

A fact carries what an oracle needs to join on (flow and sequence number, xid, file and offset), never a reference to
live state. Digests are xxh3-64 of the bytes they stand for; sequence numbers are as on the wire; times are ns.
"""

from lateack.nodes.fact import Fact as Fact
from lateack.nodes.facts_host import (
    AccessFault as AccessFault,
    BufferRewritten as BufferRewritten,
    CallAborted as CallAborted,
    CarrierLost as CarrierLost,
    ForeignPageFreed as ForeignPageFreed,
    FrontendBroken as FrontendBroken,
    FrontendClosing as FrontendClosing,
    HeadersForged as HeadersForged,
    HostQueueHit as HostQueueHit,
    LingeringCopied as LingeringCopied,
    NetbackDied as NetbackDied,
    NetbackRestarted as NetbackRestarted,
    PacketRead as PacketRead,
    PacketsDropped as PacketsDropped,
    VbdConnected as VbdConnected,
    VbdDisabled as VbdDisabled,
    VbdDisconnected as VbdDisconnected,
    VifConnected as VifConnected,
    VifDisabled as VifDisabled,
    VifDisconnected as VifDisconnected,
)
from lateack.nodes.facts_storage import (
    AccessRefused as AccessRefused,
    ConnectionCut as ConnectionCut,
    DigestFailed as DigestFailed,
    FrameCaptured as FrameCaptured,
    MemoryInvalidated as MemoryInvalidated,
    MemoryRegistered as MemoryRegistered,
    QueuePairFailed as QueuePairFailed,
    Reconnecting as Reconnecting,
    RewriteDeferred as RewriteDeferred,
    ServerCrashed as ServerCrashed,
    ServerRestarted as ServerRestarted,
    SessionRecovered as SessionRecovered,
    VerifierChanged as VerifierChanged,
    WorkCompleted as WorkCompleted,
    WriteReissued as WriteReissued,
)

# --- the application and its page buffers (guest) ---------------------------------------------------------------------


class WriteIssued(Fact, frozen=True, gc=False, tag=True):
    """The application asked for a file range to be written from one of its page buffers."""

    xid: int
    file: str
    offset: int
    count: int
    digest: int
    buffer: int
    frames: tuple[int, ...]


class CallTransmitted(Fact, frozen=True, gc=False, tag=True):
    """An RPC call was handed to the transport, for the nth time under one xid."""

    xid: int
    proc: int
    transmission: int


class CallTimedOut(Fact, frozen=True, gc=False, tag=True):
    """An RPC call waited longer than its timeout; `major` says that the client reported it or gave up."""

    xid: int
    major: bool


class ReplyMatched(Fact, frozen=True, gc=False, tag=True):
    """A reply arrived whose xid is that of a waiting call; which transmission it answers is not known."""

    xid: int
    proc: int


class CompletionDeferred(Fact, frozen=True, gc=False, tag=True):
    """The reply is here, but the strategy holds the completion back because the stack still uses the pages."""

    xid: int


class WriteCompleted(Fact, frozen=True, gc=False, tag=True):
    """The application was told that its write is done; from here on it may rewrite the buffer."""

    xid: int
    file: str
    offset: int
    count: int
    latency: int


class BufferRefilled(Fact, frozen=True, gc=False, tag=True):
    """The application put the next bytes of its file into the same frames, in place."""

    buffer: int
    frames: tuple[int, ...]
    offset: int
    held: int
    holds: int


class BufferRetired(Fact, frozen=True, gc=False, tag=True):
    """The application has nothing more to put into this buffer: it stays as it is until the end."""

    buffer: int


class CopyFinished(Fact, frozen=True, gc=False, tag=True):
    """The application has written its whole file and closed the connection."""

    file: str
    count: int


class CopyFailed(Fact, frozen=True, gc=False, tag=True):
    """The application gave up; `reason` is a plain sentence."""

    file: str
    reason: str


# --- the transport (guest and server) ---------------------------------------------------------------------------------


class SegmentTransmitted(Fact, frozen=True, gc=False, tag=True):
    """The transport sent stream bytes, with the digests of what they *should* hold, in pieces of `mss` from `seq`.

    The digests are those of the bytes when the owner handed them over, not of the pages now. `intended` holds the bytes
    themselves from the second transmission on, so that a story can be told about them.
    """

    flow: str
    seq: int
    length: int
    mss: int
    transmission: int
    digests: tuple[int, ...]
    intended: bytes = b""


class RetransmitTimedOut(Fact, frozen=True, gc=False, tag=True):
    """The retransmission timer of RFC 6298 expired before the acknowledgement came."""

    flow: str
    seq: int
    rto: int


class FastRetransmitted(Fact, frozen=True, gc=False, tag=True):
    """Three duplicate acknowledgements made the sender repeat a segment."""

    flow: str
    seq: int


class DuplicateDropped(Fact, frozen=True, gc=False, tag=True):
    """The receiver threw away a segment that holds nothing but old data (TCP_OLD_DATA)."""

    flow: str
    seq: int
    length: int
    digest: int


class Connected(Fact, frozen=True, gc=False, tag=True):
    """A connection reached the established state."""

    flow: str


class ConnectionReset(Fact, frozen=True, gc=False, tag=True):
    """A connection was reset by the peer or gave up."""

    flow: str
    reason: str


class FrameDropped(Fact, frozen=True, gc=False, tag=True):
    """A machine could not use a frame: bad checksum, malformed, or no room in a bounded queue."""

    place: str
    reason: str


# --- the backend ------------------------------------------------------------------------------------------------------


class FrameSent(Fact, frozen=True, gc=False, tag=True):
    """A NIC read a packet's bytes and put them on the wire, in pieces of `mss` from `seq`.

    `again` says that this NIC had sent the first byte of the range before; `payload` is then what left now. `pages` are
    the (domain, frame, offset, length) windows that were read.
    """

    place: str
    flow: str
    seq: int
    length: int
    mss: int
    digests: tuple[int, ...]
    again: bool
    pages: tuple[tuple[int, int, int, int], ...] = ()
    payload: bytes = b""


class Parked(Fact, frozen=True, gc=False, tag=True):
    """A packet came to wait behind a closed gate; `again` as in `FrameSent`."""

    place: str
    flow: str
    seq: int
    length: int
    again: bool


class GateClosed(Fact, frozen=True, gc=False, tag=True):
    """A rule closed a gate: nothing passes this place."""

    rule: str
    place: str


class GateOpened(Fact, frozen=True, gc=False, tag=True):
    """A rule opened its gate and the packets behind it went on."""

    rule: str
    place: str
    waiting: int


# --- the network ------------------------------------------------------------------------------------------------------


class FrameHeld(Fact, frozen=True, gc=False, tag=True):
    """A rule of the network kept a frame back."""

    rule: str
    flow: str
    seq: int
    ack: int
    length: int


class FramesReleased(Fact, frozen=True, gc=False, tag=True):
    """A rule of the network let its frames go on."""

    rule: str
    count: int


class FrameLost(Fact, frozen=True, gc=False, tag=True):
    """The network dropped a frame, by its dice or by a rule."""

    link: str
    flow: str
    seq: int
    length: int
    rule: str = ""


# --- the server -------------------------------------------------------------------------------------------------------


class WriteExecuted(Fact, frozen=True, gc=False, tag=True):
    """The server put a WRITE's bytes into a file."""

    xid: int
    client: str
    file: str
    offset: int
    count: int
    digest: int


class DuplicateCall(Fact, frozen=True, gc=False, tag=True):
    """The server saw an xid again; `outcome` is replied, dropped or executed."""

    xid: int
    client: str
    proc: int
    outcome: str
    payload_differs: bool


class FileAtRest(Fact, frozen=True, gc=False, tag=True):
    """What lies in a file of the server at the end, as digests of consecutive chunks."""

    file: str
    length: int
    chunk: int
    digests: tuple[int, ...]


# --- what a run cost and left -----------------------------------------------------------------------------------------


class Counted(Fact, frozen=True, gc=False, tag=True):
    """A counter of a machine at the end of the run."""

    name: str
    amount: int


class LeftOver(Fact, frozen=True, gc=False, tag=True):
    """Something was never given back: grants, pending slots, pages, socket buffers."""

    what: str
    count: int


AnyFact = (
    WriteIssued
    | CallTransmitted
    | CallTimedOut
    | ReplyMatched
    | CompletionDeferred
    | WriteCompleted
    | BufferRefilled
    | BufferRetired
    | CopyFinished
    | CopyFailed
    | SegmentTransmitted
    | RetransmitTimedOut
    | FastRetransmitted
    | DuplicateDropped
    | Connected
    | ConnectionReset
    | FrameDropped
    | FrameSent
    | Parked
    | GateClosed
    | GateOpened
    | VifConnected
    | VifDisabled
    | AccessFault
    | FrontendBroken
    | FrameHeld
    | FramesReleased
    | FrameLost
    | WriteExecuted
    | DuplicateCall
    | FileAtRest
    | Counted
    | LeftOver
    | PacketRead
    | PacketsDropped
    | CarrierLost
    | ForeignPageFreed
    | LingeringCopied
    | BufferRewritten
    | CallAborted
    | HeadersForged
    | HostQueueHit
    | FrontendClosing
    | VifDisconnected
    | NetbackDied
    | NetbackRestarted
    | VbdConnected
    | VbdDisabled
    | VbdDisconnected
    | FrameCaptured
    | ServerCrashed
    | ServerRestarted
    | Reconnecting
    | ConnectionCut
    | WriteReissued
    | VerifierChanged
    | DigestFailed
    | RewriteDeferred
    | SessionRecovered
    | MemoryRegistered
    | MemoryInvalidated
    | AccessRefused
    | WorkCompleted
    | QueuePairFailed
)
