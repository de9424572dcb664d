"""The switch by which a rule makes the application write into buffers that are being written."""

from lateack.nodes.application import Copier
from lateack.nodes.facts import RewriteDeferred
from lateack.nodes.storage.page_write import PageWrite
from lateack.nodes.storage.remote import RemoteStorage


class Scribbler:
    """It turns every bit of each buffer whose write the application has not been told is done.

    With stable pages whoever would do that waits until the write is done (wait_for_stable_page, mm/page-writeback.c).
    """

    __slots__ = ("copier", "remote", "waiting_for", "waits")

    def __init__(self, remote: RemoteStorage, copier: Copier, *, waits: bool) -> None:
        self.remote = remote
        self.copier = copier
        self.waits = waits
        self.waiting_for: list[PageWrite] = []

    def on(self) -> None:
        """Rewrite the buffers, or wait for their writes."""
        for write in self.remote.writes_in_flight():
            if write.done or write in self.waiting_for:
                continue
            if self.waits:
                self.waiting_for.append(write)
                self.copier.effects.append(RewriteDeferred(write.xid, write.buffer.index))
            else:
                self.copier.rewrite(write.buffer)

    def written(self, write: PageWrite) -> None:
        """A write is done: whoever waited for it may rewrite its buffer, before it is filled with anything else."""
        if write in self.waiting_for:
            self.waiting_for.remove(write)
            self.copier.rewrite(write.buffer)

    def off(self) -> None:
        """What is written is written."""

    def waiting(self) -> int:
        """Return how many packets wait here: none ever do."""
        return 0
