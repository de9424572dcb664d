"""From a scenario to its machines: names, addresses, inputs, and what does not fit is said before it runs."""

import copy
from pathlib import Path

import pytest

from lateack.cluster.inputs import BytesSource, FileSource, generated_input
from lateack.cluster.scenario import from_raw, load
from lateack.cluster.topology import (
    Topology,
    awaited_facts,
    guest_domid,
    guest_frames,
    host_of,
    machine_names,
)
from lateack.nodes.backend import Backend
from lateack.nodes.block_backend import BlockBackend
from lateack.nodes.errors import LateackError
from lateack.nodes.guest import Guest
from lateack.nodes.network import Network
from lateack.nodes.server import Server
from lateack.nodes.storage.memory_store import MemoryStore


def topology(**raw: object) -> Topology:
    """Return the topology of a scenario given as plain data."""
    return Topology(from_raw({"story": "x", **raw}))


def test_it_names_every_machine_once() -> None:
    """Guests first, then the three that there is one of."""
    scenario = from_raw({"story": "x", "guests": {"count": 3}})

    assert machine_names(scenario) == ("guest1", "guest2", "guest3", "backend", "server", "network")
    assert Topology(scenario).names == machine_names(scenario)
    assert [guest_domid(name) for name in ("guest1", "guest12")] == [1, 12]
    assert guest_frames(scenario) == 1024


def test_what_shares_memory_shares_a_host() -> None:
    """Guests and backend live together; the others are elsewhere."""
    scenario = from_raw({"story": "x"})

    assert [host_of(scenario, name) for name in machine_names(scenario)] == ["host1", "host1", "server", "network"]


def test_it_builds_each_machine() -> None:
    """Each name gives its machine, fresh each time."""
    shape = topology()
    store = MemoryStore(handle_bytes=36)
    memories = {"guest1": shape.memory("guest1")}
    inputs = {"guest1": shape.source("guest1")}

    built = [shape.build(name, memories=memories, store=store, inputs=inputs, root=store.root) for name in shape.names]

    assert [type(machine) for machine in built] == [Guest, Backend, Server, Network]
    other = shape.build("network", memories={}, store=None, inputs={}, root=b"")
    assert other is not built[3]


def test_two_hundred_guests_have_two_hundred_addresses() -> None:
    """No two guests share a MAC or an IP address."""
    shape = topology(guests={"count": 200, "memory_pages": 256})

    configs = [shape.orders.client(name, b"", 1) for name in shape.guests]

    assert len({config.address.ip for config in configs}) == 200
    assert len({config.address.mac for config in configs}) == 200


def test_a_generated_input_comes_from_its_seed() -> None:
    """The same seed and guest give the same bytes, others give others, and every write can begin alike."""
    first = generated_input(1, 1, 10_000, 4096, 0)
    prefixed = generated_input(1, 1, 10_000, 4096, 100)

    assert first == generated_input(1, 1, 10_000, 4096, 0)
    assert first != generated_input(2, 1, 10_000, 4096, 0)
    assert first != generated_input(1, 2, 10_000, 4096, 0)
    assert len(prefixed) == 10_000
    assert prefixed[:100] == prefixed[4096:4196] == prefixed[8192:8292]
    assert prefixed[100:200] != prefixed[4196:4296]


def test_a_file_is_read_as_it_is_needed(tmp_path: Path) -> None:
    """A file's size is what it was; a file that shrinks under the run is said so, and a copy reads on its own."""
    path = tmp_path / "input.bin"
    path.write_bytes(b"0123456789")
    source = FileSource(path)
    twin = copy.deepcopy(source)

    assert (source.size, source.read(8, 100), twin.read(0, 3)) == (10, b"89", b"012")
    path.write_bytes(b"01")
    with pytest.raises(LateackError, match="became shorter"):
        source.read(0, 5)


def test_a_file_that_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    """One sentence, with the path in it."""
    with pytest.raises(LateackError, match="cannot be read"):
        FileSource(tmp_path / "none")


def test_where_several_copy_each_has_a_folder(tmp_path: Path) -> None:
    """One guest's file lies under its own name; of several, each in the guest's folder."""
    path = tmp_path / "my file.txt"
    path.write_bytes(b"text")
    one, two = topology(), topology(guests={"count": 2}, workload={"input": str(path)})

    assert one.file_name("guest1") == "input.bin"
    assert [two.file_name(name) for name in two.guests] == ["guest1/my file.txt", "guest2/my file.txt"]
    assert isinstance(one.source("guest1"), BytesSource)
    assert two.source("guest2").read(0, 10) == b"text"


def test_memory_that_is_too_small_is_refused() -> None:
    """The sentence says how much would do, and that much does."""
    settings = {"memory_pages": 90, "rx_buffers": 64}

    with pytest.raises(LateackError, match="need at least 107"):
        topology(guests=settings, workload={"buffers": 4})
    topology(guests=settings | {"memory_pages": 107}, workload={"buffers": 4})


def test_a_small_guest_cannot_use_up_the_memory_of_those_who_keep_its_disk() -> None:
    """Its ring has room for 352 pages, which may all be one, and a backend that copies copies each."""
    shape = topology(kind="block", guests={"memory_pages": 90, "rx_buffers": 4})
    memories = {"guest1": shape.memory("guest1")}

    backend = shape.build("backend", memories=memories, store=None, inputs={}, root=bytes(36))

    assert isinstance(backend, BlockBackend)
    assert backend.kernel_pages.nr_frames > 32 * 11


def test_it_knows_which_machine_waits_for_which_fact() -> None:
    """The late-ack story: the network waits for what the backend parks, the backend for what the guest does."""
    assert awaited_facts(load("late-ack")) == {
        "BufferRefilled": ("backend",), "BufferRetired": ("backend",), "CompletionDeferred": ("backend",),
        "DuplicateDropped": ("network",), "Parked": ("network",),
    }  # fmt: skip
    assert awaited_facts(load("calm")) == {}


def test_times_are_nanoseconds_below_the_scenario() -> None:
    """Units stand in the keys of a scenario and nowhere else."""
    shape = topology(links={"to_server": {"delay_us": 7, "jitter_us": 2}}, tcp={"rto_min_ms": 3}, rpc={"timeo_ms": 5})

    assert [(link.target, link.delay, link.jitter) for link in shape.orders.links] == [
        ("server", 7000, 2000), ("backend", 500_000, 0),
    ]  # fmt: skip
    assert shape.orders.tcp.rto_min == 3_000_000
    assert shape.orders.timeouts().timeo == 5_000_000
