"""One cell of a matrix: a run is carried out, measured, and compared with what the table says of it."""

import functools
import traceback
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lateack.cluster.experiment import Result, Session
from lateack.cluster.matrix.costs import LONG_HELD_MS, Costs, costs_of
from lateack.cluster.matrix.plan import Job
from lateack.cluster.matrix.tables import Expected, expected_of
from lateack.cluster.scenario import Scenario, load
from lateack.cluster.verdict import NOTHING_TO_JUDGE
from lateack.nodes.errors import LateackError

AS_EXPECTED, AS_RECORDED, NOT_AS_EXPECTED = "as-expected", "as-recorded", "not-as-expected"
UNREACHED, BROKEN_OFF, NOT_SAID = "nothing-to-judge", "broken-off", "not-said"
SURPRISES = (NOT_AS_EXPECTED, UNREACHED, BROKEN_OFF)


class Measured(msgspec.Struct, frozen=True):
    """What one run showed; `error` is the sentence of one that broke off, `missing` why another shows nothing."""

    harms: list[str] = []
    delayed: bool = False
    copies_per_byte: dict[str, float] = {}
    completion_ms: dict[str, float | None] = {}
    digest: str = ""
    costs: Costs = {}
    missing: tuple[str, ...] = ()
    error: str = ""


class Cell(msgspec.Struct, frozen=True):
    """A run beside what its table says; `expected` is None where the table says nothing."""

    job: Job
    world: str
    measured: Measured
    expected: Expected | None

    @property
    def status(self) -> str:
        """How the run compares: `as-expected`, `as-recorded` (otherwise, for a reason that is given), or worse."""
        measured, expected = self.measured, self.expected
        if measured.error:
            return BROKEN_OFF
        if expected is not None and expected.model is not None and sorted(expected.model) == measured.harms:
            return AS_RECORDED
        if measured.missing and not measured.harms:
            return UNREACHED
        if expected is None:
            return NOT_SAID
        return AS_EXPECTED if expected.met_by(measured.harms, measured.delayed) else NOT_AS_EXPECTED

    @property
    def differs(self) -> bool:
        """Whether the run showed something else than the table says."""
        return self.expected is not None and self.status != AS_EXPECTED

    @property
    def surprising(self) -> bool:
        """Whether it did so without a recorded reason, or where the table is certain; or broke off."""
        certain = self.expected is not None and self.expected.certain
        return self.status == BROKEN_OFF or (self.differs and (certain or self.status in SURPRISES))

    def to_json(self) -> dict[str, object]:
        """Return the object that `--json` writes; other programs read it, so keys are only ever added, at the end."""
        job, measured, expected = self.job, self.measured, self.expected
        return {
            "side": job.side,
            "strategy": job.strategy,
            "situation": job.situation,
            "harms": measured.harms,
            "delayed": measured.delayed,
            "expected": sorted(expected.harms) if expected else [],
            "certain": expected.certain if expected else False,
            "copies_per_byte": measured.copies_per_byte,
            "completion_ms": {key: measured.completion_ms.get(key) for key in ("p50", "max")},
            "digest": measured.digest,
            "column": job.column,
            "story": job.story,
            "settings": list(job.settings),
            "world": self.world,
            "status": self.status,
            "differs": self.differs,
            "says": expected.says if expected else None,
            "expected_delay": expected.delayed if expected else False,
            "reason": expected.reason or None if expected else None,
            "costs": measured.costs,
            "missing": list(measured.missing),
            "error": measured.error or None,
        }


def cell_of(job: Job, world: str, measured: Measured) -> Cell:
    """Put a run beside what its table says."""
    return Cell(job, world, measured, expected_of(job.side, job.strategy, job.column))


def exit_code(cells: Sequence[Cell]) -> int:
    """Return 1 if a run showed something else where the table is certain, or without a recorded reason; else 0."""
    return int(any(cell.surprising for cell in cells))


def scenario_of(job: Job) -> Scenario:
    """Return the scenario that fills a cell; raises LateackError where its settings fit no scenario any more."""
    return _loaded(job.story, job.settings).replaced(guest=job.guest, backend=job.backend, seed=job.seed)


@functools.lru_cache(maxsize=64)
def _loaded(story: str, settings: tuple[str, ...]) -> Scenario:
    """Rows differ in their strategies alone, so that a column is read once."""
    return load(story, settings)


def run_virtually(job: Job, out: Path | None = None) -> Measured:
    """Carry out one run in virtual time, in whatever process this is."""
    with Session("virtual") as session:
        return run_in(session, job, out)


def run_in(session: Session, job: Job, out: Path | None = None) -> Measured:
    """Carry out one run in a world that is up; what breaks it off is told in its cell, and the matrix goes on."""
    try:
        return measured(session.run(scenario_of(job), out=out), job.side)
    except LateackError as error:
        return Measured(error=str(error))
    except Exception as error:  # a machine's own assertion: one cell less, and the command's status says so
        line = traceback.extract_tb(error.__traceback__)[-1]
        return Measured(error=f"{type(error).__name__}: {error} ({Path(line.filename).name} line {line.lineno})")


def measured(result: Result, side: str) -> Measured:
    """Return what a cell of one side shows of a run: the application had to wait, or else the guest for an answer."""
    verdict, costs = result.verdict, costs_of(result.trace)
    waited = verdict.deferred > 0 or (side == "backend" and costs["longest_held_ms"] > LONG_HELD_MS)
    payload = max(1, verdict.payload_bytes)
    copies = {node: round(count / payload, 3) for node, count in sorted(verdict.bytes_copied_by.items()) if count}
    return Measured(
        harms=verdict.harms,
        delayed=waited,
        copies_per_byte=copies,
        completion_ms=verdict.completion_ms,
        digest=verdict.digest,
        costs=costs,
        missing=verdict.missing if verdict.status == NOTHING_TO_JUDGE else (),
    )
