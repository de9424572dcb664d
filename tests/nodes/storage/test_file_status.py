"""What the system says of a file in NFS's words, and times and owners as SETATTR sets them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lateack.nodes.nfs import nfs
from lateack.nodes.nfs.nfs import NfsError
from lateack.nodes.storage.file_status import attributes_of, set_owner_and_times


def test_a_file_is_told_as_it_is(tmp_path: Path) -> None:
    """Kind, mode, links, size and times; one without a name is stale."""
    path = tmp_path / "f"
    path.write_bytes(b"data")
    path.chmod(0o640)
    os.link(path, tmp_path / "g")
    with path.open() as file:
        told = attributes_of(path.stat(), 7)
        path.unlink()
        (tmp_path / "g").unlink()
        with pytest.raises(NfsError) as stale:
            attributes_of(os.fstat(file.fileno()), 7)

    assert (told.kind, told.mode, told.links, told.size, told.fsid) == (nfs.NF3REG, 0o640, 2, 4, 7)
    assert stale.value.status == nfs.NFS3ERR_STALE


def test_each_time_is_set_by_itself(tmp_path: Path) -> None:
    """To the client's, to the server's, or not at all; of an open file or of a name."""
    path = tmp_path / "f"
    path.write_bytes(b"")
    os.utime(path, ns=(1, 2))
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)

    set_owner_and_times(b"f", nfs.SetAttributes(atime=5), directory)
    first = path.stat()
    with path.open() as file:
        set_owner_and_times(file.fileno(), nfs.SetAttributes(uid=os.getuid(), mtime=nfs.SERVER_TIME))
    second = path.stat()
    os.close(directory)

    assert (first.st_atime_ns, first.st_mtime_ns) == (5, 2)
    assert second.st_atime_ns == 5
    assert second.st_mtime_ns > nfs.SECOND
    assert stat.S_ISREG(second.st_mode)
