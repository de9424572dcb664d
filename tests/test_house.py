"""The floor plan, held by a test: who may import whom, and what every file owes its reader."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOME = Path(__file__).parent.parent
SOURCES = sorted(path for top in ("nodes", "cluster") for path in (HOME / top).rglob("*.py"))
NODES = [path for path in SOURCES if path.is_relative_to(HOME / "nodes")]
CLUSTER = [path for path in SOURCES if path.is_relative_to(HOME / "cluster")]
MACHINES = (
    "guest", "metal", "loopback", "block_guest", "backend", "block_backend", "network", "server", "rdma_host",
    "rdma_server",
)  # fmt: skip
DATA_FORMATS = {"msgspec", "msgpack", "xxhash", "crc32c"}
LINES_MAX = 400
# In two parts, so that this very file does not say them.
FORBIDDEN = tuple(
    "".join(parts) for parts in (("/wo", "rk/"), ("shared/", "domain"), ("shared/", "design"), ("issue", " #"))
)


def name_of(path: Path) -> str:
    """Return a file's path as people say it: `nodes/guest.py`."""
    return path.relative_to(HOME).as_posix()


def imports_of(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, anywhere in it; `from a import b` as `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_standard(module: str) -> bool:
    """Say whether a module is of the standard library."""
    return module.split(".")[0] in sys.stdlib_module_names


def test_there_is_a_house() -> None:
    """The checks below look at something."""
    assert len(NODES) > 30
    assert len(CLUSTER) > 20


@pytest.mark.parametrize("path", NODES, ids=name_of)
def test_the_machines_know_nothing_around_them(path: Path) -> None:
    """`nodes` imports the standard library, data formats, checksums and itself: no cluster, Ray, gRPC or pydantic."""
    foreign = {
        module
        for module in imports_of(path)
        if not (is_standard(module) or module.split(".")[0] in DATA_FORMATS or module.startswith("lateack.nodes"))
    }

    assert foreign == set()


@pytest.mark.parametrize("machine", MACHINES)
def test_machines_never_import_one_another(machine: str) -> None:
    """They meet in messages only."""
    others = tuple(f"lateack.nodes.{other}" for other in MACHINES if other != machine)

    met = {module for module in imports_of(HOME / "nodes" / f"{machine}.py") if module.startswith(others)}

    assert met == set()


def test_nothing_below_the_machines_imports_one() -> None:
    """A part has no machine above it: arrows point down."""
    machines = tuple(f"lateack.nodes.{machine}." for machine in MACHINES)
    parts = [path for path in NODES if path.stem not in MACHINES]

    assert [name_of(path) for path in parts if any(module.startswith(machines) for module in imports_of(path))] == []


def test_the_oracles_read_a_trace_and_nothing_else() -> None:
    """A verdict comes from recorded facts: the judges cannot reach a machine."""
    allowed = ("lateack.nodes.facts.", "lateack.cluster.trace.", "lateack.cluster.wire_oracle.")
    judges = (HOME / "cluster" / "oracles.py", HOME / "cluster" / "wire_oracle.py")

    assert [
        module
        for judge in judges
        for module in imports_of(judge)
        if not (is_standard(module) or module.startswith(allowed))
    ] == []


def test_only_the_live_world_knows_ray_and_grpc() -> None:
    """Everything else runs where neither is installed; the bench measures them and may, too."""
    wide = [path for path in SOURCES if not name_of(path).startswith(("cluster/live", "cluster/bench"))]

    assert [
        name_of(path) for path in wide if any(module.split(".")[0] in ("ray", "grpc") for module in imports_of(path))
    ] == []


def test_a_virtual_run_imports_neither_ray_nor_grpc() -> None:
    """A story that runs in virtual time costs no second of anybody's start-up."""
    program = (
        "import sys, lateack\n"
        "assert lateack.run('late-ack', world='virtual').harms == ['stale-on-wire']\n"
        "print(sorted({'ray', 'grpc'} & {name.split('.')[0] for name in sys.modules}))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=HOME, env={"PYTHONPATH": str(HOME / "src")}, capture_output=True, text=True
    )

    assert (done.stderr, done.stdout) == ("", "[]\n")


def test_the_machines_touch_no_clock_socket_thread_or_dice() -> None:
    """Time is told and dice are handed: seeded ones in the network, and in the ring a lock that serves as a fence."""
    outside = {
        "time",
        "datetime",
        "socket",
        "select",
        "asyncio",
        "threading",
        "random",
        "secrets",
        "uuid",
        "subprocess",
    }

    found = {
        (name_of(path), module) for path in NODES for module in imports_of(path) if module.split(".")[0] in outside
    }

    assert found == {("nodes/network.py", "random"), ("nodes/memory/ring.py", "threading")}
    text = (HOME / "nodes/network.py").read_text(encoding="utf-8")
    assert set(re.findall(r"\brandom\.\w+", text)) == {"random.Random"}
    assert set(re.findall(r"\brandom\.Random\([^)]", text)) == {"random.Random(f"}
    text = (HOME / "nodes/memory/ring.py").read_text(encoding="utf-8")
    assert set(re.findall(r"\bthreading\.\w+", text)) == {"threading.Lock"}


def undocumented(tree: ast.Module) -> Iterator[str]:
    """Yield what is public in a module and says nothing: the module, its classes, its functions, their methods."""
    if not ast.get_docstring(tree):
        yield "the module"
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            if not ast.get_docstring(node):
                yield node.name
            yield from silent_functions([] if node.name.startswith("_") else node.body)
    yield from silent_functions(tree.body)


def silent_functions(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the public functions of a body that have no docstring."""
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield node.name


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_everything_public_opens_with_a_sentence(path: Path) -> None:
    """A newcomer can read any file from its first line."""
    assert list(undocumented(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_fits_a_reading(path: Path) -> None:
    """No file is longer than one wants to read at a sitting."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES_MAX


def test_the_project_holds_what_it_needs_itself() -> None:
    """No file sends its reader to a place that only its authors had."""
    kinds = {".py", ".md", ".yaml", ".yml", ".toml", ".proto", ".txt", ".cfg", ".json", ".sh"}
    tops = ("nodes", "cluster", "protos", "src", "tests", "deploy", ".ci", ".github")
    files = [path for top in tops for path in (HOME / top).rglob("*")] + list(HOME.iterdir())
    readable = [path for path in files if path.is_file() and (path.suffix in kinds or path.name == "Makefile")]

    found = {name_of(path): word for path in readable for word in FORBIDDEN if word in path.read_text(encoding="utf-8")}

    assert found == {}
