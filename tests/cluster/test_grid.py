"""Grids: short outcomes in columns, in as many parts as fit."""

import io

from rich.console import Console
from rich.text import Text

from lateack.cluster.grid import grids, stacked

HEADINGS = [f"some-heading-{number}" for number in range(12)]
LINES = [(name, [Text("stale\n(safe)") for _ in HEADINGS]) for name in ("first", "second")]


def printed(width: int) -> list[str]:
    """Return the lines of the grid on a screen of so many columns."""
    screen = io.StringIO()
    console = Console(file=screen, width=width)
    for grid in grids("strategy", HEADINGS, LINES, width):
        console.print(grid)
    return [line.rstrip() for line in screen.getvalue().splitlines()]


def test_a_grid_that_fits_is_one() -> None:
    """On a wide screen every strategy has one line, or as many as its longest cell."""
    lines = printed(160)

    assert [line.split()[0] for line in lines if line.startswith(("first", "second"))] == ["first", "second"]
    assert max(map(len, lines)) <= 160


def test_a_grid_that_does_not_fit_goes_on_below() -> None:
    """On a narrow screen no column is lost and none is squeezed."""
    lines = printed(60)

    assert max(map(len, lines)) <= 60
    assert sum(line.count("stale") for line in lines) == len(HEADINGS) * len(LINES)
    assert sum(line.startswith("first") for line in lines) > 1


def test_a_column_narrower_than_the_screen_always_comes() -> None:
    """Even where not one column fits, each has its part."""
    assert sum(line.count("stale") for line in printed(1)) <= len(HEADINGS) * len(LINES)
    assert len(list(grids("strategy", HEADINGS, LINES, 1))) == len(HEADINGS)


def test_a_heading_stands_word_by_word() -> None:
    """Hyphens and slashes stay at the end of their line."""
    assert stacked("ring/dev-zerocopy two") == "ring/\ndev-\nzerocopy\ntwo"
