"""From command to verdict: what a person or a CI job waits for, with Python's and Ray's own start beside it."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lateack.cluster.bench.figures import BenchFailed, Series, series

STORY = "late-ack"
COMMAND_S = 120.0
PACKAGE_FOLDER = Path(__file__).parents[3]


def measure(worlds: list[str], rounds: int, say: Callable[[str], None]) -> dict[str, Series]:
    """Measure in turns, for each of `worlds`, a story from the command to the end of the process (wall seconds)."""
    with tempfile.TemporaryDirectory(prefix="lateack-bench-") as folder:
        commands = _commands(worlds, folder)
        times: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(rounds):
            say(f"from command to verdict, {number + 1} of {rounds}")
            for name, (_, command) in commands.items():
                times[name].append(_time(command))
    return {name: series(what, "s", times[name]) for name, (what, _) in commands.items()}


def _commands(worlds: list[str], folder: str) -> dict[str, tuple[str, list[str]]]:
    run = [sys.executable, "-m", "lateack", "run", STORY, "--out", folder, "--json", "--world"]
    commands = {"python": ("python -c pass", [sys.executable, "-c", "pass"])}
    if "ray" in worlds:
        commands["import_ray"] = ("python -c 'import ray'", [sys.executable, "-c", "import ray"])
    return commands | {world: (f"lateack run {STORY} --world {world}", [*run, world]) for world in worlds}


def _time(command: list[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=COMMAND_S, check=False)
    spent = time.perf_counter() - start
    if done.returncode:
        told = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise BenchFailed(f"`{' '.join(command[1:])}` did not end well: {told[-1]}")
    if "--json" in command:
        assert json.loads(done.stdout)["harms"] is not None, "a verdict names its harms"
    return spent


def _environment() -> dict[str, str]:
    """Let a command find this very lateack, whether it is installed or not."""
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE_FOLDER), *([path] if path else [])])}
