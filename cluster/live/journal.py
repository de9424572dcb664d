"""What a process that a rule may kill writes down as it goes: its facts, and at last that it was to die.

A SIGKILL takes a process between two instructions, with everything that it had not given to the kernel. What was
written to a file stays, for the page cache is the kernel's. So each event's facts are written before the event's
messages can leave, and whoever takes the place of the dead reads them.
"""

import os
import signal
from pathlib import Path
from struct import Struct
from typing import NoReturn

from lateack.cluster.trace import DECODER, ENCODER, Entry
from lateack.nodes.node import Halt, Time

HEAD = Struct("!cQ")
FACTS, DEATH = b"F", b"D"
"""A record is one of these, and a number: of the bytes that follow, or of the ns until it is back."""


class Journal:
    """One process's journal in one life; the file is there from the beginning."""

    def __init__(self, path: Path) -> None:
        """Begin the journal at *path*, where there is none yet; raises OSError."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._kept = 0

    def keep(self, entries: list[Entry]) -> None:
        """Write down whatever of a process's *entries* is new."""
        fresh = entries[self._kept :]
        if fresh:
            self._kept = len(entries)
            self._write(FACTS, ENCODER.encode(fresh))

    def die(self, halt: Halt) -> NoReturn:
        """Write down when the machine is to be back, and be killed.

        It is the kernel that ends the process, as it would by anybody's order: no handler runs and nothing is flushed.
        That the order comes from within is what makes it come at the very effect that the rule means.
        """
        os.write(self._file, HEAD.pack(DEATH, halt.restart_after))
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("nobody outlives a SIGKILL")

    def close(self) -> None:
        """Close the file; whoever has the folder removes it."""
        os.close(self._file)

    def _write(self, kind: bytes, body: bytes) -> None:
        data = memoryview(HEAD.pack(kind, len(body)) + body)
        while data:
            data = data[os.write(self._file, data) :]


def read_journal(data: bytes) -> tuple[list[Entry], Time | None]:
    """Return the entries of a journal and after how many ns its machine is to be back.

    That is None where it was no rule that killed the process; a record that such a death cut short is left out.
    """
    entries: list[Entry] = []
    at = 0
    while at + HEAD.size <= len(data):
        kind, number = HEAD.unpack_from(data, at)
        at += HEAD.size
        if kind == DEATH:
            return entries, number
        if at + number > len(data):
            break
        entries += DECODER.decode(data[at : at + number])
        at += number
    return entries, None
