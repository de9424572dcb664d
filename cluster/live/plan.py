"""What a run is made of, as each process is told: which machines there are, where they go, and how to build them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from lateack.cluster.capacity import available_memory
from lateack.cluster.inputs import FileSource
from lateack.cluster.schema import Scenario
from lateack.cluster.topology import BACKEND, NETWORK, SERVER, Topology, host_of
from lateack.nodes.application import Source
from lateack.nodes.memory.pages import Memory
from lateack.nodes.node import Node
from lateack.nodes.storage.directory_store import DirectoryStore
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.storage.store import Store


class Part(msgspec.Struct, frozen=True):
    """One machine's place: the physical host it must be on, its own memory, and whose memory it sees."""

    name: str
    host: str
    domid: int = 0
    frames: int = 0
    """Pages of its own memory, 4096 bytes each; 0 for a machine that shares none."""
    shares_with: str = ""
    """Who maps its memory and has an event channel to it; on the same physical host."""
    mortal: bool = False
    """A rule of the run may kill it: it has a process of its own, and what it records is written down at once."""


class Plan(Protocol):
    """Everything that the processes of a run need to know; it is pickled, so its class lies in a module."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """All machines."""
        ...

    @property
    def hub(self) -> str:
        """The machine in the middle of the star, whose process serves gRPC; the others connect to it."""
        ...

    @property
    def awaited(self) -> Mapping[str, tuple[str, ...]]:
        """By a fact's type name, the machines that want to hear of it."""
        ...

    @property
    def input(self) -> Path | None:
        """A file that machines with memory of their own read, wherever they are."""
        ...

    def store(self, name: str, directory: Path | None) -> Store | None:
        """Return the files that this machine serves, in `directory` or else in memory; None if it serves none."""
        ...

    def build(
        self,
        name: str,
        *,
        memories: dict[str, Memory],
        store: Store | None,
        root: bytes,
        input: Path | None,
        incarnation: int,
    ) -> Node:
        """Return a fresh machine, which has died `incarnation` times.

        `memories` are those that it owns or sees, `root` is the handle of the served tree, and `input` is where the
        plan's input lies on this computer.
        """
        ...


class ScenarioPlan:
    """A scenario as a plan: what its topology says."""

    hub = NETWORK

    def __init__(self, scenario: Scenario) -> None:
        """Plan `scenario`; raises LateackError where it cannot be built."""
        self.scenario = scenario
        self._topology = Topology(scenario)
        self.awaited = self._topology.awaited_facts()
        self.input = None if scenario.workload.input is None else Path(scenario.workload.input).absolute()
        self.parts = tuple(self._part(name) for name in self._topology.names)

    def __reduce__(self) -> tuple[type["ScenarioPlan"], tuple[Scenario]]:
        """Pickle the scenario alone: each process resolves names of strategies for itself."""
        return ScenarioPlan, (self.scenario,)

    def _part(self, name: str) -> Part:
        topology = self._topology
        host = host_of(self.scenario, name)
        if name not in topology.guests or BACKEND not in topology.names:
            return Part(name, host, mortal=name == SERVER and name in topology.mortal)
        return Part(name, host, topology.guests[name], topology.guest_frames, BACKEND)

    def store(self, name: str, directory: Path | None) -> Store | None:
        """Return the disk of whoever serves files."""
        if name != self._topology.store_holder:
            return None
        handle_bytes = self.scenario.server.handle_bytes
        if directory is None:
            return MemoryStore(handle_bytes=handle_bytes, capacity_bytes=available_memory() // 2)
        return DirectoryStore(directory, handle_bytes=handle_bytes)

    def build(
        self,
        name: str,
        *,
        memories: dict[str, Memory],
        store: Store | None,
        root: bytes,
        input: Path | None,
        incarnation: int,
    ) -> Node:
        """Return a fresh machine of the topology."""
        inputs: dict[str, Source] = {}
        if name in self._topology.guests:
            inputs[name] = self._topology.source(name) if input is None else FileSource(input)
            if name not in memories:  # nobody shares it
                memories = {name: self._topology.memory(name)}
        return self._topology.build(
            name, memories=memories, store=store, inputs=inputs, root=root, incarnation=incarnation
        )


class Order(msgspec.Struct, frozen=True):
    """What one process is told of a run."""

    plan: Plan
    names: tuple[str, ...]
    """The machines that it carries; the first names the process."""
    links: tuple[tuple[str, ...], ...]
    """For the hub's process, the machines of every other process."""
    epoch: int
    token: str
    local: bool
    """The cluster is this computer: nobody listens anywhere but on its loopback address."""
    silence_s: float
    scratch: Path | None = None
    """A folder for whatever has to outlive a process that a rule may kill."""
    incarnation: int = 0
    """How often the machine of this process has died."""

    def is_mortal(self) -> bool:
        """Say whether a rule of the run may kill this process."""
        return any(part.mortal and part.name in self.names for part in self.plan.parts)

    @property
    def journal(self) -> Path:
        """Where this process writes down what it must not lose; another file in each of its lives."""
        assert self.scratch is not None, "a process that may die needs a folder"
        return self.scratch / f"journal-{self.names[0]}-{self.incarnation}"

    def scratch_folder(self, name: str) -> Path:
        """Return a folder that the next life of this process finds again."""
        assert self.scratch is not None, "a process that may die needs a folder"
        folder = self.scratch / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder


class Whereabouts(msgspec.Struct, frozen=True):
    """Where a process runs, and what its clock says."""

    pid: int
    kernel: str
    """Names the running kernel and its clock: equal for two processes whose monotonic clocks agree."""
    clock_ns: int


class Opened(msgspec.Struct, frozen=True):
    """Where the others find a process; empty for one that has no such thing."""

    hub: str = ""
    """host:port of the gRPC server."""
    door: str = ""
    """Abstract Unix socket at which memory is handed over."""
    root: bytes = b""
    """Handle of the tree that is served."""


class Status(msgspec.Struct, frozen=True):
    """How far the machines of one process are."""

    pending: int
    sent: int
    received: int
    events: int
    facts: int
    writes: dict[str, tuple[int, int]]
    """By machine, how many writes were completed and issued."""
    failure: str = ""
    """A plain sentence if something outside our code broke, such as a link."""
    crash: str = ""
    """The traceback if a machine's own code did."""
