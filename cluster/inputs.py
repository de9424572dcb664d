"""What guests are given to copy: a file of the user's, or noise that seed and guest choose."""

import os
import random
from functools import lru_cache
from pathlib import Path

from lateack.nodes.errors import LateackError

PIECE = 1 << 20
"""Bytes of the noise that generated files are cut from, and of a longer file's pieces."""

STRIDE = 524_287
"""How far apart in the noise the pieces of a long file begin; a prime, so that no two begin alike for long."""


class BytesSource:
    """An input that lies in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, offset: int, count: int) -> bytes:
        """Return *count* bytes from *offset*."""
        return self.data[offset : offset + count]


class FileSource:
    """An input that lies in a file, read as it is needed; its size is what it was when the run began."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.size = os.fstat(self.descriptor).st_size
        except OSError as error:
            raise LateackError(f"the input {path} cannot be read: {error.strerror}") from error

    def read(self, offset: int, count: int) -> bytes:
        """Return *count* bytes from *offset*; raises LateackError when the file has become shorter."""
        data = os.pread(self.descriptor, count, offset)
        if len(data) < min(count, self.size - offset):
            raise LateackError(f"the input {self.path} became shorter while it was read; copy it first")
        return data

    def __deepcopy__(self, memo: dict[int, object]) -> "FileSource":
        return FileSource(self.path)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@lru_cache(maxsize=1)
def _noise() -> bytes:
    """Return `PIECE` random bytes twice over, so that as many can be cut out from anywhere in the first half."""
    return random.Random(2011).randbytes(PIECE) * 2


@lru_cache(maxsize=64)
def generated_input(seed: int, guest: int, size: int, write_size: int, common_prefix: int) -> bytes:
    """Return a guest's generated file; each of its writes begins with the same *common_prefix* bytes.

    It is noise from a place that seed and guest choose: to draw fresh bytes takes longer than to judge a story.
    """
    noise = _noise()
    place = (seed * 1009 + guest) * 8191 % PIECE
    data = bytearray()
    for number in range(-(-size // PIECE)):
        start = (place + number * STRIDE) % PIECE
        data += noise[start : start + min(PIECE, size - len(data))]
    if common_prefix:
        prefix = noise[PIECE - place : 2 * PIECE - place][:common_prefix]
        for start in range(0, size, write_size):
            end = min(start + common_prefix, start + write_size, size)
            data[start:end] = prefix[: end - start]
    return bytes(data)
