"""The server's page cache: seen by readers at once, on the disk when committed, and gone with the server otherwise."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.nfs import nfs, nfs_calls
from lateack.nodes.nfs.nfs import NfsError
from lateack.nodes.nfs.nfs_server import NfsServer
from lateack.nodes.storage.directory_store import DirectoryStore
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.storage.store import Store
from lateack.nodes.storage.write_back import DirtyFile, WriteBackStore
from tests.nodes.nfs.conversation import Conversation

STABILITIES = (nfs.UNSTABLE, nfs.DATA_SYNC, nfs.FILE_SYNC)


class Disk(MemoryStore):
    """A disk that fails while it is `broken`."""

    __slots__ = ("broken",)

    def __init__(self) -> None:
        super().__init__()
        self.broken = False

    def write(self, file: bytes, offset: int, data: memoryview, now: int) -> int:
        """Fail as a broken disk does, but let it be asked."""
        if self.broken and data:
            raise OSError(errno.EIO, "Input/output error")
        return super().write(file, offset, data, now)


def written(store: Store, name: bytes, data: bytes) -> bytes:
    """Make a file with these bytes in it and give its handle."""
    file = store.create(store.root, name, 0o644, 1)
    store.write(file, 0, memoryview(data), 2)
    return file


pieces = st.lists(st.tuples(st.integers(0, 60), st.binary(min_size=1, max_size=20)), max_size=12)


@given(st.binary(max_size=40), pieces, st.integers(0, 80), st.integers(0, 80))
def test_what_is_read_is_what_was_last_written(before: bytes, writes: list[tuple[int, bytes]], at: int, n: int) -> None:
    """However pieces overlap, touch or leave holes, over whatever the disk holds, and after it is on the disk."""
    disk = MemoryStore()
    file = written(disk, b"f", before)
    store, model = WriteBackStore(disk), bytearray(before)
    for offset, data in writes:
        store.write(file, offset, memoryview(data), 3)
        model.extend(bytes(max(0, offset - len(model))))
        model[offset : offset + len(data)] = data

    cached = store.read(file, at, n), store.getattr(file).size
    dirty = store.dirty_bytes
    store.commit(file)

    assert cached == (bytes(model[at : at + n]), len(model))
    assert dirty == len({place for offset, data in writes for place in range(offset, offset + len(data))})
    assert disk.read(file, 0, 1000) == model
    assert store.dirty_bytes == 0


def test_bytes_in_order_make_one_piece() -> None:
    """A file that is written from beginning to end is kept as one run of bytes, not as thousands."""
    dirty = DirtyFile(0)

    for number in range(100):
        dirty.write(number * 10, memoryview(b"0123456789"))

    assert (dirty.starts, len(dirty.pieces[0])) == ([0], 1000)


def test_uncommitted_bytes_are_seen_but_are_not_on_the_disk() -> None:
    """With the size and the time that the write has given the file."""
    disk = Disk()
    file = written(disk, b"f", b"old")
    store = WriteBackStore(disk)

    store.write(file, 0, memoryview(b"newer"), 7)

    assert store.read(file, 0, 9) == b"newer"
    assert (store.getattr(file).size, store.getattr(file).mtime) == (5, 7)
    assert disk.read(file, 0, 9) == b"old"


def test_a_size_comes_after_the_writes_before_it() -> None:
    """A file cut short does not grow again when it is written back."""
    store = WriteBackStore(Disk())
    file = written(store, b"f", b"0123456789")

    store.setattr(file, nfs.SetAttributes(size=4), 3)
    store.commit(file)

    assert store.read(file, 0, 99) == b"0123"


def test_removed_bytes_are_never_written_back() -> None:
    """But those of a file that keeps another name are."""
    disk = Disk()
    store = WriteBackStore(disk)
    gone, kept = written(store, b"gone", b"gone"), written(store, b"kept", b"kept")
    replaced = written(store, b"replaced", b"replaced")
    store.link(kept, store.root, b"other", 3)

    store.remove(store.root, b"gone", 3)
    store.remove(store.root, b"kept", 3)
    store.rename(store.root, b"other", store.root, b"replaced", 3)

    assert list(store.dirty) == [kept]
    assert store.dirty_bytes == 4
    assert store.read(kept, 0, 9) == b"kept"
    for handle in (gone, replaced):
        with pytest.raises(NfsError):
            store.read(handle, 0, 9)


def test_beyond_the_bound_the_oldest_are_written_back() -> None:
    """And nothing else."""
    disk = Disk()
    store = WriteBackStore(disk, dirty_bytes_max=10)
    first, second = written(store, b"first", b"123456"), written(store, b"second", b"1234")

    store.write(second, 4, memoryview(b"5"), 3)

    assert disk.read(first, 0, 9) == b"123456"
    assert disk.read(second, 0, 9) == b""
    assert store.dirty_bytes == 5


def test_what_cannot_be_written_is_refused_at_once() -> None:
    """Not when it is committed."""
    store = WriteBackStore(Disk())
    link = store.symlink(store.root, b"link", b"target", 0)

    for file, offset, status in (
        (store.root, 0, nfs.NFS3ERR_ISDIR),
        (link, 0, nfs.NFS3ERR_INVAL),
        (b"no handle", 0, nfs.NFS3ERR_BADHANDLE),
        (written(store, b"f", b""), 1 << 62, nfs.NFS3ERR_FBIG),
    ):
        with pytest.raises(NfsError) as refused:
            store.write(file, offset, memoryview(b"x"), 0)
        assert refused.value.status == status
    assert store.dirty == {}


def test_a_lost_write_back_is_told_to_the_next_who_commits() -> None:
    """Once; the bytes are gone, and the verifier says so to every client."""
    disk = Disk()
    client = Conversation(NfsServer(disk, b"verifier", write_back=True))
    file = client.made(b"f")
    before = client.write(file, 0, b"data", nfs.UNSTABLE)
    disk.broken = True
    cut = client.status(nfs.SETATTR, nfs_calls.encode_setattr(file, nfs.SetAttributes(size=9)))
    disk.broken = False

    committed = client.commit(file)
    again = client.commit(file)

    assert (before.status, cut, committed.status, again.status) == (0, 0, nfs.NFS3ERR_IO, 0)
    assert again.verifier != before.verifier == b"verifier"
    assert client.read(file, 0, 99).data == bytes(9)


@pytest.mark.parametrize("stable", STABILITIES)
def test_only_what_was_promised_is_on_the_disk(stable: int) -> None:
    """A server over the same disk finds what was stable; COMMIT, too, is a promise; and a good end keeps everything."""
    disk = MemoryStore()
    client = Conversation(NfsServer(disk, b"verifier", write_back=True))
    file, committed = client.made(b"f"), client.made(b"g")
    answer = client.write(file, 0, b"data", stable)
    client.write(committed, 0, b"data", nfs.UNSTABLE)
    client.commit(committed)
    at_the_crash = disk.read(file, 0, 9), disk.read(committed, 0, 9)
    client.server.sync()

    assert answer.committed == stable
    assert at_the_crash == (b"" if stable == nfs.UNSTABLE else b"data", b"data")
    assert disk.read(file, 0, 9) == b"data"


def test_a_stable_write_takes_the_unstable_ones_of_its_file_along() -> None:
    """And who reads sees the last of them, whichever it was."""
    disk = MemoryStore()
    client = Conversation(NfsServer(disk, b"verifier", write_back=True))
    file = client.made(b"f")
    client.write(file, 0, b"unstable", nfs.UNSTABLE)

    client.write(file, 2, b"--", nfs.FILE_SYNC)

    assert disk.read(file, 0, 99) == client.read(file, 0, 99).data == b"un--able"


KILLED = """
import os, signal, sys
from lateack.nodes.nfs import nfs
from lateack.nodes.storage.directory_store import DirectoryStore
from lateack.nodes.nfs.nfs_server import NfsServer
from tests.nodes.nfs.conversation import Conversation

client = Conversation(NfsServer(DirectoryStore(sys.argv[1]), b"verifier", write_back=True))
for stable in (nfs.UNSTABLE, nfs.DATA_SYNC, nfs.FILE_SYNC):
    client.write(client.made(b"stable-%d" % stable), 0, b"data", stable)
committed = client.made(b"committed")
client.write(committed, 0, b"data", nfs.UNSTABLE)
client.commit(committed)
client.write(committed, 0, b"lost", nfs.UNSTABLE)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_promised_survives_the_servers_sudden_death(tmp_path: Path) -> None:
    """SIGKILL: no handler runs, and what lay in the server's memory alone is lost."""
    root = Path(__file__).parents[3]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path],
        check=False,
        cwd=root,
        env=os.environ | {"PYTHONPATH": f"{root}/src:{root}"},
    )

    assert killed.returncode == -signal.SIGKILL
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "stable-0": b"",
        "stable-1": b"data",
        "stable-2": b"data",
        "committed": b"data",
    }


def test_who_writes_stable_alone_has_no_cache() -> None:
    """It is made by the first UNSTABLE write."""
    server = NfsServer(MemoryStore(), b"verifier", write_back=True)
    client = Conversation(server)
    file = client.made(b"f")

    client.write(file, 0, b"data")
    before = server.procedures.cached
    client.write(file, 0, b"data", nfs.UNSTABLE)

    assert before is None
    assert isinstance(server.procedures.store, WriteBackStore)


def test_a_directory_that_is_closed_in_good_order_keeps_everything(tmp_path: Path) -> None:
    """`close` writes back."""
    store = WriteBackStore(DirectoryStore(tmp_path))
    written(store, b"f", b"data")

    store.close()

    assert (tmp_path / "f").read_bytes() == b"data"
