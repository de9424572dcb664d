"""A server whose process is really killed: another one takes its place, and the copy ends as if nothing had been."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from lateack.cluster import oracles
from lateack.cluster.live import LiveSession
from lateack.cluster.live.crew import RunBroken
from lateack.cluster.scenario import Scenario, load
from lateack.cluster.schema import Limits
from lateack.cluster.topology import Topology
from lateack.nodes.facts import Counted, ServerCrashed, ServerRestarted, WriteCompleted
from tests.live.machines import Killed, Knocker, Mortal, SmallPlan, StillBorn

pytestmark = pytest.mark.live

COPY = (
    "kind=metal", "strategies.guest=on-reply", "workload.bytes=81920", "workload.write_size=4096", "workload.buffers=4",
    "rpc.reconnect=same-port",
)  # fmt: skip
FEW = [("unstable", 3), ("unstable", 40), ("file-sync", 60), ("unstable", 118)]
ALL = [("unstable", nth) for nth in range(1, 121)] + [("file-sync", nth) for nth in range(1, 81)]
POINTS = ALL if os.environ.get("LATEACK_CRASH_POINTS") == "all" else FEW
"""Frames at which the server dies: amid the handshake, the writes, the last COMMIT. All two hundred take minutes."""


def copy(stable: str, nth: int) -> Scenario:
    """Return a copy whose server dies when so many frames have passed its card."""
    death = f"faults.death={{crash: server, since: {{frame: {{}}, nth: {nth}}}}}"
    return load("calm", [*COPY, f"workload.stable={stable}", death])


def wanted(scenario: Scenario) -> bytes:
    """Return what is to be copied."""
    source = Topology(scenario).source("guest1")
    return source.read(0, source.size)


@pytest.mark.parametrize(("stable", "nth"), POINTS)
def test_the_file_is_right_after_a_kill(session: LiveSession, folder: Path, stable: str, nth: int) -> None:
    """Whatever the process had in memory is gone, what it promised is on the disk, and the rest is sent again."""
    scenario = copy(stable, nth)

    trace = session.run(scenario, server_dir=folder)

    assert len(trace.of_type(ServerCrashed)) == len(trace.of_type(ServerRestarted)) == 1
    assert oracles.harms(trace) == []
    assert len(trace.of_type(WriteCompleted)) == 20
    assert (folder / "input.bin").read_bytes() == wanted(scenario)


def test_the_disk_outlives_the_process_where_nobody_gave_a_folder(session: LiveSession) -> None:
    """Without a folder the server stores into one of the run's own, which is gone with the run, as the journals are."""
    before = set(Path(tempfile.gettempdir()).glob("lateack-*"))

    trace = session.run(copy("unstable", 60))

    assert oracles.harms(trace) == []
    assert len(trace.of_type(ServerRestarted)) == 1
    assert set(Path(tempfile.gettempdir()).glob("lateack-*")) == before


def lives_of(session: LiveSession, *machine: Any) -> list[str]:
    """Run a mortal machine at whose door somebody knocks; return what the two recorded, in order."""
    plan = SmallPlan({"mortal": machine, "visitor": (Knocker, "mortal")}, mortal=["mortal"])
    trace = session.carry(plan, limits=Limits(duration_s=60, idle_s=30))
    return [f"{fact.name} {fact.amount}" for _, _, _, fact in trace.of_type(Counted)]


def test_every_life_tells_what_it_saw(session: LiveSession) -> None:
    """What was recorded before a kill is in the trace, what was behind it is not, and the third life answers."""
    assert lives_of(session, Mortal, 2)[:-1] == ["life 0", "died 0", "life 1", "died 1", "life 2"]


def test_a_machine_that_dies_of_its_boot_is_back_as_well(session: LiveSession) -> None:
    """The session is just switching everybody on, and goes on with that."""
    assert lives_of(session, StillBorn, 0)[:2] == ["died 0", "life 1"]


def test_a_death_that_no_rule_ordered_ends_the_run(session: LiveSession) -> None:
    """That a machine may die does not excuse every death: its journal does not say that it was to."""
    with pytest.raises(RunBroken, match="mortal's actor died"):
        lives_of(session, Killed, 0)

    assert lives_of(session, Mortal, 0)[0] == "life 0"
