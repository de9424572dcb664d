"""The compiled form is built from these sources, and never lies among them."""

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


def load_setup() -> ModuleType:
    """Import setup.py, which builds nothing when it is imported."""
    spec = importlib.util.spec_from_file_location("setup_of_lateack", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SETUP = load_setup()
COMPILED: list[str] = SETUP.compiled_modules(ROOT / "src" / "lateack")


def test_every_module_that_setup_names_exists() -> None:
    """A module that moves takes its line along."""
    named = {*COMPILED, *SETUP.INTERPRETED, *SETUP.BEYOND_NODES}

    assert {name for name in named if not (ROOT / name).is_file()} == set()
    assert {"nodes/stack/skb.py", "nodes/memory/pages.py", "cluster/virtual.py"} <= set(COMPILED)
    assert not set(COMPILED) & set(SETUP.INTERPRETED)


@pytest.mark.parametrize("name", COMPILED)
def test_no_compiled_class_has_keywords(name: str) -> None:
    """Mypyc would drop them and say nothing: `frozen=True` and its like come from nodes/records.py."""
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))

    assert [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.keywords] == []


@pytest.mark.parametrize("name", COMPILED)
def test_no_compiled_record_makes_its_default_by_a_factory(name: str) -> None:
    """Mypyc checks what stands in a class's body against the field's type, and a factory is none of them."""
    assert "msgspec.field(" not in (ROOT / name).read_text(encoding="utf-8")


def test_nothing_compiled_lies_among_the_sources() -> None:
    """Python would import it in place of the source that somebody edits."""
    found = [path for top in ("nodes", "cluster", "protos", "src") for path in (ROOT / top).rglob("*.so")]

    assert found == []
