"""What people see: tables, the moments of a run, its verdict in colour, and a progress bar."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from lateack.cluster import plugins
from lateack.cluster.grid import grids
from lateack.cluster.matrix.tables import harm_words
from lateack.cluster.narrative import moments
from lateack.cluster.scenario import list_stories, load_story
from lateack.cluster.schema import Scenario
from lateack.cluster.verdict import AS_EXPECTED, NOT_AS_EXPECTED, NOTHING_TO_JUDGE, Verdict

if TYPE_CHECKING:
    from lateack.cluster.experiment import Result

Report = Callable[[str, int, int], None]
PIPE_WIDTH = 160  # columns where there is no terminal to ask


class Output(Console):
    """A console that leaves a broken pipe to the command, whose exit statuses have meanings of their own."""

    def on_broken_pipe(self) -> None:
        """Tell whoever called us; rich would end the process with status 1."""
        raise BrokenPipeError


def console() -> Console:
    """Return standard output for people: what we print is text, never markup."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Output(width=width, markup=False, emoji=False, highlight=False)


def print_list() -> None:
    """Print stories and strategies, one line each."""
    out = console()
    rows = [("stories", name, load_story(name).title) for name in list_stories()]
    for side in plugins.FAMILIES:
        rows += [(f"{side} strategies", name, plugins.summary(side, name)) for name in plugins.names(side)]
    width = max(len(name) for _, name, _ in rows)
    heading = ""
    for group, name, sentence in rows:
        if group != heading:
            out.print(Text(f"{group}:" if not heading else f"\n{group}:", style="bold"))
            heading = group
        _print_entry(out, name, width, sentence)


def _print_entry(out: Console, name: str, width: int, sentence: str) -> None:
    """Print a name and its sentence: on a terminal no wider than that is, elsewhere in one line for other programs."""
    if out.is_terminal:
        line = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        line.add_column(min_width=width + 2, no_wrap=True)
        line.add_row(f"  {name}", sentence)
        out.print(line)
    else:
        out.print(f"  {name:<{width}}  {sentence}", soft_wrap=True)


def print_run(result: "Result") -> None:
    """Print one run: its title, what happened, the verdict, what it cost, and where it lies."""
    out = console()
    print_story(out, result)
    out.print(_verdict_line(result.verdict))
    out.print()
    out.print(_costs(result.verdict))
    print_folder(out, result)


def print_story(out: Console, result: "Result") -> None:
    """Print the title of a run and its decisive moments."""
    scenario = result.scenario
    out.print(Text.assemble((scenario.title or scenario.story, "bold"), f"  ({_who(scenario)}, seed {scenario.seed})"))
    out.print()
    for moment in moments(result.trace):
        out.print(Text(f"{moment.at / 1e6:12.3f} ms  {moment.who}", style="cyan"))
        out.print(Padding(Text(moment.sentence), (0, 0, 0, 17), expand=False))
        for line in moment.detail:
            out.print(Padding(Text(line, style="dim"), (0, 0, 0, 19), expand=False))
    out.print()


def _who(scenario: Scenario) -> str:
    """Name the strategies that a run asked: a netback's only where there is one."""
    guest, backend = scenario.strategies.guest, scenario.strategies.backend
    return f"{guest} over {backend}" if scenario.kind == "split" else guest


def print_folder(out: Console, result: "Result") -> None:
    """Say where the run's files lie."""
    if result.run_dir is not None:
        out.print(f"\n{Path(result.run_dir)}/ holds the scenario, the trace and the verdict.", soft_wrap=True)


def print_table(results: Sequence["Result"]) -> None:
    """Print every pair of a table: as a grid where both strategies vary, else line by line with what it cost."""
    sides = [{getattr(result.scenario.strategies, side) for result in results} for side in plugins.SIDES]
    if min(len(names) for names in sides) > 1:
        print_grid(results)
    else:
        print_pairs(results)


def print_grid(results: Sequence["Result"]) -> None:
    """Print what came of every pair, the guest's strategies down and the backend's across."""
    out = console()
    out.print(_title(results))
    cells = {(result.verdict.guest, result.verdict.backend): _pair_words(result.verdict) for result in results}
    guests, backends = (list(dict.fromkeys(pair[side] for pair in cells)) for side in (0, 1))
    lines = [(plugins.called("guest", guest), [cells[guest, backend] for backend in backends]) for guest in guests]
    for grid in grids("guest", [plugins.called("backend", name) for name in backends], lines, out.width):
        out.print(grid)
        out.print()
    if any(result.verdict.status == NOT_AS_EXPECTED for result in results):
        out.print(Text("In brackets: what the story expects.", style="bold yellow"))


def print_pairs(results: Sequence["Result"]) -> None:
    """Print a line for every pair: what came of it, what was expected if that differs, and what it cost."""
    out = console()
    out.print(_title(results))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    netback = results[0].scenario.kind == "split"
    family = plugins.family_of("guest", results[0].scenario.kind)
    names = [("guest", 0), ("backend", 0)] if netback else [("strategy", 0)]
    for heading, width in (*names, ("harms", len("corrupt-at-rest,")), ("copies/byte", 0)):
        table.add_column(heading, no_wrap=not width, min_width=width)
    for heading in ("p50 ms", "max ms", "delayed"):
        table.add_column(heading, justify="right")
    for result in results:
        verdict = result.verdict
        table.add_row(
            plugins.called(family, verdict.guest),
            *([plugins.called("backend", verdict.backend)] if netback else []),
            _outcome(verdict),
            "\n".join(_copies(verdict)),
            *(_milliseconds(verdict.completion_ms[key]) for key in ("p50", "max")),
            str(verdict.deferred or ""),
        )
    out.print(table)


def _title(results: Sequence["Result"]) -> Text:
    return Text(results[0].scenario.title or results[0].scenario.story, style="bold")


def _pair_words(verdict: Verdict) -> Text:
    """Return a pair's outcome for a narrow column: a line for each harm, and in brackets what was expected instead."""
    if verdict.status == NOTHING_TO_JUDGE:
        return Text("nothing\nto judge", style="yellow")
    text = Text("\n".join(harm_words(verdict.harms, False)), style="bold red" if verdict.harms else "green")
    if not verdict.harms and verdict.deferred:
        text = Text("delay", style="cyan")
    if verdict.status == NOT_AS_EXPECTED:
        expected = "\n".join(harm_words(sorted(verdict.expected or ()), False))
        text.append(f"\n({expected})", style="bold yellow")
    return text


def _outcome(verdict: Verdict) -> Text:
    if verdict.status == NOTHING_TO_JUDGE:
        return Text("nothing to judge", style="yellow")
    text = _harms(verdict.harms)
    if verdict.status != AS_EXPECTED:
        text.append(f" (expected: {', '.join(verdict.expected or ()) or 'safe'})", style="bold yellow")
    return text


def _harms(harms: Sequence[str]) -> Text:
    return Text(", ".join(harms), style="bold red") if harms else Text("safe", style="green")


def _verdict_line(verdict: Verdict) -> Text:
    text = Text("verdict: ", style="bold")
    if verdict.status == NOTHING_TO_JUDGE:
        return text.append(f"nothing to judge. {' '.join(verdict.missing)}", style="yellow")
    text.append_text(_outcome(verdict))
    if verdict.status == AS_EXPECTED and verdict.expected is not None:
        text.append(", as expected")
    return text


def _costs(verdict: Verdict) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    p50, longest = (_milliseconds(verdict.completion_ms[key]) for key in ("p50", "max"))
    table.add_row("writes completed", f"{len(verdict.latencies)} of {verdict.issued}, {verdict.deferred} deferred")
    table.add_row("completion", f"{p50} ms median, {longest} ms longest")
    table.add_row("copies per byte", ", ".join(_copies(verdict)))
    again = (_counted(verdict.retransmitted_segments, "segment"), _counted(verdict.retransmitted_calls, "call"))
    table.add_row("sent again", ", ".join(again))
    if verdict.drc_hits or verdict.drc_misses:  # other storage than NFS has no such cache
        hits = _counted(verdict.drc_hits, "hit")
        table.add_row("request cache", f"{hits}, {_counted(verdict.drc_misses, 'miss', 'misses')}")
    table.add_row("old data dropped", _counted(verdict.duplicate_segments_dropped, "segment"))
    return table


def _counted(number: int, thing: str, things: str = "") -> str:
    return f"{number} {thing if number == 1 else things or f'{thing}s'}"


def _copies(verdict: Verdict) -> list[str]:
    """How often each domain copied a byte of the file, on average."""
    by = {node: copied / max(1, verdict.payload_bytes) for node, copied in verdict.bytes_copied_by.items() if copied}
    return [f"{node} {ratio:.2f}" for node, ratio in sorted(by.items())] or ["none"]


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


@contextmanager
def progress() -> Iterator[Callable[[Scenario], Report | None]]:
    """Give a maker of progress reports, one for each scenario: a bar per guest on a terminal's stderr, else nothing."""
    if not sys.stderr.isatty():
        yield lambda scenario: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("writes"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield lambda scenario: _Bars(bars, scenario).report


class _Bars:
    """The bars of one run; those of the run before are taken away."""

    def __init__(self, bars: Progress, scenario: Scenario) -> None:
        for task in bars.task_ids:
            bars.remove_task(task)
        self.bars = bars
        self.cell = _who(scenario)
        self.writes = -(-_file_size(scenario) // scenario.workload.write_size)
        self.tasks: dict[str, TaskID] = {}

    def report(self, guest: str, completed: int, issued: int) -> None:
        """Show that a guest has completed so many of the writes that it issued."""
        if guest not in self.tasks:
            self.tasks[guest] = self.bars.add_task(f"{self.cell}: {guest}", total=self.writes)
        self.bars.update(self.tasks[guest], completed=completed, total=max(self.writes, issued))


def _file_size(scenario: Scenario) -> int:
    given = scenario.workload.input
    return scenario.workload.bytes if given is None else Path(given).stat().st_size
