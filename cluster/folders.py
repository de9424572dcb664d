"""Run folders: one per run, named after it, and never the same one twice."""

import re
from pathlib import Path

from lateack.cluster.schema import Scenario
from lateack.nodes.errors import LateackError

OUT = Path("runs")
RUNS_MAX = 100_000  # of one name


class FolderError(LateackError):
    """The place for run folders cannot be written."""


def check_out(out: Path) -> None:
    """Make the folder for run folders before anything runs; raises FolderError where that is not possible."""
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise FolderError(f"cannot make the folder {out}: {error.strerror}; name another with --out.") from error


def new_run_folder(out: Path, scenario: Scenario) -> Path:
    """Make and return `<out>/<story>-<guest>-<backend>-<seed>`, with a number appended if it is there already.

    *out* itself is made if its parent exists. Raises FolderError where that is not possible.
    """
    strategies = scenario.strategies
    name = f"{scenario.story}-{_plain(strategies.guest)}-{_plain(strategies.backend)}-{scenario.seed}"
    try:
        out.mkdir(exist_ok=True)
        for number in range(1, RUNS_MAX):
            folder = out / (name if number == 1 else f"{name}.{number}")
            try:
                folder.mkdir()
            except FileExistsError:  # tried rather than asked: another run may make it at the same moment
                continue
            return folder
    except OSError as error:
        raise FolderError(f"cannot make a run folder in {out}: {error.strerror}; name another with --out.") from error
    raise FolderError(f"{out} holds {RUNS_MAX} runs of {name}: name another with --out.")


def _plain(strategy: str) -> str:
    """`my_module:Scheme` as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", strategy)[:60]
