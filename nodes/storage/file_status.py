"""What the system says of a real file, in NFS's words, and how owner and times are set as SETATTR asks."""

from __future__ import annotations

import os
import stat

from lateack.nodes.nfs.nfs import (
    NF3BLK,
    NF3CHR,
    NF3DIR,
    NF3FIFO,
    NF3LNK,
    NF3REG,
    NF3SOCK,
    NFS3ERR_STALE,
    SERVER_TIME,
    Attributes,
    NfsError,
    SetAttributes,
)

_KINDS = {
    stat.S_IFREG: NF3REG,
    stat.S_IFDIR: NF3DIR,
    stat.S_IFBLK: NF3BLK,
    stat.S_IFCHR: NF3CHR,
    stat.S_IFLNK: NF3LNK,
    stat.S_IFSOCK: NF3SOCK,
    stat.S_IFIFO: NF3FIFO,
}


def attributes_of(status: os.stat_result, fsid: int) -> Attributes:
    """What a file is, from what the system says of it; NFS3ERR_STALE if it has no name any more."""
    if status.st_nlink == 0:
        raise NfsError(NFS3ERR_STALE)
    return Attributes(
        _KINDS[stat.S_IFMT(status.st_mode)],
        stat.S_IMODE(status.st_mode),
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        status.st_size,
        status.st_blocks * 512,
        fsid,
        status.st_ino,
        status.st_atime_ns,
        status.st_mtime_ns,
        status.st_ctime_ns,
        (os.major(status.st_rdev), os.minor(status.st_rdev)),
    )


def set_owner_and_times(file: int | bytes, changes: SetAttributes, above: int | None = None) -> None:
    """Set owner and times as SETATTR asks, of an open file or of a name in the directory `above`.

    The server's time is the one that the kernel gives, for we read no clock.
    """
    follow = above is None
    if changes.uid is not None or changes.gid is not None:
        uid = -1 if changes.uid is None else changes.uid
        os.chown(file, uid, -1 if changes.gid is None else changes.gid, dir_fd=above, follow_symlinks=follow)
    if changes.atime is None and changes.mtime is None:
        return
    before = os.stat(file, dir_fd=above, follow_symlinks=follow)
    os.utime(file, dir_fd=above, follow_symlinks=follow)
    clock = os.stat(file, dir_fd=above, follow_symlinks=follow).st_mtime_ns
    atime = before.st_atime_ns if changes.atime is None else changes.atime
    mtime = before.st_mtime_ns if changes.mtime is None else changes.mtime
    times = (clock if atime == SERVER_TIME else atime, clock if mtime == SERVER_TIME else mtime)
    os.utime(file, ns=times, dir_fd=above, follow_symlinks=follow)
