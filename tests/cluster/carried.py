"""Machines that are exchanged for copies of themselves in the middle of a run, with the disk that they share."""

import copy
from collections.abc import Sequence

from lateack.cluster.topology import Topology
from lateack.cluster.trace import Trace
from lateack.cluster.virtual import VirtualWorld
from lateack.nodes.node import Effect, Event, Node, S, Time
from lateack.nodes.storage.memory_store import MemoryStore


class Carried:
    """All machines of a world, which are copied as they stand before one of the events, and go on as the copies."""

    def __init__(self, topology: Topology, store: MemoryStore, copied_before: int) -> None:
        self.topology = topology
        self.store = store
        self.inputs = {guest: topology.source(guest) for guest in topology.guests}
        self.memories = {guest: topology.memory(guest) for guest in topology.guests}
        self.left = copied_before
        self.machines: dict[str, Node] = {}
        for name in reversed(topology.names):
            self.build(name)

    def build(self, name: str, incarnation: int = 0) -> Node:
        """Make a machine, or make it anew; return its seat."""
        self.machines[name] = self.topology.build(
            name, memories=self.memories, store=self.store, inputs=self.inputs, root=self.store.root,
            incarnation=incarnation,
        )  # fmt: skip
        return Seat(self, name)

    def handle(self, name: str, event: Event, now: Time) -> Sequence[Effect]:
        """Let a machine handle an event, or its copy, once it is one."""
        self.left -= 1
        if not self.left:
            self.machines, self.store = copy.deepcopy((self.machines, self.store))
        return self.machines[name].handle(event, now)


class Seat:
    """The place of one machine in a world; see `Carried`."""

    def __init__(self, carried: Carried, name: str) -> None:
        self.carried = carried
        self.name = name

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Pass an event on."""
        return self.carried.handle(self.name, event, now)

    def pending(self) -> int:
        """Return what the machine waits for."""
        return self.carried.machines[self.name].pending()

    def close(self) -> None:
        """Let go of the machine's memory; what has died is no more to be copied."""
        self.carried.machines.pop(self.name).close()


def ran(topology: Topology, store: MemoryStore, copied_before: int = 0, *, carried: Carried | None = None) -> Trace:
    """Run fresh machines to the end, or those given; with a number, copies of them from that event on."""
    carried = carried or Carried(topology, store, copied_before)
    seats: dict[str, Node] = {name: Seat(carried, name) for name in carried.machines}
    world = VirtualWorld(seats, topology.awaited_facts(), topology.scenario.limits.duration_s * S, carried.build)
    trace = world.run()
    world.close()
    return trace
