"""The one door for strategies: built-in ones and those of a user go through it alike, by name.

A name is that of a built-in strategy, or of one that an installed package offers under the entry point groups
`lateack.guest_strategies`, `lateack.backend_strategies` and `lateack.rdma_strategies`, or it is `module:attribute`,
where the module may lie in the current directory. The guest's side has two families: where the kind of a scenario is
`rdma`, adapters read the memory, and `strategies.guest` names one of those that know them.
"""

import functools
import importlib
import importlib.metadata
import os
import sys
from typing import Any, Literal, get_args

from lateack.cluster.mistakes import nearest
from lateack.nodes.errors import LateackError
from lateack.nodes.strategies import (
    BACKEND_STRATEGIES,
    GUEST_STRATEGIES,
    RDMA_STRATEGIES,
    BackendStrategy,
    GuestStrategy,
    RdmaStrategy,
)

Side = Literal["guest", "backend"]
SIDES: tuple[Side, ...] = get_args(Side)
Family = Literal["guest", "backend", "rdma"]
FAMILIES: tuple[Family, ...] = get_args(Family)
FAMILIES_OF: dict[Side, tuple[Family, ...]] = {"guest": ("guest", "rdma"), "backend": ("backend",)}
BUILT_IN: dict[Family, dict[str, Any]] = {
    "guest": GUEST_STRATEGIES,
    "backend": BACKEND_STRATEGIES,
    "rdma": RDMA_STRATEGIES,
}
BASES: dict[Family, type[Any]] = {"guest": GuestStrategy, "backend": BackendStrategy, "rdma": RdmaStrategy}


class StrategyNotFound(LateackError):
    """No strategy goes by this name, or it could not be loaded."""


def guest_strategy(name: str) -> type[GuestStrategy]:
    """Return the class of a guest's strategy, who gives the application its buffer back; StrategyNotFound if none."""
    return GUEST_STRATEGIES.get(name) or _of_user("guest", name)


def backend_strategy(name: str) -> type[BackendStrategy]:
    """Return the class of a backend's strategy, when netback answers the guest; StrategyNotFound if there is none."""
    return BACKEND_STRATEGIES.get(name) or _of_user("backend", name)


def rdma_strategy(name: str) -> type[RdmaStrategy]:
    """Return the class of the strategy of a host with an RDMA adapter; StrategyNotFound if there is none."""
    return RDMA_STRATEGIES.get(name) or _of_user("rdma", name)


def family_of(side: Side, kind: str) -> Family:
    """Return the family from which a side's strategy comes in a scenario of this kind."""
    return "rdma" if side == "guest" and kind == "rdma" else side


def families_with(side: Side, name: str) -> list[Family]:
    """Return the families that have a side's strategy of this name (`on-reply` is in two); StrategyNotFound if none."""
    found = [family for family in FAMILIES_OF[side] if _is_in(family, name)]
    if not found:
        _class_of(side, name)  # which says why not
    return found


def names_for(kind: str) -> list[str]:
    """Return the names that `strategies.guest` can have in a scenario of this kind."""
    return names(family_of("guest", kind))


def names(side: Family) -> list[str]:
    """Return the names of all strategies of one family: the built-in ones in their order, then the users'."""
    return [*BUILT_IN[side], *sorted(set(_entry_points(side)) - set(BUILT_IN[side]))]


def summary(side: Family, name: str) -> str:
    """Return the sentence that says what a strategy is."""
    return str(_class_of(side, name).summary)


def _class_of(side: Family, name: str) -> type[Any]:
    return BUILT_IN[side].get(name) or _of_user(side, name)


def _is_in(family: Family, name: str) -> bool:
    try:
        _class_of(family, name)
    except StrategyNotFound:
        return False
    return True


def called(side: Family, name: str) -> str:
    """Return what tables call a strategy: `module:attribute` goes by its own name, if no other has that."""
    if ":" not in name:
        return name
    own = _class_of(side, name).name
    return name if own in (BASES[side].name, *names(side)) else str(own)


@functools.cache
def _of_user(side: Family, name: str) -> type[Any]:
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


def _unknown(side: Family, name: str) -> str:
    other = next((each for each in FAMILIES if each != side and name in names(each)), None)
    if other is not None:
        who = {"guest": "a guest", "backend": "a backend", "rdma": "a host with an RDMA adapter"}
        article = "an" if other == "rdma" else "a"
        return f"'{name}' is {article} {other} strategy; {who[side]} can have {', '.join(names(side))}."
    close = nearest(name, names(side))
    return f"there is no {side} strategy '{name}'; the nearest is '{close}', and one of your own is module:attribute."


@functools.cache
def _entry_points(side: Family) -> dict[str, importlib.metadata.EntryPoint]:
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
