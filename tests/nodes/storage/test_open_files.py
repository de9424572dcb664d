"""The cache of descriptors behind a directory store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lateack.nodes.nfs.nfs import NFS3ERR_STALE, NfsError
from lateack.nodes.storage.directory_store import DirectoryStore
from lateack.nodes.storage.open_files import OPEN_FILES_MAX, OpenFiles, Place


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def test_a_store_holds_a_bounded_number_of_descriptors_and_gives_them_back(tmp_path: Path) -> None:
    """However many files are used, all remain usable and none stays open after the store."""
    before = open_descriptors()
    store = DirectoryStore(tmp_path)
    inner = store.mkdir(store.root, b"inner", 0o755, 0)
    files = [store.create(inner, b"%d" % number, 0o644, 0) for number in range(OPEN_FILES_MAX + 20)]

    for number, file in enumerate(files):
        store.write(file, 0, memoryview(b"%d" % number), 0)
    during = open_descriptors()
    contents = [store.read(file, 0, 9) for file in files]
    store.close()

    assert contents == [b"%d" % number for number in range(len(files))]
    assert during - before <= OPEN_FILES_MAX + 1
    assert open_descriptors() == before


def stale(files: OpenFiles, fileid: int) -> bool:
    """Whether a file is said not to be there."""
    with pytest.raises(NfsError) as error:
        files.get(fileid)
    return error.value.status == NFS3ERR_STALE


def test_handles_that_somebody_makes_up_cost_one_walk(tmp_path: Path) -> None:
    """What was not in the tree when all of it had been seen is not there, and what was needs no other walk."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "f").touch()
    files = OpenFiles(tmp_path)

    made_up = [stale(files, (1 << 60) + number) for number in range(100)]
    known = files.get((tmp_path / "inner" / "f").stat().st_ino)

    assert all(made_up)
    assert not known.is_directory
    assert files.walks == 1
    files.close()


def test_in_a_tree_too_large_to_remember_each_costs_one_walk(tmp_path: Path) -> None:
    """A file that was not found is not searched for again, and the others still are."""
    for number in range(20):
        (tmp_path / str(number)).touch()
    files = OpenFiles(tmp_path, places_max=4)

    made_up = [stale(files, 1 << 60) for _ in range(100)]
    walks = files.walks
    for number in range(20):
        files.get((tmp_path / str(number)).stat().st_ino)

    assert all(made_up)
    assert walks == 1
    assert len(files.places) == 4
    files.close()


def test_a_file_that_was_not_found_is_there_when_it_is_seen(tmp_path: Path) -> None:
    """Somebody else moves a file away and back: its handle is good again from the next lookup on."""
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "export" / "f"
    here.parent.mkdir()
    elsewhere.touch()
    fileid = elsewhere.stat().st_ino
    files = OpenFiles(here.parent, places_max=1)
    assert stale(files, fileid)

    elsewhere.rename(here)
    files.remember(fileid, Place(files.root_fileid, b"f"))

    assert not files.get(fileid).is_directory
    files.close()


def test_a_file_is_found_whose_directory_is_gone(tmp_path: Path) -> None:
    """Somebody else has moved it out before, and that is only known when its place is looked at."""
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "f").touch()
    fileid = (inner / "f").stat().st_ino
    files = OpenFiles(tmp_path)
    assert files.search(fileid) is not None

    (inner / "f").rename(tmp_path / "g")
    inner.rmdir()

    assert not files.get(fileid).is_directory
    files.close()


def test_a_removed_file_is_not_searched_for_unless_it_has_another_name(tmp_path: Path) -> None:
    """Its handle is stale at once; with a second name it goes on to be good, whichever name went."""
    store = DirectoryStore(tmp_path)
    single, double = [store.create(store.root, name, 0o644, 0) for name in (b"single", b"double")]
    store.link(double, store.root, b"other", 0)
    with pytest.raises(NfsError):
        store._files.get(1 << 60)

    store.remove(store.root, b"single", 0)
    with pytest.raises(NfsError):
        store.getattr(single)
    walks = store._files.walks
    store.remove(store.root, b"double", 0)

    assert walks == 1
    assert store.getattr(double).links == 1
    store.close()
