"""The tables of what is expected: for each side its situations, its strategies, and one cell for each pair.

A cell says in few words what ought to happen, and whether a source shows it ("stale c", certain) or it was inferred
from how the mechanism works ("stale i"). Nothing here decides what a run finds: runs are compared with it afterwards.
"""

import functools
import re
from collections.abc import Sequence
from enum import StrEnum
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from lateack.cluster.schema import Harm
from lateack.cluster.schema_faults import Section


class Side(StrEnum):
    """Which of the tables."""

    guest = "guest"
    backend = "backend"
    composition = "composition"
    host_queue = "host-queue"
    egress = "egress"
    reuse = "reuse"
    protocol = "protocol"
    rdma = "rdma"


SIDES: tuple[str, ...] = tuple(side.value for side in Side)
FILES = resources.files("lateack.cluster") / "matrix"

TERMS: dict[str, tuple[Harm, ...]] = {
    "safe": (),
    "delay": (),
    "executed-late": (),
    "stale": ("stale-on-wire",),
    "corrupt": ("corrupt-at-rest", "stale-on-wire"),
    "mixed": ("corrupt-at-rest", "stale-on-wire"),
    "fault": ("fault",),
    "broken": ("fault", "stall"),
    "leak": ("leak",),
    "info": ("disclosure",),
}
"""The harms that a word stands for: what corrupts a file was on the wire before; a broken frontend ends the copy."""

FOLLOWS: dict[str, set[str]] = {"fault": {"leak", "stall"}, "leak": {"stall"}}
"""What may come of a harm and is no news beside it.

The host or the frontend would have gone down at a fault: what the rest of the run leaves undone says nothing more. And
whoever has used up all pages or slots that never come back waits for ever.
"""

SHORT = {"stale-on-wire": "stale", "corrupt-at-rest": "corrupt"}
CERTAINTY = re.compile(r"(.*\S)\s+([ci])")
REMARK = re.compile(r"\s*\([^)]*\)")


class Expected(Section):
    """One cell: what the table says, the harms that this means in the run of its column, and what running showed.

    YAML may give a text such as "stale c" instead. Where the text names alternatives ("stale/fault"), `harms` says
    which of them the run of this column can show, and `because` why.
    """

    says: str = Field(description="the table's words")
    certain: bool = Field(description="whether a source shows it; else it was inferred")
    harms: tuple[Harm, ...] = Field(description="what the oracles ought to find")
    delayed: bool = Field(default=False, description="whether the completion or the answer has to wait")
    because: str = Field(default="", description="why these of the alternatives")
    model: tuple[Harm, ...] | None = Field(default=None, description="the harms that running showed instead")
    reason: str = Field(default="", description="why running showed something else, in one sentence")

    @model_validator(mode="before")
    @classmethod
    def _from_words(cls, given: object) -> object:
        cell: dict[str, Any] = {"says": given} if isinstance(given, str) else dict(given)  # type: ignore[call-overload]
        found = CERTAINTY.fullmatch(cell["says"])
        if found is None:
            raise ValueError(f"'{cell['says']}' does not end in c (certain) or i (inferred)")
        words = REMARK.sub("", found[1])
        if "harms" not in cell and words not in TERMS:
            raise ValueError(f"'{words}' is no single term: say which harms it means here")
        defaults = {"harms": TERMS.get(words, ()), "delayed": words == "delay"}
        return defaults | cell | {"says": found[1], "certain": found[2] == "c"}

    def met_by(self, harms: Sequence[str], delayed: bool) -> bool:
        """Say whether a run that found these harms is what the table says; to wait is no harm where it need not be."""
        following = set().union(*(FOLLOWS.get(harm, set()) for harm in self.harms))
        return set(self.harms) <= set(harms) <= set(self.harms) | following and (delayed or not self.delayed)

    @model_validator(mode="after")
    def _reasoned(self) -> "Expected":
        if (self.model is None) != (not self.reason):
            raise ValueError("'model' and 'reason' go together")
        return self


class Column(Section):
    """One situation: a story, what of it is set otherwise, and how it is called."""

    story: str
    heading: str = Field(description="a few short words")
    variant: str = Field(default="", description="what tells it from the story as it stands")
    situation: str = Field(default="", description="its name; without one the story's, with the variant")
    set: tuple[str, ...] = Field(default=(), description="settings, KEY=VALUE")

    @property
    def name(self) -> str:
        """The name of the situation."""
        return self.situation or (f"{self.story} ({self.variant})" if self.variant else self.story)


class Row(Section):
    """One line of a table: a strategy, or a setting, and what is expected of it in each column; none is not said."""

    strategy: str = Field(default="", description="the strategy that runs; without one that of the row's name")
    set: tuple[str, ...] = Field(default=(), description="settings, KEY=VALUE")
    cells: dict[str, Expected] = Field(default={}, description="by column; one that is missing is not said")


class Table(Section):
    """One side: what varies from row to row, what all runs have in common, and the cells."""

    title: str
    tells: str = Field(description="what the table is about and where it comes from")
    rows_are: Literal["guest", "backend", "rdma", "settings"] = Field(description="what a row's name means")
    open: bool = Field(default=False, description="whether strategies that the table does not name get a row as well")
    set: tuple[str, ...] = Field(default=(), description="settings of all runs, KEY=VALUE")
    costs: str = Field(default="", description="the column in which the costs of the strategies are compared")
    columns: dict[str, Column]
    rows: dict[str, Row]

    @model_validator(mode="after")
    def _columns_exist(self) -> "Table":
        unknown = {column for row in self.rows.values() for column in row.cells} - set(self.columns)
        if unknown:
            raise ValueError(f"cells stand in columns that there are not: {sorted(unknown)}")
        return self


@functools.cache
def table_of(side: str) -> Table:
    """Return the table of one side."""
    return Table.model_validate(yaml.safe_load((FILES / f"{side}.yaml").read_text(encoding="utf-8")))


def expected_of(side: str, strategy: str, column: str) -> Expected | None:
    """Return what a cell says; None where the table says nothing."""
    row = table_of(side).rows.get(strategy)
    return row.cells.get(column) if row else None


def harm_words(harms: Sequence[str], delayed: bool) -> list[str]:
    """Return a table's word for each harm; where there is none, `delay` or `safe`."""
    return [SHORT.get(harm, harm) for harm in harms] or ["delay" if delayed else "safe"]
