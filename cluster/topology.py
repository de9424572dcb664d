"""From a scenario to its machines: who there is, where they live, what each is told at boot.

    host1: guest1 .. guestN and backend (they share memory)        network        server

A `Topology` is made once per scenario and builds fresh machines as often as wanted.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec.structs import replace

from lateack.cluster.faults import rules_at
from lateack.cluster.inputs import BytesSource, FileSource, generated_input
from lateack.cluster.plugins import backend_strategy, guest_strategy
from lateack.cluster.scenario import Scenario
from lateack.nodes.application import Source
from lateack.nodes.backend import Backend, BackendConfig
from lateack.nodes.client import ClientConfig
from lateack.nodes.errors import LateackError
from lateack.nodes.guest import Guest
from lateack.nodes.memory.pages import PAGE_SIZE, Memory
from lateack.nodes.network import LinkConfig, Network, NetworkConfig
from lateack.nodes.node import MS, US, Node, S
from lateack.nodes.rules import facts_awaited
from lateack.nodes.server import Server, ServerConfig
from lateack.nodes.stack.host import HostAddress
from lateack.nodes.stack.packets import address_of
from lateack.nodes.stack.tcp import TcpParameters
from lateack.nodes.storage.nfs import FILE_SYNC, UNSTABLE
from lateack.nodes.storage.rpc_client import RpcTimeouts
from lateack.nodes.storage.store import Store

BACKEND, SERVER, NETWORK = "backend", "server", "network"
GENERATED_NAME = "input.bin"
UDP_WRITE_MAX = 32_768
"""Bytes of the largest WRITE that NFS sends over UDP, for a datagram ends at 64 KiB (Linux bounds wsize alike)."""

GUEST_PAGES_LEFT = 8
"""Frames that a guest needs beside rings, receive buffers and page buffers: heads of socket buffers above all."""


BACKEND_PAGES = 16
BACKEND_PAGES_PER_GUEST = 512
"""Frames of the backend: every one of a guest's 256 pending requests may be a copied page, or another time a header."""

SERVER_PAGES = 8
SERVER_PAGES_PER_GUEST = 4
"""Frames of the server: its replies lie in cells of an eighth of a frame until they are acknowledged, some twice."""


class Topology:
    """The machines of one scenario, before they exist."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.guests = {name: number for number, name in enumerate(scenario.guest_names(), start=1)}
        self.names = machine_names(scenario)
        self.store_holder = SERVER if SERVER in self.names else next(iter(self.guests))
        self.server = HostAddress(address_of("10.0.1.1"), bytes.fromhex("001e67000001"))
        self.addresses = {
            name: HostAddress(address_of("10.0.0.0") + 10 + number, bytes.fromhex(f"00163e00{number:04x}"))
            for name, number in self.guests.items()
        }
        self.by_ip = {address.ip: name for name, address in self.addresses.items()} | {self.server.ip: SERVER}
        self.guest_class = guest_strategy(scenario.strategies.guest)
        self.backend_class = backend_strategy(scenario.strategies.backend)
        self.rules = {name: rules_at(scenario, name) for name in self.names}
        self.tcp = TcpParameters(
            rto_init=scenario.tcp.rto_init_ms * MS,
            rto_min=scenario.tcp.rto_min_ms * MS,
            rto_max=scenario.tcp.rto_max_ms * MS,
            initial_window_segments=scenario.tcp.initial_window,
            receive_buffer=scenario.tcp.receive_buffer,
        )
        self.guest_frames = scenario.guests.memory_pages
        self._check_memory()
        self._awaited = self._find_awaited()
        # What does not depend on the seed is made once; a search builds thousands of machines from it.
        self.backend_config = self._backend_config()
        self.server_config = self._server_config()
        self.network_links = self._links()
        self.network_config = self._network_config()
        self.guest_configs = {name: self._fixed_guest_config(name) for name in self.guests}

    # --- what the world asks ------------------------------------------------------------------------------------------

    def awaited_facts(self) -> dict[str, tuple[str, ...]]:
        """Return which machines wait for which facts of others, by the fact's type."""
        return self._awaited

    def _find_awaited(self) -> dict[str, tuple[str, ...]]:
        waiting: dict[str, list[str]] = {}
        for machine, rules in self.rules.items():
            for fact in sorted(facts_awaited(rules)):
                waiting.setdefault(fact, []).append(machine)
        return {fact: tuple(machines) for fact, machines in waiting.items()}

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
    ) -> Node:
        """Return one fresh machine; *root* is the file handle that guests mount, *seed* overrides the scenario's."""
        seed = self.scenario.seed if seed is None else seed
        if name == BACKEND:
            return Backend(self.backend_config, dict(memories), self.backend_class)
        if name == NETWORK:
            return Network(replace(self.network_config, seed=seed))
        if name == SERVER:
            assert store is not None, "the server needs a disk"
            return Server(self.server_config, store)
        return Guest(self._guest_config(name, root, seed), memories[name], self.guest_class, inputs[name])

    # --- what each machine is told ------------------------------------------------------------------------------------

    def _check_memory(self) -> None:
        scenario = self.scenario
        workload = scenario.workload
        buffers = workload.buffers * -(-workload.write_size // PAGE_SIZE)
        needed = 3 + scenario.guests.rx_buffers + buffers + GUEST_PAGES_LEFT
        if workload.transport == "udp" and workload.write_size > UDP_WRITE_MAX:
            raise LateackError(
                f"workload.write_size is {workload.write_size}, and a WRITE over UDP carries at most {UDP_WRITE_MAX} "
                "bytes: make it smaller, or leave workload.transport at tcp"
            )
        if self.guest_frames < needed:
            raise LateackError(
                f"guests.memory_pages is {self.guest_frames}, but {workload.buffers} buffers of {workload.write_size} "
                f"bytes and {scenario.guests.rx_buffers} receive buffers need at least {needed}"
            )

    def _guest_config(self, name: str, root: bytes, seed: int) -> ClientConfig:
        number = self.guests[name]
        first_xid = (seed * 0x9E37_79B1 + number * 0x0100_0000) & 0x7FFF_FFFF
        isn = (seed * 0x85EB_CA6B + number * 0x1000_0000) & 0xFFFF_FFFF
        return replace(self.guest_configs[name], root=root, first_xid=first_xid, isn=isn)

    def _fixed_guest_config(self, name: str) -> ClientConfig:
        """Return what a guest is told, but for what `_guest_config` adds."""
        scenario = self.scenario
        return ClientConfig(
            name=name,
            backend=BACKEND,
            address=self.addresses[name],
            server=self.server.ip,
            neighbours={self.server.ip: self.server.mac},
            tcp=self.tcp,
            rpc=self._timeouts(),
            root=b"",
            file=self.file_name(name),
            mtu=scenario.links.mtu,
            transport=scenario.workload.transport,
            unmount=scenario.workload.unmount,
            stable=FILE_SYNC if scenario.workload.stable == "file-sync" else UNSTABLE,
            buffers=scenario.workload.buffers,
            write_size=scenario.workload.write_size,
            rx_target=scenario.guests.rx_buffers,
            rules=self.rules[name],
            addresses=self.by_ip,
        )

    def _timeouts(self) -> RpcTimeouts:
        rpc = self.scenario.rpc
        given: dict[str, int | bool] = {"soft": rpc.soft}
        if rpc.timeo_ms is not None:
            given["timeo"] = rpc.timeo_ms * MS
        if rpc.retrans is not None:
            given["retrans"] = rpc.retrans
        over_tcp = self.scenario.workload.transport == "tcp"
        make: Callable[..., RpcTimeouts] = RpcTimeouts.tcp if over_tcp else RpcTimeouts.udp
        return make(**given)

    def _backend_config(self) -> BackendConfig:
        scenario = self.scenario
        return BackendConfig(
            name=BACKEND,
            network=NETWORK,
            guests=dict(self.guests),
            addresses=self.by_ip,
            rules=self.rules.get(BACKEND, ()),
            queue_frames=scenario.host.queue_frames,
            gso=scenario.host.gso,
            software_checksum=scenario.host.checksum == "software",
            pages=BACKEND_PAGES + min(BACKEND_PAGES_PER_GUEST, self.guest_frames) * len(self.guests),
        )

    def _links(self) -> tuple[LinkConfig, ...]:
        links = self.scenario.links
        return tuple(
            LinkConfig(target, way.delay_us * US, way.jitter_us * US, way.loss)
            for target, way in ((SERVER, links.to_server), (BACKEND, links.to_guests))
        )

    def _network_config(self) -> NetworkConfig:
        return NetworkConfig(
            name=NETWORK,
            links=self.network_links,
            links_by_mac={address.mac: BACKEND for address in self.addresses.values()} | {self.server.mac: SERVER},
            addresses=self.by_ip,
            rules=self.rules[NETWORK],
        )

    def _server_config(self) -> ServerConfig:
        server = self.scenario.server
        return ServerConfig(
            name=SERVER,
            network=NETWORK,
            address=self.server,
            neighbours={address.ip: address.mac for address in self.addresses.values()},
            clients={address.ip: name for name, address in self.addresses.items()},
            tcp=self.tcp if server.rto_min_ms is None else replace(self.tcp, rto_min=server.rto_min_ms * MS),
            mtu=self.scenario.links.mtu,
            drc=server.drc,
            drc_entries=server.drc_entries,
            drc_expiry=server.drc_expiry_s * S,
            audit_chunk=self.scenario.workload.write_size,
            pages=SERVER_PAGES + (SERVER_PAGES_PER_GUEST + self.scenario.workload.buffers) * len(self.guests),
        )


# --- the same as functions, for worlds that build one machine per process ---------------------------------------------


def machine_names(scenario: Scenario) -> tuple[str, ...]:
    """Return the names of all machines."""
    present = scenario.machine_names()
    return (*scenario.guest_names(), *(name for name in (BACKEND, SERVER, NETWORK) if name in present))


def host_of(scenario: Scenario, name: str) -> str:
    """Return the physical host that a machine lives on; machines of one host share memory."""
    return name if name in (SERVER, NETWORK) or scenario.kind in ("metal", "loopback") else "host1"


def guest_domid(name: str) -> int:
    """Return a guest's domain id."""
    return int(name.removeprefix("guest"))


def guest_frames(scenario: Scenario) -> int:
    """Return how many 4 KiB frames each guest has."""
    return scenario.guests.memory_pages


def awaited_facts(scenario: Scenario) -> dict[str, tuple[str, ...]]:
    """Return which machines wait for which facts of others."""
    return Topology(scenario).awaited_facts()
