"""The arguments of NFSv3 calls, byte by byte and back."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.nfs import nfs, nfs_calls
from lateack.nodes.nfs.xdr import XdrError

handles = st.binary(max_size=nfs.HANDLE_BYTES_MAX)
names = st.binary(max_size=300)
hypers = st.integers(0, 2**64 - 1)
uints = st.integers(0, 2**32 - 1)

WRITE_HEAD = bytes.fromhex(
    "00000006 616263646566 0000"  # file
    "0000000000001000 00000005 00000002 00000005"  # offset, count, FILE_SYNC, length of the payload
)


def test_a_write_has_the_bytes_of_the_rfc() -> None:
    """Section 3.3.7: file, offset, count, stable, and the length of the payload that follows."""
    assert nfs_calls.encode_write_head(b"abcdef", 4096, 5, nfs.FILE_SYNC) == WRITE_HEAD


@given(handles, hypers, st.binary(max_size=50), st.sampled_from((nfs.UNSTABLE, nfs.DATA_SYNC, nfs.FILE_SYNC)))
def test_a_write_is_read_back_without_copying_its_payload(file: bytes, offset: int, data: bytes, stable: int) -> None:
    """The payload is a window on the record, wherever in it the arguments begin."""
    padded = data + bytes(-len(data) % 4)
    record = b"header.." + nfs_calls.encode_write_head(file, offset, len(data), stable) + padded

    arguments = nfs_calls.decode_write(record, 8)

    assert (arguments.file, arguments.offset, arguments.count, arguments.stable) == (file, offset, len(data), stable)
    assert arguments.payload(record).obj is record
    assert arguments.payload(record) == data


@pytest.mark.parametrize(
    "record",
    [
        WRITE_HEAD + b"fives",  # no padding
        WRITE_HEAD[:-4],
        WRITE_HEAD[:-4] + bytes.fromhex("00000004") + bytes(8),  # two counts
        WRITE_HEAD[:-8] + bytes.fromhex("00000003 00000005") + bytes(8),  # no such stability
        bytes.fromhex("00000041") + bytes(200),  # a handle of 65 bytes
    ],
)
def test_a_write_that_contradicts_itself_is_an_error(record: bytes) -> None:
    """Its counts, its stability, its handle and its length are checked."""
    with pytest.raises(XdrError):
        nfs_calls.decode_write(record, 0)


@given(handles, hypers, uints)
def test_a_range_is_read_back(file: bytes, offset: int, count: int) -> None:
    """READ and COMMIT share their arguments."""
    found = nfs_calls.decode_range(nfs_calls.encode_range(file, offset, count), 0)

    assert found == nfs_calls.RangeArguments(file, offset, count)


@given(handles, names, handles, names)
def test_names_are_read_back(directory: bytes, name: bytes, other: bytes, other_name: bytes) -> None:
    """LOOKUP, REMOVE, RMDIR, and RENAME with two."""
    one = nfs_calls.decode_name(nfs_calls.encode_name(directory, name), 0)
    two = nfs_calls.decode_rename(nfs_calls.encode_rename(directory, name, other, other_name), 0)

    assert one == nfs_calls.NameArguments(directory, name)
    assert two == nfs_calls.RenameArguments(directory, name, other, other_name)


@given(handles, names, st.sampled_from((nfs.UNCHECKED, nfs.GUARDED, nfs.EXCLUSIVE)))
def test_creations_are_read_back(directory: bytes, name: bytes, mode: int) -> None:
    """An exclusive one carries a verifier where the others carry attributes."""
    exclusive = mode == nfs.EXCLUSIVE
    changes = nfs.SetAttributes() if exclusive else nfs.SetAttributes(mode=0o600)
    verifier = b"verifier" if exclusive else b""
    encoded = nfs_calls.encode_create(directory, name, changes, mode, verifier)
    made = nfs_calls.encode_mkdir(directory, name, changes)

    assert nfs_calls.decode_create(encoded, 0) == nfs_calls.CreateArguments(directory, name, mode, changes, verifier)
    assert nfs_calls.decode_mkdir(made, 0) == nfs_calls.CreateArguments(directory, name, nfs.UNCHECKED, changes)


@given(handles, uints, hypers, st.none() | st.integers(0, 2**32 * nfs.SECOND - 1))
def test_the_other_arguments_are_read_back(file: bytes, small: int, large: int, guard: int | None) -> None:
    """GETATTR, ACCESS, READDIR and SETATTR."""
    changes = nfs.SetAttributes(size=large)

    assert nfs_calls.decode_file(nfs_calls.encode_file(file), 0) == nfs_calls.FileArguments(file)
    assert nfs_calls.decode_access(nfs_calls.encode_access(file, small), 0) == nfs_calls.AccessArguments(file, small)
    assert nfs_calls.decode_readdir(
        nfs_calls.encode_readdir(file, large, b"verifier", small), 0
    ) == nfs_calls.ReaddirArguments(file, large, b"verifier", small)
    assert nfs_calls.decode_setattr(nfs_calls.encode_setattr(file, changes, guard), 0) == nfs_calls.SetattrArguments(
        file, changes, guard
    )
