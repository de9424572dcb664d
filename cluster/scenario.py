"""Scenarios are read here: from a story that ships with the package or from a YAML file, with `--set` on top.

    scenario = load("late-ack", ["server.drc=none"])      # a story's name, or a path that ends in .yaml

Everything is checked once, when it is read; a mistake is a `ScenarioError` of one sentence. What comes out is immutable
and holds for as many runs as you like. `dump` writes it back, complete: the text replays the run.
"""

import copy
import functools
import stat
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path as FilePath
from typing import Any, get_origin

import yaml
from pydantic import ValidationError

from lateack.cluster.checks import first_problem
from lateack.cluster.mistakes import (
    Path,
    ScenarioError,
    Source,
    dotted,
    field_at,
    from_validation,
    has_step,
    keys_at,
    nearest,
)
from lateack.cluster.schema import Scenario

try:  # the same text at five times the speed, where PyYAML was built with libyaml
    from yaml import CSafeDumper as SafeDumper
except ImportError:
    from yaml import SafeDumper  # type: ignore[assignment]

__all__ = [
    "Scenario", "ScenarioError", "load", "load_story", "load_file", "list_stories", "apply_overrides", "from_raw",
    "dump",
]  # fmt: skip

STORIES = resources.files("lateack.cluster") / "stories"


def load(name: str, overrides: Iterable[str] = (), options: Mapping[str, object] | None = None) -> Scenario:
    """Read the story of this name, or the file if the name has a slash or ends in .yaml or .yml.

    *overrides* are texts such as "server.drc=none"; *options* are values by dotted key, applied last, where None leaves
    things as they are. A mistake in one is told as a mistake in the option of that name: `--seed` for "seed".
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        return load_file(name, overrides, options)
    return load_story(name, overrides, options)


def load_story(name: str, overrides: Iterable[str] = (), options: Mapping[str, object] | None = None) -> Scenario:
    """Read a story that ships with the package; the rest as for `load`."""
    stories = list_stories()
    if name not in stories:
        close = nearest(name, stories)
        raise ScenarioError(f"there is no story '{name}'; the nearest is '{close}', and a file's name ends in .yaml.")
    text = (STORIES / f"{name}.yaml").read_text(encoding="utf-8")
    raw, root = _parse_story(text, f"{name}.yaml")
    return from_raw(raw, Source(f"{name}.yaml", root), overrides, options)


def load_file(
    path: str | FilePath, overrides: Iterable[str] = (), options: Mapping[str, object] | None = None
) -> Scenario:
    """Read a scenario file; its `workload.input` is looked for beside it, its `story` is the file's name by default."""
    file = FilePath(path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError(f"cannot read the scenario {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path} is not a scenario: it is not UTF-8 text (byte {error.start}).") from error
    raw, source = _parse(text, str(path))
    raw.setdefault("story", file.stem)
    workload = raw.get("workload")
    if isinstance(workload, dict) and isinstance(workload.get("input"), str):
        workload["input"] = str(file.parent / workload["input"])
    return from_raw(raw, source, overrides, options)


def list_stories() -> list[str]:
    """Return the names of the stories that ship with the package, sorted."""
    return sorted(entry.name[:-5] for entry in STORIES.iterdir() if entry.name.endswith(".yaml"))


def from_raw(
    raw: dict[str, Any],
    source: Source | None = None,
    overrides: Iterable[str] = (),
    options: Mapping[str, object] | None = None,
) -> Scenario:
    """Return the checked scenario of plain data as YAML would give it; a section left empty has its defaults."""
    source = source or Source("the scenario")
    raw = apply_overrides(raw, overrides, source)
    for key, value in (options or {}).items():
        if value is not None:
            _put(raw, path := tuple(key.split(".")), value)
            source.overrides[path] = f"--{path[-1]} {value}"
    raw = {key: value for key, value in raw.items() if value is not None}
    try:
        scenario = Scenario.model_validate(raw)
    except ValidationError as error:
        raise from_validation(error, raw, source) from None
    problem = first_problem(scenario, raw, source)
    if problem is not None:
        raise problem
    return _with_input_found(scenario, source)


def apply_overrides(raw: dict[str, Any], overrides: Iterable[str], source: Source | None = None) -> dict[str, Any]:
    """Return *raw* with each `a.b=c` applied, c read as YAML; *source* remembers which option set what."""
    raw = copy.deepcopy(raw)
    for text in overrides:
        key, separator, value_text = text.partition("=")
        if not separator or not key:
            raise ScenarioError(f"--set {text}: write it as KEY=VALUE, such as server.drc=none.")
        try:
            value = yaml.safe_load(value_text)
        except (yaml.YAMLError, ValueError) as error:
            raise ScenarioError(f"--set {text}: '{value_text}' is not YAML: put it in quotes.") from error
        path = _place_of(raw, key, text)
        _put(raw, path, value)
        if source is not None:
            source.overrides[path] = f"--set {text}"
    return raw


def dump(scenario: Scenario) -> str:
    """Return the complete scenario as YAML that `load_file` takes: every key, whether or not it was ever given."""
    data = scenario.model_dump(mode="json", by_alias=True, exclude_none=True)
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(SafeDumper):
    """YAML with prose in literal blocks."""


def _text(dumper: SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


@functools.cache
def _parse_story(text: str, name: str) -> tuple[dict[str, Any], yaml.Node | None]:
    """Parse a story that ships with the package, once in a process: the matrix asks for each many times."""
    raw, source = _parse(text, name)
    return raw, source.root


def _parse(text: str, name: str) -> tuple[dict[str, Any], Source]:
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise ScenarioError(
                f"{name} is not a scenario: it must be a mapping of keys such as 'story' and 'workload'."
            )
        _refuse_repeated_keys(root, name)
        raw = loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ScenarioError(f"{name}{line}: not YAML: {error.problem}.") from error
    except (yaml.YAMLError, ValueError) as error:  # a character or a date that YAML does not know
        raise ScenarioError(f"{name}: not YAML: {str(error).splitlines()[0]}.") from error
    except RecursionError as error:
        raise ScenarioError(f"{name} is not a scenario: it is nested too deeply.") from error
    return raw, Source(name, root)


def _refuse_repeated_keys(node: yaml.Node, name: str) -> None:
    """YAML would let the second of two equal keys win in silence, and a fault would be gone."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = f"{name} line {key.start_mark.line + 1}"
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                raise ScenarioError(f"{line}: a key must be text; put '{getattr(key, 'value', '')}' in quotes.")
            if key.value in seen:
                raise ScenarioError(f"{line}: the key '{key.value}' stands here a second time.")
            seen.add(key.value)
            _refuse_repeated_keys(value, name)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _refuse_repeated_keys(child, name)


def _place_of(raw: dict[str, Any], key: str, text: str) -> Path:
    """Return the path of a dotted key, every step of which a scenario knows."""
    path: Path = ()
    here: Any = raw
    for name in key.split("."):
        step: str | int = int(name) if isinstance(here, list) and name.isdecimal() else name
        if isinstance(here, list) and not has_step(here, step):
            raise ScenarioError(f"--set {text}: {dotted(path)} is a list of {len(here)}: name a position from 0.")
        valid = _steps_from(path, here, last=len(path) == key.count("."))
        if valid is not None and name not in valid:
            raise ScenarioError(f"--set {text}: unknown key '{dotted([*path, name])}'; {_hint(path, name, valid)}.")
        path += (step,)
        here = here[step] if has_step(here, step) else None
    return path


def _hint(path: Path, name: str, valid: list[str]) -> str:
    """Say which key is the nearest, or how to give what is not there yet."""
    whole = get_origin(field_at(path)[0])
    if not valid and whole is tuple:
        return f"it is given whole, {dotted(path)}=[...]"
    if not valid:
        return f"{dotted(path)} has no keys of its own"
    new = f", and a new one is given whole, {dotted([*path, name])}={{...}}" if whole is dict else ""
    return f"the nearest is '{dotted([*path, nearest(name, valid)])}'{new}"


def _steps_from(path: Path, here: object, *, last: bool) -> list[str] | None:
    """Return the names that may follow *path*; None where any goes. The *last* step into a free mapping may be new."""
    if isinstance(here, list):
        return None
    annotation, _ = field_at(path)
    if get_origin(annotation) is dict:
        return None if last or not isinstance(here, dict) else list(here)
    return keys_at(path)


def _put(raw: dict[str, Any], path: Path, value: object) -> None:
    here: Any = raw
    for depth, step in enumerate(path):
        if not isinstance(here, dict | list):
            raise ScenarioError(f"'{dotted(path)}' cannot be set: {dotted(path[:depth])} is {here!r} and has no keys.")
        if depth == len(path) - 1:
            here[step] = value  # type: ignore[index]  # a position if `here` is a list: `_place_of` saw to it
        elif isinstance(here, dict) and here.get(step) is None:
            here[step] = {}
        here = here[step]


def _with_input_found(scenario: Scenario, source: Source) -> Scenario:
    """Make the input file's path absolute, so that the scenario replays from anywhere, and see that it can be read."""
    if scenario.workload.input is None:
        return scenario
    path = ("workload", "input")
    file = FilePath(scenario.workload.input).absolute()
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # asked before it is opened: a pipe would wait for its writer
            raise source.error(path, f"the input {file} is not a regular file")
        with file.open("rb"):
            pass
    except OSError as error:
        raise source.error(path, f"cannot read the input {file}: {error.strerror}") from error
    return scenario.replaced(input=str(file))
