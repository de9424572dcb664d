"""What happens to storage besides reads and writes: restarts, new connections, failed digests, refused accesses.

See `facts`, by which every fact is imported; and the frames that a capture has seen, which are no part of a trace.
"""

from lateack.nodes.fact import Fact


class FrameCaptured(Fact, frozen=True, gc=False, tag=True):
    """A frame passed one end of a link: it left the machine `end` for the network (`outbound`), or arrived there."""

    end: str
    outbound: bool
    frame: bytes


class ServerCrashed(Fact, frozen=True, gc=False, tag=True):
    """A server died: its connections, its request cache and whatever it had not made stable are gone."""

    place: str


class ServerRestarted(Fact, frozen=True, gc=False, tag=True):
    """A server is back, over the same disk; `verifier` is by which clients tell it from the one before."""

    place: str
    verifier: bytes


class Reconnecting(Fact, frozen=True, gc=False, tag=True):
    """A client connects anew, from local port `port`, and will send again whatever was not answered."""

    port: int
    reason: str


class ConnectionCut(Fact, frozen=True, gc=False, tag=True):
    """A rule of the network told the sender of a frame that its connection is gone, as a forgetful firewall does."""

    rule: str
    flow: str


class WriteReissued(Fact, frozen=True, gc=False, tag=True):
    """A write of the application goes on under another number of its protocol; the same bytes are meant."""

    former: int
    xid: int


class VerifierChanged(Fact, frozen=True, gc=False, tag=True):
    """A COMMIT came back under another verifier than its WRITE: the bytes may be lost, and are sent again."""

    xid: int
    offset: int
    count: int


class DigestFailed(Fact, frozen=True, gc=False, tag=True):
    """A receiver's sum over a payload is not the sender's; `action` is what it does about it."""

    place: str
    protocol: str
    xid: int
    offset: int
    count: int
    digest: int
    action: str


class SessionRecovered(Fact, frozen=True, gc=False, tag=True):
    """An initiator or a replicating peer has logged in anew and sends what was not answered again."""

    protocol: str
    commands: int


class RewriteDeferred(Fact, frozen=True, gc=False, tag=True):
    """Who would rewrite a buffer that is being written under `xid` waits until that is done: its pages are stable."""

    xid: int
    buffer: int


class MemoryRegistered(Fact, frozen=True, gc=False, tag=True):
    """A host let its adapter, and whoever knows `rkey`, read these frames."""

    xid: int
    rkey: int
    frames: tuple[int, ...]


class MemoryInvalidated(Fact, frozen=True, gc=False, tag=True):
    """Nobody may read by this key any more."""

    xid: int
    rkey: int


class AccessRefused(Fact, frozen=True, gc=False, tag=True):
    """An adapter refused a remote read: the key is not, or no longer, valid."""

    place: str
    rkey: int


class WorkCompleted(Fact, frozen=True, gc=False, tag=True):
    """A send's last packet was acknowledged: the adapter has no more use for the memory it came from."""

    xid: int
    psn: int


class QueuePairFailed(Fact, frozen=True, gc=False, tag=True):
    """A queue pair went into the error state, and with it every work request that was not complete."""

    place: str
    reason: str
