"""Puts what the commands really print into the documents; `make fix` runs it, and a test says when it was forgotten.

What is generated stands between `<!-- generated: WHAT -->` and `<!-- end -->`. WHAT is a command line, whose output is
shown as it is; a command line and the name of one of its sections, which becomes a table (`lateack list: stories`,
`lateack matrix: guest`); or a file, which the reader of the document has, too.
"""

import contextlib
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lateack.cluster.matrix.cell import Cell

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
DOCUMENTS = (
    "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "deploy/README.md", "docs/your-own-strategy.md",
    "docs/captures.md", "docs/doors.md", "docs/netback-door.md", "docs/protocols.md",
)  # fmt: skip
MARKED = re.compile(r"(<!-- generated: (.*?) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def refreshed(text: str) -> str:
    """Return a document's text with every generated block made anew."""
    return MARKED.sub(lambda found: f"{found[1]}{_block(found[2])}{found[3]}", text)


def _block(what: str) -> str:
    if what == "harms":
        return _table(_harms())
    if what.startswith("file "):
        path = ROOT / what.removeprefix("file ")
        return f"```python {path.name}\n{path.read_text(encoding='utf-8')}```\n"
    if what.startswith("lateack matrix: "):
        return _matrix(what.removeprefix("lateack matrix: "))
    command, _, section = what.partition(": ")
    return _table(_section(_printed(command), section)) if section else f"```text\n{_printed(command)}\n```\n"


@functools.cache
def _printed(command: str) -> str:
    """Return what a command prints on stdout, in a folder with the examples; lines end where their text does."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(EXAMPLES, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        words = [sys.executable, "-m", *shlex.split(command)]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    if done.stderr:
        raise SystemExit(f"{command}: {done.stderr}")
    return "\n".join(line.rstrip() for line in done.stdout.rstrip().splitlines())


def _section(printed: str, heading: str) -> list[tuple[str, str]]:
    """Return the (name, sentence) lines under one heading of `lateack list`."""
    lines = printed.split(f"{heading}:\n", 1)[1].split("\n\n", 1)[0].splitlines()
    pairs = [line.strip().split(maxsplit=1) for line in lines]
    return [(name, sentence) for name, sentence in pairs]


def _matrix(what: str) -> str:
    """Return one side of the matrix (`guest`), what it costs (`guest costs`), or one row (`guest of module:attr`)."""
    from lateack.cluster.matrix.markdown import costs_as_markdown, side_as_markdown

    side, _, rest = what.partition(" ")
    if rest.startswith("of "):
        own = _cells(side, rest.removeprefix("of "))
        return side_as_markdown(side, [cell for cell in own if cell.expected is None and ":" in (cell.job.guest or "")])
    cells = [cell for cell in _cells() if cell.job.side == side]
    return costs_as_markdown(side, cells) if rest == "costs" else side_as_markdown(side, cells)


@functools.cache
def _cells(side: str | None = None, guest: str | None = None) -> "list[Cell]":
    """Return the cells of all sides, or of one with a strategy of the examples in a row of its own."""
    from lateack.cluster.matrix.command import fill
    from lateack.cluster.matrix.plan import Wanted, plan

    with contextlib.chdir(EXAMPLES):
        return fill(plan(Wanted((side,) if side else (), guest)).jobs)


def _harms() -> list[tuple[str, str]]:
    from lateack.cluster.oracles import ORACLES

    return [(each.__name__.replace("_", "-"), (each.__doc__ or "").splitlines()[0].rstrip(".")) for each in ORACLES]


def _table(rows: list[tuple[str, str]]) -> str:
    return "| | |\n|---|---|\n" + "".join(f"| `{name}` | {sentence} |\n" for name, sentence in rows)


def main() -> None:
    """Rewrite every document whose generated blocks have changed."""
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        if (new := refreshed(text)) != text:
            path.write_text(new, encoding="utf-8")
            print(f"{name} is refreshed.")


if __name__ == "__main__":
    main()
