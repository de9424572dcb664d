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
from lateack.nodes.application import Source, frames_needed
from lateack.nodes.backend import Backend, BackendConfig
from lateack.nodes.block_backend import BlockBackend, BlockBackendConfig
from lateack.nodes.block_guest import BlockGuest, BlockGuestConfig
from lateack.nodes.bridge import HOST_MAC, BridgeConfig
from lateack.nodes.chatter import DatagramOrder, frames_of
from lateack.nodes.client import ClientConfig
from lateack.nodes.errors import LateackError
from lateack.nodes.guest import Guest
from lateack.nodes.loopback import Loopback
from lateack.nodes.memory.pages import Memory
from lateack.nodes.metal import Metal
from lateack.nodes.network import LinkConfig, Network, NetworkConfig
from lateack.nodes.node import MS, US, Node, S
from lateack.nodes.rules import facts_awaited
from lateack.nodes.server import Server, ServerConfig
from lateack.nodes.stack.egress import DriverConfig
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
        self.host = HostAddress(address_of("10.0.0.1"), HOST_MAC)
        self.addresses = {
            name: HostAddress(address_of("10.0.0.0") + 10 + number, bytes.fromhex(f"00163e00{number:04x}"))
            for name, number in self.guests.items()
        }
        if scenario.kind == "block":  # the guests have no network: the backend writes to the server for them
            self.addresses = {BACKEND: HostAddress(address_of("10.0.0.2"), bytes.fromhex("00163e000000"))}
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
            retries_max=scenario.tcp.retries,
            host_queue_check=scenario.tcp.host_queue_check,
        )
        self.guest_frames = scenario.guests.memory_pages
        self._check_memory()
        self._awaited = self._find_awaited()
        # What does not depend on the seed is made once; a search builds thousands of machines from it.
        self.backend_config = self._backend_config()
        self.server_config = self._server_config()
        self.network_links = self._links()
        self.network_config = self._network_config()
        clients = self.guests if scenario.kind != "block" else {}
        self.guest_configs = {name: self._fixed_guest_config(name) for name in clients}
        if scenario.kind == "metal":
            self.guest_configs = {name: self._on_metal(config) for name, config in self.guest_configs.items()}

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
        if self.scenario.kind == "block" and name == BACKEND:
            return BlockBackend(self._block_backend_config(root, seed), dict(memories), self.guest_class)
        if self.scenario.kind == "block" and name in self.guests:
            return BlockGuest(self._block_guest_config(name), memories[name], inputs[name])
        if self.scenario.kind == "loopback" and name in self.guests:
            assert store is not None, "the host that serves itself needs a disk"
            config, service = self._guest_config(name, root, seed), self._loopback_service(name)
            return Loopback(config, service, memories[name], self.guest_class, inputs[name], store=store)
        if name == BACKEND:
            return Backend(self.backend_config, dict(memories), self.backend_class)
        if name == NETWORK:
            return Network(replace(self.network_config, seed=seed))
        if name == SERVER:
            assert store is not None, "the server needs a disk"
            return Server(self.server_config, store)
        machine = Metal if self.scenario.kind == "metal" else Guest
        return machine(self._guest_config(name, root, seed), memories[name], self.guest_class, inputs[name])

    # --- what each machine is told ------------------------------------------------------------------------------------

    def _check_memory(self) -> None:
        scenario = self.scenario
        workload = scenario.workload
        buffers = frames_needed(workload.buffers, workload.write_size, workload.reuse)
        chatting = max(frames_of(self._datagrams(guest)) for guest in self.guests)
        needed = 3 + scenario.guests.rx_buffers + buffers + chatting + GUEST_PAGES_LEFT
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
        config = replace(self.guest_configs[name], root=root, first_xid=first_xid, isn=isn)
        if self.scenario.kind != "loopback":
            return config
        own = config.address
        return replace(config, server=own.ip, neighbours={own.ip: own.mac})

    def _loopback_service(self, name: str) -> ServerConfig:
        """Return what the server is told that is the client's own host."""
        own = self.addresses[name]
        return replace(self.server_config, name=name, address=own, neighbours={own.ip: own.mac}, clients={own.ip: name})

    def _fixed_guest_config(self, name: str) -> ClientConfig:
        """Return what a guest is told, but for what `_guest_config` adds."""
        scenario = self.scenario
        return ClientConfig(
            name=name,
            backend=BACKEND,
            address=self.addresses[name],
            server=self.server.ip,
            neighbours={self.server.ip: self.server.mac} | self._neighbours(),
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
            datagrams=self._datagrams(name),
            reuse=scenario.workload.reuse,
            abort=scenario.workload.abort,
            tap=scenario.guests.tap,
        )

    def _on_metal(self, config: ClientConfig) -> ClientConfig:
        """Return what a client is told whose frames go straight to the network, out of a card of its own."""
        host = self.backend_config
        return replace(config, backend=NETWORK, queue_packets=host.queue_frames, gso=host.gso, driver=host.driver)

    def _datagrams(self, guest: str) -> tuple[DatagramOrder, ...]:
        """Return the streams of datagrams that one guest sends."""
        return tuple(
            DatagramOrder(
                self.host.ip if stream.to == "host" else self.addresses[stream.to].ip,
                stream.count, stream.bytes, stream.head_bytes, stream.buffers, stream.after_copy,
            )
            for stream in self.scenario.datagrams
            if stream.sender == guest
        )  # fmt: skip

    def _neighbours(self) -> dict[int, bytes]:
        """Return who lives on the guests' own segment: nobody whom they would know, unless datagrams are sent there."""
        if not self.scenario.datagrams:
            return {}
        return {address.ip: address.mac for address in (self.host, *self.addresses.values())}

    def _block_guest_config(self, name: str) -> BlockGuestConfig:
        workload = self.scenario.workload
        return BlockGuestConfig(
            name, BACKEND, self.file_name(name), workload.buffers, workload.write_size, workload.reuse, self.rules[name]
        )

    def _block_backend_config(self, root: bytes, seed: int) -> BlockBackendConfig:
        """Return what a backend is told that keeps its guests' disks on the server."""
        scenario, host = self.scenario, self.backend_config
        return BlockBackendConfig(
            name=BACKEND,
            network=NETWORK,
            guests=dict(self.guests),
            files={name: self.file_name(name) for name in self.guests},
            address=self.addresses[BACKEND],
            server=self.server.ip,
            neighbours={self.server.ip: self.server.mac},
            tcp=self.tcp,
            rpc=self._timeouts(),
            root=root,
            mtu=scenario.links.mtu,
            transport=scenario.workload.transport,
            unmount=scenario.workload.unmount,
            abort=scenario.workload.abort,
            stable=FILE_SYNC if scenario.workload.stable == "file-sync" else UNSTABLE,
            queue_frames=host.queue_frames,
            driver=host.driver,
            gso=host.gso,
            pages=host.pages,
            first_xid=seed * 0x9E37_79B1 & 0x7FFF_FFFF,
            isn=seed * 0x85EB_CA6B & 0xFFFF_FFFF,
            rules=host.rules,
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
            driver=DriverConfig(scenario.host.checksum, scenario.host.segmentation, scenario.host.device),
            pages=BACKEND_PAGES + min(BACKEND_PAGES_PER_GUEST, self.guest_frames) * len(self.guests),
            bridge=BridgeConfig(
                scenario.host.tap,
                scenario.host.mirror,
                scenario.host.inspect_bytes,
                scenario.host.expand,
                scenario.host.device == "orphaning",
                scenario.host.socket_buffer,
            ),
            rx_drain=scenario.host.rx_drain_ms * MS,
            rx_stall=scenario.host.rx_stall_ms * MS,
        )

    def _links(self) -> tuple[LinkConfig, ...]:
        """Return one direction to the server, and one to whoever has a card on the network."""
        links = self.scenario.links
        cards = dict.fromkeys(self._card_of(name) for name in self.addresses)
        return tuple(
            LinkConfig(target, way.delay_us * US, way.jitter_us * US, way.loss)
            for target, way in ((SERVER, links.to_server), *((card, links.to_guests) for card in cards))
        )

    def _card_of(self, name: str) -> str:
        """Return the machine through whose card frames for this one come."""
        return name if self.scenario.kind == "metal" else BACKEND

    def _network_config(self) -> NetworkConfig:
        return NetworkConfig(
            name=NETWORK,
            links=self.network_links,
            links_by_mac={address.mac: self._card_of(name) for name, address in self.addresses.items()}
            | {self.server.mac: SERVER},
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
