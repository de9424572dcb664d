"""Memory is asked for before anything is brought up."""

import pytest

from lateack.cluster.capacity import MemoryUnavailable, available_memory, refuse_what_does_not_fit
from lateack.cluster.scenario import load


def test_what_fits_is_let_through() -> None:
    """The stories' guests are small."""
    assert available_memory() > 2**24

    refuse_what_does_not_fit(load("late-ack"))


def test_what_cannot_be_had_is_refused() -> None:
    """Twelve terabytes are more than this machine has, and the sentence says which key asks for them."""
    scenario = load("calm", ["guests.memory_pages=16777216", "guests.count=200"])

    with pytest.raises(MemoryUnavailable, match=r"guests\.memory_pages=16777216 for 200 guest"):
        refuse_what_does_not_fit(scenario)
