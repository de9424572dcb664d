"""What an NFS client over RDMA has lent to adapters: pages in Sends that are not complete, the right to read others.

Source: net/sunrpc/xprtrdma/frwr_ops.c. Where we differ: a region that may be taken back late waits until some others
do, as in drivers/infiniband/core/fmr_pool.c (until 2020), or until the end.
"""

from collections import deque
from typing import Final

from lateack.nodes.application import PageBuffer
from lateack.nodes.facts import WorkCompleted
from lateack.nodes.memory.pages import Window, get_page, put_page
from lateack.nodes.node import Effect, Time
from lateack.nodes.rdma.memory_region import MemoryRegion, RegionTable
from lateack.nodes.rdma.work import Completion
from lateack.nodes.storage.page_write import PageWrite
from lateack.nodes.strategies.rdma import RdmaStrategy, RdmaWrite

RETIRED_PER_BUFFER: Final = 2
"""Regions per buffer that nobody needs and that are readable still: the oldest of more is taken back."""


class PostedWrite(PageWrite):
    """A WRITE; `region` is what the server may read of it, `sends` counts the Sends of it that are not complete."""

    __slots__ = ("let_go", "region", "sends", "verifier")

    def __init__(self, buffer: PageBuffer, now: Time) -> None:
        super().__init__(buffer, now)
        self.region: MemoryRegion | None = None
        self.sends = 0
        self.verifier = b""
        self.let_go = False


class PostedSend:
    """What the adapter gives back when a Send is over: whose it was, and the pages that were held for it."""

    __slots__ = ("pinned", "write", "xid")

    def __init__(self, xid: int, write: PostedWrite | None, pinned: list[Window]) -> None:
        self.xid = xid
        self.write = write
        self.pinned = pinned
        for page, _, _ in pinned:
            get_page(page)

    def unpin(self) -> None:
        """The adapter has no more use for the pages."""
        for page, _, _ in self.pinned:
            put_page(page)


class Lending:
    """The account of one client: what adapters may still read of its writes, and what the strategy says to that."""

    __slots__ = ("effects", "regions", "retired", "retired_max", "strategy")

    def __init__(
        self, regions: RegionTable, strategy: RdmaStrategy, effects: list[Effect], *, retired_max: int
    ) -> None:
        self.regions = regions
        self.strategy = strategy
        self.effects = effects
        self.retired_max = retired_max
        self.retired: deque[PostedWrite] = deque()

    def lend(self, write: PostedWrite) -> MemoryRegion:
        """Let the server read the write's payload, if it may not already."""
        region = write.region
        if region is None:
            region = write.region = self.regions.register(write.xid, self.strategy.take(write), write.data)
        return region

    def revoked(self, writes: list[PageWrite], rkey: int) -> None:
        """The server has taken its own right back, with a Send that names the key."""
        for write in writes:
            if isinstance(write, PostedWrite) and write.region is not None and write.region.rkey == rkey:
                self.invalidate(write)

    def invalidate(self, write: RdmaWrite) -> None:
        """Take back the server's right to read a write's memory, now."""
        assert isinstance(write, PostedWrite)
        if write in self.retired:
            self.retired.remove(write)
        if write.region is not None:
            self.regions.invalidate(write.region)
            write.region = None
        self.release(write)

    def retire(self, write: RdmaWrite) -> None:
        """Let that be done some time."""
        assert isinstance(write, PostedWrite)
        if write.region is not None and write not in self.retired:
            self.retired.append(write)
            if len(self.retired) > self.retired_max:
                self.invalidate(self.retired[0])
        self.release(write)

    def release(self, write: PostedWrite) -> None:
        """Nobody can read what the strategy took any more, and the call is over: tell it, once."""
        if write.region is None and not write.sends and not write.let_go and (write.replied or write.aborted):
            write.let_go = True
            self.strategy.released(write)

    def send_over(self, completion: Completion) -> None:
        """A Send is over: what was held for it is free, and the strategy hears of it."""
        send = completion.context
        assert isinstance(send, PostedSend)
        send.unpin()
        if not completion.flushed:
            self.effects.append(WorkCompleted(send.xid, completion.psn))
        write = send.write
        if write is not None:
            write.sends -= 1
            self.strategy.sent(write)
            self.release(write)

    def settle(self) -> None:
        """Take back whatever nobody needs."""
        while self.retired:
            self.invalidate(self.retired[0])
