"""The matrix in real processes: a sample of its cells, and its virtual runs as tasks of a Ray cluster."""

from pathlib import Path

import pytest

from lateack.cluster.experiment import VirtualSession
from lateack.cluster.live import LiveSession
from lateack.cluster.live.tasks import carry_out
from lateack.cluster.matrix.cell import run_virtually, scenario_of
from lateack.cluster.matrix.plan import Job, Wanted, plan
from lateack.cluster.oracles import harms

pytestmark = [pytest.mark.live, pytest.mark.slow]

SAMPLE = 20
JOBS = plan(Wanted()).jobs
SAMPLED = [JOBS[place * len(JOBS) // SAMPLE] for place in range(SAMPLE)]


@pytest.mark.parametrize("job", SAMPLED, ids=[f"{job.side}-{job.strategy}-{job.column}" for job in SAMPLED])
def test_a_cell_is_the_same_in_both_worlds(session: LiveSession, folder: Path, job: Job) -> None:
    """Processes and real time find the harms that virtual time finds."""
    scenario = scenario_of(job)

    live = session.run(scenario, server_dir=folder)

    assert harms(live) == harms(VirtualSession().run(scenario, server_dir=None, progress=None))


def test_a_ray_cluster_fills_cells(session: LiveSession) -> None:
    """Every job comes back once from the cluster, with the digest that it has here."""
    found = dict(carry_out(run_virtually, SAMPLED, "auto"))

    assert [found[place].digest for place in range(SAMPLE)] == [run_virtually(job).digest for job in SAMPLED]
