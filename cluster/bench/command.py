"""`lateack bench`: measure, print, and write what was found as JSON."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from lateack.cluster import show
from lateack.cluster.bench import commands, live_world, virtual_world
from lateack.cluster.bench.figures import Bench, Figures, Shares, this_machine
from lateack.cluster.bench.report import print_bench
from lateack.cluster.folders import OUT, FolderError

ROUNDS = 5  # of the virtual world's figures; they take the least time and vary the most
LIVE_ROUNDS = 3
FILE = OUT / "bench.json"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Worlds(StrEnum):
    """Which worlds to measure."""

    virtual = "virtual"
    ray = "ray"
    both = "both"


@app.command()
def bench(
    world: Annotated[Worlds, typer.Option("--world", help="Which worlds to measure.")] = Worlds.both,
    seconds: Annotated[float, typer.Option("--seconds", metavar="N", min=0.01, help="How long for each figure.")] = 3.0,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the figures go, as JSON.")] = FILE,
) -> int:
    """Measure how fast the worlds are, each figure beside a bare floor; nothing fails for being slow."""
    worlds = ["virtual", "ray"] if world is Worlds.both else [world.value]
    _make_folder(out)
    found = measure(worlds, seconds)
    _write(out, found)
    output = show.console()
    print_bench(output, found)
    output.print(f"\n{out} holds all rounds of this.", soft_wrap=True)
    return 0


def main(argv: Sequence[str]) -> int:
    """Do what `lateack bench` was asked, and return its exit status."""
    command = typer.main.get_command(app)
    with command.make_context("lateack bench", list(argv)) as context:
        return int(command.invoke(context) or 0)


def measure(worlds: list[str], seconds: float) -> Bench:
    """Measure the named worlds, each figure for about so many seconds; raises LateackError where one cannot run."""
    machine = this_machine()
    virtual: Figures = {}
    ray: Figures = {}
    busiest: Shares = {}
    with _saying() as say:
        if "virtual" in worlds:
            say("stories and packets in the virtual world")
            virtual = virtual_world.measure(seconds, ROUNDS)
            busiest |= virtual_world.busiest(seconds)
        if "ray" in worlds:
            ray, greedy = live_world.measure(seconds, LIVE_ROUNDS, say)
            busiest |= greedy
        return Bench(machine, seconds, virtual, ray, commands.measure(worlds, _rounds(seconds), say), busiest)


def _rounds(seconds: float) -> int:
    """Return how often commands are timed: what is in a hurry times them once."""
    return LIVE_ROUNDS if seconds >= 1 else 1


@contextmanager
def _saying() -> Iterator[Callable[[str], None]]:
    """Give a way to say what goes on, on standard error and only to a person."""
    errors = Console(stderr=True)
    if not errors.is_terminal:
        yield lambda what: None
        return
    with errors.status("") as status:
        yield lambda what: status.update(f"measuring: {what}")


def _make_folder(out: Path) -> None:
    """See that there is a place for the figures before any is measured."""
    try:
        out.parent.mkdir(exist_ok=True)
        if out.is_dir():
            raise FolderError(f"{out} is a folder; name a file with --out.")
    except OSError as error:
        raise FolderError(f"cannot make {out.parent}: {error.strerror}; name another file with --out.") from error


def _write(out: Path, found: Bench) -> None:
    try:
        out.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    except OSError as error:
        raise FolderError(f"cannot write {out}: {error.strerror}; name another file with --out.") from error
