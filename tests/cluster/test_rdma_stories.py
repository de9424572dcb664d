"""Claims about hosts with RDMA adapters: what is safe is so in every weather, and a real sniffer reads every packet."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from lateack.cluster import oracles, plugins
from lateack.cluster.experiment import run_experiment
from lateack.cluster.mistakes import Source
from lateack.cluster.scenario import Scenario, ScenarioError, from_raw, load
from lateack.cluster.topology import Topology
from lateack.nodes.facts import (
    CopyFinished,
    FrameSent,
    MemoryInvalidated,
    MemoryRegistered,
    Reconnecting,
    WriteCompleted,
)
from lateack.nodes.node import S
from lateack.nodes.rdma.connection import CONNECT_REPLY, CONNECT_REQUEST, READY_TO_USE
from lateack.nodes.storage.memory_store import MemoryStore
from tests.cluster.carried import ran
from tests.cluster.sniffer import capture_of, tshark
from tests.cluster.test_all_weather import digest_of_run, is_shut_at_the_end
from tests.cluster.test_weather import stored
from tests.cluster.weather import WAY, some
from tests.tools import needs

NAMES = ["WRITE", "SEND", "SEND-LAST", "ACK", "NAK", "RDMA-READ-REQUEST", "RDMA-READ-RESPONSE", "CONNECT-REPLY"]
FACTS = ["BufferRefilled", "CallAborted", "CallTimedOut", "Parked", "RetransmitTimedOut", "WriteExecuted", "Connected"]


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a rule: a gate in front of an adapter, or frames that are held or lost."""
    frame = some({"from": ["guest1", "server"], "rpc": NAMES, "kind": ["call", "reply", "ack"]})
    trigger = st.one_of(
        st.fixed_dictionaries({"frame": frame}), st.fixed_dictionaries({"fact": st.sampled_from(FACTS)})
    )
    action = draw(st.sampled_from(["gate", "hold", "drop"]))
    fault = {action: "guest1.nic" if action == "gate" else draw(frame)} | ({"nth": [2]} if action == "drop" else {})
    return fault | draw(st.fixed_dictionaries({}, optional={"since": trigger, "until": trigger}))


@st.composite
def scenarios(draw: st.DrawFn, names: list[str]) -> Scenario:
    """Draw a scenario of kind `rdma` under one of these strategies."""
    raw: dict[str, Any] = {"story": "weather", "kind": "rdma", "seed": draw(st.integers(1, 9))}
    raw["strategies"] = {"guest": draw(st.sampled_from(names))}
    raw["guests"] = {"count": draw(st.sampled_from([1, 1, 2])), "memory_pages": 256}
    raw["links"] = {"to_server": draw(WAY), "to_guests": draw(WAY)}
    raw["rdma"] = draw(
        some(
            {
                "path_mtu": [256, 1024], "ack_timeout_ms": [10, 100], "inline_bytes": [0, 4096], "retries": [1, 7],
                "remote_invalidation": [True, False],
            }
        )
    )  # fmt: skip
    raw["rpc"] = draw(some({"timeo_ms": [700, 60_000], "soft": [True, False]}))
    raw["workload"] = draw(
        some(
            {
                "bytes": [1, 4097, 20_000], "buffers": [1, 2, 5], "write_size": [4096, 8192], "abort": [True, False],
                "stable": ["unstable", "file-sync"], "reuse": ["in-place", "half", "reallocated", "copy-on-write"],
                "unmount": [True, False],
            }
        )
    )  # fmt: skip
    drawn = draw(st.lists(rules(), max_size=3))
    raw["faults"] = {f"rule{number}": rule for number, rule in enumerate(drawn)}
    return from_raw(raw, Source("the weather"), [], {})


@settings(max_examples=150)
@given(scenarios(["invalidate-first", "bounce"]))
def test_what_waits_and_revokes_is_safe_in_every_weather(scenario: Scenario) -> None:
    """So is what copies: nothing stale leaves, nothing is lost or kept, and what was finished is right."""
    topology, store = Topology(scenario), MemoryStore(handle_bytes=scenario.server.handle_bytes)

    trace = ran(topology, store)

    found = set(oracles.harms(trace))
    assert not found & {"stale-on-wire", "corrupt-at-rest", "fault"}
    assert "leak" not in found or is_shut_at_the_end(scenario, trace)
    finished = {fact.file for _, _, _, fact in trace.of_type(CopyFinished)}
    for guest in topology.guests:
        path, source = topology.file_name(guest), topology.source(guest)
        whole = path not in finished or stored(store, path) == source.read(0, source.size)
        assert whole or scenario.workload.abort


@settings(max_examples=50)
@given(scenario=scenarios(plugins.names_for("rdma")), event=st.integers(1, 200))
def test_every_run_repeats_and_its_machines_can_be_copied_at_any_moment(scenario: Scenario, event: int) -> None:
    """The same scenario gives the same trace, though halfway all machines were replaced by copies of themselves."""
    topology = Topology(scenario)

    first, second = (digest_of_run(topology, copied_before) for copied_before in (0, event))

    assert first == second


@pytest.mark.parametrize("inline_bytes", [4096, 0])
def test_waiting_for_the_send_saves_no_page_that_is_read_by_key(inline_bytes: int) -> None:
    """The late READ harms whoever leaves its key good; a WRITE that goes inline is read by nobody else."""
    settings = [f"rdma.inline_bytes={inline_bytes}", "strategies.guest=send-completion"]

    result = run_experiment(load("rdma-late-read", settings), "virtual")

    assert result.harms == ([] if inline_bytes else ["corrupt-at-rest", "stale-on-wire"])


def test_the_order_is_what_tells_the_schemes_apart() -> None:
    """One takes the key back before the application goes on, the other some time after."""
    order = {}
    for guest in ("send-completion", "invalidate-first"):
        trace = run_experiment(load("rdma-late-read", [f"strategies.guest={guest}", "faults={}"]), "virtual").trace
        kinds = (MemoryRegistered, MemoryInvalidated, WriteCompleted)
        order[guest] = [type(fact).__name__ for _, _, _, fact in trace if isinstance(fact, kinds)]

    assert order["invalidate-first"] == ["MemoryRegistered", "MemoryInvalidated", "WriteCompleted"] * 3
    assert order["send-completion"][:3] == ["MemoryRegistered", "WriteCompleted", "MemoryRegistered"]


@pytest.mark.parametrize(
    ("story", "setting", "sentence"),
    [
        ("rdma-resend", "strategies.guest=frag-destructor", "it can have on-reply, send-completion"),
        ("calm", "strategies.guest=invalidate-first", "names a strategy of hosts with RDMA adapters"),
        ("calm", "rdma.path_mtu=256", "means nothing where kind is split, only where it is rdma"),
        ("rdma-resend", "rdma.path_mtu=4096", "do not fit into links.mtu"),
        ("rdma-resend", "workload.transport=udp", "means nothing where kind is rdma"),
        ("rdma-resend", "faults.egress.gate=guest1.queue", "names no place"),
    ],
)
def test_a_setting_that_does_not_fit_is_told_in_a_sentence(story: str, setting: str, sentence: str) -> None:
    """Which family a strategy is of, and what a kind has, is said before anything runs."""
    with pytest.raises(ScenarioError, match=sentence):
        load(story, [setting])


@pytest.mark.parametrize("guest", plugins.names_for("rdma"))
@pytest.mark.parametrize("story", ["rdma-resend", "rdma-late-read"])
def test_wireshark_reads_every_packet(story: str, guest: str, tmp_path: Path) -> None:
    """RoCEv2 down to the connection manager's messages and the NFS calls in Sends and chunks; nothing is malformed."""
    needs("tshark")
    path = tmp_path / "capture.pcapng"

    trace = capture_of(path, story, f"strategies.guest={guest}", end="server")

    assert tshark(path, "_ws.malformed || !infiniband", "frame.number") == []
    kinds = [int(kind, 0) for [kind] in tshark(path, "infiniband.mad", "infiniband.mad.attributeid")]
    assert kinds[:3] == [CONNECT_REQUEST, CONNECT_REPLY, READY_TO_USE]
    assert tshark(path, "nfs.procedure_v3 == 8 && rpc.msgtyp == 0", "nfs.name")[0] == ["input.bin"]
    written = {int(offset) for [offset] in tshark(path, "nfs.procedure_v3 == 7 && rpc.msgtyp == 0", "nfs.offset3")}
    executed = {fact.offset for _, _, _, fact in trace.of_type(WriteCompleted)}
    assert executed <= written
    mine = tshark(path, "ip.src == 10.0.0.11 && infiniband.bth.destqp != 1", "infiniband.bth.psn")
    left = {fact.seq >> 12 for _, _, node, fact in trace.of_type(FrameSent) if node == "guest1"}
    assert {int(psn) & 0xFFFFF for [psn] in mine} >= left


def test_a_client_whose_connections_keep_failing_waits_longer_and_longer() -> None:
    """Patience shorter than the round trip fails every connection: it tries at once, then after 5, 10, 20, 30 s."""
    raw = {
        "story": "impatient", "kind": "rdma", "limits": {"duration_s": 120},
        "links": {"to_server": {"delay_us": 50_000}}, "rdma": {"ack_timeout_ms": 10, "retries": 1},
        "workload": {"bytes": 4096, "write_size": 4096, "buffers": 1},
    }  # fmt: skip

    trace = run_experiment(from_raw(raw, Source("here"), [], {}), "virtual").trace

    tries = [at for at, _, _, _ in trace.of_type(Reconnecting)]
    assert [round((later - sooner) / S) for sooner, later in pairwise(tries)] == [5, 10, 20, 30, 30]
