"""Debian's libnfs, called from Python: an NFS client that nobody here wrote."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_uint64, c_void_p, create_string_buffer

import pytest

LIBRARIES = ("libnfs.so.13", "libnfs.so.14")
"""Versions 4 and 5; the one after them has other arguments for reading and writing."""


class _Url(Structure):
    _fields_ = (("server", c_char_p), ("path", c_char_p), ("file", c_char_p))


_SIGNATURES: dict[str, tuple[object, ...]] = {
    "nfs_parse_url_dir": (c_void_p, c_char_p),
    "nfs_mount": (c_void_p, c_char_p, c_char_p),
    "nfs_destroy_context": (c_void_p,),
    "nfs_get_error": (c_void_p,),
    "nfs_mkdir": (c_void_p, c_char_p),
    "nfs_rmdir": (c_void_p, c_char_p),
    "nfs_unlink": (c_void_p, c_char_p),
    "nfs_rename": (c_void_p, c_char_p, c_char_p),
    "nfs_symlink": (c_void_p, c_char_p, c_char_p),
    "nfs_link": (c_void_p, c_char_p, c_char_p),
    "nfs_readlink": (c_void_p, c_char_p, c_char_p, c_int),
    "nfs_truncate": (c_void_p, c_char_p, c_uint64),
    "nfs_open": (c_void_p, c_char_p, c_int, c_void_p),
    "nfs_creat": (c_void_p, c_char_p, c_int, c_void_p),
    "nfs_pwrite": (c_void_p, c_void_p, c_uint64, c_uint64, c_char_p),
    "nfs_pread": (c_void_p, c_void_p, c_uint64, c_uint64, c_char_p),
    "nfs_fsync": (c_void_p, c_void_p),
    "nfs_close": (c_void_p, c_void_p),
}


def _library() -> ctypes.CDLL:
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.nfs_init_context.restype = c_void_p
        for function, arguments in _SIGNATURES.items():
            getattr(library, function).argtypes = arguments
        library.nfs_parse_url_dir.restype = POINTER(_Url)
        library.nfs_get_error.restype = c_char_p
        return library
    pytest.skip(f"none of {LIBRARIES} is there")


class Libnfs:
    """A mounted export; every operation raises OSError with the errno that libnfs gives."""

    def __init__(self, url: str) -> None:
        self.library = _library()
        self.context = self.library.nfs_init_context()
        parsed = self.library.nfs_parse_url_dir(self.context, url.encode())
        self.do("mount", parsed.contents.server, parsed.contents.path)

    def close(self) -> None:
        """Let go of everything."""
        self.library.nfs_destroy_context(self.context)

    def do(self, operation: str, *arguments: object) -> int:
        """Call one of libnfs's functions and return what it returns."""
        result = int(getattr(self.library, f"nfs_{operation}")(self.context, *arguments))
        if result < 0:
            raise OSError(-result, f"{operation}: {self.library.nfs_get_error(self.context)!r}")
        return result

    def open(self, path: bytes, flags: int = os.O_RDWR) -> c_void_p:
        """Open a file that is there."""
        file = c_void_p()
        self.do("open", path, flags, byref(file))
        return file

    def create(self, path: bytes) -> c_void_p:
        """Make a file and open it."""
        file = c_void_p()
        self.do("creat", path, 0o644, byref(file))
        return file

    def write(self, file: c_void_p, offset: int, data: bytes) -> int:
        """Write bytes, UNSTABLE as libnfs does unless a file is opened with O_SYNC."""
        return self.do("pwrite", file, offset, len(data), data)

    def read(self, file: c_void_p, offset: int, count: int) -> bytes:
        """Read bytes."""
        buffer = create_string_buffer(count)
        size = self.do("pread", file, offset, count, buffer)
        return buffer.raw[:size]

    def readlink(self, path: bytes) -> bytes:
        """Read a symbolic link."""
        buffer = create_string_buffer(1024)
        self.do("readlink", path, buffer, len(buffer))
        return buffer.value
