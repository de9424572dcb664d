"""What a process writes down before it is killed is all there, and no more is made of it than that."""

import subprocess
import sys
from pathlib import Path

import pytest

from lateack.cluster.live.journal import DEATH, HEAD, Journal, read_journal
from lateack.cluster.trace import Entry
from lateack.nodes.facts import Counted

DYING = """
import sys
from pathlib import Path
from lateack.cluster.live.journal import Journal
from lateack.nodes.facts import Counted
from lateack.nodes.node import Halt
journal = Journal(Path(sys.argv[1]))
journal.keep([(1, 0, "m", Counted("a", 1))])
buffered = open(sys.argv[1] + "-other", "w")
buffered.write("never seen: it has not been given to the kernel")
journal.die(Halt(77))
"""


def entries(count: int) -> list[Entry]:
    """Return so many entries."""
    return [(at, 0, "m", Counted("number", at)) for at in range(count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a journal goes whose folder is not there yet."""
    return tmp_path / "run" / "journal"


def test_what_was_kept_before_a_kill_is_read_after_it(path: Path) -> None:
    """The process ends by SIGKILL, what was in its buffers is lost, and its journal is whole."""
    done = subprocess.run([sys.executable, "-c", DYING, str(path)], check=False)

    assert done.returncode == -9
    assert path.with_name("journal-other").read_bytes() == b""
    assert read_journal(path.read_bytes()) == ([(1, 0, "m", Counted("a", 1))], 77)


def test_only_what_is_new_is_written(path: Path) -> None:
    """Entries are kept event by event; nothing comes twice."""
    journal = Journal(path)

    for count in (2, 2, 5):
        journal.keep(entries(count))
    journal.close()

    assert read_journal(path.read_bytes()) == (entries(5), None)


def test_a_journal_that_was_cut_short_is_read_as_far_as_it_goes(path: Path) -> None:
    """Whoever kills a process in the middle of a write leaves half a record."""
    journal = Journal(path)
    journal.keep(entries(3))
    journal.keep(entries(6))
    journal.close()
    whole = path.read_bytes()

    read = [read_journal(whole[:length]) for length in (len(whole) - 1, len(HEAD.pack(DEATH, 0)) - 1, 0)]

    assert read == [(entries(3), None), ([], None), ([], None)]
