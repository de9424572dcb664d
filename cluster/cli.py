"""The command `lateack`: run a story, compare strategies, see what there is.

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
from lateack.cluster.folders import OUT
from lateack.cluster.scenario import Scenario, load
from lateack.nodes.errors import LateackError

if TYPE_CHECKING:
    from lateack.cluster.experiment import Result

ENVIRONMENT = 3  # exit status
# What the operating system may refuse us at any time; any other OSError is a mistake of ours.
REFUSALS = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.EMFILE,
}  # fmt: skip
# The library that typer is built on has moved; its UsageError has always been the parent of BadParameter.
UsageError = cast("type[Exception]", typer.BadParameter.__mro__[1])

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, help="When is a page of a socket buffer finished with?"
)


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
Address = Annotated[str | None, typer.Option("--address", metavar="A", help="A running Ray cluster to use.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else there.")]


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
) -> int:
    """Run one story and say what came of it."""
    from lateack.cluster import show

    scenario = _scenario(story, set, guest=guest, backend=backend, seed=seed, input=input)
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
    """Run one story with every strategy of the guest over every strategy of the backend; those named stay fixed."""
    from lateack.cluster import show

    scenario = _scenario(story, set, guest=guest, backend=backend, seed=seed, input=input)
    results = _run_all(_cells(scenario, guest, backend), world, address, out)
    if as_json:
        print(json.dumps([result.verdict.to_json() for result in results]))
    else:
        show.print_table(results)
    return _worst(results)


@app.command()
def demo(world: WorldOption = World.ray, out: Out = OUT, address: Address = None) -> int:
    """The main job: the late ACK under every strategy, and the story of the one that goes wrong."""
    from lateack.cluster import show

    results = _run_all(_cells(_scenario("late-ack", None), None, None), world, address, out)
    show.print_table(results)
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
    message = str(getattr(error, "format_message", error.__str__)()).rstrip(".")
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "lateack"
    return f"{message}; '{command} --help' shows what there is."


def _scenario(story: str, overrides: list[str] | None, **options: object) -> Scenario:
    """Read the scenario that the options describe, and see that its strategies can be had."""
    keys = {"guest": "strategies.guest", "backend": "strategies.backend", "input": "workload.input", "seed": "seed"}
    scenario = load(story, overrides or (), {keys[name]: value for name, value in options.items()})
    plugins.guest_strategy(scenario.strategies.guest)
    plugins.backend_strategy(scenario.strategies.backend)
    return scenario


def _cells(scenario: Scenario, guest: str | None, backend: str | None) -> list[Scenario]:
    guests = plugins.names("guest") if guest is None else [guest]
    backends = plugins.names("backend") if backend is None else [backend]
    return [scenario.replaced(guest=each, backend=other) for each in guests for other in backends]


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
