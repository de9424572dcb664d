"""libatomic changes cells of a shared memory as the processor's own instructions do."""

import mmap

import pytest

from lateack.cluster.doors.netback_atomics import LibAtomic, atomics_of, load_library
from lateack.nodes.memory.pages import Memory


@pytest.fixture
def memory() -> Memory:
    """A frame that could be shared."""
    return Memory(1, 1, mmap.mmap(-1, 4096), shared=True)


@pytest.fixture
def atomics(memory: Memory) -> LibAtomic:
    """What changes that frame, where this computer has the library."""
    library = load_library()
    if library is None:
        pytest.skip("this computer has no libatomic")
    assert isinstance(memory.buffer, mmap.mmap)
    return LibAtomic(memory.buffer, library)


def test_a_word_is_swapped_only_if_it_is_as_expected(memory: Memory, atomics: LibAtomic) -> None:
    """And nothing else is touched."""
    memory.words[3] = 7

    swapped = (atomics.swap(3, 8, 9), atomics.swap(3, 7, 0xFFFF0001))

    assert swapped == (False, True)
    assert [*memory.words[2:5]] == [0, 0xFFFF0001, 0]


def test_bits_are_set_and_cleared_in_one_half(memory: Memory, atomics: LibAtomic) -> None:
    """The domain's number beside the flags stays."""
    memory.words[0] = 0x12340001

    atomics.set_bits(0, 0b11000)
    was = memory.words[0]
    atomics.clear_bits(0, 0b10000)

    assert (was, memory.words[0]) == (0x12340019, 0x12340009)


def test_without_the_library_loads_and_stores_must_do(memory: Memory) -> None:
    """The door says so in its first line."""
    assert isinstance(memory.buffer, mmap.mmap)
    assert atomics_of(memory.buffer, None) is None
