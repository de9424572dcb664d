"""What Python cannot do to a shared memory by itself: change a cell so that no other process comes between."""

from typing import Protocol


class Atomics(Protocol):
    """Indivisible changes of a shared memory, for a guest in another process that uses them, too; see `Domain.pin`."""

    def swap(self, word: int, expected: int, wanted: int) -> bool:
        """Store *wanted* into a 32-bit word if it still holds *expected*, and say whether it did (cmpxchg)."""
        ...

    def set_bits(self, half: int, bits: int) -> None:
        """Set bits of a 16-bit cell (lock or)."""
        ...

    def clear_bits(self, half: int, bits: int) -> None:
        """Clear bits of a 16-bit cell (lock and)."""
        ...
