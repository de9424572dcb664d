"""Claims about the guest's side of the grant table."""

from collections.abc import Callable

import pytest

from lateack.nodes.errors import MemoryExhausted
from lateack.nodes.memory.grants import (
    GrantTable,
    GTF_permit_access,
    GTF_reading,
    GTF_writing,
)
from lateack.nodes.memory.pages import Memory

StepThrough = Callable[[Callable[[], object], Callable[[int], None]], object]


def test_an_entry_has_xens_bytes() -> None:
    """A read-only grant that the host reads is the eight bytes that Xen expects."""
    memory = Memory(1, 2)
    grants = GrantTable(memory, 1)

    ref = grants.grant_access(0, 0xABCDE, readonly=True)
    memory.halves[2048 + ref * 4] |= GTF_reading

    assert ref == 8
    assert memory.read(1, ref * 8, 8) == bytes.fromhex("0d000000debc0a00")


def test_no_instant_shows_a_half_written_grant(step_through: StepThrough) -> None:
    """Whoever sees the flags of an entry sees its domain and frame too, whenever it looks."""
    memory = Memory(1, 1)
    grants = GrantTable(memory, 0)
    seen = set()

    step_through(
        lambda: grants.grant_access(5, 77, readonly=False),
        lambda _: seen.add((memory.halves[32], memory.halves[33], memory.words[17])),
    )

    assert {entry for entry in seen if entry[0]} == {(GTF_permit_access, 5, 77)}
    assert {(0, 0, 0), (0, 0, 77)} <= seen


def test_a_grant_in_use_cannot_be_ended() -> None:
    """While the host reads or writes, ending fails and changes nothing; afterwards it succeeds."""
    memory = Memory(1, 1)
    grants = GrantTable(memory, 0)
    ref = grants.grant_access(0, 3, readonly=False)
    memory.halves[ref * 4] |= GTF_reading | GTF_writing

    refused = grants.end_access(ref)
    use = grants.query_access(ref)
    memory.halves[ref * 4] &= ~(GTF_reading | GTF_writing)

    assert not refused
    assert use == GTF_reading | GTF_writing
    assert grants.in_use == 1
    assert grants.query_access(ref) == 0
    assert grants.end_access(ref)
    assert memory.halves[ref * 4] == 0
    assert grants.in_use == 0


def test_an_ended_reference_is_reused_first() -> None:
    """References come back last freed first, and the reserved eight are never handed out."""
    grants = GrantTable(Memory(1, 1), 0)
    refs = [grants.grant_access(0, 1, readonly=True) for _ in range(3)]

    grants.end_access(refs[0])
    grants.end_access(refs[2])

    assert refs == [8, 9, 10]
    assert [grants.grant_access(0, 1, readonly=True) for _ in range(3)] == [10, 8, 11]


def test_a_full_table_says_what_to_do() -> None:
    """After 504 references a one-frame table is full, and an ended one makes room."""
    grants = GrantTable(Memory(4, 1), 0)
    refs = [grants.grant_access(0, 0, readonly=True) for _ in range(504)]

    with pytest.raises(MemoryExhausted, match="domain 4 has all its 504 grant references"):
        grants.grant_access(0, 0, readonly=True)
    grants.end_access(refs[100])

    assert grants.grant_access(0, 0, readonly=True) == refs[100]


def test_a_grant_ended_twice_is_our_bug() -> None:
    """Ending what is not lent would put one reference on the free list twice."""
    grants = GrantTable(Memory(1, 1), 0)
    ref = grants.grant_access(0, 0, readonly=True)
    grants.end_access(ref)

    with pytest.raises(AssertionError):
        grants.end_access(ref)
