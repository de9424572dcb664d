"""XDR encodings against the text of RFC 4506."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.nfs.xdr import Packer, Unpacker, XdrError


def test_every_type_has_the_bytes_of_the_rfc() -> None:
    """Integers are big-endian units of four bytes, and an opaque follows its length and is padded with zeros."""
    packer = Packer()

    packer.uint(0x01020304)
    packer.uhyper(0x0102030405060708)
    packer.opaque(b"sillyprog")
    packer.fixed(b"(quit)")

    assert packer.finish() == bytes.fromhex(
        "01020304 0102030405060708 00000009 73696c6c7970726f67 000000 287175697429 0000"
    )


@given(st.binary(max_size=70), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.booleans())
def test_what_was_packed_is_unpacked(data: bytes, small: int, large: int, flag: bool) -> None:
    """Unpacking gives back what was packed and ends where the encoding ends."""
    packer = Packer()
    packer.opaque(data)
    packer.uint(small)
    packer.uhyper(large)
    packer.uint(flag)
    packer.opaque(data)
    encoded = packer.finish()
    unpacker = Unpacker(encoded)

    found = (unpacker.opaque(70), unpacker.uint(), unpacker.uhyper(), unpacker.boolean(), bytes(unpacker.view(70)))

    assert found == (data, small, large, flag, data)
    assert unpacker.position == len(encoded)


@pytest.mark.parametrize("encoded", [b"", b"\0\0\0", b"\0\0\0\5abcde", b"\xff\xff\xff\xffabcd"])
def test_an_opaque_cut_short_is_an_error(encoded: bytes) -> None:
    """Neither a length nor a body nor the padding may be missing."""
    with pytest.raises(XdrError):
        Unpacker(encoded).opaque(2**32)


def test_an_opaque_beyond_its_bound_is_an_error() -> None:
    """The bound is checked before anything of that size is touched."""
    with pytest.raises(XdrError, match="8 bytes, where 4 are allowed"):
        Unpacker(bytes.fromhex("00000008 0000000000000000")).opaque(4)


def test_a_bool_of_two_is_an_error() -> None:
    """A bool is 0 or 1."""
    with pytest.raises(XdrError):
        Unpacker(bytes.fromhex("00000002")).boolean()
