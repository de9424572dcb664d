"""From a scenario to its machines: who there is, where they live, and which class each is made of.

    host1: guest1 .. guestN and backend (they share memory)        network        server

A `Topology` is made once per scenario and builds fresh machines as often as wanted; `orders` says what each is told.
"""

from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from lateack.cluster.faults import rules_at
from lateack.cluster.inputs import BytesSource, FileSource, generated_input
from lateack.cluster.orders import BACKEND, GENERATED_NAME, NETWORK, SERVER, Addresses, Orders
from lateack.cluster.orders_rdma import RdmaOrders
from lateack.cluster.plugins import backend_strategy, guest_strategy, rdma_strategy
from lateack.cluster.scenario import Scenario
from lateack.nodes.application import Source
from lateack.nodes.backend import Backend
from lateack.nodes.block_backend import BlockBackend
from lateack.nodes.block_guest import BlockGuest
from lateack.nodes.bridge import HOST_MAC
from lateack.nodes.guest import Guest
from lateack.nodes.loopback import Loopback
from lateack.nodes.memory.pages import Memory
from lateack.nodes.metal import Metal
from lateack.nodes.network import Network
from lateack.nodes.node import Node
from lateack.nodes.rdma_host import RdmaHost
from lateack.nodes.rdma_server import RdmaServer
from lateack.nodes.rules import Rule, facts_awaited
from lateack.nodes.server import Server, after_crashes
from lateack.nodes.stack.host import HostAddress
from lateack.nodes.stack.packets import address_of
from lateack.nodes.storage.store import Store

__all__ = ["BACKEND", "NETWORK", "SERVER", "Topology"]


class Topology:
    """The machines of one scenario, before they exist."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.guests = {name: number for number, name in enumerate(scenario.guest_names(), start=1)}
        self.names = machine_names(scenario)
        self.store_holder = SERVER if SERVER in self.names else next(iter(self.guests))
        self.guest_frames = scenario.guests.memory_pages
        self.rdma = scenario.kind == "rdma"
        if self.rdma:
            self.rdma_class = rdma_strategy(scenario.strategies.guest)
        else:
            self.guest_class = guest_strategy(scenario.strategies.guest)
        self.backend_class = backend_strategy(scenario.strategies.backend)
        rules = {name: rules_at(scenario, name) for name in self.names}
        self._awaited = _who_waits(rules)
        self.mortal = {name for name, own in rules.items() if any(rule.action == "crash" for rule in own)}
        files = {name: self.file_name(name) for name in self.guests}
        self.orders = Orders(scenario, self.guests, self._addresses(), rules=rules, files=files)
        if self.rdma:
            self.rdma_orders = RdmaOrders(self.orders)

    def _addresses(self) -> Addresses:
        others = {
            name: HostAddress(address_of("10.0.0.0") + 10 + number, bytes.fromhex(f"00163e00{number:04x}"))
            for name, number in self.guests.items()
        }
        if self.scenario.kind == "block":  # the guests have no network: the backend writes to the server for them
            others = {BACKEND: HostAddress(address_of("10.0.0.2"), bytes.fromhex("00163e000000"))}
        server = HostAddress(address_of("10.0.1.1"), bytes.fromhex("001e67000001"))
        return Addresses(server, HostAddress(address_of("10.0.0.1"), HOST_MAC), others)

    # --- what the world asks ------------------------------------------------------------------------------------------

    def awaited_facts(self) -> dict[str, tuple[str, ...]]:
        """Return which machines wait for which facts of others, by the fact's type."""
        return self._awaited

    def source(self, guest: str, seed: int | None = None) -> Source:
        """Return the file that a guest copies: the user's, or one generated from the seed."""
        workload = self.scenario.workload
        if workload.input is not None:
            return FileSource(Path(workload.input))
        return BytesSource(
            generated_input(
                self.scenario.seed if seed is None else seed, self.guests[guest], workload.bytes, workload.write_size,
                workload.common_prefix,
            )
        )  # fmt: skip

    def file_name(self, guest: str) -> str:
        """Return the name of a guest's file on the server; where several guests copy, each has a folder."""
        given = self.scenario.workload.input
        name = Path(given).name if given is not None else GENERATED_NAME
        return f"{guest}/{name}" if len(self.guests) > 1 else name

    def memory(self, guest: str) -> Memory:
        """Return fresh private memory for a guest."""
        return Memory(self.guests[guest], self.guest_frames)

    def build(
        self,
        name: str,
        *,
        memories: Mapping[str, Memory],
        store: Store | None,
        inputs: Mapping[str, Source],
        root: bytes,
        seed: int | None = None,
        incarnation: int = 0,
    ) -> Node:
        """Return one fresh machine, which has died *incarnation* times.

        *root* is the file handle that guests mount, *seed* overrides the scenario's.
        """
        seed = self.scenario.seed if seed is None else seed
        if name in self.guests:
            return self._build_guest(name, memories[name], inputs[name], store=store, root=root, seed=seed)
        orders = self.orders
        if name == NETWORK:
            return Network(replace(orders.network, seed=seed))
        if name == SERVER:
            assert store is not None, "the server needs a disk"
            if self.rdma:
                invalidates = self.scenario.rdma.remote_invalidation
                return RdmaServer(orders.server, self.rdma_orders.parameters, store, remote_invalidation=invalidates)
            return Server(after_crashes(orders.server, incarnation), store)
        if self.scenario.kind == "block":
            return BlockBackend(orders.block_backend(root, seed), dict(memories), self.guest_class)
        return Backend(orders.backend, dict(memories), self.backend_class)

    def _build_guest(
        self, name: str, memory: Memory, source: Source, *, store: Store | None, root: bytes, seed: int
    ) -> Node:
        if self.scenario.kind == "block":
            return BlockGuest(self.orders.block_guest(name), memory, source)
        if self.rdma:
            return RdmaHost(self.rdma_orders.host(name, root, seed), memory, self.rdma_class, source)
        config = self.orders.client(name, root, seed)
        if self.scenario.kind == "loopback":
            assert store is not None, "the host that serves itself needs a disk"
            service = self.orders.loopback_service(name)
            return Loopback(config, service, memory, self.guest_class, source, store=store)
        machine = Metal if self.scenario.kind == "metal" else Guest
        return machine(config, memory, self.guest_class, source)


def _who_waits(rules: Mapping[str, tuple[Rule, ...]]) -> dict[str, tuple[str, ...]]:
    """Return which machines wait for which facts, from the rules of each."""
    waiting: dict[str, list[str]] = {}
    for machine, its_rules in rules.items():
        for fact in sorted(facts_awaited(its_rules)):
            waiting.setdefault(fact, []).append(machine)
    return {fact: tuple(machines) for fact, machines in waiting.items()}


# --- the same as functions, for worlds that build one machine per process ---------------------------------------------


def machine_names(scenario: Scenario) -> tuple[str, ...]:
    """Return the names of all machines."""
    present = scenario.machine_names()
    return (*scenario.guest_names(), *(name for name in (BACKEND, SERVER, NETWORK) if name in present))


def host_of(scenario: Scenario, name: str) -> str:
    """Return the physical host that a machine lives on; machines of one host share memory."""
    return name if name in (SERVER, NETWORK) or scenario.kind in ("metal", "loopback", "rdma") else "host1"


def guest_domid(name: str) -> int:
    """Return a guest's domain id."""
    return int(name.removeprefix("guest"))


def guest_frames(scenario: Scenario) -> int:
    """Return how many 4 KiB frames each guest has."""
    return scenario.guests.memory_pages


def awaited_facts(scenario: Scenario) -> dict[str, tuple[str, ...]]:
    """Return which machines wait for which facts of others."""
    return Topology(scenario).awaited_facts()
