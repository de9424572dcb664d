"""A grant whose guest changes it under the host's hands is pinned as it is now, or not at all."""

import pytest

from lateack.nodes.memory.grants import GrantTable, GTF_in_use, GTF_invalid, GTF_permit_access
from lateack.nodes.memory.hypervisor import GNTMAP_host_map, GNTST_general_error, GNTST_okay, Hypervisor
from lateack.nodes.memory.pages import Memory

TAKEN_BACK = 0


class Meddler:
    """Changes a memory for the host; before each of the first swaps the guest stores a word of its own."""

    def __init__(self, memory: Memory, stores: list[int]) -> None:
        """Store these into the word that is about to be swapped."""
        self.memory = memory
        self.stores = stores
        self.swaps = 0

    def swap(self, word: int, expected: int, wanted: int) -> bool:
        """Let the guest come first, then compare and store."""
        self.swaps += 1
        if self.stores:
            self.memory.words[word] = self.stores.pop(0)
        same = self.memory.words[word] == expected
        if same:
            self.memory.words[word] = wanted
        return same

    def set_bits(self, half: int, bits: int) -> None:
        """Set bits."""
        self.memory.halves[half] |= bits

    def clear_bits(self, half: int, bits: int) -> None:
        """Clear bits."""
        self.memory.halves[half] &= ~bits


def lent(stores: list[int]) -> tuple[Hypervisor, Memory, int, Meddler]:
    """Return a host, and a guest that lends it a frame and meddles."""
    hypervisor, memory = Hypervisor(), Memory(1, 4)
    hypervisor.add_domain(memory, 0)
    ref = GrantTable(memory, 0).grant_access(0, 2, False)
    meddler = hypervisor.domains[1].atomics = Meddler(memory, stores)
    return hypervisor, memory, ref, meddler


def test_a_grant_that_is_ended_meanwhile_is_not_given_back() -> None:
    """The guest's cmpxchg came first: nothing is pinned, and the entry stays as the guest has left it."""
    hypervisor, memory, ref, _ = lent([TAKEN_BACK])

    status, *_ = hypervisor.map_grant_ref(0, 1, ref, GNTMAP_host_map)

    assert status == GNTST_general_error
    assert memory.halves[ref * 4] == GTF_invalid
    assert hypervisor.pins() == {}


def test_a_grant_that_is_only_changed_is_pinned_as_it_is_now() -> None:
    """Another bit that means nothing here costs a second try."""
    hypervisor, memory, ref, meddler = lent([GTF_permit_access | 1 << 8])

    status, handle, *_ = hypervisor.map_grant_ref(0, 1, ref, GNTMAP_host_map)

    assert (status, meddler.swaps) == (GNTST_okay, 2)
    assert memory.halves[ref * 4] == GTF_permit_access | GTF_in_use | 1 << 8
    assert hypervisor.unmap_grant_ref(0, handle) == GNTST_okay
    assert memory.halves[ref * 4] == GTF_permit_access | 1 << 8


@pytest.mark.parametrize("tries", [5, 50])
def test_a_guest_that_never_rests_is_given_up(tries: int) -> None:
    """After five tries Xen calls the entry unstable."""
    hypervisor, _, ref, meddler = lent([GTF_permit_access | (number % 2) << 8 for number in range(1, tries + 1)])

    status, *_ = hypervisor.map_grant_ref(0, 1, ref, GNTMAP_host_map)

    assert (status, meddler.swaps) == (GNTST_general_error, 5)
