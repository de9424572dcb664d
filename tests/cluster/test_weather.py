"""Claims about all weather: whatever the links, hosts and timers are like, what is promised holds."""

from typing import Any

from hypothesis import given, strategies as st

from lateack.cluster import oracles
from lateack.cluster.experiment import run_virtually
from lateack.cluster.scenario import load
from lateack.cluster.topology import Topology
from lateack.nodes.facts import CopyFinished
from lateack.nodes.storage.memory_store import MemoryStore

WAY: dict[str, list[Any]] = {"delay_us": [0, 10, 500, 50_000], "jitter_us": [0, 10, 5000], "loss": [0, 0.01, 0.1]}
WEATHER: dict[str, list[Any]] = {
    "guests.count": [1, 2],
    "guests.rx_buffers": [4, 8, 64],
    "host.checksum": ["offload", "software"],
    "host.gso": [True, False],
    "host.queue_frames": [1, 3, 1000],
    "server.drc": ["none", "no-checksum", "checksum"],
    "server.handle_bytes": [28, 36, 64],
    "links.mtu": [576, 1500, 9000, 65_521],
    "workload.bytes": [1, 4095, 4097, 50_000],
    "workload.buffers": [1, 2, 5],
    "workload.write_size": [4096, 16_384],
    "workload.stable": ["unstable", "file-sync"],
    "workload.transport": ["tcp", "udp"],
    "workload.unmount": [True, False],
    "tcp.initial_window": [1, 10],
    "tcp.receive_buffer": [4096, 1 << 20],
    "seed": [1, 2, 3],
    **{f"links.{way}.{key}": values for way in ("to_server", "to_guests") for key, values in WAY.items()},
}
SETTINGS = st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in WEATHER.items()})
SAFE = st.sampled_from(["frag-destructor", "full-copy"])
BACKENDS = st.sampled_from(["dev-zerocopy", "grant-copy"])


@given(settings=SETTINGS, guest=SAFE, backend=BACKENDS)
def test_a_safe_strategy_is_safe_in_all_weather(settings: dict[str, Any], guest: str, backend: str) -> None:
    """No byte leaves that was not meant, the file is what was given, and what is finished leaves nothing behind."""
    given_keys = [f"{key}={value}" for key, value in settings.items()]
    scenario = load("calm", [*given_keys, f"strategies.guest={guest}", f"strategies.backend={backend}"])
    topology = Topology(scenario)
    store = MemoryStore(handle_bytes=scenario.server.handle_bytes)

    trace = run_virtually(topology, store)

    finished = {node for _, _, node, _ in trace.of_type(CopyFinished)}
    harms = set(oracles.harms(trace))
    assert not harms & {"stale-on-wire", "corrupt-at-rest", "fault"}
    assert finished == set(topology.guests) or "stall" in harms
    assert "leak" not in harms or "stall" in harms
    for name in finished:
        source = topology.source(name)
        assert stored(store, topology.file_name(name)) == source.read(0, source.size)


def stored(store: MemoryStore, path: str) -> bytes:
    """Return what lies in a file of the store."""
    handle = store.root
    for part in path.encode().split(b"/"):
        handle = store.lookup(handle, part)
    return store.read(handle, 0, store.getattr(handle).size)
