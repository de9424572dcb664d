"""The application's turn: writes are done, and their buffers are filled with what comes next and written again."""

from collections.abc import Sequence

from lateack.nodes.facts import WriteCompleted
from lateack.nodes.node import Time
from lateack.nodes.scribbler import Scribbler
from lateack.nodes.storage.page_write import PageWrite


def copy_on(completed: Sequence[PageWrite], scribbler: Scribbler, now: Time) -> None:
    """Let the application go on with its copy, into the storage that its *scribbler* knows.

    Each finished write frees its buffer, the buffer takes the next bytes, and they are written; the last one of all
    finishes the storage.
    """
    copier, remote = scribbler.copier, scribbler.remote
    for write in completed:
        if not write.aborted:
            latency = now - write.issued_at
            copier.effects.append(WriteCompleted(write.xid, copier.file, write.offset, write.count, latency))
        if scribbler.waiting_for:
            scribbler.written(write)
        if not copier.over and copier.refill(write.buffer):
            remote.write(write.buffer, now)
    for buffer in copier.next_pass():
        remote.write(buffer, now)
    if copier.finished() and not remote.finishing and not copier.over:
        remote.finish(now)
