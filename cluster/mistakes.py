"""Mistakes in a scenario, told in one sentence that names the file, the line, the key and the nearest valid one."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Le, Lt, MinLen, MultipleOf
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from lateack.cluster.schema import Scenario
from lateack.cluster.schema_faults import Condition, Trigger
from lateack.nodes.errors import LateackError

Path = tuple[str | int, ...]


class ScenarioError(LateackError):
    """A scenario, or an option that changes one, is not what it should be."""


class Source:
    """Where a scenario's values come from, so that a mistake can be found again: a file's lines, or options."""

    __slots__ = ("name", "overrides", "root")

    def __init__(self, name: str, root: yaml.Node | None = None) -> None:
        self.name = name
        self.root = root
        self.overrides: dict[Path, str] = {}

    def place(self, path: Path) -> str:
        """Return "late-ack.yaml line 12", or the option that put the value at *path* there."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.overrides:
                return self.overrides[path[:length]]
        return self.name if self.root is None else f"{self.name} line {_line(self.root, path)}"

    def error(self, path: Path, sentence: str) -> ScenarioError:
        """Return the error of *sentence* about the value at *path*."""
        return ScenarioError(f"{self.place(path)}: {sentence}.")


def dotted(path: Iterable[str | int]) -> str:
    """Return a path as `--set` takes it, `workload.buffers`."""
    return ".".join(str(step) for step in path)


def nearest(name: object, valid: Iterable[str]) -> str:
    """Return the valid name that *name* most resembles; there is always one, however unlike."""
    return difflib.get_close_matches(str(name), sorted(valid), n=1, cutoff=0.0)[0]


def written(path: Path, raw: Any) -> Path:
    """Return *path* as its author wrote it: without the steps that a short form left out."""
    steps: list[str | int] = []
    for step in path:
        if has_step(raw, step):
            steps.append(step)
            raw = raw[step]
    return tuple(steps)


def has_step(data: Any, step: str | int) -> bool:
    """Say whether plain data has something at this key or position."""
    return step in data if isinstance(data, dict) else isinstance(data, list) and step in range(len(data))


def shown(value: object) -> str:
    """Return a wrong value for a sentence, shortened."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            text = repr(value)
            return text if len(text) <= 60 else f"{text[:57]}..."


def from_validation(error: ValidationError, raw: object, source: Source) -> ScenarioError:
    """Return the sentence for the first of pydantic's complaints; unknown keys come first, since they cause others."""
    complaints = error.errors(include_url=False)
    complaint = next((each for each in complaints if each["type"] == "extra_forbidden"), complaints[0])
    location = complaint["loc"]
    path = written(location, raw)
    match complaint["type"]:
        case "extra_forbidden":
            return source.error(path, unknown_key(location, path))
        case "missing":
            return source.error(path, f"{dotted([*path, location[-1]])} is missing")
        case "condition" | "fault":
            return source.error(path, f"{dotted(path)} {complaint['msg']}")
        case _:
            return source.error(path, wrong_value(location, complaint["input"], dotted(path)))


def unknown_key(location: Path, path: Path) -> str:
    """Return the sentence about a key that nothing at *location*'s parent knows."""
    valid = keys_at(location[:-1])
    if location[-1] in valid:  # one condition and a list of them at once
        return f"'{dotted(path)}' stands beside 'any': put it into that list"
    close = dotted([*path[:-1], nearest(location[-1], valid)])
    return f"unknown key '{dotted(path)}'; the nearest is '{close}'"


def wrong_value(location: Path, value: object, name: str) -> str:
    """Return the sentence about a value that does not fit the field at *location*, which the reader knows as *name*."""
    annotation, metadata = field_at(location)
    sentence = f"{name} must be {wanted(annotation, metadata)}, not {shown(value)}"
    if get_origin(annotation) is Literal:
        sentence += f"; the nearest is '{nearest(value, get_args(annotation))}'"
    return sentence


def field_at(path: Path) -> tuple[Any, list[Any]]:
    """Return the type that stands at *path* and its bounds; None as type where a scenario has no such key."""
    annotation, metadata = _bare(Scenario, [])
    for step in path:
        if annotation is Trigger and step not in _fields(Trigger):  # a short form
            annotation, metadata = Condition, []
            if isinstance(step, int):
                continue
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            info = _fields(annotation).get(str(step))
            annotation, metadata = _bare(info.annotation, info.metadata) if info else (None, [])
        elif get_origin(annotation) in (dict, tuple):
            arguments = get_args(annotation)
            annotation, metadata = _bare(arguments[1 if get_origin(annotation) is dict else 0], [])
        else:
            return None, []
    return annotation, metadata


def keys_at(path: Path) -> list[str]:
    """Return the keys that the mapping at *path* may have; none where any key goes."""
    annotation, _ = field_at(path)
    if annotation is Trigger:  # one condition may stand for the list of them
        return [*_fields(Trigger), *_fields(Condition)]
    return list(_fields(annotation)) if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def wanted(annotation: Any, metadata: Sequence[Any]) -> str:
    """Say what a field takes: "a whole number of at least 1"."""
    if get_origin(annotation) is Literal:
        *others, last = get_args(annotation)
        return f"{', '.join(others)} or {last}" if others else last
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a mapping of {', '.join(_fields(annotation))}"
    if any(getattr(bound, "pattern", None) for bound in metadata):
        return "a short name of letters, digits, dots and dashes"
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "a mapping"}
    filled = " with something in it" if any(isinstance(bound, MinLen) for bound in metadata) else ""
    return kinds.get(get_origin(annotation) or annotation, f"a list{filled}") + _bounds(metadata)


def _bounds(metadata: Sequence[Any]) -> str:
    low = next((bound.ge for bound in metadata if isinstance(bound, Ge)), None)
    highs: list[Any] = [bound.lt for bound in metadata if isinstance(bound, Lt)]
    highs = [below - 1 for below in highs] + [bound.le for bound in metadata if isinstance(bound, Le)]
    high = highs[0] if highs else None
    multiple = next((bound.multiple_of for bound in metadata if isinstance(bound, MultipleOf)), None)
    text = f" that is a multiple of {multiple}," if multiple else ""
    if high is not None:
        return f"{text} from {low} to {high}"
    return f"{text} of at least {low}" if low is not None else text


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {info.alias or name: info for name, info in model.model_fields.items()}


def _bare(annotation: Any, metadata: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Take `X | None` and `Annotated[X, ...]` apart into X and all its metadata."""
    collected = list(metadata)
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            for each in more:
                collected.extend(each.metadata if isinstance(each, FieldInfo) else [each])
        elif get_origin(annotation) in (Union, UnionType):
            annotation = next(member for member in get_args(annotation) if member is not NoneType)
        else:
            return annotation, collected


def _line(node: yaml.Node, path: Path) -> int:
    """Return the line, from 1, of the key or list item that *path* leads to, or of the last one on the way there."""
    line = node.start_mark.line + 1
    for step in path:
        child = _child(node, step)
        if child is None:
            break
        line, node = child
    return line


def _child(node: yaml.Node, step: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark.line + 1, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        child = node.value[step]
        return child.start_mark.line + 1, child
    return None
