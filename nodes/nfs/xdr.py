"""XDR, the external data representation (RFC 4506): big-endian units of four bytes."""

from __future__ import annotations

import struct
from typing import Any

PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
"""The zero bytes that follow an opaque of n bytes: `PADDING[n & 3]` (RFC 4506 section 3)."""

_UINT = struct.Struct(">I")
_UHYPER = struct.Struct(">Q")


class XdrError(ValueError):
    """The bytes are not what their XDR type says: cut short, beyond their bound, or no value of it."""


class Packer:
    """Builds one XDR encoding, item after item."""

    __slots__ = ("buffer",)

    def __init__(self) -> None:
        self.buffer = bytearray()

    def uint(self, value: int) -> None:
        """Append an unsigned integer, an enum or a bool (RFC 4506 sections 4.2-4.4)."""
        self.buffer += _UINT.pack(value)

    def uhyper(self, value: int) -> None:
        """Append an unsigned 64-bit integer (section 4.5)."""
        self.buffer += _UHYPER.pack(value)

    def fixed(self, data: bytes) -> None:
        """Append an opaque whose length both sides know (section 4.9)."""
        self.buffer += data
        self.buffer += PADDING[len(data) & 3]

    def opaque(self, data: bytes) -> None:
        """Append an opaque or a string, its length first (sections 4.10 and 4.11)."""
        size = len(data)
        self.buffer += _UINT.pack(size)
        self.buffer += data
        self.buffer += PADDING[size & 3]

    def finish(self) -> bytes:
        """The encoding so far."""
        return bytes(self.buffer)


class Unpacker:
    """Reads one XDR encoding, item after item, from `position` on; every method may raise XdrError."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data = data
        self.position = position

    def uint(self) -> int:
        """Take an unsigned integer or an enum."""
        value: int = self.take(_UINT)[0]
        return value

    def uhyper(self) -> int:
        """Take an unsigned 64-bit integer."""
        value: int = self.take(_UHYPER)[0]
        return value

    def boolean(self) -> bool:
        """Take a bool, which is 0 or 1 and nothing else."""
        value = self.uint()
        if value > 1:
            raise XdrError(f"a bool is 0 or 1, not {value}")
        return value == 1

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        """Take several items of fixed size in one step."""
        position = self.position
        try:
            values = layout.unpack_from(self.data, position)
        except struct.error:
            raise XdrError(f"{layout.size} bytes wanted at {position} of {len(self.data)}") from None
        self.position = position + layout.size
        return values

    def fixed(self, size: int) -> bytes:
        """Take an opaque of `size` bytes and its padding."""
        start = self.position
        self.skip(size)
        return self.data[start : start + size]

    def opaque(self, maximum: int) -> bytes:
        """Take an opaque or a string of at most `maximum` bytes, and its padding."""
        size = self._length(maximum)
        start = self.position
        self.skip(size)
        return self.data[start : start + size]

    def view(self, maximum: int) -> memoryview:
        """Take an opaque of at most `maximum` bytes without copying it."""
        size = self._length(maximum)
        start = self.position
        self.skip(size)
        return memoryview(self.data)[start : start + size]

    def skip(self, size: int) -> None:
        """Pass over `size` bytes and their padding."""
        end = self.position + ((size + 3) & ~3)
        if end > len(self.data):
            raise XdrError(f"{size} bytes wanted at {self.position} of {len(self.data)}")
        self.position = end

    def _length(self, maximum: int) -> int:
        length = self.uint()
        if length > maximum:
            raise XdrError(f"an opaque of {length} bytes, where {maximum} are allowed")
        return length
