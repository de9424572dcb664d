"""What `lateack matrix` does: plan the runs, carry them out in the world that was asked for, and judge them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lateack.cluster.experiment import Session
from lateack.cluster.matrix.cell import Cell, cell_of, run_in, run_virtually
from lateack.cluster.matrix.display import progress
from lateack.cluster.matrix.plan import Job
from lateack.cluster.matrix.pool import Done, carry_out, cores


def fill(
    jobs: Sequence[Job],
    world: str = "virtual",
    *,
    processes: int | None = None,
    address: str | None = None,
    out: Path | None = None,
) -> list[Cell]:
    """Carry out the runs and return their cells, in the order of the jobs.

    In virtual time they run in several processes of this machine (None: one for each processor), or with *address* as
    tasks of that Ray cluster; in the ray world one after another. With *out* each run leaves its folder there.
    """
    measured = {}
    with progress(len(jobs)) as advance:
        for place, each in _carried(jobs, world, cores() if processes is None else processes, address, out):
            measured[place] = each
            advance(f"{jobs[place].side}: {jobs[place].strategy}, {jobs[place].situation}")
    return [cell_of(job, world, measured[place]) for place, job in enumerate(jobs)]


def _carried(jobs: Sequence[Job], world: str, processes: int, address: str | None, out: Path | None) -> Iterator[Done]:
    if world == "virtual" and address is not None:
        from lateack.cluster.live.tasks import carry_out as carry_out_on_ray

        yield from carry_out_on_ray(run_virtually, jobs, address)
    elif world == "virtual":
        yield from carry_out(jobs, processes, out)
    else:
        with Session(world, address) as session:
            for place, job in enumerate(jobs):
                yield place, run_in(session, job, out)
