"""A claim about drivers that come and go: whenever it happens, nothing that was acknowledged is lost."""

from typing import Any

from hypothesis import given, strategies as st

from lateack.cluster import oracles
from lateack.cluster.experiment import run_virtually
from lateack.cluster.scenario import from_raw
from lateack.cluster.topology import Topology
from lateack.nodes.facts import CopyFinished, LeftOver, NetbackDied, NetbackRestarted
from lateack.nodes.storage.memory_store import MemoryStore
from tests.cluster.test_weather import stored

MOMENTS = [
    {"fact": "FrameSent", "node": "backend"}, {"fact": "WriteExecuted", "node": "server"},
    {"fact": "SegmentTransmitted", "node": "guest1"}, {"fact": "RetransmitTimedOut", "node": "guest1"},
    {"fact": "FrontendClosing", "node": "guest1"}, {"fact": "VifDisconnected", "node": "backend"},
    {"fact": "VifConnected", "node": "backend"}, {"fact": "NetbackDied", "node": "backend"},
    {"fact": "NetbackRestarted", "node": "backend"}, {"fact": "Parked", "node": "backend"},
]  # fmt: skip
SINCE = st.tuples(st.sampled_from(MOMENTS), st.integers(1, 6)).map(lambda drawn: drawn[0] | {"nth": drawn[1]})
PATIENCE = {"fact": "RetransmitTimedOut"}
"""What surely comes as long as somebody waits for something."""
DETACH = SINCE.map(lambda since: {"detach": "guest1", "since": since})
CRASH = st.tuples(SINCE, st.sampled_from(MOMENTS)).map(
    lambda drawn: {"crash": "backend", "since": drawn[0], "until": [PATIENCE, drawn[1]]}
)
STALL = st.tuples(SINCE, st.sampled_from(MOMENTS)).map(
    lambda drawn: {"gate": "backend.nic", "since": drawn[0], "until": [PATIENCE, drawn[1]]}
)
FAULTS = st.lists(DETACH | CRASH | STALL, min_size=1, max_size=5)


@given(faults=FAULTS, backend=st.sampled_from(["dev-zerocopy", "grant-copy"]), guests=st.sampled_from([1, 2]))
def test_drivers_come_and_go_and_the_copy_is_whole(faults: list[dict[str, Any]], backend: str, guests: int) -> None:
    """Whenever frontends detach and netback dies, every file is right in the end, and every pool is whole."""
    scenario = from_raw(
        {
            "story": "drivers",
            "strategies": {"guest": "frag-destructor", "backend": backend},
            "guests": {"count": guests, "memory_pages": 64, "rx_buffers": 4},
            "workload": {"bytes": 20_000, "write_size": 4096, "buffers": 2},
            "faults": {f"fault{number}": fault for number, fault in enumerate(faults)},
        }
    )
    topology = Topology(scenario)
    store = MemoryStore(handle_bytes=36)

    trace = run_virtually(topology, store)

    assert {node for _, _, node, _ in trace.of_type(CopyFinished)} == set(topology.guests)
    for name in topology.guests:
        source = topology.source(name)
        assert stored(store, topology.file_name(name)) == source.read(0, source.size)
    assert not set(oracles.harms(trace)) & {"stale-on-wire", "corrupt-at-rest", "stall"}
    if len(trace.of_type(NetbackDied)) == len(trace.of_type(NetbackRestarted)):
        assert not trace.of_type(LeftOver)
