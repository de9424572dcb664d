"""Memory regions: the right to read some of a host's frames, given to whoever knows a key, and taken back.

A region counts as a user of its pages. That keeps them from being freed, and nobody from writing to them.

Source: fast registration (FRWR) as in net/sunrpc/xprtrdma/frwr_ops.c, where each registration changes the key.
"""

from typing import Final

from lateack.nodes.facts import MemoryInvalidated, MemoryRegistered
from lateack.nodes.memory.pages import PAGE_SHIFT, Window, get_page, put_page, windows_between
from lateack.nodes.node import Effect

REGIONS_MAX: Final = 1 << 16
"""Regions that an adapter has at once."""
KEY_STEP: Final = 0x100
"""Between the keys of two registrations; the low byte is the consumer's own (ib_inc_rkey)."""


class MemoryRegion:
    """Windows on pages under one remote key, as one range of virtual addresses; `meant` is what its owner put there."""

    __slots__ = ("address", "length", "meant", "rkey", "windows", "xid")

    def __init__(self, rkey: int, xid: int, windows: list[Window], meant: bytes) -> None:
        page, offset, _ = windows[0]
        self.rkey = rkey
        self.xid = xid
        self.windows = windows
        self.meant = meant
        self.length = sum([size for _, _, size in windows])
        self.address = (page.frame << PAGE_SHIFT) + offset

    def part(self, start: int, size: int) -> list[Window]:
        """Return the windows of *size* bytes from byte *start* of the region on."""
        return windows_between(self.windows, start, size)


class RegionTable:
    """What an adapter may be asked to read, by key; nothing else of the host's memory can be reached from outside."""

    __slots__ = ("effects", "next_key", "regions")

    def __init__(self, effects: list[Effect]) -> None:
        self.effects = effects
        self.next_key = KEY_STEP
        self.regions: dict[int, MemoryRegion] = {}

    def register(self, xid: int, windows: list[Window], meant: bytes) -> MemoryRegion:
        """Let whoever knows the new region's key read these windows; `xid` is the call that they are for."""
        assert len(self.regions) < REGIONS_MAX, "nobody takes regions back"
        for page, _, _ in windows:
            get_page(page)
        region = MemoryRegion(self.next_key, xid, windows, meant)
        self.next_key = self.next_key + KEY_STEP & 0xFFFFFFFF or KEY_STEP
        self.regions[region.rkey] = region
        self.effects.append(MemoryRegistered(xid, region.rkey, tuple([page.frame for page, _, _ in windows])))
        return region

    def invalidate(self, region: MemoryRegion) -> None:
        """Take the right back, now (IB_WR_LOCAL_INV, or a Send with Invalidate); a second time does nothing."""
        if self.regions.pop(region.rkey, None) is None:
            return
        for page, _, _ in region.windows:
            put_page(page)
        self.effects.append(MemoryInvalidated(region.xid, region.rkey))

    def find(self, rkey: int, address: int, length: int) -> MemoryRegion | None:
        """Return the region by whose key this range may be read; None where the key or the range is not valid."""
        region = self.regions.get(rkey)
        if region is None or address < region.address or address + length > region.address + region.length:
            return None
        return region
