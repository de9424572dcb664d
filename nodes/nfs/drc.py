"""The duplicate request cache, by which a server knows a call that it has seen before (fs/nfsd/nfscache.c)."""

from __future__ import annotations

from typing import Final, Literal

from lateack.nodes.nfs.rpc import Call

CHECKSUM_BYTES_MAX: Final = 256
"""How much of the NFS arguments the checksum covers (RC_CSUMLEN)."""
REPLY_BYTES_MAX: Final = 256
"""The longest results that are kept; a call with longer ones is forgotten and would be executed again."""
EXPIRY: Final = 120 * 1_000_000_000
"""Nanoseconds after its last use at which an entry is dropped (RC_EXPIRE)."""
ENTRIES_MAX_DEFAULT: Final = 65536
"""The entries of a server with 4 GiB of memory: 16 * sqrt(pages) << (PAGE_SHIFT - 10)."""

_LOW_1024 = (1 << 1024) - 1
_LOW_512 = (1 << 512) - 1

Mode = Literal["none", "no-checksum", "checksum", "ganesha-like"]
"""No cache at all, the key of kernels before v3.9, the key with a checksum of the arguments, or a table per connection.

The last is `drc_ganesha`'s, whose `request_cache` makes the cache for a mode.
"""

Client = tuple[str, int]
"""Who called: address and port."""

Outcome = Literal["doit", "dropit", "reply"]
DOIT: Final = "doit"
DROPIT: Final = "dropit"
REPLY: Final = "reply"


class CacheEntry:
    """One call that the cache knows: in progress while `reply` is None (RC_INPROG), done after (RC_DONE)."""

    __slots__ = ("checksum", "key", "reply", "used_at", "xid")

    def __init__(self, xid: int, checksum: int, key: tuple[object, ...], used_at: int) -> None:
        self.xid = xid
        self.checksum = checksum
        self.key = key
        self.used_at = used_at
        self.reply: bytes | None = None


class DuplicateRequestCache:
    """Remembers calls and their replies for a while, the least recently used going first.

    The key is XID, checksum, procedure, program, version, length and the client's address and port. That the port is in
    it is why a call sent again on a new connection may be executed again; `include_port=False` leaves it out.
    """

    __slots__ = (
        "buckets",
        "checksummed",
        "enabled",
        "entries",
        "entries_max",
        "expiry",
        "hits",
        "include_port",
        "misses",
        "not_cached",
        "payload_misses",
    )

    def __init__(
        self,
        mode: Mode = "checksum",
        *,
        entries_max: int = ENTRIES_MAX_DEFAULT,
        expiry: int = EXPIRY,
        include_port: bool = True,
    ) -> None:
        self.enabled = mode != "none"
        self.checksummed = mode == "checksum"
        self.entries_max = entries_max
        self.expiry = expiry
        self.include_port = include_port
        self.buckets: dict[int, list[CacheEntry]] = {}  # by XID, as the kernel hashes them
        self.entries: dict[CacheEntry, None] = {}  # the least recently used first
        self.hits = 0
        self.misses = 0
        self.not_cached = 0  # calls of procedures that are RC_NOCACHE
        self.payload_misses = 0  # misses where a call with the same XID had another checksum

    def attach(self, client: Client, now: int) -> None:
        """A client has connected, which matters to no cache that is one table for all."""

    def detach(self, client: Client, now: int) -> None:
        """A client's connection is gone."""

    def lookup(self, call: Call, record: bytes, client: Client, now: int) -> tuple[Outcome, CacheEntry | None]:
        """Say what to do with a call (nfsd_cache_lookup).

        With `doit` comes the entry to complete after execution; with `reply` the one whose reply is to be sent again;
        with `dropit`, for a duplicate of a call in progress, none.
        """
        if not self.enabled:
            return DOIT, None
        # Linux may leave an expired entry until the next insertion into its bucket; here 120 s mean 120 s.
        if self.entries:
            self._prune(now)
        arguments = call.arguments
        checksum = arguments_checksum(record, arguments) if self.checksummed else 0
        address, port = client
        shown_port = port if self.include_port else 0
        key = (call.procedure, call.program, call.version, len(record) - arguments, address, shown_port)
        bucket = self.buckets.get(call.xid)
        if bucket is not None:
            for entry in bucket:
                if entry.checksum == checksum and entry.key == key:
                    return self._found(entry, now)
            if any(entry.checksum != checksum for entry in bucket):
                self.payload_misses += 1
        self.misses += 1
        entry = CacheEntry(call.xid, checksum, key, now)
        if bucket is None:
            self.buckets[call.xid] = [entry]
        else:
            bucket.append(entry)
        self.entries[entry] = None
        if len(self.entries) > self.entries_max:
            self._prune(now)
        return DOIT, entry

    def update(self, entry: CacheEntry, reply: bytes, results_bytes: int, now: int) -> None:
        """Complete an entry with the whole reply, whose results alone count against the bound (nfsd_cache_update)."""
        if results_bytes > REPLY_BYTES_MAX:
            self.forget(entry)
            return
        entry.reply = reply
        self._touch(entry, now)

    def forget(self, entry: CacheEntry) -> None:
        """Drop an entry: the same call will be executed again (nfsd_reply_cache_free)."""
        if entry not in self.entries:
            return  # pruned meanwhile
        del self.entries[entry]
        bucket = self.buckets[entry.xid]
        bucket.remove(entry)
        if not bucket:
            del self.buckets[entry.xid]

    def _found(self, entry: CacheEntry, now: int) -> tuple[Outcome, CacheEntry | None]:
        self.hits += 1
        self._touch(entry, now)
        return (DROPIT, None) if entry.reply is None else (REPLY, entry)

    def _touch(self, entry: CacheEntry, now: int) -> None:
        """Make an entry the most recently used."""
        if entry in self.entries:
            del self.entries[entry]
            self.entries[entry] = None
        entry.used_at = now

    def _prune(self, now: int) -> None:
        """Drop what is expired and what is too much, but never a call in progress (prune_bucket)."""
        entries = self.entries
        while entries:
            oldest = next(iter(entries))
            if len(entries) <= self.entries_max and now - oldest.used_at < self.expiry:
                return
            victim = oldest if oldest.reply is not None else self._oldest_done(now)
            if victim is None:
                return
            self.forget(victim)

    def _oldest_done(self, now: int) -> CacheEntry | None:
        """The first entry that may go, where the very oldest is still in progress."""
        crowded = len(self.entries) > self.entries_max
        for entry in self.entries:
            if entry.reply is not None:
                return entry if crowded or now - entry.used_at >= self.expiry else None
        return None


def arguments_checksum(record: bytes, start: int) -> int:
    """The ones'-complement sum of the first 256 bytes of a record from `start` on (csum_partial).

    x86-64 folds to 32 bits where others fold to 16; Xen's servers were x86.
    """
    value = int.from_bytes(record[start : start + CHECKSUM_BYTES_MAX], "big")
    # Folding in halves leaves the sum as it is and makes the division a third faster.
    value = (value & _LOW_1024) + (value >> 1024)
    value = (value & _LOW_512) + (value >> 512)
    return value % 0xFFFFFFFF
