"""The matrix: its tables hold together, its runs are compared with them fairly, and the whole of it is as it says."""

import contextlib
import io
import json
import multiprocessing
import os
import secrets
import select
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from pydantic import ValidationError
from rich.console import Console

import lateack
from lateack.cluster import plugins
from lateack.cluster.matrix.cell import (
    AS_EXPECTED,
    AS_RECORDED,
    BROKEN_OFF,
    NOT_AS_EXPECTED,
    NOT_SAID,
    UNREACHED,
    Cell,
    Measured,
    cell_of,
    exit_code,
    run_virtually,
    scenario_of,
)
from lateack.cluster.matrix.command import fill
from lateack.cluster.matrix.display import print_matrix
from lateack.cluster.matrix.markdown import costs_as_markdown, side_as_markdown
from lateack.cluster.matrix.plan import Job, Wanted, plan
from lateack.cluster.matrix.pool import WORTH_A_PROCESS, carry_out
from lateack.cluster.matrix.tables import SIDES, Expected, table_of
from lateack.cluster.matrix.words import differences, of_side
from lateack.cluster.scenario import list_stories, load
from lateack.cluster.schema import Scenario
from tests.live.traces import processes_marked

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
JOB = Job("guest", "on-reply", "A2", "late-ack", "late-ack", (), "on-reply", "dev-zerocopy", None)
KEYS = [
    "side", "strategy", "situation", "harms", "delayed", "expected", "certain", "copies_per_byte", "completion_ms",
    "digest",
]  # fmt: skip
JOBS = plan(Wanted()).jobs


def expected(words: str, **others: object) -> Expected:
    """Return a cell of a table, as its YAML would give it."""
    return Expected.model_validate({"says": words, **others})


def cell(found: Measured, words: str | None, **others: object) -> Cell:
    """Return a run that found something, beside what a table says of it."""
    return Cell(JOB, "virtual", found, None if words is None else expected(words, **others))


# --- the tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_every_cell_can_be_run(side: str) -> None:
    """Each table names stories and strategies that there are; nothing is left out of the matrix."""
    planned = plan(Wanted((side,)))

    assert planned.skipped == []
    assert {(job.strategy, job.column) for job in planned.jobs} == {
        (row, column) for row in table_of(side).rows for column in table_of(side).columns
    }


@pytest.mark.parametrize("side", [side for side in SIDES if table_of(side).open])
def test_every_built_in_strategy_has_a_row(side: str) -> None:
    """Nobody adds a strategy without saying what is known of it, be it nothing."""
    table = table_of(side)

    assert table.rows_are in plugins.FAMILIES
    assert set(table.rows) == set(plugins.BUILT_IN[table.rows_are])


@pytest.mark.parametrize("side", SIDES)
def test_every_situation_is_a_scenario(side: str) -> None:
    """The settings of every column are keys that a scenario has, with values that fit."""
    for row in plan(Wanted((side,))).jobs:
        assert isinstance(scenario_of(row), Scenario)


def test_a_cell_is_words_and_how_certain_they_are() -> None:
    """One term stands for its harms; remarks in brackets change nothing."""
    assert expected("stale c") == expected("stale c", harms=["stale-on-wire"], delayed=False)
    assert expected("safe (copy) i").harms == ()
    assert expected("delay (at most 1 s) c").delayed
    assert [expected(f"safe {letter}").certain for letter in "ci"] == [True, False]


@pytest.mark.parametrize(
    ("cell", "mistake"),
    [
        ({"says": "stale"}, "does not end in c"),
        ({"says": "stale/fault i"}, "say which harms"),
        ({"says": "stale i", "reason": "so it is"}, "go together"),
        ({"says": "stale i", "harms": ["wet"]}, "harms"),
    ],
)
def test_a_cell_that_says_too_little_is_refused(cell: dict[str, object], mistake: str) -> None:
    """Alternatives need a choice, a difference needs a reason, and every cell its certainty."""
    with pytest.raises(ValidationError, match=mistake):
        Expected.model_validate(cell)


# --- the judgement ----------------------------------------------------------------------------------------------------

STALE, SAFE, DELAYED = Measured(harms=["stale-on-wire"]), Measured(), Measured(delayed=True)
NOTHING = Measured(missing=("The fact Parked never occurred.",))


@pytest.mark.parametrize(
    ("found", "words", "others", "status", "surprising"),
    [
        (STALE, "stale c", {}, AS_EXPECTED, False),
        (SAFE, "safe c", {}, AS_EXPECTED, False),
        (DELAYED, "safe c", {}, AS_EXPECTED, False),  # a delay is no harm
        (DELAYED, "delay c", {}, AS_EXPECTED, False),
        (Measured(harms=["fault", "stall"]), "fault c", {}, AS_EXPECTED, False),  # the host would have gone down
        (Measured(harms=["fault", "stale-on-wire"]), "fault c", {}, NOT_AS_EXPECTED, True),
        (Measured(harms=["stall"]), "fault c", {}, NOT_AS_EXPECTED, True),
        (SAFE, "delay i", {}, NOT_AS_EXPECTED, True),
        (STALE, "safe i", {}, NOT_AS_EXPECTED, True),
        (STALE, "safe i", {"model": ["stale-on-wire"], "reason": "so it is"}, AS_RECORDED, False),
        (STALE, "safe c", {"model": ["stale-on-wire"], "reason": "so it is"}, AS_RECORDED, True),
        (SAFE, "stale i", {"model": ["fault"], "reason": "so it was"}, NOT_AS_EXPECTED, True),
        (NOTHING, "safe c", {}, UNREACHED, True),
        (NOTHING, "stale i", {"model": [], "reason": "it never gets there"}, AS_RECORDED, False),
        (STALE, None, {}, NOT_SAID, False),
        (Measured(error="it broke"), None, {}, BROKEN_OFF, True),
    ],
)
def test_a_run_is_compared_with_its_cell(
    found: Measured, words: str | None, others: dict[str, object], status: str, surprising: bool
) -> None:
    """What differs is a surprise unless a reason is recorded for just this, and always where the table is certain."""
    judged = cell(found, words, **others)

    assert (judged.status, judged.surprising) == (status, surprising)
    assert exit_code([judged]) == surprising


def test_programs_read_what_they_were_promised() -> None:
    """The keys of a cell come in their order, and what no table says is expected of nobody."""
    written = cell(STALE, None).to_json()

    assert list(written)[: len(KEYS)] == KEYS
    assert (written["expected"], written["certain"], written["harms"]) == ([], False, ["stale-on-wire"])
    assert written["completion_ms"] == {"p50": None, "max": None}


def test_what_breaks_a_run_off_is_told_in_its_cell() -> None:
    """A setting that fits no scenario costs one cell, not the matrix."""
    found = run_virtually(msgspec.structs.replace(JOB, settings=("workload.bufers=2",)))

    assert found.error.startswith("--set workload.bufers=2: unknown key")


# --- which runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "sides"),
    [
        (Wanted(guest="full-copy"), {"guest", "protocol"}),
        (Wanted(guest="bounce"), {"rdma"}),
        (Wanted(guest="on-reply"), {"guest", "protocol", "rdma"}),
        (Wanted(backend="page-foreign"), {"backend"}),
        (Wanted(("protocol",), guest="full-copy"), {"protocol"}),
    ],
)
def test_a_built_in_strategy_stands_alone(wanted: Wanted, sides: set[str]) -> None:
    """Naming one asks for its row, on the sides where it has one."""
    jobs = plan(wanted).jobs

    assert {(job.side, job.strategy) for job in jobs} == {(side, wanted.guest or wanted.backend) for side in sides}


def test_a_strategy_of_ones_own_stands_beside_the_others() -> None:
    """A module:attribute gets a row by its own name, and nothing is expected of it."""
    with contextlib.chdir(EXAMPLES):
        jobs = plan(Wanted(guest="copy_again:CopyAgain")).jobs
        [own] = fill([job for job in jobs if job.strategy == "copy-again" and job.column == "A2"])

    assert list(dict.fromkeys(job.strategy for job in jobs)) == [*table_of("guest").rows, "copy-again"]
    assert (own.status, own.measured.harms) == (NOT_SAID, [])
    assert own.measured.copies_per_byte == {"guest1": 0.5}


def test_so_does_one_for_adapters() -> None:
    """A strategy of the third family has a row where adapters read the pages, and nowhere else."""
    with contextlib.chdir(EXAMPLES):
        jobs = plan(Wanted(guest="fence_first:FenceFirst")).jobs
        own = fill([job for job in jobs if job.strategy == "fence-first"])

    assert {job.side for job in jobs} == {"rdma"}
    assert {each.job.column: each.measured.harms for each in own}["R2"] == ["stale-on-wire"]
    assert {each.job.column: each.measured.harms for each in own}["R3"] == []


@pytest.mark.parametrize(
    ("side", "name", "sentence"),
    [("rdma", "full-copy", "is a guest strategy"), ("backend", "bounce", "is an rdma strategy")],
)
def test_a_strategy_of_another_family_is_refused(side: str, name: str, sentence: str) -> None:
    """A row that cannot be run is not left out in silence."""
    with pytest.raises(plugins.StrategyNotFound, match=sentence):
        plan(Wanted((side,), guest=name))


def test_an_unknown_strategy_is_refused_before_anything_runs() -> None:
    """The mistake is told by the one door for strategies."""
    with pytest.raises(plugins.StrategyNotFound, match="the nearest is 'on-reply'"):
        plan(Wanted(guest="on-repli"))


def test_the_other_side_can_be_fixed() -> None:
    """With --side the strategy of the other side is what all rows run over."""
    jobs = plan(Wanted(("guest",), backend="grant-copy")).jobs

    assert {job.backend for job in jobs} == {"grant-copy"}


# --- many at once -----------------------------------------------------------------------------------------------------


def test_processes_find_what_one_finds_and_are_gone_afterwards() -> None:
    """Every job is answered once, with the same digest as in this process, and no worker is left."""
    jobs = [msgspec.structs.replace(JOB, seed=seed) for seed in range(WORTH_A_PROCESS + 1)]

    found = dict(carry_out(jobs, 2))

    assert [found[place].digest for place in range(len(jobs))] == [run_virtually(job).digest for job in jobs]
    assert multiprocessing.active_children() == []


STOPPING = """
import multiprocessing, os, signal
from lateack import GuestStrategy

parent = multiprocessing.parent_process()
if parent is not None:  # a worker of the matrix: press Ctrl-C for the command, and never come back
    os.kill(parent.pid, signal.SIGINT)
    signal.pause()


class Stopping(GuestStrategy):
    name = "stopping"
"""


def test_ctrl_c_leaves_no_process_behind(tmp_path: Path) -> None:
    """SIGINT while workers are busy ends the command with its sentence, and them."""
    (tmp_path / "stopping.py").write_text(STOPPING)
    word = f"LATEACK_MATRIX={secrets.token_hex(8)}"
    name, _, value = word.partition("=")
    environment = os.environ | {"PYTHONPATH": str(Path(lateack.__file__).parent.parent), name: value}

    done = subprocess.run(
        [sys.executable, "-m", "lateack", "matrix", "--side", "guest", "--guest", "stopping:Stopping", "--jobs", "2"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip

    for process in processes_marked(word):  # the last to go sees its pipe closed, a moment later
        with contextlib.suppress(ProcessLookupError):
            select.select([os.pidfd_open(process)], [], [], 30)
    assert processes_marked(word) == set()
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "lateack: stopped by Ctrl-C; nothing of the run is left behind.\n"


# --- all of it --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    """The whole matrix, in virtual time and in this process."""
    return [cell_of(job, "virtual", found) for (_, found), job in zip(carry_out(JOBS, 1), JOBS, strict=True)]


@pytest.mark.parametrize("side", SIDES)
def test_the_matrix_is_as_it_says(cells: list[Cell], side: str) -> None:
    """Every certain cell holds, and every other that differs has a recorded reason which tells what it shows."""
    surprises = [each for each in cells if each.job.side == side and each.surprising]

    assert [(each.job.strategy, each.job.situation, each.measured.harms, each.status) for each in surprises] == []


def test_no_reason_outlives_its_difference(cells: list[Cell]) -> None:
    """A reason is recorded only where the run still shows something else than the table says."""
    recorded = [each for each in cells if each.expected is not None and each.expected.reason]

    assert [(each.job.strategy, each.job.situation) for each in recorded if each.status != AS_RECORDED] == []


def test_people_see_every_strategy_in_every_situation(cells: list[Cell]) -> None:
    """The screen and the documents show the same cells, with what differs named below."""
    screen = io.StringIO()

    print_matrix(Console(file=screen, width=160), cells)

    shown = screen.getvalue()
    assert all(cell.job.strategy in shown for cell in cells)
    assert all(story in shown for story in list_stories())
    reasons = [each for side in SIDES for each in differences(of_side(cells, side))]
    assert shown.count("instead of") == len(reasons) > 0
    for side in ("guest", "backend", "protocol", "rdma"):
        found = [cell for cell in cells if cell.job.side == side]
        assert side_as_markdown(side, found).count("instead of") == len(differences(found))
        if table_of(side).costs:
            assert costs_as_markdown(side, found).count("\n") == len(table_of(side).rows) + 2


def test_the_matrix_is_plain_data(cells: list[Cell]) -> None:
    """What is written for other programs comes back as it went."""
    written = [cell.to_json() for cell in cells]

    assert json.loads(json.dumps(written)) == written
    assert load(str(written[0]["story"])).story == written[0]["story"]
