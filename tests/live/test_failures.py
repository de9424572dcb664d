"""Whatever breaks, a live run ends soon, says in one sentence what it was, and leaves the session fit for the next."""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lateack.cluster.live import LiveSession
from lateack.cluster.live.address import ClusterUnavailable, probe, resolve
from lateack.cluster.live.crew import MachineFailed, RunBroken
from lateack.cluster.schema import Limits
from lateack.nodes.errors import LateackError
from tests.live.machines import HUB, Caller, Faulty, Signaller, SmallPlan
from tests.live.traces import processes_marked, temporary_folders

pytestmark = pytest.mark.live

ROOT = Path(__file__).parent.parent.parent
LIMITS = Limits(duration_s=60, idle_s=30)
ENDLESS = """
import sys
from lateack.cluster.live import LiveSession
from lateack.cluster.schema import Limits
from tests.live.machines import SmallPlan, Signaller
with LiveSession() as session:
    process = session._crew.muster(plan := SmallPlan({"stuck": (Signaller, 0)}))
    print(*(each.where.pid for each in process), flush=True)
    session.carry(plan, limits=Limits(duration_s=60, idle_s=60))
"""


def test_a_killed_actor_is_named(session: LiveSession) -> None:
    """A process that is killed ends the run, is called by its machine's name, and the next run has another."""
    plan = SmallPlan({"victim": (Signaller, signal.SIGKILL)})

    with pytest.raises(RunBroken, match="victim's actor died"):
        session.carry(plan, limits=LIMITS)

    assert len(session.carry(SmallPlan({"near": (Caller, HUB, 4)}), limits=LIMITS)) == 12


def test_a_stopped_actor_is_noticed(session: LiveSession) -> None:
    """A process that hangs, its connections open, ends the run when its silence has lasted too long."""
    plan = SmallPlan({"sleeper": (Signaller, signal.SIGSTOP)})

    with pytest.raises(RunBroken, match="sleeper"):
        session.carry(plan, limits=LIMITS)


def test_a_machines_mistake_is_shown_with_its_traceback(session: LiveSession) -> None:
    """A bug in a machine is no sentence for users: it names the machine and shows where."""
    with pytest.raises(MachineFailed, match=r"(?s)wrong failed at Boot.*machines.py.*ZeroDivisionError: a mistake"):
        session.carry(SmallPlan({"wrong": (Faulty, False)}), limits=LIMITS)


def test_what_a_machine_says_of_the_world_is_passed_on(session: LiveSession) -> None:
    """A LateackError of a machine arrives as one, with its own sentence."""
    with pytest.raises(LateackError, match="plain: the disk is full; make room"):
        session.carry(SmallPlan({"plain": (Faulty, True)}), limits=LIMITS)


def test_an_address_where_nobody_listens() -> None:
    """Where no cluster is, we say so instead of trying for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    with pytest.raises(ClusterUnavailable, match="no Ray cluster answers"):
        probe(f"127.0.0.1:{port}")


def test_an_address_where_somebody_else_listens() -> None:
    """A port that is not Ray's is told from one that is."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(ClusterUnavailable, match="is not the head of a Ray cluster"),
    ):
        probe(f"127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize("address", ["nonsense", "host:port", "127.0.0.1:99999", "ray://127.0.0.1:10001"])
def test_an_address_that_is_none(address: str) -> None:
    """What is no address is refused before anything is tried."""
    with pytest.raises(ClusterUnavailable, match="give host:port"):
        probe(resolve(address))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_driver_that_is_stopped_takes_everything_along(mark: str, number: signal.Signals) -> None:
    """Ctrl-C cleans up and comes through as KeyboardInterrupt; after a SIGKILL no actor lives on."""
    mine = f"{mark}-{number}"
    environment = os.environ | {mine.partition("=")[0]: mine.partition("=")[2]}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    command = [sys.executable, "-c", ENDLESS]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        actors = [os.pidfd_open(int(pid)) for pid in driver.stdout.readline().split()]

        driver.send_signal(number)
        _, errors = driver.communicate()

    gone = [select.select([actor], [], [], 20)[0] for actor in actors]
    for actor in actors:
        os.close(actor)
    left = temporary_folders(driver.pid)
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)  # the next session would do it
    assert len(actors) == 2 and all(gone)
    if number == signal.SIGINT:  # after a SIGKILL, two of Ray's own helpers take a minute to notice
        assert errors.rstrip().endswith("KeyboardInterrupt")
        assert processes_marked(mine) == set()
        assert left == []
