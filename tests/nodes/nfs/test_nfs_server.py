"""The server as a whole: what it refuses, what it remembers, and that no bytes can break it."""

from __future__ import annotations

import copy

import pytest
import xxhash
from hypothesis import given, settings, strategies as st

from lateack.nodes.nfs import mount, nfs, nfs_calls, nfs_links, nfs_listing, nfs_replies, rpc
from lateack.nodes.nfs.drc import DuplicateRequestCache, Mode
from lateack.nodes.nfs.nfs_procedures import AdmittedCall
from lateack.nodes.nfs.nfs_server import WITNESSED_MAX, NfsServer
from lateack.nodes.nfs.server_events import DuplicateSeen, WriteExecuted
from lateack.nodes.storage.memory_store import MemoryStore
from tests.nodes.nfs.conversation import CREDENTIAL, GUEST, Conversation, call_record, write_arguments

XID = 77


def file_server(mode: Mode = "checksum") -> tuple[NfsServer, bytes]:
    """A server with one empty file, and its handle."""
    server = NfsServer(MemoryStore(), b"verifier", DuplicateRequestCache(mode))
    file = Conversation(server).made(b"file")
    server.drain_events()
    return server, file


def write_record(file: bytes, payload: bytes, xid: int = XID) -> bytes:
    """A WRITE at offset 0."""
    return call_record(nfs.WRITE, write_arguments(file, 0, payload), xid)


def header(program: int, version: int, procedure: int, credential: bytes = CREDENTIAL) -> bytes:
    """A call without arguments."""
    return rpc.encode_call(XID, program, version, procedure, credential)


UNKNOWN_FLAVOR = bytes.fromhex("00000006 00000000 00000000 00000000")
BROKEN_AUTH_SYS = bytes.fromhex("00000001 00000004 00000000 00000000 00000000")


@pytest.mark.parametrize(
    ("record", "reply"),
    [
        (header(100000, 2, 0), rpc.encode_refusal(XID, rpc.PROG_UNAVAIL)),
        (header(mount.PROGRAM, 1, 0), rpc.encode_program_mismatch(XID, 3, 3)),
        (header(mount.PROGRAM, 3, 0, BROKEN_AUTH_SYS), rpc.encode_auth_error(XID, rpc.AUTH_BADCRED)),
        (header(nfs.PROGRAM, 4, 0), rpc.encode_program_mismatch(XID, 3, 3)),
        (header(nfs.PROGRAM, 3, 22), rpc.encode_refusal(XID, rpc.PROC_UNAVAIL)),
        (header(nfs.PROGRAM, 3, nfs.GETATTR), rpc.encode_refusal(XID, rpc.GARBAGE_ARGS)),
        (header(nfs.PROGRAM, 3, 0, UNKNOWN_FLAVOR), rpc.encode_auth_error(XID, rpc.AUTH_BADCRED)),
        (header(nfs.PROGRAM, 3, 0, BROKEN_AUTH_SYS), rpc.encode_auth_error(XID, rpc.AUTH_BADCRED)),
        (header(nfs.PROGRAM, 3, 0), rpc.encode_success(XID, b"")),
        (header(nfs.PROGRAM, 3, 0, rpc.AUTH_NONE_CREDENTIAL), rpc.encode_success(XID, b"")),
        (b"no call", None),
        (rpc.encode_success(XID, bytes(40)), None),
    ],
)
def test_what_is_no_call_of_ours_is_answered_as_the_rfc_says(record: bytes, reply: bytes | None) -> None:
    """Each kind of refusal, and silence for what is no call at all."""
    server, _ = file_server()

    assert server.handle_call(record, GUEST, 0) == reply


@pytest.mark.parametrize(
    ("mode", "position", "outcome", "kept"),
    [
        ("checksum", 0, "executed-again", b"B"),
        ("checksum", 195, "executed-again", b"B"),
        ("checksum", 196, "replied", b"A"),
        ("no-checksum", 0, "replied", b"A"),
        ("no-checksum", 196, "replied", b"A"),
        ("none", 0, "executed-again", b"B"),
        ("none", 196, "executed-again", b"B"),
    ],
)
def test_a_call_sent_again_with_other_bytes_corrupts_where_the_cache_misses(
    mode: Mode, position: int, outcome: str, kept: bytes
) -> None:
    """The checksum that guards against reused XIDs is what lets a changed retransmission through."""
    server, file = file_server(mode)
    first = b"A" * 4096
    second = first[:position] + b"B" + first[position + 1 :]
    reply = server.handle_call(write_record(file, first), GUEST, 0)

    again = server.handle_call(write_record(file, second), GUEST, 1)

    assert reply is not None
    assert again is not None
    assert rpc.decode_reply(again).succeeded()
    assert DuplicateSeen(XID, GUEST, nfs.WRITE, outcome, True) in server.events
    assert server.procedures.store.read(file, position, 1) == kept


@pytest.mark.parametrize(("mode", "writes"), [("checksum", 1), ("no-checksum", 1), ("none", 2)])
def test_the_same_call_again_is_executed_once_unless_nothing_remembers_it(mode: Mode, writes: int) -> None:
    """Its reply is the same, and the event says that no byte differed."""
    server, file = file_server(mode)
    record = write_record(file, b"data")
    first = server.handle_call(record, GUEST, 0)

    second = server.handle_call(record, GUEST, 1)

    assert mode == "none" or first == second
    assert sum(isinstance(event, WriteExecuted) for event in server.events) == writes
    assert [event.payload_differs for event in server.events if isinstance(event, DuplicateSeen)] == [False]


def test_a_reconnected_client_is_not_recognised() -> None:
    """A late second execution overwrites a newer write, although no byte was ever changed."""
    server, file = file_server()
    old = write_record(file, b"old!", 1)
    server.handle_call(old, GUEST, 0)
    server.handle_call(write_record(file, b"new!", 2), GUEST, 1)

    server.handle_call(old, (GUEST[0], 801), 2)

    assert server.procedures.store.read(file, 0, 4) == b"old!"
    assert server.events[-2] == DuplicateSeen(1, (GUEST[0], 801), nfs.WRITE, "executed-again", False)


def test_a_duplicate_of_a_call_in_progress_is_dropped() -> None:
    """While a disk is busy the server has admitted a call but not executed it."""
    server, file = file_server()
    record = write_record(file, b"data")
    admitted = server.admit(record, GUEST, 0)
    assert isinstance(admitted, AdmittedCall)

    dropped = server.handle_call(record, GUEST, 1)
    reply = server.execute(admitted, 2)
    replied = server.handle_call(record, GUEST, 3)

    assert dropped is None
    assert replied == reply
    assert [type(event).__name__ for event in server.events] == ["DuplicateSeen", "WriteExecuted", "DuplicateSeen"]


def test_a_server_is_copied_with_a_call_in_progress() -> None:
    """A search copies machines at every step; the copy's reply cache must know its own entry."""
    server, file = file_server()
    record = write_record(file, b"data")
    admitted = server.admit(record, GUEST, 0)

    twin, twin_admitted = copy.deepcopy((server, admitted))
    assert isinstance(twin_admitted, AdmittedCall)
    reply = twin.execute(twin_admitted, 1)

    assert twin.handle_call(record, GUEST, 2) == reply
    assert server.procedures.store.read(file, 0, 4) == b""
    assert server.handle_call(record, GUEST, 2) is None


def test_what_only_reads_is_not_cached() -> None:
    """READ, GETATTR, LOOKUP and COMMIT are executed as often as they are asked."""
    server, file = file_server()
    conversation = Conversation(server)
    conversation.xid = 100
    conversation.read(file, 0, 1)
    conversation.attributes(file)
    conversation.lookup(b"file")
    conversation.commit(file)

    assert server.drc.not_cached == 4
    assert server.drc.misses == 1  # the CREATE that made the file


def test_a_restarted_server_shows_another_verifier_and_knows_the_same_handles() -> None:
    """By the verifier a client sees that unstable data may be lost; by the handle it goes on."""
    store = MemoryStore()
    before = Conversation(NfsServer(store, b"first..."))
    file = before.made(b"file")
    old = before.write(file, 0, b"data", nfs.UNSTABLE)

    after = Conversation(NfsServer(store, b"second.."))
    new = after.write(file, 4, b"more", nfs.UNSTABLE)

    assert (old.verifier, new.verifier) == (b"first...", b"second..")
    assert after.read(file, 0, 9).data == b"datamore"


def test_the_witness_is_bounded() -> None:
    """However many calls come."""
    server, file = file_server("none")
    for xid in range(WITNESSED_MAX + 10):
        server.handle_call(write_record(file, b"", xid), GUEST, 0)

    assert len(server.witnessed) == WITNESSED_MAX


def seeds(server: NfsServer, file: bytes) -> list[bytes]:
    """A good call of every procedure."""
    root = server.root_handle
    changes = nfs.SetAttributes(mode=0o600, size=3, mtime=5)
    arguments = {
        nfs.NULL: b"",
        nfs.GETATTR: nfs_calls.encode_file(file),
        nfs.SETATTR: nfs_calls.encode_setattr(file, changes, 5),
        nfs.LOOKUP: nfs_calls.encode_name(root, b"file"),
        nfs.ACCESS: nfs_calls.encode_access(file, 0x3F),
        nfs.READ: nfs_calls.encode_range(file, 0, 100),
        nfs.WRITE: write_arguments(file, 0, b"some data"),
        nfs.CREATE: nfs_calls.encode_create(root, b"new", changes),
        nfs.MKDIR: nfs_calls.encode_mkdir(root, b"inner", nfs.SetAttributes()),
        nfs.REMOVE: nfs_calls.encode_name(root, b"gone"),
        nfs.RENAME: nfs_calls.encode_rename(root, b"gone", root, b"new"),
        nfs.READDIR: nfs_calls.encode_readdir(root, 0, bytes(8), 4096),
        nfs.READLINK: nfs_calls.encode_file(file),
        nfs.SYMLINK: nfs_links.encode_symlink(root, b"link", b"target"),
        nfs.MKNOD: nfs_links.encode_mknod(root, b"device", nfs.NF3CHR, (1, 3)),
        nfs.LINK: nfs_links.encode_link(file, root, b"second"),
        nfs.READDIRPLUS: nfs_listing.encode_readdirplus(root, 0, bytes(8), 4096, count=8192),
        nfs.FSINFO: nfs_calls.encode_file(root),
        nfs.FSSTAT: nfs_calls.encode_file(root),
        nfs.PATHCONF: nfs_calls.encode_file(root),
        nfs.COMMIT: nfs_calls.encode_range(file, 0, 0),
    }
    return [call_record(procedure, body, XID + procedure) for procedure, body in arguments.items()]


GARBLING_SERVER, GARBLED_FILE = file_server()
SEEDS = seeds(GARBLING_SERVER, GARBLED_FILE)

mutations = st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=4)), max_size=4)


@settings(max_examples=400)
@given(st.sampled_from(SEEDS), mutations, st.integers(0, 400))
def test_garbage_gets_an_answer_or_silence_but_never_an_exception(
    record: bytes, changes: list[tuple[int, bytes]], cut: int
) -> None:
    """Calls overwritten anywhere and cut anywhere; the server goes on serving."""
    server, _ = file_server()
    garbled = bytearray(record)
    for position, new in changes:
        garbled[position : position + len(new)] = new

    for bytes_in in (bytes(garbled), bytes(garbled[:cut])):
        reply = server.handle_call(bytes_in, GUEST, 0)
        assert reply is None or rpc.decode_reply(reply).xid == int.from_bytes(bytes_in[:4], "big")

    assert Conversation(server).write(GARBLED_FILE, 0, b"data").status in (nfs.NFS3_OK, nfs.NFS3ERR_STALE)


def test_a_known_call_gets_a_known_answer() -> None:
    """A whole conversation, byte by byte: LOOKUP of a name that is not there."""
    server, _ = file_server()
    record = bytes.fromhex(
        "0000004d 00000000 00000002 000186a3 00000003 00000003"  # xid, CALL, RPC 2, NFS 3, LOOKUP
        "00000000 00000000 00000000 00000000"  # AUTH_NONE twice
        "00000024 0000000000000001 0000000000000001 00000001 00000000 00000000 00000000 00000000"  # the root
        "00000002 6e6f0000"  # "no"
    )

    reply = server.handle_call(record, GUEST, 0)

    assert reply == bytes.fromhex(
        "0000004d 00000001 00000000 00000000 00000000 00000000"  # xid, REPLY, MSG_ACCEPTED, AUTH_NONE, SUCCESS
        "00000002 00000000"  # NFS3ERR_NOENT, no attributes
    )
    assert nfs_replies.decode_lookup(reply, rpc.REPLY_HEAD_BYTES).status == nfs.NFS3ERR_NOENT


def test_the_digest_of_a_write_is_of_the_bytes_that_were_written() -> None:
    """So that an oracle can compare it with what the application meant."""
    server, file = file_server()

    server.handle_call(write_record(file, b"abc"), GUEST, 0)

    assert server.events == [WriteExecuted(XID, GUEST, "file", 0, 3, nfs.FILE_SYNC, xxhash.xxh3_64_intdigest(b"abc"))]
