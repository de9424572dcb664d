"""Processes of ours, by /proc and by pidfd: a pidfd never means another process that got the same number later."""

import contextlib
import os
import select
import signal
import time
from pathlib import Path


def descendants(of: int, marked: str, *, deep: bool = True) -> list[int]:
    """Return pidfds of the children of `of` whose command line contains `marked`; if `deep`, of all below them."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            parent = int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            if parent != of or marked.encode() in folder.joinpath("cmdline").read_bytes():
                children.setdefault(parent, []).append(int(folder.name))
    waiting, found = list(children.get(of, ())), []
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, ()) if deep else ()
        with contextlib.suppress(OSError):
            found.append(os.pidfd_open(pid))
    return found


def is_alive(pidfd: int) -> bool:
    """Say whether a process has not ended."""
    return not _ended(pidfd, 0)


def see_dead(pidfds: list[int], patience_s: float) -> None:
    """Wait for processes to end, and after `patience_s` seconds end them by force; closes the pidfds."""
    deadline = time.monotonic() + patience_s
    for pidfd in pidfds:
        if not _ended(pidfd, max(0.0, deadline - time.monotonic())):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)  # even a stopped process hears this
            _ended(pidfd, patience_s)
        os.close(pidfd)


def _ended(pidfd: int, timeout_s: float) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))
