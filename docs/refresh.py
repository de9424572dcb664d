"""Puts what the commands really print into the documents; `make fix` runs it, and a test says when it was forgotten.

What is generated stands between `<!-- generated: WHAT -->` and `<!-- end -->`. WHAT is a command line, whose output is
shown as it is, or a command line and the name of one of its sections, which becomes a table.
"""

import functools
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "deploy/README.md")
MARKED = re.compile(r"(<!-- generated: (.*?) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def refreshed(text: str) -> str:
    """Return a document's text with every generated block made anew."""
    return MARKED.sub(lambda found: f"{found[1]}{_block(found[2])}{found[3]}", text)


def _block(what: str) -> str:
    if what == "harms":
        return _table(_harms())
    command, _, section = what.partition(": ")
    return _table(_section(_printed(command), section)) if section else f"```text\n{_printed(command)}\n```\n"


@functools.cache
def _printed(command: str) -> str:
    """Return what a command prints on stdout, in an empty folder; lines end where their text does."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with tempfile.TemporaryDirectory() as folder:
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
