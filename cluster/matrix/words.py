"""Outcomes in the short words of the tables, for a screen and for a document alike."""

from collections.abc import Iterable

from lateack.cluster.matrix.cell import BROKEN_OFF, UNREACHED, Cell
from lateack.cluster.matrix.tables import Column, Expected, harm_words


def outcome(cell: Cell) -> list[str]:
    """Return what came of a run, a word for each harm."""
    if cell.status == BROKEN_OFF:
        return ["broke off"]
    if cell.status == UNREACHED or (cell.measured.missing and not cell.measured.harms):
        return ["unreached"]
    return harm_words(cell.measured.harms, cell.measured.delayed)


def expectation(expected: Expected) -> list[str]:
    """Return what a table means in the same words."""
    return harm_words(sorted(expected.harms), expected.delayed)


def differences(cells: Iterable[Cell]) -> list[tuple[str, str]]:
    """Return what runs showed where a table says something else, and why; a line for all strategies that it is true of.

    The first of each pair reads "situation, name, name: this instead of that (inferred)", the second is a sentence.
    """
    names: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells:
        if cell.differs:
            assert cell.expected is not None
            certainty = "certain" if cell.expected.certain else "inferred"
            shown, wanted = ", ".join(outcome(cell)), ", ".join(expectation(cell.expected))
            key = (cell.job.situation, f"{shown} instead of {wanted} ({certainty})", _why(cell, cell.expected))
            names.setdefault(key, []).append(cell.job.strategy)
    return [(f"{situation}, {', '.join(who)}: {what}", why) for (situation, what, why), who in names.items()]


def _why(cell: Cell, expected: Expected) -> str:
    recorded = expected.model is not None and sorted(expected.model) == cell.measured.harms
    shown = "" if recorded else cell.measured.error or " ".join(cell.measured.missing)
    return f"{(shown or expected.reason or 'no reason is recorded').rstrip('.')}."


def heading_of(key: str, column: Column) -> str:
    """Return what stands above a column: its key and a few words, or one of them where that says it all."""
    return key if "/" in key or key == column.heading else f"{key} {column.heading}"


def of_side(cells: Iterable[Cell], side: str) -> list[Cell]:
    """Return the cells of one side."""
    return [cell for cell in cells if cell.job.side == side]


def grid_of(cells: Iterable[Cell]) -> tuple[list[str], dict[str, dict[str, Cell]]]:
    """Return the columns and the rows, by strategy and column, of one side's cells, in their order."""
    rows: dict[str, dict[str, Cell]] = {}
    columns: dict[str, None] = {}
    for cell in cells:
        rows.setdefault(cell.job.strategy, {})[cell.job.column] = cell
        columns[cell.job.column] = None
    return list(columns), rows


COST_HEADINGS = (
    "copies/byte", "grants mapped", "unmapped", "copied", "notifications", "p50 ms", "max ms", "pinned page·s",
    "lent page·s",
)  # fmt: skip


def cost_words(cell: Cell) -> list[str]:
    """Return what a run cost, under `COST_HEADINGS`; the copies of several domains stand below one another."""
    measured, costs = cell.measured, cell.measured.costs
    copies = "\n".join(f"{node} {ratio:.2f}" for node, ratio in measured.copies_per_byte.items()) or "none"
    counts = [str(costs.get(name, "-")) for name in ("grant_maps", "grant_unmaps", "grant_copies", "notifications")]
    times = [
        "-" if value is None else f"{value:.1f}"
        for value in (measured.completion_ms.get(key) for key in ("p50", "max"))
    ]
    pages = [f"{costs[name]:.3f}" if name in costs else "-" for name in ("pinned_page_s", "lent_page_s")]
    return [copies, *counts, *times, *pages]
