"""A matrix in a document: one side as a table of Markdown with what differs below it, or what its strategies cost."""

from collections.abc import Iterable, Sequence

from lateack.cluster.matrix.cell import Cell
from lateack.cluster.matrix.tables import table_of
from lateack.cluster.matrix.words import COST_HEADINGS, cost_words, differences, grid_of, heading_of, outcome


def side_as_markdown(side: str, cells: Sequence[Cell]) -> str:
    """Return the table of one side, and a list of what differs from what was expected; harms are bold."""
    columns, rows = grid_of(cells)
    table = table_of(side)
    headings = [heading_of(column, table.columns[column]) for column in columns]
    lines = [[f"`{name}`", *(_words(row.get(column)) for column in columns)] for name, row in rows.items()]
    differing = [f"- {what}: {why}\n" for what, why in differences(cells)]
    return _table(["", *headings], lines) + ("\n" + "".join(differing) if differing else "")


def costs_as_markdown(side: str, cells: Sequence[Cell]) -> str:
    """Return what each strategy of one side costs, in the column that its table names for that."""
    _, rows = grid_of(cells)
    column = table_of(side).costs
    lines = [
        [f"`{name}`", *(word.replace("\n", ", ") for word in cost_words(row[column]))]
        for name, row in rows.items()
        if column in row
    ]
    return _table(["", *COST_HEADINGS], lines)


def _words(cell: Cell | None) -> str:
    if cell is None:
        return ""
    words = [word if word in ("safe", "delay") else f"**{word}**" for word in outcome(cell)]
    return " ".join(words) + ("\\*" if cell.differs else "")


def _table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = "|---" * len(headings) + "|\n"
    return _line(headings) + rule + "".join(_line(line) for line in lines)


def _line(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |\n".replace("|  |", "| |")
