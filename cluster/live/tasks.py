"""Runs in virtual time as tasks of a Ray cluster that others started: a matrix spread over its machines."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

from lateack.cluster.live.crew import RunBroken
from lateack.cluster.live.ray_cluster import RayCluster

Order = TypeVar("Order")
Answer = TypeVar("Answer")


def carry_out(
    function: Callable[[Order], Answer], orders: Sequence[Order], address: str
) -> Iterator[tuple[int, Answer]]:
    """Yield the place of each order with what *function* made of it, as they are done, on the cluster at *address*.

    The function goes by its name: lateack has to be installed there as it is here. Raises ClusterUnavailable, and
    RunBroken when a task fails for good.
    """
    cluster = RayCluster(address)
    cluster.up()
    ray = cast(Any, sys.modules["ray"])
    task = ray.remote(num_cpus=1)(function)
    waiting: dict[Any, int] = {}
    try:
        waiting.update((task.remote(order), place) for place, order in enumerate(orders))
        while waiting:
            [done], _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(done), _answer(ray, done)
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
        cluster.down()


def _answer(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        said = str(error).strip().splitlines()[-1]
        raise RunBroken(f"a task of the Ray cluster failed ({said}); is the same lateack installed there?") from error
