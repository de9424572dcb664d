"""The NFS door, used by Debian's libnfs and by a client of ours that does what no client should."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lateack.nodes.nfs import mount, nfs, nfs_calls, nfs_replies, rpc
from lateack.nodes.nfs.rpc import record_mark
from tests.doors.door import CREDENTIAL, PATIENCE_S, ROOT, Caller, Door, open_door, write_arguments
from tests.doors.libnfs import Libnfs
from tests.tools import needs

pytestmark = pytest.mark.live

BIG = 64 << 20


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The directory that is served, beside which lies a file that is not."""
    (tmp_path / "outside").write_bytes(b"not served")
    served = tmp_path / "served"
    served.mkdir()
    return served


@pytest.fixture
def door(directory: Path) -> Iterator[Door]:
    """A door to the directory, which still works at the end and has complained of nothing."""
    with open_door(directory) as opened:
        yield opened
        if opened.process.poll() is None:
            caller = Caller(opened.port)
            assert caller.call(nfs.NULL, b"") == b""
            caller.close()
            status, said = opened.end()
            assert status == 0
            assert said.startswith("lateack: served ")
            assert said.count("\n") == 1


@pytest.fixture
def export(door: Door) -> Iterator[Libnfs]:
    """The export as libnfs has mounted it."""
    needs("nfs-ls")
    mounted = Libnfs(door.url(""))
    yield mounted
    mounted.close()


@pytest.fixture
def caller(door: Door) -> Iterator[Caller]:
    """A connection of our own client's."""
    made = Caller(door.port)
    yield made
    made.close()


def typed(program: str, *words: str) -> str:
    """Run one of libnfs's programs, see that it succeeds, and return what it prints."""
    done = subprocess.run([needs(program), *words], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# --- libnfs ---------------------------------------------------------------------------------------------------------


def test_libnfs_copies_a_large_file_in_and_out_unharmed(door: Door, directory: Path, tmp_path: Path) -> None:
    """64 MiB go through nfs-cp twice, and nfs-ls shows them."""
    original, back = tmp_path / "original", tmp_path / "back"
    original.write_bytes(os.urandom(BIG))

    typed("nfs-cp", str(original), door.url("copy"))
    listed = typed("nfs-ls", door.url(""))
    typed("nfs-cp", door.url("copy"), str(back))

    digests = {hashlib.sha256(each.read_bytes()).digest() for each in (original, directory / "copy", back)}
    assert len(digests) == 1
    assert listed.split()[4:] == [str(BIG), "copy"]


def test_libnfs_reads_what_lies_there_below_either_name_of_the_root(door: Door, directory: Path) -> None:
    """A file in a directory is found below "/" and below the directory's own path."""
    (directory / "sub").mkdir()
    (directory / "sub" / "poem").write_text("roses\n")

    texts = [typed("nfs-cat", door.url(path)) for path in ("sub/poem", f"{directory}/sub/poem")]

    assert texts == ["roses\n", "roses\n"]


def test_the_example_for_libnfs_works_as_the_document_shows_it(door: Door, tmp_path: Path) -> None:
    """A reader who types it sees the file listed and its text."""
    needs("nfs-ls")
    blocks = re.findall(r"^```shell\n(.*?)^```$", (ROOT / "docs" / "doors.md").read_text(), re.DOTALL | re.MULTILINE)
    [example] = [block for block in blocks if "nfs-cp" in block]

    done = subprocess.run(
        ["bash", "-e", "-c", example.replace("2049", str(door.port))],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[-6:] == ["0", "0", "7", "page", "a", "page"]


def test_libnfs_makes_renames_links_and_removes(export: Libnfs, directory: Path) -> None:
    """What it does to names is what happens in the directory."""
    export.do("mkdir", b"/old")
    file = export.create(b"/old/file")
    export.write(file, 3, b"text")
    export.do("fsync", file)
    export.do("close", file)
    export.do("rename", b"/old", b"/new")
    export.do("link", b"/new/file", b"/second")
    export.do("symlink", b"new/file", b"/pointer")
    export.do("truncate", b"/second", 5)
    seen = {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }
    said = export.readlink(b"/pointer")
    for path in (b"/pointer", b"/second", b"/new/file"):
        export.do("unlink", path)
    export.do("rmdir", b"/new")

    assert seen == {"new/file": b"\0\0\0te", "second": b"\0\0\0te", "pointer": b"\0\0\0te"}
    assert said == b"new/file"
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    ("operation", "arguments", "reason"),
    [
        ("unlink", (b"/missing",), errno.ENOENT),
        ("mkdir", (b"/full",), errno.EEXIST),
        ("rmdir", (b"/full",), errno.ENOTEMPTY),
        ("rename", (b"/missing", b"/found"), errno.ENOENT),
        ("mkdir", (b"/" + b"n" * 256,), errno.ENAMETOOLONG),
        ("rmdir", (b"/full/file",), errno.ENOTDIR),
    ],
)
def test_libnfs_hears_why_something_cannot_be_done(
    export: Libnfs, directory: Path, operation: str, arguments: tuple[bytes, ...], reason: int
) -> None:
    """The reason is the one that a local file system would give."""
    (directory / "full").mkdir()
    (directory / "full" / "file").touch()

    with pytest.raises(OSError) as refused:  # noqa: PT011  # which one, is asserted below
        export.do(operation, *arguments)

    assert refused.value.errno == reason


def test_a_read_only_door_lets_libnfs_read_and_change_nothing(directory: Path) -> None:
    """Every change is refused with EROFS."""
    needs("nfs-ls")
    (directory / "file").write_text("text")

    with open_door(directory, "--read-only") as door:
        export = Libnfs(door.url(""))
        read = export.read(export.open(b"/file", os.O_RDONLY), 0, 100)
        reasons = []
        for operation, path in (("mkdir", b"/new"), ("unlink", b"/file")):
            with pytest.raises(OSError) as refused:  # noqa: PT011
                export.do(operation, path)
            reasons.append(refused.value.errno)
        export.close()

    assert read == b"text"
    assert reasons == [errno.EROFS, errno.EROFS]
    assert [path.name for path in directory.iterdir()] == ["file"]


# --- a client that does what none should ----------------------------------------------------------------------------


def test_handles_that_the_server_has_not_given_are_refused(caller: Caller, directory: Path) -> None:
    """A handle that is none, one of another file system's, and one whose file is gone."""
    root = caller.mount()
    gone = caller.create(root, b"gone")
    caller.call(nfs.REMOVE, nfs_calls.encode_name(root, b"gone"))
    foreign = bytes([root[0] ^ 1]) + root[1:]

    statuses = [
        nfs_replies.decode_getattr(caller.call(nfs.GETATTR, nfs_calls.encode_file(handle)), 0).status
        for handle in (b"", bytes(64), foreign, gone, root)
    ]

    assert statuses == [
        nfs.NFS3ERR_BADHANDLE,
        nfs.NFS3ERR_BADHANDLE,
        nfs.NFS3ERR_STALE,
        nfs.NFS3ERR_STALE,
        nfs.NFS3_OK,
    ]


def test_a_record_cut_short_by_the_end_of_the_connection_does_nothing(door: Door, directory: Path) -> None:
    """A client that goes away in the middle of a WRITE has written nothing, and nobody else notices."""
    caller = Caller(door.port)
    file = caller.create(caller.mount(), b"file")
    record = rpc.encode_call(99, nfs.PROGRAM, 3, nfs.WRITE, CREDENTIAL)
    record += write_arguments(file, 0, bytes(1000), nfs.FILE_SYNC)

    caller.socket.sendall(record_mark(len(record)) + record[:-500])
    caller.socket.shutdown(socket.SHUT_WR)

    assert caller.next_reply() is None
    caller.close()
    assert (directory / "file").read_bytes() == b""


def test_a_record_that_announces_too_much_ends_its_connection_alone(door: Door, caller: Caller) -> None:
    """The server does not wait for 2 GiB, and other connections live on."""
    liar = Caller(door.port)

    liar.socket.sendall(record_mark((1 << 31) - 1))

    assert liar.next_reply() is None
    liar.close()
    assert caller.call(nfs.NULL, b"") == b""


def test_calls_that_come_byte_by_byte_and_in_fragments_are_served(caller: Caller) -> None:
    """The stream may be cut anywhere."""
    record = rpc.encode_call(7, nfs.PROGRAM, 3, nfs.NULL, CREDENTIAL)
    stream = record_mark(10, last=False) + record[:10] + record_mark(len(record) - 10) + record[10:]

    for byte in stream:
        caller.socket.sendall(bytes([byte]))

    assert caller.next_reply() == rpc.encode_success(7, b"")


def test_a_client_that_does_not_read_its_answers_costs_little_memory(door: Door, directory: Path) -> None:
    """Of 1000 answers of 1 MiB few are made before the first is read, others are served, and in the end all come."""
    asked, size = 1000, 1 << 20
    (directory / "file").write_bytes(os.urandom(size))
    slow, other = Caller(door.port), Caller(door.port)
    slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    found = other.call(nfs.LOOKUP, nfs_calls.encode_name(other.mount(), b"file"))
    file = nfs_replies.decode_lookup(found, 0).file
    assert file is not None
    before = door.resident_bytes()

    first = slow.xid + 1
    for _ in range(asked):
        slow.send(nfs.READ, nfs_calls.encode_range(file, 0, size))
    for _ in range(100):
        other.call(nfs.GETATTR, nfs_calls.encode_file(file))
    grown = door.resident_bytes() - before
    xids = []
    for _ in range(20):
        reply = slow.next_reply()
        assert reply is not None
        xids.append(rpc.decode_reply(reply).xid)
    slow.close()
    other.close()

    assert grown < 32 << 20
    assert xids == list(range(first, first + 20))


def test_more_connections_than_there_may_be_close_the_most_silent(door: Door) -> None:
    """The one that has said nothing for longest goes, and whoever speaks stays."""
    crowd = [Caller(door.port) for _ in range(128)]
    for each in reversed(crowd):
        each.call(nfs.NULL, b"")

    one_more = Caller(door.port)
    one_more.call(nfs.NULL, b"")

    assert crowd[-1].next_reply() is None
    assert crowd[0].call(nfs.NULL, b"") == b""
    for each in (*crowd, one_more):
        each.close()


# --- UDP ------------------------------------------------------------------------------------------------------------


def test_datagrams_are_served_on_the_same_port(door: Door, directory: Path) -> None:
    """MOUNT, and a READ that gets no more than fits into a datagram."""
    (directory / "file").write_bytes(bytes(100_000))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(("127.0.0.1", door.port))

        def call(program: int, procedure: int, arguments: bytes) -> bytes:
            sock.send(rpc.encode_call(1, program, 3, procedure, CREDENTIAL) + arguments)
            reply = sock.recv(65536)
            return reply[rpc.decode_reply(reply).results :]

        sock.send(b"no call, and no answer to it")
        _, root, _ = mount.decode_mount_result(call(mount.PROGRAM, mount.MNT, mount.encode_path(b"/")))
        found = nfs_replies.decode_lookup(call(nfs.PROGRAM, nfs.LOOKUP, nfs_calls.encode_name(root, b"file")), 0)
        assert found.file is not None
        read = nfs_replies.decode_read(call(nfs.PROGRAM, nfs.READ, nfs_calls.encode_range(found.file, 0, 65536)), 0)
        info = nfs_replies.decode_fsinfo(call(nfs.PROGRAM, nfs.FSINFO, nfs_calls.encode_file(root)), 0)

    assert len(read.data) == 32_768
    assert info.read_max == 32_768
