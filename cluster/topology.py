"""From a scenario to its machines: who there is, where they live, what each is told at boot.

    host1: guest1 .. guestN and backend (they share memory)        network        server

A `Topology` is made once per scenario and builds fresh machines as often as wanted.
"""

import os
import random
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

from msgspec.structs import replace

from lateack.cluster.faults import rules_at
from lateack.cluster.plugins import backend_strategy, guest_strategy
from lateack.cluster.scenario import Scenario
from lateack.nodes.application import Source
from lateack.nodes.backend import Backend, BackendConfig
from lateack.nodes.errors import LateackError
from lateack.nodes.gates import NIC_PLACE, RING_PLACE
from lateack.nodes.guest import Guest, GuestConfig
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


PIECE = 1 << 20
"""Bytes of the noise that generated files are cut from, and of a longer file's pieces."""

STRIDE = 524_287
"""How far apart in the noise the pieces of a long file begin; a prime, so that no two begin alike for long."""


class BytesSource:
    """An input that lies in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, offset: int, count: int) -> bytes:
        """Return *count* bytes from *offset*."""
        return self.data[offset : offset + count]


class FileSource:
    """An input that lies in a file, read as it is needed; its size is what it was when the run began."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.size = os.fstat(self.descriptor).st_size
        except OSError as error:
            raise LateackError(f"the input {path} cannot be read: {error.strerror}") from error

    def read(self, offset: int, count: int) -> bytes:
        """Return *count* bytes from *offset*; raises LateackError when the file has become shorter."""
        data = os.pread(self.descriptor, count, offset)
        if len(data) < min(count, self.size - offset):
            raise LateackError(f"the input {self.path} became shorter while it was read; copy it first")
        return data

    def __deepcopy__(self, memo: dict[int, object]) -> "FileSource":
        return FileSource(self.path)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@lru_cache(maxsize=1)
def _noise() -> bytes:
    """Return `PIECE` random bytes twice over, so that as many can be cut out from anywhere in the first half."""
    return random.Random(2011).randbytes(PIECE) * 2


@lru_cache(maxsize=64)
def generated_input(seed: int, guest: int, size: int, write_size: int, common_prefix: int) -> bytes:
    """Return a guest's generated file; each of its writes begins with the same *common_prefix* bytes.

    It is noise from a place that seed and guest choose: to draw fresh bytes takes longer than to judge a story.
    """
    noise = _noise()
    place = (seed * 1009 + guest) * 8191 % PIECE
    data = bytearray()
    for number in range(-(-size // PIECE)):
        start = (place + number * STRIDE) % PIECE
        data += noise[start : start + min(PIECE, size - len(data))]
    if common_prefix:
        prefix = noise[PIECE - place : 2 * PIECE - place][:common_prefix]
        for start in range(0, size, write_size):
            end = min(start + common_prefix, start + write_size, size)
            data[start:end] = prefix[: end - start]
    return bytes(data)


class Topology:
    """The machines of one scenario, before they exist."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.guests = {name: number for number, name in enumerate(scenario.guest_names(), start=1)}
        self.names = (*self.guests, BACKEND, SERVER, NETWORK)
        self.server = HostAddress(address_of("10.0.1.1"), bytes.fromhex("001e67000001"))
        self.addresses = {
            name: HostAddress(address_of("10.0.0.0") + 10 + number, bytes.fromhex(f"00163e00{number:04x}"))
            for name, number in self.guests.items()
        }
        self.by_ip = {address.ip: name for name, address in self.addresses.items()} | {self.server.ip: SERVER}
        self.guest_class = guest_strategy(scenario.strategies.guest)
        self.backend_class = backend_strategy(scenario.strategies.backend)
        self.rules = {place: rules_at(scenario, place) for place in (NETWORK, NIC_PLACE, RING_PLACE)}
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
        for machine, places in ((BACKEND, (NIC_PLACE, RING_PLACE)), (NETWORK, (NETWORK,))):
            rules = [rule for place in places for rule in self.rules[place]]
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

    def _guest_config(self, name: str, root: bytes, seed: int) -> GuestConfig:
        number = self.guests[name]
        first_xid = (seed * 0x9E37_79B1 + number * 0x0100_0000) & 0x7FFF_FFFF
        isn = (seed * 0x85EB_CA6B + number * 0x1000_0000) & 0xFFFF_FFFF
        return replace(self.guest_configs[name], root=root, first_xid=first_xid, isn=isn)

    def _fixed_guest_config(self, name: str) -> GuestConfig:
        """Return what a guest is told, but for what `_guest_config` adds."""
        scenario = self.scenario
        return GuestConfig(
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
            rules=self.rules[NIC_PLACE] + self.rules[RING_PLACE],
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
    return (*scenario.guest_names(), BACKEND, SERVER, NETWORK)


def host_of(scenario: Scenario, name: str) -> str:
    """Return the physical host that a machine lives on; machines of one host share memory."""
    return name if name in (SERVER, NETWORK) else "host1"


def guest_domid(name: str) -> int:
    """Return a guest's domain id."""
    return int(name.removeprefix("guest"))


def guest_frames(scenario: Scenario) -> int:
    """Return how many 4 KiB frames each guest has."""
    return scenario.guests.memory_pages


def awaited_facts(scenario: Scenario) -> dict[str, tuple[str, ...]]:
    """Return which machines wait for which facts of others."""
    return Topology(scenario).awaited_facts()
