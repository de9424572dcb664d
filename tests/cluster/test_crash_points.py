"""A server that is killed anywhere in the middle of a copy: what it promised is there, the rest is sent again."""

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from lateack.cluster import oracles
from lateack.cluster.experiment import run_virtually
from lateack.cluster.scenario import load
from lateack.cluster.topology import SERVER, Topology
from lateack.cluster.trace import Trace
from lateack.nodes.facts import ServerCrashed, ServerRestarted, VerifierChanged
from lateack.nodes.node import Node
from lateack.nodes.server import Server, after_crashes
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.storage.store import Store
from lateack.nodes.storage.walk import regular_files

COPY = (
    "kind=metal", "strategies.guest=on-reply", "workload.bytes=81920", "workload.write_size=4096", "workload.buffers=4",
    "rpc.reconnect=same-port",
)  # fmt: skip
UNSTABLE, FILE_SYNC = "workload.stable=unstable", "workload.stable=file-sync"
POINTS_MAX = 1000
"""A copy of twenty writes has far fewer frames."""


def crash_at(condition: str, nth: int) -> str:
    """Return the setting that kills the server the nth time that this happens."""
    return f"faults.death={{crash: server, since: {{{condition}, nth: {nth}}}}}"


def copied(topology: Topology) -> tuple[Trace, bool]:
    """Run a scenario; return its trace, and whether the server's disk then holds just what was to be copied."""
    store = MemoryStore(handle_bytes=topology.scenario.server.handle_bytes)
    trace = run_virtually(topology, store)
    found = {b"/".join(path).decode(): _content(store, handle) for path, handle in regular_files(store)}
    sources = {guest: topology.source(guest) for guest in topology.guests}
    wanted = {topology.file_name(guest): source.read(0, source.size) for guest, source in sources.items()}
    return trace, found == wanted


def _content(store: Store, handle: bytes) -> bytes:
    return bytes(store.read(handle, 0, store.getattr(handle).size))


def outcomes(
    settings: tuple[str, ...], condition: str = "frame: {}", *, base: tuple[str, ...] = COPY
) -> tuple[int, list[tuple[int, Any]]]:
    """Kill the server at every point of a copy; return how many there are, and where something was wrong after it."""
    wrong: list[tuple[int, Any]] = []
    for nth in range(1, POINTS_MAX):
        trace, right = copied(Topology(load("calm", [*base, crash_at(condition, nth), *settings])))
        deaths = len(trace.of_type(ServerCrashed))
        if not deaths:
            return nth - 1, wrong
        back = len(trace.of_type(ServerRestarted))
        if oracles.harms(trace) or not right or deaths != back:
            wrong.append((nth, (oracles.harms(trace), right, deaths, back)))
    raise AssertionError("the copy has no end")


def test_the_file_is_right_after_a_crash_at_any_of_two_hundred_points() -> None:
    """Every frame that passes the server's card, either way: CREATE, each WRITE, before, in and after COMMIT."""
    unstable = outcomes((UNSTABLE,))
    stable = outcomes((FILE_SYNC,))

    assert unstable[1] == stable[1] == []
    assert unstable[0] + stable[0] >= 200


def test_the_file_is_right_after_a_crash_between_execution_and_reply() -> None:
    """The call has been executed, its reply never leaves, and the cache that knew of it is gone."""
    points, wrong = outcomes((FILE_SYNC,), "fact: WriteExecuted, node: server")

    assert (points, wrong) == (20, [])


WEATHER: Mapping[str, tuple[str, ...]] = {
    "new port": (UNSTABLE, "rpc.reconnect=new-port"),
    "loss": (UNSTABLE, "links.to_server.loss=0.03", "links.to_guests.loss=0.03"),
    "two guests": (UNSTABLE, "guests.count=2", "workload.bytes=40960"),
    "datagrams": (UNSTABLE, "workload.transport=udp", "rpc.reconnect=never"),
    "twice": (UNSTABLE, "faults.more={crash: server, since: {frame: {rpc: WRITE}, nth: 2}}"),
    "a hypervisor": (UNSTABLE, "kind=split"),
    "no cache": (FILE_SYNC, "server.drc=none"),
}


@pytest.mark.parametrize("settings", WEATHER.values(), ids=WEATHER)
def test_the_file_is_right_after_a_crash_in_any_weather(settings: tuple[str, ...]) -> None:
    """So it is over other transports and lossy links, with others on the same server, and after a second crash."""
    points, wrong = outcomes(settings)

    assert wrong == []
    assert points > 50


BLOCKS = COPY[:-1]
"""The others connect anew in any case."""


@pytest.mark.parametrize("weather", ["calm", "loss"])
@pytest.mark.parametrize("protocol", ["iscsi", "drbd", "ceph"])
def test_blocks_and_objects_are_right_after_a_crash_at_any_point(protocol: str, weather: str) -> None:
    """Even where all was acknowledged that the client had to say, and what the server had to say died with it."""
    loss = WEATHER[weather][1:] if weather == "loss" else ()

    points, wrong = outcomes((f"workload.protocol={protocol}", "workload.bytes=40960", *loss), base=BLOCKS)

    assert wrong == []
    assert points >= 60


def test_a_second_crash_waits_until_the_server_is_back() -> None:
    """Rules that kill the same machine act one after the other, and each counts from the boot on."""
    second = "faults.more={crash: server, since: {fact: WriteExecuted, node: server, nth: 5}}"
    settings = [*COPY, UNSTABLE, crash_at("fact: WriteExecuted, node: server", 5), second]

    trace, right = copied(Topology(load("calm", settings)))

    moments = [type(fact) for _, _, _, fact in trace if isinstance(fact, ServerCrashed | ServerRestarted)]
    assert moments == [ServerCrashed, ServerRestarted] * 2
    assert len({fact.verifier for _, _, _, fact in trace.of_type(ServerRestarted)}) == 2
    assert right


class SameVerifier(Topology):
    """A server that comes back under the verifier that it had, against RFC 1813 section 3.3.7."""

    def build(self, name: str, **told: Any) -> Node:
        """Return the machine; see `Topology.build`."""
        if name != SERVER or not told["incarnation"]:
            return super().build(name, **told)
        config = after_crashes(self.orders.server, told["incarnation"])
        return Server(replace(config, verifier=self.orders.server.verifier), told["store"])


def test_without_another_verifier_bytes_would_be_lost() -> None:
    """Only by the verifier of COMMIT's reply does a client know that what it wrote unstable is gone."""
    scenario = load("calm", [*COPY, UNSTABLE, crash_at("fact: WriteExecuted, node: server", 10)])

    trace, right = copied(Topology(scenario))
    silent, lost = copied(SameVerifier(scenario))

    assert (right, oracles.harms(trace)) == (True, [])
    assert trace.of_type(VerifierChanged)
    assert (lost, oracles.harms(silent)) == (False, ["corrupt-at-rest"])
