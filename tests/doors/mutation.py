"""Calls that went wrong on their way: a corpus of good ones for every procedure, and what may be done to their bytes.

What is sent can do what its client may do. So that there is something to hold, some files stand apart: no call of the
corpus holds their handles or names, and a mutant that does by chance is left out (`Grounds.is_fair`). Whatever else is
sent, those files and everything outside the served directory must stay as they are, byte for byte.
"""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import strategies as st

from lateack.nodes.nfs import mount, nfs, nfs_calls, nfs_links, nfs_listing, nfs_replies, rpc
from lateack.nodes.nfs.nfs_server import NfsServer
from lateack.nodes.nfs.xdr import XdrError
from lateack.nodes.storage.directory_store import DirectoryStore
from lateack.nodes.storage.store import Store
from tests.nodes.nfs.conversation import CREDENTIAL

PRECIOUS = b"precious-and-named-by-nobody"
VAULT = b"vault-of-things-apart"

NUMBERS = (0, 1, 3, 4, 35, 36, 64, 65, 255, 4096, 65536, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFC, 0xFFFFFFFF)
"""What a length or a count may lie that it is."""

Mutation = tuple[str, int, int]
"""What is done, where (modulo the length), and with what number."""

mutations = st.tuples(
    st.sampled_from(("flip", "flip", "number", "cut", "insert", "splice", "swap")),
    st.integers(0, 1 << 16),
    st.integers(0, 1 << 16),
)
recipes = st.tuples(st.integers(0, 1 << 16), st.lists(mutations, min_size=1, max_size=4))
"""Which call of the corpus, and what becomes of it."""


class Grounds:
    """A directory to be served with what stands apart in it, a directory outside, and the corpus of good calls."""

    def __init__(self, home: Path) -> None:
        self.outside = home / "outside"
        self.served = home / "served"
        for each in (self.outside, self.served, self.served / "sub", self.served / os.fsdecode(VAULT)):
            each.mkdir()
        (self.served / "target").write_bytes(b"target" * 100)
        (self.served / "sub" / "file").write_bytes(b"file")
        (self.served / "way-out").symlink_to(self.outside / "file")
        (self.served / "way-up").symlink_to(self.outside)
        self.apart = [self.outside / "file", self.served / os.fsdecode(PRECIOUS)]
        self.apart.append(self.served / os.fsdecode(VAULT) / "inside")
        for path in self.apart:
            path.write_bytes(os.fsencode(path) * 10)
        store = DirectoryStore(self.served)
        self.forbidden = forbidden(store)
        self.corpus = corpus(store)
        store.close()
        self.before = self.snapshot()

    def snapshot(self) -> list[object]:
        """What stands apart: bytes, modes and times, and which names there are outside."""
        found: list[object] = [sorted(os.listdir(self.outside)), sorted(os.listdir(self.served / os.fsdecode(VAULT)))]
        for path in self.apart:
            status = path.stat()
            found += [path.read_bytes(), status.st_mode, status.st_uid, status.st_nlink, status.st_mtime_ns]
        return found

    def is_fair(self, record: bytes) -> bool:
        """Whether a call cannot mean what stands apart."""
        return not any(word in record for word in self.forbidden)

    def mutant(self, recipe: tuple[int, list[Mutation]]) -> bytes:
        """The call that a recipe makes."""
        which, steps = recipe
        record = self.corpus[which % len(self.corpus)]
        for step in steps:
            record = mutated(record, step, self.corpus)
        return record


def forbidden(store: Store) -> list[bytes]:
    """The handles and names of what stands apart."""
    vault = store.lookup(store.root, VAULT)
    return [PRECIOUS, VAULT, vault, store.lookup(store.root, PRECIOUS), store.lookup(vault, b"inside")]


def corpus(store: Store) -> list[bytes]:
    """One good call or more for every procedure of both programs."""
    root = store.root
    sub, target = store.lookup(root, b"sub"), store.lookup(root, b"target")
    link, verifier = store.lookup(root, b"way-out"), bytes(8)
    changes = nfs.SetAttributes(0o640, 0, 0, 10, nfs.SERVER_TIME, 1_000_000_001)
    write = nfs_calls.encode_write_head
    arguments = [
        (nfs.NULL, b""),
        (nfs.GETATTR, nfs_calls.encode_file(target)),
        (nfs.SETATTR, nfs_calls.encode_setattr(target, changes)),
        (nfs.SETATTR, nfs_calls.encode_setattr(target, changes, 5)),
        (nfs.SETATTR, nfs_calls.encode_setattr(link, nfs.SetAttributes(size=0))),
        (nfs.LOOKUP, nfs_calls.encode_name(root, b"target")),
        (nfs.LOOKUP, nfs_calls.encode_name(root, b"way-up")),
        (nfs.ACCESS, nfs_calls.encode_access(target, 0x3F)),
        (nfs.READLINK, nfs_calls.encode_file(link)),
        (nfs.READ, nfs_calls.encode_range(target, 3, 500)),
        (nfs.WRITE, write(target, 5, 64, nfs.FILE_SYNC) + b"w" * 64),
        (nfs.WRITE, write(target, 5, 61, nfs.UNSTABLE) + b"u" * 64),
        (nfs.CREATE, nfs_calls.encode_create(sub, b"new", changes)),
        (nfs.CREATE, nfs_calls.encode_create(root, b"once", changes, nfs.EXCLUSIVE, b"verifier")),
        (nfs.MKDIR, nfs_calls.encode_mkdir(sub, b"made", changes)),
        (nfs.SYMLINK, nfs_links.encode_symlink(sub, b"pointer", b"../../outside")),
        (nfs.MKNOD, nfs_links.encode_mknod(sub, b"pipe", nfs.NF3FIFO)),
        (nfs.REMOVE, nfs_calls.encode_name(sub, b"file")),
        (nfs.RMDIR, nfs_calls.encode_name(sub, b"made")),
        (nfs.RENAME, nfs_calls.encode_rename(sub, b"new", root, b"moved")),
        (nfs.LINK, nfs_links.encode_link(target, sub, b"second")),
        (nfs.READDIR, nfs_calls.encode_readdir(root, 0, verifier, 4096)),
        (nfs.READDIRPLUS, nfs_listing.encode_readdirplus(root, 0, verifier, 1024, count=8192)),
        (nfs.FSSTAT, nfs_calls.encode_file(root)),
        (nfs.FSINFO, nfs_calls.encode_file(root)),
        (nfs.PATHCONF, nfs_calls.encode_file(root)),
        (nfs.COMMIT, nfs_calls.encode_range(target, 0, 0)),
    ]
    calls = [call(number, nfs.PROGRAM, *each) for number, each in enumerate(arguments)]
    path = mount.encode_path(b"/sub")
    for number, (procedure, what) in enumerate([(0, b""), (1, path), (2, b""), (3, path), (4, b""), (5, b"")]):
        calls.append(call(100 + number, mount.PROGRAM, procedure, what))
    return calls


def call(xid: int, program: int, procedure: int, arguments: bytes) -> bytes:
    """A good call."""
    return rpc.encode_call(xid, program, 3, procedure, CREDENTIAL) + arguments


def mutated(record: bytes, mutation: Mutation, others: list[bytes]) -> bytes:
    """Do one thing to a call."""
    what, where, number = mutation
    at = where % (len(record) + 1)
    aligned = at & ~3
    if what == "flip" and at < len(record):
        return record[:at] + bytes([record[at] ^ 1 << number % 8]) + record[at + 1 :]
    if what == "number":
        return record[:aligned] + NUMBERS[number % len(NUMBERS)].to_bytes(4) + record[aligned + 4 :]
    if what == "cut":
        return record[:at]
    if what == "insert":
        return record[:at] + number.to_bytes(3) * (number % 40) + record[at:]
    other = others[number % len(others)]
    if what == "splice":
        return record[:aligned] + other[aligned:]
    return record[:aligned] + other[aligned : aligned + 40] + record[aligned + 40 :]


DECODERS = {
    nfs.GETATTR: nfs_replies.decode_getattr,
    nfs.SETATTR: nfs_replies.decode_status,
    nfs.LOOKUP: nfs_replies.decode_lookup,
    nfs.ACCESS: nfs_replies.decode_access,
    nfs.READLINK: nfs_links.decode_readlink_result,
    nfs.READ: nfs_replies.decode_read,
    nfs.WRITE: nfs_replies.decode_write_result,
    nfs.CREATE: nfs_replies.decode_create,
    nfs.MKDIR: nfs_replies.decode_create,
    nfs.SYMLINK: nfs_replies.decode_create,
    nfs.LINK: nfs_links.decode_link_result,
    nfs.READDIR: nfs_replies.decode_readdir,
    nfs.READDIRPLUS: nfs_listing.decode_readdirplus_result,
    nfs.FSSTAT: nfs_replies.decode_fsstat,
    nfs.FSINFO: nfs_replies.decode_fsinfo,
    nfs.PATHCONF: nfs_replies.decode_pathconf,
    nfs.COMMIT: nfs_replies.decode_commit,
}
MOUNT_DECODERS = {
    mount.MNT: mount.decode_mount_result,
    mount.DUMP: mount.decode_dump,
    mount.EXPORT: mount.decode_exports,
}


def check_answer(record: bytes, reply: bytes | None) -> None:
    """Assert that an answer is one to this call, and that a client can read it; raises XdrError."""
    if reply is None:
        assert not has_header(record), "a call was not answered"
        return
    header = rpc.decode_reply(reply)
    assert reply[:4] == record[:4], "the answer is to another call"
    if not header.succeeded():
        return
    program, _, procedure = (int.from_bytes(record[at : at + 4]) for at in (12, 16, 20))
    if program == mount.PROGRAM and procedure in MOUNT_DECODERS:
        MOUNT_DECODERS[procedure](reply[header.results :])
    elif program == nfs.PROGRAM and procedure in DECODERS:
        DECODERS[procedure](reply, header.results)


def has_header(record: bytes) -> bool:
    """Whether these bytes are enough of a call to be answered."""
    try:
        rpc.decode_call(record)
    except XdrError:
        return False
    except rpc.RpcRefused:
        return True
    return True


def new_server(grounds: Grounds) -> NfsServer:
    """A server of the grounds as the door makes it."""
    return NfsServer(DirectoryStore(grounds.served), b"verifier", write_back=True, own_path=bytes(grounds.served))
