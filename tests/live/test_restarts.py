"""What the session knows of the dead: who may die, what they wrote down, and when they are to be back."""

from pathlib import Path

from lateack.cluster.live.crew import Process
from lateack.cluster.live.journal import DEATH, HEAD, Journal
from lateack.cluster.live.plan import Whereabouts
from lateack.cluster.live.restarts import Restarts
from lateack.cluster.trace import Entry
from lateack.nodes.facts import Counted
from tests.live.machines import HUB, Echo, Mortal, SmallPlan

PLAN = SmallPlan({"mortal": (Mortal, 1), "other": (Echo,)}, mortal=["mortal"])


def process(name: str) -> Process:
    """Return what stands for a process that carries one machine."""
    return Process(None, name, 0, Whereabouts(0, "", 0), names=(name,))


def journal(path: Path, *records: bytes) -> bytes:
    """Return a journal with one entry, of 5 ms, and such records behind it."""
    entries: list[Entry] = [(5_000_000, 0, "mortal", Counted("a", 1))]
    written = Journal(path)
    written.keep(entries)
    written.close()
    return path.read_bytes() + b"".join(records)


def test_only_the_mortal_are_expected_to_die() -> None:
    """Nobody else's death is part of a run, the hub's least of all."""
    restarts = Restarts(PLAN, "token", local=True)

    assert [restarts.expects(process(name)) for name in ("mortal", "other", HUB)] == [True, False, False]


def test_a_death_by_rule_counts_and_says_when_it_is_over(tmp_path: Path) -> None:
    """The time is that of the last thing it recorded, and what the machine had asked for."""
    restarts = Restarts(PLAN, "token", local=True)

    due = restarts.take(process("mortal"), journal(tmp_path / "j", HEAD.pack(DEATH, 20_000_000)))

    assert due == 25_000_000
    assert restarts.incarnation(process("mortal")) == 1
    assert [fact for _, _, _, fact in restarts.entries] == [Counted("a", 1)]


def test_any_other_death_is_none_of_ours(tmp_path: Path) -> None:
    """A journal that just ends is that of a process which somebody killed."""
    restarts = Restarts(PLAN, "token", local=True)

    assert restarts.take(process("mortal"), journal(tmp_path / "j")) is None
    assert restarts.incarnation(process("mortal")) == 0


def test_a_run_without_deaths_needs_no_folder() -> None:
    """Where nobody may die nothing is written down."""
    assert Restarts(SmallPlan({"other": (Echo,)}), "token", local=True).scratch is None
