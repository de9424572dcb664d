"""The documents say what is: their examples run, their generated blocks are fresh, and what they name is there.

A fenced block with a file's name behind its language is written to that file. `console` blocks are typed into a shell,
line by line, and print what stands below each command; `sh` blocks are only read.
"""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

import lateack
from docs.refresh import DOCUMENTS, ROOT, refreshed
from lateack.cluster import cli, plugins

FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)]+)\)")
PLACE = re.compile(r"(?:nodes|cluster|protos|deploy|docs|tests|src)/\S*")
NAME = re.compile(r"[A-Za-z_][\w-]*(?:\.[A-Za-z_]\w*)*")
SOURCES = ("nodes/**/*.py", "cluster/**/*.py", "cluster/**/*.yaml", "protos/*.proto", "tests/**/*.py", "pyproject.toml")


class Block(NamedTuple):
    """A fenced block: its language, the file that it is, if any, and its text."""

    language: str
    file: str
    text: str


def read(document: str) -> str:
    """Return a document's text."""
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str) -> list[Block]:
    """Return a document's fenced blocks in their order."""
    return [Block(*found) for found in FENCE.findall(read(document))]


def outside_fences(document: str) -> str:
    """Return a document's text without its fenced blocks."""
    return FENCED.sub("", read(document))


def anchors(document: str) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", read(document)), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


class Shell:
    """A reader who types what a document says, in an empty folder, with `lateack` and `python` on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "here"
        tools = folder / "bin"
        for each in (self.folder, tools):
            each.mkdir()
        for name, arguments in (("lateack", "-m lateack "), ("python", "")):
            tool = tools / name
            tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments}"$@"\n')
            tool.chmod(0o755)
        self.environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}

    def type(self, command: str) -> tuple[int, str]:
        """Run a command line; return its exit status and what it printed on either stream."""
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stdout

    def follow(self, block: Block) -> None:
        """Do what a block says, and see that what it shows is what comes."""
        if block.file:
            (self.folder / block.file).write_text(block.text)
        if block.language == "console":
            for step in block.text.split("$ ")[1:]:
                command, _, shown = step.partition("\n")
                assert self.type(command)[1] == shown, command
        elif block.language == "python" and block.file.startswith("test_"):
            status, printed = self.type(f"python -m pytest -q -p no:cacheprovider {block.file}")
            assert status == 0, printed
        elif block.language == "python":
            (self.folder / "example.py").write_text(block.text)
            status, printed = self.type("python example.py")
            assert status == 0, printed


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_examples_do_what_the_document_shows(document: str, tmp_path: Path) -> None:
    """A reader who follows a document from top to bottom sees what it shows."""
    shell = Shell(tmp_path)

    for block in blocks(document):
        shell.follow(block)


@pytest.mark.slow
def test_the_example_for_ci_has_teeth(tmp_path: Path) -> None:
    """The pytest example of the README passes for a scheme that holds, and fails for the one that does not."""
    shell = Shell(tmp_path)
    for block in blocks("README.md"):
        if block.file:
            text = (
                block.text.replace("frag-destructor", "on-reply") if block.file == "test_my_scheme.py" else block.text
            )
            (shell.folder / block.file).write_text(text)

    status, printed = shell.type("python -m pytest -q -p no:cacheprovider test_my_scheme.py")

    assert status == 1
    assert "stale-on-wire" in printed


def test_the_entry_points_of_the_readme_are_those_that_are_looked_for() -> None:
    """A package that copies the lines is found, and its class is the one that the README shows."""
    [block] = [block for block in blocks("README.md") if block.language == "toml"]
    [(group, names)] = tomllib.loads(block.text)["project"]["entry-points"].items()
    shown = {block.file.removesuffix(".py"): block.text for block in blocks("README.md")}

    assert group in {f"lateack.{side}_strategies" for side in plugins.FAMILIES}
    for target in names.values():
        module, _, attribute = target.partition(":")
        assert f"class {attribute}(GuestStrategy)" in shown[module]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_generated_blocks_are_fresh(document: str) -> None:
    """What a document shows of a command is what the command prints today; `make fix` refreshes it."""
    text = read(document)

    assert refreshed(text) == text, f"{document} shows what was: run `make fix`"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_that_are_only_read_exist(document: str) -> None:
    """Every `make` target and every `lateack` command line of an `sh` block is one that there is."""
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    group = typer.main.get_group(cli.app)
    lines = [
        line.split("#")[0] for block in blocks(document) if block.language == "sh" for line in block.text.splitlines()
    ]

    for program, *words in filter(None, map(shlex.split, lines)):
        if program == "make":
            assert set(words) <= targets
        else:
            assert program == "lateack"
            assert group.commands[words[0]].make_context(words[0], words[1:]).args == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    """Every link to a file of the repository, or to a heading, leads to one."""
    for link in LINK.findall(outside_fences(document)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(str(target.relative_to(ROOT)) if path else document), link


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_are_there(document: str) -> None:
    """Every path of the repository that a document names in its text exists."""
    for code in CODE.findall(outside_fences(document)):
        for place in code.split():
            if PLACE.fullmatch(place):
                assert (ROOT / place).exists(), place


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_names_that_are_used_are_in_the_sources(document: str) -> None:
    """Every identifier that a document names in its text can be found in the sources under that name."""
    sources = "\n".join(path.read_text() for pattern in SOURCES for path in ROOT.glob(pattern))
    words = set(re.findall(r"[\w-]+", sources)) | set(re.findall(r"\w+", sources))
    files = {path.name for path in (*ROOT.rglob("*.py"), *ROOT.glob("*")) if ".venv" not in path.parts}

    for code in CODE.findall(outside_fences(document)):
        if NAME.fullmatch(code) and code not in files and code.split(".")[0] not in sys.stdlib_module_names:
            assert code in words or all(part in words for part in code.split(".")), code


def test_the_public_names_are_those_that_live_elsewhere() -> None:
    """Each public name is the very object that its module defines, and no other name is offered."""
    from lateack.cluster.experiment import Result, run
    from lateack.nodes.errors import LateackError
    from lateack.nodes.strategies import BackendStrategy, GuestStrategy, RdmaStrategy

    assert (lateack.run, lateack.Result, lateack.LateackError) == (run, Result, LateackError)
    assert (lateack.GuestStrategy, lateack.BackendStrategy) == (GuestStrategy, BackendStrategy)
    assert lateack.RdmaStrategy is RdmaStrategy
    assert set(lateack.__all__) <= set(dir(lateack))
    with pytest.raises(AttributeError, match="module 'lateack' has no attribute 'runn'"):
        getattr(lateack, "runn")  # noqa: B009  # mypy would refuse the misspelt name, as it should


def test_importing_lateack_loads_nothing_else(tmp_path: Path) -> None:
    """The import is as cheap as an empty module's."""
    shell = Shell(tmp_path)

    _, loaded = shell.type(
        "python -c \"import lateack, sys; print([name for name in sys.modules if name.startswith('lateack')])\""
    )

    assert loaded == "['lateack']\n"
