"""What a figure is: a quantity measured once a round, and the bare floor that was measured in the same rounds."""

import os
import platform
from collections.abc import Sequence
from statistics import median

import msgspec

from lateack.nodes.errors import LateackError
from lateack.nodes.stack import skb


class BenchFailed(LateackError):
    """What was to be measured did not come out right, so that its speed would mean nothing."""


class Series(msgspec.Struct, frozen=True):
    """One quantity, measured once a round; `value` is the median."""

    what: str
    unit: str
    value: float
    rounds: tuple[float, ...]


class Compared(msgspec.Struct, frozen=True):
    """A figure of ours, the bare floor beside it, and ours divided by the floor's."""

    ours: Series
    floor: Series
    ratio: float
    about: dict[str, float | dict[str, float]]
    """What the figure was measured on, and what else came of it; units are in the names."""


Figures = dict[str, Compared]
"""Figures by their short names."""


class Share(msgspec.Struct, frozen=True):
    """Who spends the time: a module by its own processor time, or a machine's process, as a share of the whole."""

    where: str
    share: float


Shares = dict[str, list[Share]]
"""By figure, who spends its time, the greediest first."""


class Bench(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything that one run of the benchmark found."""

    machine: dict[str, str | int | tuple[float, ...]]
    seconds: float
    """How long each figure was measured for, all rounds together."""
    virtual: Figures
    ray: Figures
    commands: dict[str, Series]
    """Wall seconds from a command to its end."""
    busiest: Shares


def series(what: str, unit: str, rounds: Sequence[float]) -> Series:
    """Return what the rounds found."""
    return Series(what, unit, middle(rounds), tuple(rounds))


def middle(rounds: Sequence[float]) -> float:
    """Return what a quantity came to over all rounds: the median, so that one slow round moves nothing."""
    return median(rounds)


def compared(ours: Series, floor: Series, about: dict[str, float | dict[str, float]]) -> Compared:
    """Return a figure beside its floor."""
    return Compared(ours, floor, ours.value / floor.value, about)


def shares(times: dict[str, float]) -> list[Share]:
    """Turn times into shares of their sum, the greatest first."""
    total = sum(times.values()) or 1.0
    return [Share(where, spent / total) for where, spent in sorted(times.items(), key=lambda item: -item[1])]


def this_machine() -> dict[str, str | int | tuple[float, ...]]:
    """Describe the computer as far as a figure depends on it, and how busy it is just now."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machines": "interpreted" if str(skb.__file__).endswith(".py") else "compiled",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_average": os.getloadavg(),
    }


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        return next(names, platform.machine())
