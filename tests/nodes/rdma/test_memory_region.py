"""Claims about memory regions: a key lets one read its windows and nothing else, until it is taken back."""

import pytest

from lateack.nodes.facts import MemoryInvalidated, MemoryRegistered
from lateack.nodes.memory.pages import Memory, Page
from lateack.nodes.node import Effect
from lateack.nodes.rdma.memory_region import MemoryRegion, RegionTable
from tests.nodes.hand import facts_of


def table() -> tuple[RegionTable, MemoryRegion, list[Page], list[Effect]]:
    """Return a table with one region of two pages."""
    effects: list[Effect] = []
    memory = Memory(1, 8)
    pages = [Page(memory, 3), Page(memory, 5)]
    regions = RegionTable(effects)
    region = regions.register(9, [(pages[0], 0, 4096), (pages[1], 0, 100)], b"\0" * 4196)
    return regions, region, pages, effects


def test_a_region_is_one_range_over_pages_that_are_no_neighbours() -> None:
    """A part of it may cross from one page into the other."""
    _, region, pages, _ = table()

    assert (region.address, region.length) == (3 << 12, 4196)
    assert region.part(4090, 10) == [(pages[0], 4090, 6), (pages[1], 0, 4)]


@pytest.mark.parametrize(("start", "length"), [(-1, 10), (4190, 7), (0, 4197), (5000, 1)])
def test_nothing_beyond_the_region_can_be_read(start: int, length: int) -> None:
    """The key alone is not enough."""
    regions, region, _, _ = table()

    assert regions.find(region.rkey, region.address + start, length) is None
    assert regions.find(region.rkey, region.address, region.length) is region


def test_a_region_holds_its_pages_until_it_is_taken_back() -> None:
    """It counts as one user of each; taken back twice, it lets go once."""
    regions, region, pages, effects = table()
    assert [page.refs for page in pages] == [2, 2]

    regions.invalidate(region)
    regions.invalidate(region)

    assert [page.refs for page in pages] == [1, 1]
    assert regions.find(region.rkey, region.address, 1) is None
    assert facts_of(effects, MemoryRegistered) == [MemoryRegistered(9, region.rkey, (3, 5))]
    assert facts_of(effects, MemoryInvalidated) == [MemoryInvalidated(9, region.rkey)]


def test_no_key_is_used_twice() -> None:
    """A late READ under an old key never finds the next region of the same pages."""
    regions, region, pages, _ = table()
    regions.invalidate(region)

    again = regions.register(10, [(pages[0], 0, 4096)], b"")

    assert again.rkey != region.rkey
    assert regions.find(region.rkey, region.address, 1) is None
