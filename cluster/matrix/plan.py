"""Which runs a matrix asks for: one for each cell of its tables, and one row more for every strategy of a user's."""

from collections.abc import Iterator
from typing import cast

import msgspec

from lateack.cluster import plugins
from lateack.cluster.matrix.tables import SIDES, Column, Row, Table, table_of
from lateack.cluster.scenario import list_stories


class Job(msgspec.Struct, frozen=True):
    """One run that fills one cell; plain data, so that it can go to another process."""

    side: str
    strategy: str
    """The name of the row."""
    column: str
    situation: str
    story: str
    settings: tuple[str, ...]
    guest: str | None
    """The strategy to run on this side of the split driver; None leaves it to story and settings."""
    backend: str | None
    seed: int | None


class Wanted(msgspec.Struct, frozen=True):
    """What a command asks for: sides (none named means all), strategies and the seed, each None for what there is.

    A built-in strategy stands alone; `module:attribute` gets a row beside the others.
    """

    sides: tuple[str, ...] = ()
    guest: str | None = None
    backend: str | None = None
    seed: int | None = None


class Planned(msgspec.Struct):
    """The runs of a matrix in the order of its tables, and one sentence for everything that cannot be run."""

    jobs: list[Job]
    skipped: list[str]


def plan(wanted: Wanted) -> Planned:
    """Return the runs that fill the wanted cells; raises StrategyNotFound for a strategy that there is not."""
    named = _named(wanted)
    planned = Planned([], [])
    for side in wanted.sides or _sides_of(named):
        table = table_of(side)
        if wanted.guest is not None and table.open:
            plugins.summary(_guests_of(table), wanted.guest)  # of the right family, or it says so
        _plan_side(planned, side, table, wanted)
    return planned


def _named(wanted: Wanted) -> set[str]:
    """Return the families in which the strategies are that were named: what the rows of their tables can be."""
    both: list[tuple[plugins.Side, str | None]] = [("guest", wanted.guest), ("backend", wanted.backend)]
    return {family for side, name in both if name is not None for family in plugins.families_with(side, name)}


def _sides_of(named: set[str]) -> tuple[str, ...]:
    """Return all sides, or those on which a strategy that is named can have a row."""
    return tuple(side for side in SIDES if table_of(side).open and table_of(side).rows_are in named) or SIDES


def _guests_of(table: Table) -> plugins.Family:
    """Return the family of the guests' strategies in the runs of a table."""
    return "rdma" if table.rows_are == "rdma" else "guest"


def _plan_side(planned: Planned, side: str, table: Table, wanted: Wanted) -> None:
    columns = {key: column for key, column in table.columns.items() if _can_run(planned, side, column)}
    for name, strategy, row in _rows(table, wanted):
        if table.rows_are != "settings" and not _exists(table.rows_are, strategy):
            planned.skipped.append(
                f"{side}: there is no {table.rows_are} strategy '{strategy}', so its row is left out."
            )
            continue
        planned.jobs += [
            _job((side, name, strategy), table, row, key, column, wanted) for key, column in columns.items()
        ]


def _can_run(planned: Planned, side: str, column: Column) -> bool:
    """Say whether there is what a column needs, and say so once for all columns that need the same."""
    known = {f"strategies.{each}": plugins.names(each) for each in plugins.SIDES}
    named = [setting.partition("=") for setting in column.set]
    absent = [f"strategy '{value}'" for name, _, value in named if name in known and value not in known[name]]
    if column.story not in list_stories():
        absent.append(f"story '{column.story}'")
    sentences = [f"{side}: there is no {what}, so what needs it is left out." for what in absent]
    planned.skipped += [sentence for sentence in sentences if sentence not in planned.skipped]
    return not absent


def _exists(family: plugins.Family, strategy: str) -> bool:
    return ":" in strategy or strategy in plugins.names(family)


def _rows(table: Table, wanted: Wanted) -> Iterator[tuple[str, str, Row]]:
    """Yield the name of each row, the strategy that runs in it, and the row: the table's, then those of users."""
    only = (wanted.backend if table.rows_are == "backend" else wanted.guest) if table.open else None
    for name, row in table.rows.items():
        if only is None or ":" in only or only == name:
            yield name, row.strategy or name, row
    if table.open:
        varying = cast("plugins.Family", table.rows_are)
        others = [name for name in plugins.names(varying) if name not in table.rows]
        for name in others if only is None or ":" in only else [only] if only in others else []:
            yield name, name, Row()
        if only is not None and ":" in only:
            yield plugins.called(varying, only), only, Row()


def _job(row_key: tuple[str, str, str], table: Table, row: Row, key: str, column: Column, wanted: Wanted) -> Job:
    side, name, strategy = row_key
    chosen = {"guest": wanted.guest, "backend": wanted.backend} if table.open else {}
    if table.rows_are != "settings":
        chosen["backend" if table.rows_are == "backend" else "guest"] = strategy
    return Job(
        side=side,
        strategy=name,
        column=key,
        situation=column.name,
        story=column.story,
        settings=(*table.set, *column.set, *row.set),
        guest=chosen.get("guest"),
        backend=chosen.get("backend"),
        seed=wanted.seed,
    )
