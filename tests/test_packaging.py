"""The wheel holds all of lateack under that one name, and runs without the checkout."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("nodes", "cluster", "protos")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Builds the wheel from a copy of the sources, since setuptools leaves its traces beside them."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("src", *PARTS):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=source, check=True, capture_output=True)
    (path,) = out.glob("lateack-*.whl")
    return zipfile.ZipFile(path)


def packaged(files: Iterable[Path]) -> set[str]:
    """Says where files of the checkout lie in the wheel."""
    return {f"lateack/{path.relative_to(ROOT).as_posix()}" for path in files}


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    """Reads one file of the wheel's dist-info folder."""
    (path,) = (path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def canonical(requirement: str) -> str:
    """Reduces a requirement to its name, as PEP 503 spells it."""
    name = re.split(r"[\[<>=!~ ;]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_wheel_owns_one_name(wheel: zipfile.ZipFile) -> None:
    """Users' own folders called nodes, cluster or protos stay theirs."""
    tops = {name.split("/")[0] for name in wheel.namelist()}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"lateack"}


@pytest.mark.parametrize(
    ("part", "pattern"),
    [
        ("nodes", "**/*.py"),
        ("cluster", "**/*.py"),
        ("cluster", "stories/*.yaml"),
        ("cluster", "matrix/*.yaml"),
        ("protos", "*.py"),
        ("protos", "*.pyi"),
        ("protos", "*.proto"),
    ],
)
def test_the_wheel_leaves_nothing_behind(wheel: zipfile.ZipFile, part: str, pattern: str) -> None:
    """Every module, story and schema of the checkout is in the wheel, folders without an __init__.py included."""
    expected = packaged((ROOT / part).glob(pattern))

    assert expected
    assert expected <= set(wheel.namelist())


def test_the_wheel_says_that_it_is_typed(wheel: zipfile.ZipFile) -> None:
    """A user's type checker reads our annotations."""
    assert "lateack/py.typed" in wheel.namelist()


def test_the_command_is_lateack(wheel: zipfile.ZipFile) -> None:
    """Installing the wheel installs the command line."""
    assert "lateack = lateack.cluster.cli:main" in metadata(wheel, "entry_points.txt").splitlines()


def test_the_wheel_runs_without_the_checkout(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """The packages import from the wheel's own files, from a folder that knows nothing of the checkout."""
    wheel.extractall(tmp_path / "site")
    script = "import lateack.nodes, lateack.cluster, lateack.protos.lateack_pb2 as last; print(last.__file__)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )

    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "site")


def test_the_constraints_pin_every_dependency_and_nothing_else() -> None:
    """Each line is a plain name==version, and no dependency of ours is left to the day's newest."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]

    pinned = {canonical(pin) for pin in pins}

    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.!+]+", pin) for pin in pins)
    assert {canonical(requirement) for requirement in wanted} <= pinned
    assert len(pinned) == len(pins)


def test_the_python_that_we_promise_is_the_python_that_we_check(wheel: zipfile.ZipFile) -> None:
    """The wheel's lowest Python is the one that mypy and ruff are told of."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    promised = Parser().parsestr(metadata(wheel, "METADATA"))["Requires-Python"]

    assert promised == f">={tools['mypy']['python_version']}"
    assert promised == f">=3.{tools['ruff']['target-version'].removeprefix('py3')}"
