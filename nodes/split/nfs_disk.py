"""A disk whose image is a file on an NFS server: the device towards the guest, the mount behind it, and its life.

Each request that the device takes becomes one WRITE of the mount, whose windows are the guest's mapped pages. The
strategy says when a write is done; the device then unmaps the pages and answers.
"""

from lateack.nodes.facts import WriteCompleted
from lateack.nodes.memory.blkif import BLKIF_RSP_ERROR, BLKIF_RSP_OKAY
from lateack.nodes.nfs.nfs_client import NfsClient, NfsWrite
from lateack.nodes.node import Time
from lateack.nodes.split.blkback import BlkWrite, Vbd
from lateack.nodes.split.xenbus import CLOSED, CLOSING, CONNECTED, INIT_WAIT, INITIALISED


class NfsDisk:
    """One guest's disk; `writes` are those under way, `state` is the backend's xenbus state."""

    __slots__ = ("given_up", "nfs", "state", "vbd", "writes")

    def __init__(self, vbd: Vbd, nfs_client: NfsClient) -> None:
        self.vbd = vbd
        self.nfs = nfs_client
        self.writes: dict[BlkWrite, NfsWrite] = {}
        self.state = INIT_WAIT
        self.given_up = False

    # --- requests -----------------------------------------------------------------------------------------------------

    def take_requests(self, now: Time) -> None:
        """The guest has kicked: begin a WRITE for every request that is sound."""
        if self.state == CONNECTED:
            for write in self.vbd.take():
                self.writes[write] = self.nfs.write(write, now)

    def complete(self, write: NfsWrite, now: Time) -> None:
        """The strategy calls a write done: unmap its pages and answer; one that was given up has failed."""
        taken = write.buffer
        assert isinstance(taken, BlkWrite)
        del self.writes[taken]
        if not write.aborted:
            file = self.vbd.image.file
            self.nfs.effects.append(WriteCompleted(write.xid, file, write.offset, write.count, now - write.issued_at))
        self.vbd.finish(taken, BLKIF_RSP_ERROR if write.aborted else BLKIF_RSP_OKAY)

    # --- its life -----------------------------------------------------------------------------------------------------

    def frontend_changed(self, state: int, keys: dict[str, str | int]) -> None:
        """Follow the frontend's xenbus state (`frontend_changed`, drivers/block/xen-blkback/xenbus.c)."""
        vbd = self.vbd
        if state == INITIALISED and self.state == INIT_WAIT and not vbd.disabled:
            problem = vbd.attach(keys)
            if problem is None:
                self.state = INITIALISED
            else:
                vbd.disable(problem)
        elif state == CLOSING and self.state == CONNECTED:
            self.state = CLOSING

    def go_on(self, now: Time) -> None:
        """Take the next steps of the disk's life that its image and its requests allow."""
        vbd, image = self.vbd, self.vbd.image
        if image.over and not self.given_up:
            self._give_up()
        if self.state == INITIALISED and image.opened:
            self.state = CONNECTED
            vbd.connect()
        elif self.state == CLOSING and not self.writes and not image.over and not self.nfs.finishing:
            self.nfs.finish(now)
        if image.over and not self.writes and self.state in (INITIALISED, CLOSING):
            self.state = CLOSED
            vbd.disconnect()

    def _give_up(self) -> None:
        """The image is lost: nobody waits for its calls any more, and requests fail when the strategy says so.

        Some calls are no request's: the file was being made, or the strategy had not waited for the reply. An image
        that was closed has none of either.
        """
        self.given_up = True
        rpc = self.nfs.rpc
        for request in list(rpc.pending.values()):
            rpc.abandon(request)
        for write in self.writes.values():
            if not (write.replied or write.done or write.aborted):
                write.aborted = True
                self.nfs.strategy.aborted(write)
