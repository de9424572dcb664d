"""NFSv3's attributes against the text of RFC 1813."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.nfs import nfs
from lateack.nodes.nfs.xdr import Packer, Unpacker, XdrError

REGULAR = nfs.Attributes(
    nfs.NF3REG, 0o644, 1, 1000, 100, 5, 4096, 7, 42, 1_000_000_002, 3_000_000_004, 5_000_000_006, (8, 9)
)
REGULAR_BYTES = bytes.fromhex(
    "00000001 000001a4 00000001 000003e8 00000064"  # type, mode, nlink, uid, gid
    "0000000000000005 0000000000001000 00000008 00000009"  # size, used, rdev
    "0000000000000007 000000000000002a"  # fsid, fileid
    "00000001 00000002 00000003 00000004 00000005 00000006"  # atime, mtime, ctime
)


def test_attributes_have_the_84_bytes_of_the_rfc() -> None:
    """Section 2.6, fattr3, field by field."""
    assert nfs.pack_attributes(REGULAR) == REGULAR_BYTES
    assert len(REGULAR_BYTES) == nfs.ATTRIBUTES_BYTES == 84
    assert nfs.unpack_attributes(Unpacker(REGULAR_BYTES)) == REGULAR


def test_wcc_data_has_the_bytes_of_the_rfc() -> None:
    """Size, mtime and ctime before, all attributes after."""
    before = bytes.fromhex("00000001 0000000000000005 00000003 00000004 00000005 00000006")
    after = bytes.fromhex("00000001") + REGULAR_BYTES

    assert nfs.pack_wcc(REGULAR, REGULAR) == before + after
    assert nfs.pack_wcc(None, None) == bytes(8)
    assert nfs.unpack_wcc(Unpacker(before + after)) == REGULAR


def test_changes_have_the_bytes_of_the_rfc() -> None:
    """Each field of sattr3 follows the word that says it is there; a time may be the server's or the client's."""
    packer = Packer()

    nfs.pack_set_attributes(packer, nfs.SetAttributes(mode=0o600, size=9, atime=nfs.SERVER_TIME, mtime=1_000_000_002))

    assert packer.finish() == bytes.fromhex(
        "00000001 00000180 00000000 00000000 00000001 0000000000000009 00000001 00000002 00000001 00000002"
    )


optional = st.none() | st.integers(0, 2**32 - 1)
times = st.none() | st.just(nfs.SERVER_TIME) | st.integers(0, 2**32 * nfs.SECOND - 1)


@given(st.builds(nfs.SetAttributes, optional, optional, optional, st.none() | st.integers(0, 2**64 - 1), times, times))
def test_changes_are_read_back(changes: nfs.SetAttributes) -> None:
    """Whatever is set and whatever is left alone."""
    packer = Packer()
    nfs.pack_set_attributes(packer, changes)

    assert nfs.unpack_set_attributes(Unpacker(packer.finish())) == changes


def test_a_way_to_set_time_that_does_not_exist_is_an_error() -> None:
    """time_how has three values."""
    with pytest.raises(XdrError):
        nfs.unpack_set_attributes(Unpacker(bytes(16) + bytes.fromhex("00000003 00000000")))


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (errno.ENOSPC, nfs.NFS3ERR_NOSPC),
        (errno.EROFS, nfs.NFS3ERR_ROFS),
        (errno.EACCES, nfs.NFS3ERR_ACCES),
        (errno.ESTALE, nfs.NFS3ERR_STALE),
        (errno.EPIPE, nfs.NFS3ERR_IO),
    ],
)
def test_a_system_error_becomes_an_nfs_status(number: int, status: int) -> None:
    """What fits no status is an I/O error."""
    assert nfs.status_of_oserror(OSError(number, "")) == status
