"""What each machine of a scenario is told at boot: the configurations, with units turned into nanoseconds.

What does not depend on the seed is made once: a search builds thousands of machines from it.
"""

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from lateack.cluster.orders_iscsi import iscsi_parameters, pages_for_pdus
from lateack.cluster.scenario import Scenario
from lateack.nodes.application import frames_needed
from lateack.nodes.backend import BackendConfig
from lateack.nodes.block_backend import BlockBackendConfig
from lateack.nodes.block_guest import BlockGuestConfig
from lateack.nodes.bridge import BridgeConfig
from lateack.nodes.chatter import DatagramOrder, frames_of
from lateack.nodes.client import ClientConfig
from lateack.nodes.errors import LateackError
from lateack.nodes.network import LinkConfig, NetworkConfig
from lateack.nodes.nfs.nfs import FILE_SYNC, UNSTABLE
from lateack.nodes.nfs.rpc_client import RpcTimeouts
from lateack.nodes.node import MS, US, S
from lateack.nodes.records import Record
from lateack.nodes.replication.drbd import DrbdTerms
from lateack.nodes.rules import Rule
from lateack.nodes.server import ServerConfig
from lateack.nodes.stack.egress import DriverConfig
from lateack.nodes.stack.host import HostAddress
from lateack.nodes.stack.tcp import TcpParameters

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
SERVER_PAGES_TO_REPEAT = 56
"""Frames of the server: its replies lie in cells of an eighth of a frame until they are acknowledged, some twice, and
many times where calls are repeated sooner than replies are acknowledged."""


class Addresses(Record):
    """Who is found where: the server, the host's own kernel, and everybody else by name."""

    server: HostAddress
    host: HostAddress
    others: dict[str, HostAddress]

    def names(self) -> dict[int, str]:
        """Return the machines' names by IPv4 address."""
        return {address.ip: name for name, address in self.others.items()} | {self.server.ip: SERVER}


class Orders:
    """The configurations of one scenario; `rules` are those of each machine, `files` the name of each guest's file."""

    def __init__(
        self,
        scenario: Scenario,
        guests: Mapping[str, int],
        addresses: Addresses,
        *,
        rules: Mapping[str, tuple[Rule, ...]],
        files: Mapping[str, str],
    ) -> None:
        self.scenario = scenario
        self.guests = guests
        self.addresses = addresses
        self.rules = rules
        self.files = files
        self.by_ip = addresses.names()
        self.tcp = TcpParameters(
            rto_init=scenario.tcp.rto_init_ms * MS,
            rto_min=scenario.tcp.rto_min_ms * MS,
            rto_max=scenario.tcp.rto_max_ms * MS,
            initial_window_segments=scenario.tcp.initial_window,
            receive_buffer=scenario.tcp.receive_buffer,
            retries_max=scenario.tcp.retries,
            host_queue_check=scenario.tcp.host_queue_check,
        )
        if scenario.kind != "rdma":  # whose hosts have no receive buffers and no socket buffers; see orders_rdma
            self._check_memory()
        self.backend = self._backend()
        self.server = self._server()
        self.links = self._links()
        self.network = self._network()
        clients = guests if scenario.kind != "block" else {}
        self._clients = {name: self._client(name) for name in clients}
        if scenario.kind == "metal":
            self._clients = {name: self._on_metal(config) for name, config in self._clients.items()}

    # --- by machine ---------------------------------------------------------------------------------------------------

    def _check_memory(self) -> None:
        scenario = self.scenario
        workload = scenario.workload
        buffers = frames_needed(workload.buffers, workload.write_size, workload.reuse)
        chatting = max(frames_of(self._datagrams(guest)) for guest in self.guests)
        needed = 3 + scenario.guests.rx_buffers + buffers + chatting + GUEST_PAGES_LEFT + pages_for_pdus(scenario)
        if workload.transport == "udp" and workload.write_size > UDP_WRITE_MAX:
            raise LateackError(
                f"workload.write_size is {workload.write_size}, and a WRITE over UDP carries at most {UDP_WRITE_MAX} "
                "bytes: make it smaller, or leave workload.transport at tcp"
            )
        if scenario.guests.memory_pages < needed:
            raise LateackError(
                f"guests.memory_pages is {scenario.guests.memory_pages}, but {workload.buffers} buffers of "
                f"{workload.write_size} bytes and {scenario.guests.rx_buffers} receive buffers need at least {needed}"
            )

    def client(self, name: str, root: bytes, seed: int) -> ClientConfig:
        """Return what a client is told; *root* is the handle that it mounts, *seed* chooses its numbers."""
        number = self.guests[name]
        first_xid = (seed * 0x9E37_79B1 + number * 0x0100_0000) & 0x7FFF_FFFF
        isn = (seed * 0x85EB_CA6B + number * 0x1000_0000) & 0xFFFF_FFFF
        config = replace(self._clients[name], root=root, first_xid=first_xid, isn=isn)
        if self.scenario.kind != "loopback":
            return config
        own = config.address
        return replace(config, server=own.ip, neighbours={own.ip: own.mac})

    def loopback_service(self, name: str) -> ServerConfig:
        """Return what the server is told that is the client's own host."""
        own = self.addresses.others[name]
        return replace(self.server, name=name, address=own, neighbours={own.ip: own.mac}, clients={own.ip: name})

    def _client(self, name: str) -> ClientConfig:
        """Return what a guest is told, but for what the seed decides."""
        scenario = self.scenario
        return ClientConfig(
            name=name,
            backend=BACKEND,
            address=self.addresses.others[name],
            server=self.addresses.server.ip,
            neighbours={self.addresses.server.ip: self.addresses.server.mac} | self._neighbours(),
            tcp=self.tcp,
            rpc=self.timeouts(),
            root=b"",
            file=self.files[name],
            mtu=scenario.links.mtu,
            transport=scenario.workload.transport,
            protocol=scenario.workload.protocol,
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
            reconnect=scenario.rpc.reconnect,
            releases_early=scenario.workload.release == "reply",
            passes=scenario.workload.passes,
            capture=scenario.links.capture,
            stable_pages=scenario.workload.stable_pages,
            iscsi=iscsi_parameters(scenario),
            drbd=DrbdTerms(scenario.drbd.protocol, scenario.drbd.digest),
            ceph_crc=scenario.ceph.crc,
        )

    def _on_metal(self, config: ClientConfig) -> ClientConfig:
        """Return what a client is told whose frames go straight to the network, out of a card of its own."""
        host = self.backend
        return replace(config, backend=NETWORK, queue_packets=host.queue_frames, gso=host.gso, driver=host.driver)

    def _datagrams(self, guest: str) -> tuple[DatagramOrder, ...]:
        """Return the streams of datagrams that one guest sends."""
        return tuple(
            DatagramOrder(
                self.addresses.host.ip if stream.to == "host" else self.addresses.others[stream.to].ip,
                stream.count, stream.bytes, stream.head_bytes, stream.buffers, stream.after_copy,
            )
            for stream in self.scenario.datagrams
            if stream.sender == guest
        )  # fmt: skip

    def _neighbours(self) -> dict[int, bytes]:
        """Return who lives on the guests' own segment: nobody whom they would know, unless datagrams are sent there."""
        if not self.scenario.datagrams:
            return {}
        return {address.ip: address.mac for address in (self.addresses.host, *self.addresses.others.values())}

    def block_guest(self, name: str) -> BlockGuestConfig:
        """Return what a guest is told whose disk the backend keeps."""
        workload = self.scenario.workload
        return BlockGuestConfig(
            name, BACKEND, self.files[name], workload.buffers, workload.write_size, workload.reuse, self.rules[name],
            workload.passes,
        )  # fmt: skip

    def block_backend(self, root: bytes, seed: int) -> BlockBackendConfig:
        """Return what a backend is told that keeps its guests' disks on the server."""
        scenario, host = self.scenario, self.backend
        return BlockBackendConfig(
            name=BACKEND,
            network=NETWORK,
            guests=dict(self.guests),
            files={name: self.files[name] for name in self.guests},
            address=self.addresses.others[BACKEND],
            server=self.addresses.server.ip,
            neighbours={self.addresses.server.ip: self.addresses.server.mac},
            tcp=self.tcp,
            rpc=self.timeouts(),
            root=root,
            mtu=scenario.links.mtu,
            transport=scenario.workload.transport,
            unmount=scenario.workload.unmount,
            abort=scenario.workload.abort,
            stable=FILE_SYNC if scenario.workload.stable == "file-sync" else UNSTABLE,
            queue_frames=host.queue_frames,
            driver=host.driver,
            gso=host.gso,
            reconnect=scenario.rpc.reconnect,
            releases_early=scenario.workload.release == "reply",
            # However small a guest is: its requests may all show one page, and copies are made here for each.
            pages=BACKEND_PAGES + BACKEND_PAGES_PER_GUEST * len(self.guests),
            first_xid=seed * 0x9E37_79B1 & 0x7FFF_FFFF,
            isn=seed * 0x85EB_CA6B & 0xFFFF_FFFF,
            rules=host.rules,
            addresses=self.by_ip,
        )

    def timeouts(self) -> RpcTimeouts:
        """Return the RPC client's timers: the protocol's own where the scenario names none."""
        rpc = self.scenario.rpc
        given: dict[str, int | bool] = {"soft": rpc.soft}
        if rpc.timeo_ms is not None:
            given["timeo"] = rpc.timeo_ms * MS
        if rpc.retrans is not None:
            given["retrans"] = rpc.retrans
        over_tcp = self.scenario.workload.transport == "tcp"
        make: Callable[..., RpcTimeouts] = RpcTimeouts.tcp if over_tcp else RpcTimeouts.udp
        return make(**given)

    def _backend(self) -> BackendConfig:
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
            pages=BACKEND_PAGES + min(BACKEND_PAGES_PER_GUEST, self.scenario.guests.memory_pages) * len(self.guests),
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
            macs={name: address.mac for name, address in self.addresses.others.items() if name in self.guests},
        )

    def _links(self) -> tuple[LinkConfig, ...]:
        """Return one direction to the server, and one to whoever has a card on the network."""
        links = self.scenario.links
        cards = dict.fromkeys(self._card_of(name) for name in self.addresses.others)
        return tuple(
            LinkConfig(target, way.delay_us * US, way.jitter_us * US, way.loss)
            for target, way in ((SERVER, links.to_server), *((card, links.to_guests) for card in cards))
        )

    def _card_of(self, name: str) -> str:
        """Return the machine through whose card frames for this one come."""
        return name if self.scenario.kind in ("metal", "rdma") else BACKEND

    def _network(self) -> NetworkConfig:
        return NetworkConfig(
            name=NETWORK,
            links=self.links,
            links_by_mac={address.mac: self._card_of(name) for name, address in self.addresses.others.items()}
            | {self.addresses.server.mac: SERVER},
            addresses=self.by_ip,
            rules=self.rules[NETWORK],
            capture=self.scenario.links.capture,
        )

    def _server(self) -> ServerConfig:
        server, others = self.scenario.server, self.addresses.others
        return ServerConfig(
            name=SERVER,
            network=NETWORK,
            address=self.addresses.server,
            neighbours={address.ip: address.mac for address in self.addresses.others.values()},
            clients={address.ip: name for name, address in self.addresses.others.items()},
            files=tuple((others[name].ip, file) for name, file in self.files.items() if name in others),
            tcp=self.tcp if server.rto_min_ms is None else replace(self.tcp, rto_min=server.rto_min_ms * MS),
            mtu=self.scenario.links.mtu,
            drc=server.drc,
            drc_entries=server.drc_entries,
            drc_expiry=server.drc_expiry_s * S,
            drc_port=server.drc_port,
            drc_high_water=server.drc_high_water,
            execute=server.execute_us * US,
            protocol=self.scenario.workload.protocol,
            iscsi=iscsi_parameters(self.scenario),
            reboot=server.reboot_ms * MS,
            rules=self.rules.get(SERVER, ()),
            audit_chunk=self.scenario.workload.write_size,
            pages=self._server_pages(),
        )

    def _server_pages(self) -> int:
        scenario = self.scenario
        pages = SERVER_PAGES + (SERVER_PAGES_PER_GUEST + scenario.workload.buffers) * len(self.guests)
        repeats = scenario.rpc.timeo_ms is not None or scenario.workload.transport == "udp"
        return pages + SERVER_PAGES_TO_REPEAT if repeats else pages
