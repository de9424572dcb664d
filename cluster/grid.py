"""A table of short outcomes: strategies down, strategies or situations across, in as many parts as fit the width."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from rich.table import Table
from rich.text import Text

GAP = 2  # columns between columns
Line = tuple[str, Sequence[Text]]


def grids(corner: str, headings: Sequence[str], lines: Sequence[Line], width: int) -> Iterator[Table]:
    """Yield the table in parts that fit *width* columns of a terminal; words of a heading stand below one another."""
    above = [stacked(heading) for heading in headings]
    first = max(len(corner), *(len(name) for name, _ in lines))
    widths = [
        max(widest(heading), *(widest(cells[place].plain) for _, cells in lines)) for place, heading in enumerate(above)
    ]
    for start, end in pairwise([*_cuts(widths, width - first), len(widths)]):
        part = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim")
        part.add_column(corner, no_wrap=True, min_width=first, vertical="top")
        for place in range(start, end):
            part.add_column(above[place], no_wrap=True, min_width=widths[place], vertical="top")
        for name, cells in lines:
            part.add_row(name, *cells[start:end])
        yield part


def _cuts(widths: Sequence[int], room: int) -> Iterator[int]:
    """Yield the place at which each part begins."""
    yield 0
    used = 0
    for place, width in enumerate(widths):
        used += GAP + width
        if used > room and place:
            yield place
            used = GAP + width


def stacked(heading: str) -> str:
    """Break a heading at its spaces, hyphens and slashes, so that its column is narrow."""
    return heading.replace("-", "-\n").replace("/", "/\n").replace(" ", "\n")


def widest(text: str) -> int:
    """Return the length of the longest line."""
    return max(len(line) for line in text.split("\n"))
