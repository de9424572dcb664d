"""On a Ray cluster that others started: with its token, by its address, and without disturbing it."""

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.live, pytest.mark.slow]

HEAD = """
import sys, ray
context = ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
ray.shutdown()
"""


@contextlib.contextmanager
def head(environment: dict[str, str]) -> Iterator[str]:
    """Run a Ray cluster of somebody else's and give its address."""
    command = [sys.executable, "-c", HEAD]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def lateack(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run our own command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "lateack", *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_a_cluster_that_others_started(tmp_path: Path) -> None:
    """Stories run there, one with a server that is killed, and their files come home; no token, no run."""
    stranger = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    stranger |= {"PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    friend = stranger | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    given = tmp_path / "given.dat"
    given.write_bytes((bytes(range(251)) * 33)[:8192])  # no two pages alike

    with head(friend) as address:
        runs = [
            lateack(
                friend, "run", "late-ack", "--address", address, "--input", str(given), "--out", str(tmp_path / name)
            )
            for name in ("first", "second")
        ]
        death = "faults.death={crash: server, since: {fact: WriteExecuted, node: server}}"
        runs.append(
            lateack(
                friend, "run", "calm", "--address", address, "--input", str(given), "--out", str(tmp_path / "killed"),
                "--set", death, "--set", "rpc.reconnect=same-port",
            )
        )  # fmt: skip
        refused = lateack(stranger, "run", "late-ack", "--address", address, "--out", str(tmp_path / "third"))

    assert [run.returncode for run in runs] == [0, 0, 0], [run.stdout + run.stderr for run in runs]
    assert [path.read_bytes() == given.read_bytes() for path in tmp_path.glob("*/*/server/given.dat")] == [True] * 3
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "asks for a token" in refused.stderr
