"""The command `lateack`: run a story, compare strategies, fill a matrix, see what there is.

Standard output is for results, standard error for everything else. Exit status: 0 harms as expected, 1 not as expected,
2 nothing to judge, 3 a usage or environment error, told in one sentence.
"""

import errno
import importlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, cast

import typer

from lateack.cluster import plugins
from lateack.cluster.doors import command as doors
from lateack.cluster.folders import OUT, check_out
from lateack.cluster.matrix.tables import Side
from lateack.cluster.scenario import Scenario, load
from lateack.nodes.errors import LateackError

if TYPE_CHECKING:
    from lateack.cluster.experiment import Result

ENVIRONMENT = 3  # exit status
# Under these not even a connection can be made: the demo would watch TCP lose its patience, and never see an ACK.
NOTHING_PASSES = ("early-response", "early-unmap")
# What the operating system may refuse us at any time; any other OSError is a mistake of ours.
REFUSALS = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.EMFILE,
}  # fmt: skip
# The library that typer is built on has moved; its UsageError has always been the parent of BadParameter.
UsageError = cast("type[Exception]", typer.BadParameter.__mro__[1])

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, help="When is a page of a socket buffer finished with?"
)
app.add_typer(doors.app, name="serve")


class UsageMistake(LateackError):
    """Options that do not go together."""


class World(StrEnum):
    """Where the machines live."""

    ray = "ray"
    virtual = "virtual"


Story = Annotated[str, typer.Argument(metavar="STORY|FILE.yaml", help="A story's name, or a scenario file.")]
WorldOption = Annotated[World, typer.Option("--world", help="Processes on Ray in real time, or one virtual clock.")]
Guest = Annotated[str | None, typer.Option("--guest", metavar="S", help="The guest's strategy.")]
Backend = Annotated[str | None, typer.Option("--backend", metavar="S", help="The backend's strategy.")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="The seed of all dice.")]
Input = Annotated[str | None, typer.Option("--input", metavar="FILE", help="The file that the guests copy.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where run folders go.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key; may be repeated.")]
Capture = Annotated[bool, typer.Option("--capture", help="Keep every frame, as capture.pcapng in the run's folder.")]
Address = Annotated[str | None, typer.Option("--address", metavar="A", help="A running Ray cluster to use.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else there.")]
SideOption = Annotated[
    list[Side] | None, typer.Option("--side", help="One side of the matrix; may be repeated. Without it, all of them.")
]
Jobs = Annotated[
    int | None, typer.Option("--jobs", metavar="N", min=1, help="Processes for virtual runs; one per processor.")
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the cells as JSON; - is stdout, and nothing else.")
]
RunFolders = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Keep a run folder for each run there.")]


@app.command("list")
def list_command() -> int:
    """Stories and strategies, one line each."""
    from lateack.cluster import show

    show.print_list()
    return 0


@app.command()
def run(
    story: Story,
    world: WorldOption = World.ray,
    guest: Guest = None,
    backend: Backend = None,
    seed: Seed = None,
    input: Input = None,
    out: Out = OUT,
    set: Set = None,
    address: Address = None,
    as_json: Json = False,
    capture: Capture = False,
) -> int:
    """Run one story and say what came of it."""
    from lateack.cluster import show

    options = {"guest": guest, "backend": backend, "seed": seed, "input": input, "capture": capture or None}
    scenario = _scenario(story, set, **options)
    [result] = _run_all([scenario], world, address, out)
    if as_json:
        print(json.dumps(result.verdict.to_json()))
    else:
        show.print_run(result)
    return result.verdict.exit_code


@app.command()
def table(
    story: Story,
    world: WorldOption = World.ray,
    guest: Guest = None,
    backend: Backend = None,
    seed: Seed = None,
    input: Input = None,
    out: Out = OUT,
    set: Set = None,
    address: Address = None,
    as_json: Json = False,
) -> int:
    """Run one story with every strategy of the guest over every strategy of the backend.

    A built-in strategy that is named stands alone; one of your own, module:attribute, beside the built-in ones.
    """
    from lateack.cluster import show

    scenario = _scenario(story, set, guest=guest, backend=backend, seed=seed, input=input)
    results = _run_all(_pairs(scenario, guest, backend), world, address, out)
    if as_json:
        print(json.dumps([result.verdict.to_json() for result in results]))
    else:
        show.print_table(results)
    return _worst(results)


@app.command()
def matrix(
    side: SideOption = None,
    world: WorldOption = World.virtual,
    guest: Guest = None,
    backend: Backend = None,
    seed: Seed = None,
    jobs: Jobs = None,
    out: RunFolders = None,
    address: Address = None,
    json_file: JsonFile = None,
) -> int:
    """Run every strategy in every situation, and compare what comes of it with what the tables expect.

    Exit status 1 if something else comes of it without a recorded reason, or where the tables are certain. A built-in
    strategy that is named stands alone on its side; one of your own, module:attribute, beside the built-in ones.
    """
    from lateack.cluster import show
    from lateack.cluster.matrix.cell import exit_code
    from lateack.cluster.matrix.command import fill
    from lateack.cluster.matrix.display import print_matrix
    from lateack.cluster.matrix.plan import Wanted, plan

    if out is not None:
        check_out(out)
    if json_file is not None and str(json_file) != "-":
        _write(json_file, "", mode="a")
    planned = plan(Wanted(tuple(each.value for each in side or ()), guest, backend, seed))
    for sentence in planned.skipped:
        print(f"lateack: {sentence}", file=sys.stderr)
    cells = fill(planned.jobs, world.value, processes=jobs, address=address, out=out)
    if json_file is not None:
        _write(json_file, json.dumps([cell.to_json() for cell in cells], indent=1) + "\n")
    if json_file is None or str(json_file) != "-":
        print_matrix(show.console(), cells)
    return exit_code(cells)


@app.command()
def demo(world: WorldOption = World.ray, out: Out = OUT, address: Address = None) -> int:
    """The main job: the late ACK under every strategy, and the story of the one that goes wrong."""
    from lateack.cluster import show

    story = _scenario("late-ack", None)
    guests = _pairs(story, None, "dev-zerocopy") + _pairs(story, None, "grant-copy")
    shown = [cell for cell in _pairs(story, "on-reply", None) if cell.strategies.backend not in NOTHING_PASSES]
    backends = [cell for cell in shown if cell not in guests]
    results = _run_all(guests + backends, world, address, out)
    show.print_grid(results[: len(guests)])
    show.print_pairs([result for result in results if result.scenario.strategies.guest == "on-reply"])
    harmed = next((result for result in results if result.harms), results[0])
    output = show.console()
    output.print()
    show.print_story(output, harmed)
    show.print_folder(output, harmed)
    return _worst(results)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def bench(context: typer.Context) -> int:
    """Measure how fast the worlds are; --help lists its options."""
    benchmark = importlib.import_module("lateack.cluster.bench")
    return int(benchmark.main(context.args) or 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; whatever the world refuses is told in one sentence."""
    with _stoppable():
        try:
            status = _invoke(sys.argv[1:] if argv is None else list(argv))
            sys.stdout.flush()
            return status
        except LateackError as error:
            return _refused(str(error))
        except KeyboardInterrupt:
            return _refused("stopped by Ctrl-C; nothing of the run is left behind.")
        except MemoryError:
            return _refused("there is not enough memory: ask for less with guests.memory_pages or workload.bytes.")
        except BrokenPipeError:  # whoever read our output has seen enough
            _silence_stdout()
            return ENVIRONMENT
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            _silence_stdout()
            where = f" ({error.filename})" if error.filename else ""
            return _refused(f"{error.strerror}{where}: make room, or name another folder with --out.")


def _invoke(argv: list[str]) -> int:
    """Do what the command says; typer's own `main` would turn Ctrl-C and broken pipes into statuses of its own."""
    try:
        command = typer.main.get_command(app)
        with command.make_context("lateack", argv) as context:
            status = command.invoke(context)
    except typer.Exit as leave:  # --help
        return leave.exit_code
    except UsageError as error:
        raise UsageMistake(_usage(error)) from error
    assert isinstance(status, int), "every command returns its exit status"
    return status


def _usage(error: BaseException) -> str:
    message = str(getattr(error, "format_message", error.__str__)()).rstrip(".").replace("Value error, ", "")
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "lateack"
    return f"{message}{'' if message.endswith('?') else ';'} '{command} --help' shows what there is."


def _scenario(story: str, overrides: list[str] | None, **options: object) -> Scenario:
    """Read the scenario that the options describe, and see that its strategies can be had."""
    keys = {
        "guest": "strategies.guest", "backend": "strategies.backend", "input": "workload.input", "seed": "seed",
        "capture": "links.capture",
    }  # fmt: skip
    scenario = load(story, overrides or (), {keys[name]: value for name, value in options.items()})
    if options.get("backend") is not None and scenario.kind != "split":
        raise UsageMistake(
            f"--backend names a strategy of netback, and there is none in {scenario.story}, of kind {scenario.kind}: "
            "leave it out, or name a strategy with --guest."
        )
    plugins.summary(plugins.family_of("guest", scenario.kind), scenario.strategies.guest)
    plugins.backend_strategy(scenario.strategies.backend)
    return scenario


def _pairs(scenario: Scenario, guest: str | None, backend: str | None) -> list[Scenario]:
    """Return the scenario with each pair of strategies that a table shows; only netback has several to choose from."""
    fixed = backend if scenario.kind == "split" else scenario.strategies.backend
    guests = _beside(plugins.family_of("guest", scenario.kind), guest)
    backends = _beside("backend", fixed)
    return [scenario.replaced(guest=each, backend=other) for each in guests for other in backends]


def _beside(side: plugins.Family, name: str | None) -> list[str]:
    """Return the strategies of one side: all there are, one of them alone, or one more of the user's own."""
    if name is None:
        return plugins.names(side)
    return [*plugins.names(side), name] if ":" in name else [name]


def _run_all(scenarios: list[Scenario], world: World, address: str | None, out: Path) -> list["Result"]:
    """Run one scenario after another in a world that is brought up once."""
    from lateack.cluster import show
    from lateack.cluster.experiment import Session

    if address is not None and world is not World.ray:
        raise UsageMistake(f"--address names a Ray cluster, and --world {world.value} needs none: leave one out.")
    with show.progress() as report, Session(world.value, address) as session:
        return [session.run(scenario, out=out, progress=report(scenario)) for scenario in scenarios]


def _worst(results: Sequence["Result"]) -> int:
    """Return the exit status of a table: a surprise in any cell outweighs one in which there is nothing to judge."""
    statuses = {result.verdict.exit_code for result in results}
    return next(status for status in (1, 2, 0) if status in statuses)


def _write(file: Path, text: str, mode: str = "w") -> None:
    """Write a text into a file, or to stdout where that is named -."""
    if str(file) == "-":
        sys.stdout.write(text)
        return
    try:
        with file.open(mode, encoding="utf-8") as opened:
            opened.write(text)
    except OSError as error:
        raise UsageMistake(f"cannot write {file}: {error.strerror}; name another file with --json") from error


def _refused(sentence: str) -> int:
    print(f"lateack: {' '.join(sentence.split()).rstrip('.')}.", file=sys.stderr)
    return ENVIRONMENT


def _silence_stdout() -> None:
    """Let nobody stumble over what is still in stdout's buffer when the interpreter ends."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


@contextmanager
def _stoppable() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C, and the first of either for the last: what it stops may clean up in peace."""
    signals = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]

    def stop(number: int, frame: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
