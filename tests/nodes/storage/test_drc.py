"""The duplicate request cache: its key, its window, its states and its end."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.storage import nfs, nfs_calls, rpc
from lateack.nodes.storage.drc import (
    DOIT,
    DROPIT,
    EXPIRY,
    REPLY,
    DuplicateRequestCache,
    Mode,
    Outcome,
    arguments_checksum,
)

GUEST = ("10.0.0.2", 800)
SECOND = 1_000_000_000


def write_record(payload: bytes, xid: int = 1, handle_bytes: int = 36) -> bytes:
    """A WRITE as it lies in its record."""
    head = rpc.encode_call(xid, nfs.PROGRAM, nfs.VERSION, nfs.WRITE, rpc.AUTH_NONE_CREDENTIAL)
    return head + nfs_calls.encode_write_head(b"h" * handle_bytes, 4096, len(payload), nfs.FILE_SYNC) + payload


def see(
    cache: DuplicateRequestCache, record: bytes, client: tuple[str, int] = GUEST, now: int = 0, reply: bytes = b"r"
) -> Outcome:
    """Let the cache see a call and complete it if it says so."""
    outcome, entry = cache.lookup(rpc.decode_call(record), record, client, now)
    if outcome == DOIT and entry is not None:
        cache.update(entry, reply, len(reply), now)
    return outcome


def changed(payload: bytes, position: int) -> bytes:
    """The payload with one byte changed."""
    return payload[:position] + b"\xff" + payload[position + 1 :]


@pytest.mark.parametrize(("handle_bytes", "window"), [(28, 204), (36, 196), (64, 168)])
def test_the_checksum_covers_256_bytes_of_arguments(handle_bytes: int, window: int) -> None:
    """Of the payload that is what handle, offset, counts and stability leave; a change beyond it is not seen."""
    payload = bytes(1024)
    cache = DuplicateRequestCache("checksum")
    see(cache, write_record(payload, 1, handle_bytes))

    inside = see(cache, write_record(changed(payload, window - 1), 1, handle_bytes))
    beyond = see(cache, write_record(changed(payload, window), 1, handle_bytes))

    assert (inside, beyond) == (DOIT, REPLY)
    assert (cache.hits, cache.misses, cache.payload_misses) == (1, 2, 1)


@pytest.mark.parametrize(
    ("mode", "same", "differing"), [("none", DOIT, DOIT), ("no-checksum", REPLY, REPLY), ("checksum", REPLY, DOIT)]
)
def test_the_mode_decides_what_a_changed_duplicate_meets(mode: Mode, same: Outcome, differing: Outcome) -> None:
    """The older key, without a checksum, was the safer one against changed bytes."""
    payload = bytes(1024)
    cache = DuplicateRequestCache(mode)
    see(cache, write_record(payload))

    outcomes = see(cache, write_record(payload)), see(cache, write_record(changed(payload, 0)))

    assert outcomes == (same, differing)


def test_a_duplicate_of_a_call_in_progress_is_dropped() -> None:
    """Its client will have to ask once more."""
    record = write_record(b"data")
    cache = DuplicateRequestCache()
    _, entry = cache.lookup(rpc.decode_call(record), record, GUEST, 0)

    outcome = see(cache, record)

    assert outcome == DROPIT
    assert entry is not None
    assert entry.reply is None


def test_the_reply_that_was_kept_is_given_again() -> None:
    """Byte for byte."""
    record = write_record(b"data")
    cache = DuplicateRequestCache()
    see(cache, record, reply=b"the reply")

    _, entry = cache.lookup(rpc.decode_call(record), record, GUEST, 1)

    assert entry is not None
    assert entry.reply == b"the reply"


@pytest.mark.parametrize("other", [("10.0.0.3", 800), ("10.0.0.2", 801)])
def test_another_address_or_port_is_another_call(other: tuple[str, int]) -> None:
    """A client that reconnects from another port is not recognised."""
    cache = DuplicateRequestCache()
    see(cache, write_record(b"data"))

    assert see(cache, write_record(b"data"), other) == DOIT
    assert cache.payload_misses == 0


def test_without_the_port_a_reconnected_client_is_recognised() -> None:
    """`include_port=False` is the cache that survives a reconnection."""
    cache = DuplicateRequestCache(include_port=False)
    see(cache, write_record(b"data"))

    assert see(cache, write_record(b"data"), ("10.0.0.2", 801)) == REPLY
    assert see(cache, write_record(b"data"), ("10.0.0.3", 800)) == DOIT


def test_an_entry_lives_120_seconds_after_its_last_use() -> None:
    """A hit is a use."""
    cache = DuplicateRequestCache()
    record = write_record(b"data")
    see(cache, record, now=0)

    outcomes = [see(cache, record, now=now) for now in (EXPIRY - 1, 2 * EXPIRY - 2, 3 * EXPIRY - 2)]

    assert outcomes == [REPLY, REPLY, DOIT]


def test_a_full_cache_forgets_the_least_recently_used() -> None:
    """Load pushes a call out long before its time."""
    cache = DuplicateRequestCache(entries_max=2)
    first, second, third = (write_record(b"data", xid) for xid in (1, 2, 3))
    see(cache, first)
    see(cache, second)
    see(cache, first)  # now the second is the least recently used

    see(cache, third)

    assert len(cache.entries) == 2
    assert see(cache, first) == REPLY
    assert see(cache, second) == DOIT


def test_a_call_in_progress_is_never_forgotten() -> None:
    """However full the cache and however old the call."""
    cache = DuplicateRequestCache(entries_max=1)
    slow = write_record(b"slow", 1)
    cache.lookup(rpc.decode_call(slow), slow, GUEST, 0)
    see(cache, write_record(b"data", 2), now=200 * SECOND)
    see(cache, write_record(b"data", 3), now=200 * SECOND)

    assert see(cache, slow, now=400 * SECOND) == DROPIT
    assert len(cache.buckets) == len(cache.entries)


@pytest.mark.parametrize(("size", "outcome"), [(256, REPLY), (257, DOIT)])
def test_results_beyond_256_bytes_are_not_kept(size: int, outcome: Outcome) -> None:
    """And the call would be executed again."""
    cache = DuplicateRequestCache()
    record = write_record(b"data")
    see(cache, record, reply=bytes(size))

    assert see(cache, record) == outcome


@given(st.binary(max_size=400).map(lambda data: data[: len(data) & ~3]))
def test_the_checksum_is_the_ones_complement_sum_of_the_first_64_words(data: bytes) -> None:
    """However it is computed; bytes beyond the window do not count."""
    words = [int.from_bytes(data[at : at + 4], "big") for at in range(0, min(len(data), 256), 4)]

    assert arguments_checksum(b"head" + data, 4) == sum(words) % 0xFFFFFFFF


def test_another_length_is_another_call() -> None:
    """The length is in the key of every mode."""
    cache = DuplicateRequestCache("no-checksum")
    see(cache, write_record(bytes(8)))

    assert see(cache, write_record(bytes(12))) == DOIT
