"""NFS-Ganesha's request cache: a table for each connection, which requests empty and time does not."""

from __future__ import annotations

import copy

import pytest

from lateack.nodes.nfs import nfs, nfs_calls, rpc
from lateack.nodes.nfs.drc import DOIT, DROPIT, REPLY, DuplicateRequestCache, Mode, Outcome
from lateack.nodes.nfs.drc_ganesha import (
    HIGH_WATER_DEFAULT,
    TABLES_WAITING_MAX,
    WINDOW_BEGIN,
    GaneshaRequestCache,
    request_cache,
)

GUEST = ("10.0.0.2", 800)
OTHER_PORT = ("10.0.0.2", 801)
SECOND = 1_000_000_000


def write_record(xid: int, payload: bytes = b"data") -> bytes:
    """A WRITE as it lies in its record."""
    head = rpc.encode_call(xid, nfs.PROGRAM, nfs.VERSION, nfs.WRITE, rpc.AUTH_NONE_CREDENTIAL)
    return head + nfs_calls.encode_write_head(b"h" * 36, 0, len(payload), nfs.FILE_SYNC) + payload


def see(cache: DuplicateRequestCache, xid: int, client: tuple[str, int] = GUEST, now: int = 0) -> Outcome:
    """Let the cache see a WRITE and complete it if it says so."""
    record = write_record(xid)
    outcome, entry = cache.lookup(rpc.decode_call(record), record, client, now)
    if outcome == DOIT and entry is not None:
        cache.update(entry, b"reply", 5, now)
    return outcome


def connected(entries_max: int = 1024, high_water: int = HIGH_WATER_DEFAULT) -> GaneshaRequestCache:
    """A cache to which the guest is connected."""
    cache = GaneshaRequestCache(entries_max=entries_max, high_water=high_water, expiry=600 * SECOND)
    cache.attach(GUEST, 0)
    return cache


def test_an_answer_goes_with_the_calls_after_it_and_not_with_time() -> None:
    """At the high-water mark it still is there, a year later, and one call further it is not."""
    cache = connected()
    for xid in range(HIGH_WATER_DEFAULT):
        see(cache, xid)

    late = [see(cache, 0, now=365 * 86400 * SECOND)]
    for xid in range(HIGH_WATER_DEFAULT, HIGH_WATER_DEFAULT + WINDOW_BEGIN + 1):
        see(cache, xid)
    late.append(see(cache, 0))

    assert late == [REPLY, DOIT]


def test_a_repeated_call_keeps_the_table_from_letting_go() -> None:
    """For sixteen answers: who repeats one call may repeat others."""
    cache = connected(high_water=4)
    for xid in range(4):
        see(cache, xid)
    see(cache, 0)  # the window opens

    sizes = []
    for xid in range(4, 4 + WINDOW_BEGIN + 2):
        see(cache, xid)
        sizes.append(len(cache.tables[GUEST].entries))

    # Sixteen answers close it; the sixteenth already lets six go, and the next ones what is above the mark.
    assert sizes[: WINDOW_BEGIN - 1] == list(range(5, 4 + WINDOW_BEGIN))
    assert sizes[WINDOW_BEGIN - 1 :] == [14, 9, 4]


def test_the_size_is_a_bound_even_while_calls_are_repeated() -> None:
    """A client that repeats all the time does not fill the server's memory."""
    cache = connected(entries_max=8, high_water=4)

    for xid in range(100):
        see(cache, xid)
        see(cache, xid)

    assert len(cache.tables[GUEST].entries) == 8


def test_a_client_that_comes_back_from_its_port_is_known() -> None:
    """Within the time for which a table waits, and from no other port."""
    cache = connected()
    see(cache, 1)
    cache.detach(GUEST, 0)

    cache.attach(OTHER_PORT, 1)
    elsewhere = see(cache, 1, OTHER_PORT)
    cache.attach(GUEST, 599 * SECOND)
    again = see(cache, 1)
    cache.detach(GUEST, 599 * SECOND)
    cache.attach(GUEST, 1199 * SECOND)

    assert (elsewhere, again, see(cache, 1)) == (DOIT, REPLY, DOIT)


def test_without_the_port_a_client_is_known_wherever_it_comes_from() -> None:
    """Two connections of one address then share a table, which stays while one of them does."""
    cache = GaneshaRequestCache(include_port=False, expiry=1)
    cache.attach(GUEST, 0)
    cache.attach(OTHER_PORT, 0)
    see(cache, 1)
    cache.detach(GUEST, 0)
    cache.attach(("10.0.0.3", 800), 99)

    assert see(cache, 1, OTHER_PORT) == REPLY
    assert see(cache, 1, ("10.0.0.3", 800)) == DOIT


def test_who_never_connected_shares_a_table_by_address_and_port() -> None:
    """Calls over UDP."""
    cache = GaneshaRequestCache()
    see(cache, 1)

    assert (see(cache, 1), see(cache, 1, OTHER_PORT)) == (REPLY, DOIT)
    assert cache.tables == {}


@pytest.mark.parametrize(("place", "outcome", "payload_misses"), [(195, DOIT, 1), (196, REPLY, 0)])
def test_the_sum_covers_256_bytes_of_arguments(place: int, outcome: Outcome, payload_misses: int) -> None:
    """As Linux's does: a handle of 36 bytes leaves 196 of the payload."""
    cache = connected()
    payload = bytearray(1024)
    record = write_record(1, bytes(payload))
    _, entry = cache.lookup(rpc.decode_call(record), record, GUEST, 0)
    assert entry is not None
    cache.update(entry, bytes(1000), 1000, 0)  # of any length
    payload[place] = 1
    changed = write_record(1, bytes(payload))

    found, _ = cache.lookup(rpc.decode_call(changed), changed, GUEST, 1)

    assert found == outcome
    assert cache.payload_misses == payload_misses


def test_a_call_in_progress_is_dropped_and_never_goes() -> None:
    """However many are answered after it; a copy of the cache goes its own way."""
    cache = connected(high_water=2)
    record = write_record(999)
    _, entry = cache.lookup(rpc.decode_call(record), record, GUEST, 0)
    for xid in range(50):
        see(cache, xid)
    assert entry is not None

    copied = copy.deepcopy(cache)
    dropped = see(cache, 999)
    cache.update(entry, b"reply", 5, 1)

    assert (dropped, see(cache, 999), see(copied, 999)) == (DROPIT, REPLY, DROPIT)


def test_a_forgotten_call_is_new_again() -> None:
    """And leaves nothing behind."""
    cache = connected()
    record = write_record(1)
    _, entry = cache.lookup(rpc.decode_call(record), record, GUEST, 0)
    assert entry is not None

    cache.forget(entry)
    cache.forget(entry)

    assert cache.tables[GUEST].xids == {}
    assert see(cache, 1) == DOIT


def test_tables_of_clients_that_are_gone_are_bounded() -> None:
    """The one that has waited longest goes first; who detaches twice does no harm."""
    cache = GaneshaRequestCache()
    for port in range(TABLES_WAITING_MAX + 5):
        cache.attach(("10.0.0.9", port), 0)
        cache.detach(("10.0.0.9", port), port)
        cache.detach(("10.0.0.9", port), port)

    assert len(cache.tables) == len(cache.waiting) == TABLES_WAITING_MAX
    assert ("10.0.0.9", 4) not in cache.tables


@pytest.mark.parametrize("mode", ["none", "no-checksum", "checksum", "ganesha-like"])
def test_each_mode_has_its_cache(mode: Mode) -> None:
    """And takes the same settings."""
    cache = request_cache(mode, entries_max=7, expiry=8, include_port=False)

    assert isinstance(cache, GaneshaRequestCache) == (mode == "ganesha-like")
    assert cache.enabled == (mode != "none")
    assert (cache.entries_max, cache.expiry, cache.include_port) == (7, 8, False)
