"""A matrix on the screen: a grid for each side, what differs and why, what each strategy costs, and a progress bar."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from lateack.cluster.grid import grids, stacked
from lateack.cluster.matrix.cell import AS_EXPECTED, AS_RECORDED, NOT_SAID, Cell
from lateack.cluster.matrix.tables import SIDES, table_of
from lateack.cluster.matrix.words import (
    COST_HEADINGS,
    cost_words,
    differences,
    expectation,
    grid_of,
    heading_of,
    of_side,
    outcome,
)

COSTS_TOLD = (
    "copies/byte: by whom, and how often for each byte of the file. Grants: how many were mapped, unmapped and copied "
    "from. p50 and max: until a write is completed. A page·s is a page that could not be used for a second: pinned by "
    "a mapping of the backend, or lent by the application."
)
Advance = Callable[[str], None]


def print_matrix(out: Console, cells: Sequence[Cell]) -> None:
    """Print the cells, side by side of the matrix, and how many of them are as expected."""
    for side in SIDES:
        if found := of_side(cells, side):
            _print_side(out, side, found)
    out.print(_summary(cells))


def _print_side(out: Console, side: str, cells: Sequence[Cell]) -> None:
    table = table_of(side)
    columns, rows = grid_of(cells)
    out.print(Text(f"{side}: {table.title}", style="bold"), soft_wrap=True)
    corner = "" if table.rows_are == "settings" else "strategy"
    lines = [(name, [_words(row.get(column)) for column in columns]) for name, row in rows.items()]
    for grid in grids(corner, [heading_of(column, table.columns[column]) for column in columns], lines, out.width):
        out.print(grid)
        out.print()
    _print_columns(out, side, columns)
    _print_differences(out, cells)
    out.print()
    if table.costs in columns:
        _print_costs(out, table.columns[table.costs].name, rows, table.costs)


def _print_columns(out: Console, side: str, columns: Sequence[str]) -> None:
    """Say which story each column is, unless its name does."""
    for key in columns:
        column = table_of(side).columns[key]
        settings = "".join(f" --set {setting}" for setting in column.set)
        if f"{column.story}{settings}" != key:
            out.print(Text(f"{key}: {column.story}{settings}", style="dim"), soft_wrap=True)


def _print_differences(out: Console, cells: Sequence[Cell]) -> None:
    """Say what the brackets mean, and why each of them is there; those without a reason come first."""
    if any(cell.differs for cell in cells):
        out.print(Text("\nIn brackets: what the table expects. Why something else came of it:", style="bold"))
    for recorded, style in ((False, "bold yellow"), (True, "yellow")):
        for what, why in differences(cell for cell in cells if (cell.status == AS_RECORDED) == recorded):
            out.print(Text(what, style=style))
            out.print(Padding(Text(why), (0, 0, 0, 4), expand=False))


def _words(cell: Cell | None) -> Text:
    """Return one cell in colour: what came of it, and in brackets what was expected, where that differs."""
    if cell is None:
        return Text("")
    words = outcome(cell)
    style = {"safe": "green", "delay": "cyan", "unreached": "yellow", "broke off": "bold magenta"}
    text = Text("\n").join(Text(word, style=style.get(word, "red")) for word in words)
    if cell.differs:
        assert cell.expected is not None
        text.append(f"\n({' '.join(expectation(cell.expected))})".replace(" ", "\n"), style="bold yellow")
    return text


def _print_costs(out: Console, situation: str, rows: dict[str, dict[str, Cell]], column: str) -> None:
    out.print(
        Text(f"What it costs in the story {situation}, and the longest wait in any of the situations:", style="bold")
    )
    costs = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    costs.add_column("strategy", no_wrap=True)
    for heading in (*COST_HEADINGS, "longest ms"):
        copies = heading == COST_HEADINGS[0]
        costs.add_column(stacked(heading), no_wrap=True, justify="left" if copies else "right")
    for name, row in rows.items():
        if column in row:
            costs.add_row(name, *cost_words(row[column]), _longest(row.values()))
    out.print(costs)
    out.print(Text(COSTS_TOLD, style="dim"))
    out.print()


def _longest(cells: Iterable[Cell]) -> str:
    """Return the longest completion of a write in any of these runs, in ms."""
    waits = [cell.measured.completion_ms.get("max") for cell in cells]
    known = [wait for wait in waits if wait is not None]
    return f"{max(known):.0f}" if known else "-"


def _summary(cells: Sequence[Cell]) -> Text:
    said = [cell for cell in cells if cell.status != NOT_SAID]
    counts = {
        "as expected": sum(cell.status == AS_EXPECTED for cell in said),
        "otherwise, for a recorded reason": sum(cell.differs and not cell.surprising for cell in said),
        "otherwise, without one": sum(cell.surprising for cell in said),
        "of which no table says anything": len(cells) - len(said),
    }
    told = [f"{count} {what}" for what, count in counts.items() if count]
    return Text(f"{len(cells)} runs: {', '.join(told)}.", style="bold")


@contextmanager
def progress(runs: int) -> Iterator[Advance]:
    """Give a function that says which run is done: a bar on a terminal's stderr, else nothing."""
    if not sys.stderr.isatty():
        yield lambda what: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("runs"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("matrix", total=runs)
        yield lambda what: bars.update(task, advance=1, description=what)
