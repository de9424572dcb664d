"""Indivisible changes of shared memory by way of libatomic, which comes with every C compiler's run-time library.

A frontend ends a grant by cmpxchg, while Xen sets and clears GTF_reading and GTF_writing in the same 16 bits by cmpxchg
and a locked and (xen/common/grant_table.c, `_set_status_v1`, `gnttab_clear_flags`). Python's own stores are whole (a
reader sees the old cell or the new one), but a load followed by a store are two steps, between which the frontend may
end its grant: the store would give it back to us. Hence this.
"""

import ctypes
import mmap

from lateack.nodes.memory.atomics import Atomics

LIBRARY = "libatomic.so.1"
SEQ_CST = 5
"""The strongest order, `__ATOMIC_SEQ_CST`: on x86 every locked instruction has it anyway."""


class LibAtomic:
    """The memory of one guest, changed by the library's functions for 2 and 4 bytes."""

    def __init__(self, buffer: mmap.mmap, library: ctypes.CDLL) -> None:
        """Find where *buffer* lies; it cannot be closed before this object is gone."""
        self._window = ctypes.c_char.from_buffer(buffer)
        self._address = ctypes.addressof(self._window)
        self._expected = ctypes.c_uint32()
        self._expected_at = ctypes.byref(self._expected)
        self._compare_exchange = library["__atomic_compare_exchange_4"]
        self._compare_exchange.argtypes = (
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_int,
        )  # fmt: skip
        self._compare_exchange.restype = ctypes.c_bool
        self._fetch_or, self._fetch_and = library["__atomic_fetch_or_2"], library["__atomic_fetch_and_2"]
        for function in (self._fetch_or, self._fetch_and):
            function.argtypes = (ctypes.c_void_p, ctypes.c_uint16, ctypes.c_int)
            function.restype = ctypes.c_uint16

    def swap(self, word: int, expected: int, wanted: int) -> bool:
        """See `Atomics.swap`."""
        self._expected.value = expected
        address = self._address + word * 4
        return bool(self._compare_exchange(address, self._expected_at, wanted, SEQ_CST, SEQ_CST))

    def set_bits(self, half: int, bits: int) -> None:
        """See `Atomics.set_bits`."""
        self._fetch_or(self._address + half * 2, bits, SEQ_CST)

    def clear_bits(self, half: int, bits: int) -> None:
        """See `Atomics.clear_bits`."""
        self._fetch_and(self._address + half * 2, ~bits & 0xFFFF, SEQ_CST)


def load_library() -> ctypes.CDLL | None:
    """Return the library, or None where this computer has none: then loads and stores must do."""
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError:
        return None


def atomics_of(buffer: mmap.mmap, library: ctypes.CDLL | None) -> Atomics | None:
    """Return what changes *buffer* indivisibly, if there is a library for that."""
    return LibAtomic(buffer, library) if library is not None else None
