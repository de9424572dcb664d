"""The one door for strategies: built-in ones and those of a user go through it alike, by name.

A name is that of a built-in strategy, or of one that an installed package offers under the entry point groups
`lateack.guest_strategies` and `lateack.backend_strategies`, or it is `module:attribute`, where the module may lie in
the current directory.
"""

import functools
import importlib
import importlib.metadata
import os
import sys
from typing import Any, Literal, get_args

from lateack.cluster.mistakes import nearest
from lateack.nodes.errors import LateackError
from lateack.nodes.strategies import BACKEND_STRATEGIES, GUEST_STRATEGIES, BackendStrategy, GuestStrategy

Side = Literal["guest", "backend"]
SIDES: tuple[Side, ...] = get_args(Side)
BUILT_IN: dict[Side, dict[str, Any]] = {"guest": GUEST_STRATEGIES, "backend": BACKEND_STRATEGIES}
BASES: dict[Side, type[Any]] = {"guest": GuestStrategy, "backend": BackendStrategy}


class StrategyNotFound(LateackError):
    """No strategy goes by this name, or it could not be loaded."""


def guest_strategy(name: str) -> type[GuestStrategy]:
    """Return the class of a guest's strategy, who gives the application its buffer back; StrategyNotFound if none."""
    return GUEST_STRATEGIES.get(name) or _of_user("guest", name)


def backend_strategy(name: str) -> type[BackendStrategy]:
    """Return the class of a backend's strategy, when netback answers the guest; StrategyNotFound if there is none."""
    return BACKEND_STRATEGIES.get(name) or _of_user("backend", name)


def names(side: Side) -> list[str]:
    """Return the names of all strategies of one side: the built-in ones in their order, then the users'."""
    return [*BUILT_IN[side], *sorted(set(_entry_points(side)) - set(BUILT_IN[side]))]


def summary(side: Side, name: str) -> str:
    """Return the sentence that says what a strategy is."""
    return guest_strategy(name).summary if side == "guest" else backend_strategy(name).summary


def called(side: Side, name: str) -> str:
    """Return what tables call a strategy: `module:attribute` goes by its own name, if no other has that."""
    if ":" not in name:
        return name
    own = guest_strategy(name).name if side == "guest" else backend_strategy(name).name
    return name if own in (BASES[side].name, *names(side)) else str(own)


@functools.cache
def _of_user(side: Side, name: str) -> type[Any]:
    if ":" in name:
        found = _attribute(*name.split(":", 1))
    elif name in _entry_points(side):
        found = _loaded(_entry_points(side)[name])
    else:
        raise StrategyNotFound(_unknown(side, name))
    base = BASES[side]
    if not (isinstance(found, type) and issubclass(found, base)):
        raise StrategyNotFound(f"the {side} strategy '{name}' is no subclass of {base.__module__}.{base.__name__}.")
    return found


def _unknown(side: Side, name: str) -> str:
    other = next(each for each in SIDES if each != side)
    if name in names(other):
        return f"'{name}' is a {other} strategy; a {side} can have {', '.join(names(side))}."
    close = nearest(name, names(side))
    return f"there is no {side} strategy '{name}'; the nearest is '{close}', and one of your own is module:attribute."


@functools.cache
def _entry_points(side: Side) -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=f"lateack.{side}_strategies")}


def _loaded(point: importlib.metadata.EntryPoint) -> object:
    try:
        return point.load()
    except Exception as error:  # whatever a user's module does when it is imported
        raise StrategyNotFound(
            f"the strategy '{point.name}' ({point.value}) could not be loaded: {error!r}."
        ) from error


def _attribute(module_name: str, path: str) -> object:
    # At the end, so that no file of the user's folder takes the place of an installed package.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    importlib.invalidate_caches()
    name = f"{module_name}:{path}"
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise StrategyNotFound(f"there is no module '{module_name}' here or installed, for '{name}'.") from error
        raise StrategyNotFound(f"the module of '{name}' could not be imported: {error!r}.") from error
    except Exception as error:  # whatever a user's module does when it is imported
        raise StrategyNotFound(f"the module of '{name}' could not be imported: {error!r}.") from error
    for step in path.split("."):
        if not hasattr(found, step):
            raise StrategyNotFound(f"'{name}' names nothing; the nearest to '{step}' is '{nearest(step, dir(found))}'.")
        found = getattr(found, step)
    return found
