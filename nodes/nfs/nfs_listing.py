"""READDIR and READDIRPLUS: which entries a reply carries, and the second's bytes (RFC 1813 sections 3.3.16, 3.3.17).

A cookie is made of the entry's name alone, as ext4 makes it of the name's hash: who goes on after a cookie misses
nothing and sees nothing twice, however many entries have come or gone meanwhile. So no cookie ever goes bad, and the
verifier that would tell so is zero.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

import xxhash

from lateack.nodes.nfs.nfs import (
    ATTRIBUTES_BYTES,
    HANDLE_BYTES_MAX,
    NAME_BYTES_MAX,
    VERIFIER_BYTES,
    Attributes,
    NfsError,
    pack_post_op,
    unpack_post_op,
)
from lateack.nodes.nfs.nfs_calls import encode_file
from lateack.nodes.nfs.nfs_replies import ENTRIES_MAX
from lateack.nodes.nfs.xdr import Packer, Unpacker, XdrError
from lateack.nodes.records import LightRecord
from lateack.nodes.storage.store import Store

DOT_COOKIE: Final = 1
DOT_DOT_COOKIE: Final = 2
RESULT_BYTES: Final = 4 + ATTRIBUTES_BYTES + VERIFIER_BYTES + 8
"""What a listing takes without entries: attributes and their mark, verifier, the list's end, and eof."""
ENTRY_BYTES: Final = 24
"""What an entry takes besides its padded name: a mark, a fileid, a length and a cookie."""
FOUND_BYTES: Final = 4 + ATTRIBUTES_BYTES + 8
"""What READDIRPLUS adds to an entry besides the handle: attributes, a length, and their two marks."""

_OK = bytes(4)
_READDIRPLUS = struct.Struct(">Q8s2I")


class Entry(LightRecord):
    """A name in a directory."""

    cookie: int
    name: bytes
    fileid: int

    def size(self) -> int:
        """The bytes that it takes in READDIR's reply."""
        return ENTRY_BYTES + ((len(self.name) + 3) & ~3)


class EntryPlus(LightRecord):
    """A name in a directory and what it names, as far as that could be found out."""

    entry: Entry
    attributes: Attributes | None
    handle: bytes | None

    def size(self) -> int:
        """The bytes that it takes in READDIRPLUS's reply."""
        handle = self.handle
        return self.entry.size() + (8 if handle is None else FOUND_BYTES + ((len(handle) + 3) & ~3))


class ReaddirplusArguments(LightRecord):
    """READDIRPLUS: entries after `cookie`, `names_max` bytes of names (dircount) and `count` in all (maxcount)."""

    directory: bytes
    cookie: int
    verifier: bytes
    names_max: int
    count: int


class ReaddirplusResult(LightRecord):
    """Entries of a directory with what they name, and whether they were the last."""

    status: int
    entries: tuple[EntryPlus, ...] = ()
    verifier: bytes = b""
    eof: bool = False


def cookie_of(name: bytes) -> int:
    """The cookie of a name; positive as a signed number, too, for some clients take it for one."""
    return 3 + (xxhash.xxh3_64_intdigest(name) >> 2)


def entries_after(store: Store, directory: bytes, cookie: int) -> list[Entry]:
    """The entries of a directory that a client has not seen whose last one had this cookie."""
    names = [Entry(cookie_of(name), name, fileid) for name, fileid in store.readdir(directory)]
    names.sort(key=_cookie)
    if cookie < DOT_DOT_COOKIE:
        above = store.getattr(store.parent(directory)).fileid
        names.insert(0, Entry(DOT_DOT_COOKIE, b"..", above))
    if cookie < DOT_COOKIE:
        names.insert(0, Entry(DOT_COOKIE, b".", store.getattr(directory).fileid))
    return names[bisect_right(names, cookie, key=_cookie) :]


def fitting(entries: Sequence[Entry], room: int) -> list[Entry]:
    """As many of the entries as `room` bytes hold."""
    taken: list[Entry] = []
    for entry in entries:
        room -= entry.size()
        if room < 0:
            break
        taken.append(entry)
    return taken


def found_entries(store: Store, directory: bytes, entries: Sequence[Entry], room: int) -> list[EntryPlus]:
    """As many of the entries as `room` bytes hold, with what they name."""
    taken: list[EntryPlus] = []
    for entry in entries:
        found = _found(store, directory, entry)
        room -= found.size()
        if room < 0:
            break
        taken.append(found)
    return taken


def encode_readdirplus(directory: bytes, cookie: int, verifier: bytes, names_max: int, *, count: int) -> bytes:
    """READDIRPLUS's arguments; the first call has cookie 0 and a verifier of eight zero bytes."""
    return encode_file(directory) + _READDIRPLUS.pack(cookie, verifier, names_max, count)


def decode_readdirplus(record: bytes, position: int) -> ReaddirplusArguments:
    """Read READDIRPLUS's arguments; raises XdrError."""
    unpacker = Unpacker(record, position)
    directory = unpacker.opaque(HANDLE_BYTES_MAX)
    cookie, verifier, names_max, count = unpacker.take(_READDIRPLUS)
    return ReaddirplusArguments(directory, cookie, verifier, names_max, count)


def encode_readdirplus_result(directory: Attributes, entries: Sequence[EntryPlus], verifier: bytes, eof: bool) -> bytes:
    """READDIRPLUS's success."""
    packer = Packer()
    packer.fixed(_OK + pack_post_op(directory) + verifier)
    for found in entries:
        packer.uint(1)
        packer.uhyper(found.entry.fileid)
        packer.opaque(found.entry.name)
        packer.uhyper(found.entry.cookie)
        packer.fixed(pack_post_op(found.attributes))
        packer.uint(found.handle is not None)
        if found.handle is not None:
            packer.opaque(found.handle)
    packer.uint(0)
    packer.uint(eof)
    return packer.finish()


def decode_readdirplus_result(record: bytes, position: int) -> ReaddirplusResult:
    """Read READDIRPLUS's results; raises XdrError."""
    unpacker = Unpacker(record, position)
    status = unpacker.uint()
    unpack_post_op(unpacker)
    if status:
        return ReaddirplusResult(status)
    verifier = unpacker.fixed(VERIFIER_BYTES)
    entries: list[EntryPlus] = []
    while unpacker.boolean():
        if len(entries) == ENTRIES_MAX:
            raise XdrError(f"more than {ENTRIES_MAX} entries")
        fileid, name, cookie = unpacker.uhyper(), unpacker.opaque(NAME_BYTES_MAX), unpacker.uhyper()
        attributes = unpack_post_op(unpacker)
        handle = unpacker.opaque(HANDLE_BYTES_MAX) if unpacker.boolean() else None
        entries.append(EntryPlus(Entry(cookie, name, fileid), attributes, handle))
    return ReaddirplusResult(status, tuple(entries), verifier, unpacker.boolean())


def _found(store: Store, directory: bytes, entry: Entry) -> EntryPlus:
    """What a name names; nothing where it has gone meanwhile, or lies on another file system."""
    try:
        handle = lookup(store, directory, entry.name)
        return EntryPlus(entry, store.getattr(handle), handle)
    except (NfsError, OSError):
        return EntryPlus(entry, None, None)


def lookup(store: Store, directory: bytes, name: bytes) -> bytes:
    """What a name in a directory names; "." and ".." are names here, but the root is above itself."""
    if name == b".":
        store.readdir(directory)  # says if it is none
        return directory
    return store.parent(directory) if name == b".." else store.lookup(directory, name)


def _cookie(entry: Entry) -> int:
    return entry.cookie
