"""How an NFS door ends: told to, with everything written, or killed, with everything that it had promised."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from lateack.nodes.nfs import nfs, nfs_calls, rpc
from tests.doors.door import Caller, open_door, write_arguments
from tests.doors.libnfs import Libnfs
from tests.tools import needs

pytestmark = pytest.mark.live

PIECE = 8192


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_door_that_is_told_to_close_keeps_what_was_written(tmp_path: Path, number: int) -> None:
    """Bytes that were answered UNSTABLE and never committed are in the file after a graceful end."""
    with open_door(tmp_path) as door:
        caller = Caller(door.port)
        caller.write(caller.create(caller.mount(), b"file"), 0, b"text", nfs.UNSTABLE)
        status, said = door.end(number)
        caller.close()

    assert status == 0
    assert "among them 1 writes, 0 commits and 0 repeated calls" in said
    assert (tmp_path / "file").read_bytes() == b"text"


def test_a_repeated_call_is_answered_from_the_cache_unless_there_is_none(tmp_path: Path) -> None:
    """The same WRITE on the same connection is a duplicate, and with --drc none it is a new call."""
    counts = []
    for mode in ("checksum", "ganesha-like", "none"):
        with open_door(tmp_path, "--drc", mode) as door:
            caller = Caller(door.port)
            file = caller.create(caller.mount(), b"file")
            for _ in range(2):
                caller.xid = 50
                caller.write(file, 0, b"text", nfs.FILE_SYNC)
            caller.close()
            counts.append(door.end()[1].partition("them ")[2])

    assert counts == [
        "1 writes, 0 commits and 1 repeated calls.\n",
        "1 writes, 0 commits and 1 repeated calls.\n",
        "2 writes, 0 commits and 1 repeated calls.\n",
    ]


def pieces(count: int) -> list[bytes]:
    """Pieces of a file that are all different."""
    return [number.to_bytes(4) * (PIECE // 4) for number in range(1, count + 1)]


@pytest.mark.parametrize("replies", [1, 6, 40, 89])
def test_what_was_promised_survives_the_death_of_the_server(tmp_path: Path, replies: int) -> None:
    """Killed after some reply, it leaves all that was answered stable or committed; a new one has another verifier."""
    data = pieces(64)
    with open_door(tmp_path) as door:
        caller = Caller(door.port)
        root = caller.mount()
        loose, firm = caller.create(root, b"loose"), caller.create(root, b"firm")
        verifier = caller.commit(loose).verifier
        sent: dict[int, tuple[str, int]] = {}
        for number, piece in enumerate(data):
            at = number * PIECE
            sent[caller.send(nfs.WRITE, write_arguments(loose, at, piece, nfs.UNSTABLE))] = ("loose", number)
            sent[caller.send(nfs.WRITE, write_arguments(firm, at, piece, nfs.FILE_SYNC))] = ("firm", number)
            if number % 8 == 7:
                sent[caller.send(nfs.COMMIT, nfs_calls.encode_range(loose, 0, 0))] = ("commit", number)
        answered = [caller.next_reply() for _ in range(replies)]
        door.process.kill()
        while (reply := caller.next_reply()) is not None:
            answered.append(reply)
        caller.close()
        port = door.port
        door.process.wait()

    done = [sent[rpc.decode_reply(reply).xid] for reply in answered if reply is not None]
    committed = [number for what, last in done if what == "commit" for number in range(last + 1)]
    stable = [number for what, number in done if what == "firm"]
    lost = [number for what, number in done if what == "loose" and number not in committed]
    assert all(piece_of(tmp_path / "loose", number) == data[number] for number in committed)
    assert all(piece_of(tmp_path / "firm", number) == data[number] for number in stable)
    assert len(done) >= replies

    with open_door(tmp_path, port=port) as again:
        caller = Caller(again.port)
        for number in lost:
            caller.write(loose, number * PIECE, data[number], nfs.UNSTABLE)
        assert caller.commit(loose).verifier != verifier
        caller.close()
        assert all(piece_of(tmp_path / "loose", number) == data[number] for number in lost)


def piece_of(file: Path, number: int) -> bytes:
    """Read one piece of a file."""
    with file.open("rb") as opened:
        opened.seek(number * PIECE)
        return opened.read(PIECE)


def test_libnfs_goes_on_with_a_restarted_server_and_has_lost_what_it_did_not_commit(tmp_path: Path) -> None:
    """After SIGKILL the handle still serves; bytes behind an fsync are there, and UNSTABLE ones are not."""
    needs("nfs-ls")
    with open_door(tmp_path) as door:
        export = Libnfs(door.url(""))
        file = export.create(b"/file")
        export.write(file, 0, b"promised")
        export.do("fsync", file)
        export.write(file, 8, b"cached")
        cached = export.read(file, 0, 100)
        port = door.port

    with open_door(tmp_path, port=port):
        after = export.read(file, 0, 100)
        export.close()

    assert cached == b"promisedcached"
    assert after == b"promised"
    assert (tmp_path / "file").read_bytes() == b"promised"
