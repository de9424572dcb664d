"""The duplicate request cache of NFS-Ganesha: a table for each client's connection, kept by requests and not by time.

Sources: src/RPCAL/nfs_dupreq.c and the DRC_ keys of ganesha-core-config(8); the checksum is ntirpc's svc_vc_checksum.

A connection's table is found by the client's address and port. It outlives the connection: who comes back from the same
port within `expiry` gets it again (the recycle queue), who comes from another port gets an empty one. Calls over UDP
share one table. Within a table a call is known by its XID and a sum of the first 256 bytes of its arguments alone.

Replies go when newer calls have been answered, however old they are: a table above its high-water mark lets the oldest
go, but not while its window is open, which each repeated call opens a little further; above its size it lets them go
in any case.

Where we differ: a repetition of a call in progress is dropped, as early versions did; later ones keep some and answer
them when the call is done, which a client that matches replies by XID does not notice. The sum is xxh3_64 where theirs
is CityHash64, and it always covers the arguments, where theirs ends with the buffer in which they begin. The bound on
tables that wait for their client to come back is a number here, where theirs is a key of the configuration.
"""

from __future__ import annotations

from typing import Final

import xxhash

from lateack.nodes.nfs.drc import (
    CHECKSUM_BYTES_MAX,
    DOIT,
    DROPIT,
    ENTRIES_MAX_DEFAULT,
    EXPIRY,
    REPLY,
    CacheEntry,
    Client,
    DuplicateRequestCache,
    Mode,
    Outcome,
)
from lateack.nodes.nfs.rpc import Call

HIGH_WATER_DEFAULT: Final = 64
"""The calls that a connection's table holds before it lets the oldest go (DRC_TCP_Hiwat)."""
SHARED_ENTRIES_MAX: Final = 32768
"""The size of the table for calls over UDP (DRC_UDP_Size)."""
SHARED_HIGH_WATER: Final = 16384
"""The high-water mark of the table for calls over UDP (DRC_UDP_Hiwat)."""
WINDOW_BEGIN: Final = 16
"""For how many answered calls the first repetition keeps a table from letting any go (RETWND_START_BIAS)."""
RETIRED_MAX: Final = 6
"""The most calls that go when one is answered: one, and five more (DUPREQ_MAX_RETRIES)."""
TABLES_WAITING_MAX: Final = 1024
"""The tables kept for clients that have gone; the one that has waited longest goes first."""


class ClientTable:
    """What one client has asked over its connection, the oldest answer first."""

    __slots__ = ("attached", "done", "entries", "entries_max", "high_water", "left_at", "window", "xids")

    def __init__(self, entries_max: int, high_water: int) -> None:
        self.entries_max = entries_max
        self.high_water = high_water
        self.entries: dict[tuple[object, ...], CacheEntry] = {}
        self.xids: dict[int, int] = {}  # how many entries have an XID
        self.done: dict[CacheEntry, None] = {}
        self.window = 0
        self.attached = 0
        self.left_at = 0

    def add(self, entry: CacheEntry) -> None:
        """A call is new, and in progress."""
        self.entries[entry.key] = entry
        self.xids[entry.xid] = self.xids.get(entry.xid, 0) + 1

    def drop(self, entry: CacheEntry) -> None:
        """Forget a call."""
        if self.entries.pop(entry.key, None) is None:
            return
        self.done.pop(entry, None)
        left = self.xids.pop(entry.xid) - 1
        if left:
            self.xids[entry.xid] = left

    def repeated(self) -> None:
        """A call came again: its client may repeat others, so nothing goes for a while (drc_inc_retwnd)."""
        if self.window == 0:
            self.window = WINDOW_BEGIN
        elif self.window < self.entries_max:
            self.window += 2

    def answered(self, entry: CacheEntry) -> None:
        """A call is answered, and older ones may go (nfs_dupreq_finish)."""
        self.done[entry] = None
        if self.window:
            self.window -= 1
        for _ in range(RETIRED_MAX):
            if not self.done or not self._should_retire():
                return
            self.drop(next(iter(self.done)))

    def _should_retire(self) -> bool:
        """Whether an answer is to go (drc_should_retire)."""
        size = len(self.entries)
        return size > self.entries_max or (self.window == 0 and size > self.high_water)


class GaneshaRequestCache(DuplicateRequestCache):
    """Tables by connection; whoever owns the connections says when one begins (`attach`) and ends (`detach`).

    Calls of clients that never were attached, such as UDP's, share a table. `expiry` is for how many nanoseconds the
    table of a client that has gone is kept (DRC_TCP_Recycle_Expire_S, by default 600 s there).
    """

    __slots__ = ("high_water", "shared", "tables", "waiting")

    def __init__(
        self,
        *,
        entries_max: int = ENTRIES_MAX_DEFAULT,
        expiry: int = EXPIRY,
        include_port: bool = True,
        high_water: int = HIGH_WATER_DEFAULT,
    ) -> None:
        super().__init__("ganesha-like", entries_max=entries_max, expiry=expiry, include_port=include_port)
        self.high_water = high_water
        self.shared = ClientTable(SHARED_ENTRIES_MAX, SHARED_HIGH_WATER)
        self.tables: dict[Client, ClientTable] = {}
        self.waiting: dict[Client, ClientTable] = {}  # who has gone longest ago first

    def attach(self, client: Client, now: int) -> None:
        """A client has connected: it gets the table that it had, if that is still there (nfs_dupreq_get_drc)."""
        name = self._name(client)
        self._expire(now)
        table = self.tables.get(name)
        if table is None:
            table = self.tables[name] = ClientTable(self.entries_max, self.high_water)
        self.waiting.pop(name, None)
        table.attached += 1

    def detach(self, client: Client, now: int) -> None:
        """A connection is gone; without another its client's table waits to be used again (nfs_dupreq_put_drc)."""
        name = self._name(client)
        table = self.tables.get(name)
        if table is None or not table.attached:
            return
        table.attached -= 1
        if table.attached:
            return
        table.left_at = now
        self.waiting[name] = table
        self._expire(now)

    def lookup(self, call: Call, record: bytes, client: Client, now: int) -> tuple[Outcome, CacheEntry | None]:
        """Say what to do with a call (nfs_dupreq_start); see `DuplicateRequestCache.lookup`."""
        start = call.arguments
        checksum = xxhash.xxh3_64_intdigest(record[start : start + CHECKSUM_BYTES_MAX])
        name = self._name(client)
        table = self.tables.get(name, self.shared)
        key = (name, call.xid, checksum)
        found = table.entries.get(key)
        if found is not None:
            self.hits += 1
            if found.reply is None:
                return DROPIT, None
            table.repeated()
            return REPLY, found
        self.misses += 1
        if (
            call.xid in table.xids
        ):  # in the shared table it may be another client's XID, which is as rare as it is harmless
            self.payload_misses += 1
        entry = GaneshaEntry(call.xid, checksum, key, now, table=table)
        table.add(entry)
        return DOIT, entry

    def update(self, entry: CacheEntry, reply: bytes, results_bytes: int, now: int) -> None:
        """Complete an entry, whatever the length of its reply, and let older ones go."""
        assert isinstance(entry, GaneshaEntry)
        entry.reply = reply
        entry.used_at = now
        entry.table.answered(entry)

    def forget(self, entry: CacheEntry) -> None:
        """Drop an entry: the same call will be executed again (nfs_dupreq_delete)."""
        assert isinstance(entry, GaneshaEntry)
        entry.table.drop(entry)

    def _name(self, client: Client) -> Client:
        return client if self.include_port else (client[0], 0)

    def _expire(self, now: int) -> None:
        """Let go the tables whose clients have not come back (drc_free_expired).

        Theirs looks every ten minutes; here the time means what it says.
        """
        waiting = self.waiting
        while waiting:
            name = next(iter(waiting))
            if now - waiting[name].left_at < self.expiry and len(waiting) <= TABLES_WAITING_MAX:
                return
            del waiting[name]
            del self.tables[name]


class GaneshaEntry(CacheEntry):
    """A call that a table knows."""

    __slots__ = ("table",)

    def __init__(self, xid: int, checksum: int, key: tuple[object, ...], used_at: int, *, table: ClientTable) -> None:
        super().__init__(xid, checksum, key, used_at)
        self.table = table


def request_cache(
    mode: Mode,
    *,
    entries_max: int = ENTRIES_MAX_DEFAULT,
    expiry: int = EXPIRY,
    include_port: bool = True,
    high_water: int = HIGH_WATER_DEFAULT,
) -> DuplicateRequestCache:
    """The cache of a server that works in this mode; `high_water` is for ganesha-like alone."""
    if mode == "ganesha-like":
        return GaneshaRequestCache(
            entries_max=entries_max, expiry=expiry, include_port=include_port, high_water=high_water
        )
    return DuplicateRequestCache(mode, entries_max=entries_max, expiry=expiry, include_port=include_port)
