"""The duplicate request cache: its key, its window, its states and its end."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.nfs import nfs, nfs_calls, rpc
from lateack.nodes.nfs.drc import (
    DOIT,
    DROPIT,
    EXPIRY,
    REPLY,
    DuplicateRequestCache,
    Mode,
    Outcome,
    arguments_checksum,
)
from lateack.nodes.nfs.drc_ganesha import request_cache

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


def test_a_change_that_is_seen_is_counted() -> None:
    """An XID that comes again with another checksum is a payload miss."""
    cache = DuplicateRequestCache("checksum")
    see(cache, write_record(bytes(1024)))

    see(cache, write_record(changed(bytes(1024), 0)))
    see(cache, write_record(changed(bytes(1024), 1000)))

    assert (cache.hits, cache.misses, cache.payload_misses) == (1, 2, 1)


def seen_places(cache: DuplicateRequestCache, payload: bytes, handle_bytes: int) -> list[bool]:
    """For each byte of a payload: whether the cache takes the call with this byte changed for another one."""
    cache.attach(GUEST, 0)
    see(cache, write_record(payload, 1, handle_bytes))
    seen = []
    for position in range(len(payload)):
        record = write_record(changed(payload, position), 1, handle_bytes)
        outcome, entry = cache.lookup(rpc.decode_call(record), record, GUEST, 0)
        seen.append(outcome == DOIT)
        if entry is not None and outcome == DOIT:
            cache.forget(entry)
    return seen


@pytest.mark.parametrize("mode", ["checksum", "ganesha-like"])
@pytest.mark.parametrize("handle_bytes", [28, 36, 64])
def test_a_scan_finds_where_a_changed_byte_is_no_longer_seen(handle_bytes: int, mode: Mode) -> None:
    """There is one boundary, and it is where 256 bytes of arguments end.

    WRITE's arguments before the payload (RFC 1813 section 3.3.7): the handle with its length, an offset of eight bytes,
    and count, stability and the payload's length of four each. What the 256 bytes leave is all of the payload that the
    checksum covers: 204 bytes behind the shortest handle here, 168 behind the longest.
    """
    seen = seen_places(request_cache(mode), bytes(1024), handle_bytes)

    boundary = seen.index(False)
    assert all(seen[:boundary])
    assert not any(seen[boundary:])
    assert boundary == 256 - (4 + handle_bytes + 8 + 4 + 4 + 4)
    assert boundary == {28: 204, 36: 196, 64: 168}[handle_bytes]


@pytest.mark.parametrize(("mode", "seen"), [("no-checksum", False), ("none", True)])
def test_without_a_checksum_the_place_does_not_matter(mode: Mode, seen: bool) -> None:
    """The old key sees no changed byte; no cache takes everything for new."""
    assert set(seen_places(request_cache(mode), bytes(512), 36)) == {seen}


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
