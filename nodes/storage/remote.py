"""What a client's protocol is to its host: some remote storage, to which buffers are written.

The host (`client.Client`) tells it the time, says when frames have come and when its deadline has passed, and gives it
buffers; the application (`Copier`) hears from it that the copy is finished or has failed, and the strategy which
fragments are wanted (`take`) and that the storage has answered (`replied`). NFS, iSCSI, DRBD and Ceph are such.
"""

from lateack.nodes.application import PageBuffer
from lateack.nodes.node import Time
from lateack.nodes.storage.page_write import PageWrite


class RemoteStorage:
    """The door: a protocol overrides it. `payload_bytes` are those of all writes; `finishing` is set near the end."""

    __slots__ = ("finishing", "payload_bytes")

    def __init__(self) -> None:
        self.payload_bytes = 0
        self.finishing = False

    def connect(self, now: Time) -> None:
        """Open the transport, and whatever must be there before the first write; then write the first buffers."""
        raise NotImplementedError

    def received(self, now: Time) -> None:
        """A burst of frames has gone through the stack: take what came for this protocol."""
        raise NotImplementedError

    def write(self, buffer: PageBuffer, now: Time) -> PageWrite:
        """Write what lies in *buffer* to where it belongs; return the write, which is under way now."""
        raise NotImplementedError

    def finish(self, now: Time) -> None:
        """Every byte is written: close what is open, and tell the application when that is done."""
        raise NotImplementedError

    def next_deadline(self) -> Time | None:
        """Return when `timed_out` wants to be called next (ns), if ever."""
        return None

    def timed_out(self, now: Time) -> None:
        """The deadline has passed: send again, connect anew, or give up."""

    def watch(self, now: Time) -> None:
        """A timer of the stack has fired: see what has become of the connection."""

    def writes_in_flight(self) -> list[PageWrite]:
        """Return the writes that have not been answered yet."""
        raise NotImplementedError

    def outstanding(self) -> int:
        """Return how many calls or commands have not been answered, for the audit at the end."""
        return len(self.writes_in_flight())

    def counted(self) -> dict[str, int]:
        """Return what the protocol has counted, by the counters' names."""
        return {}
