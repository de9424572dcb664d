"""Claims about all scenarios: whatever the keys say and whichever rules act, a run ends, repeats and keeps promises."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given, settings, strategies as st

from lateack.cluster import oracles
from lateack.cluster.checks import KINDS_OF_KEYS
from lateack.cluster.mistakes import Source
from lateack.cluster.plugins import names
from lateack.cluster.scenario import Scenario, from_raw
from lateack.cluster.topology import Topology
from lateack.cluster.trace import Trace
from lateack.cluster.virtual import VirtualWorld
from lateack.nodes.errors import MemoryExhausted
from lateack.nodes.facts import CopyFinished, FrameHeld, FramesReleased, GateClosed, GateOpened, LeftOver, NetbackDied
from lateack.nodes.node import Effect, Event, Node, S, Time
from lateack.nodes.storage.memory_store import MemoryStore
from tests.cluster.test_weather import stored

SAFE_GUESTS = ["full-copy", "frag-destructor", "msg-zerocopy"]
SAFE_BACKENDS = [
    "grant-copy", "dev-zerocopy", "page-foreign", "lazy-copy", "frag-destructor", "staging-grants",
    "staging-grants-copy",
]  # fmt: skip
DURATION_S = 120
KINDS = {
    "split": ("ring", "queue", "nic", "tap", "mirror", "socket"),
    "metal": (),
    "block": ("queue", "nic"),
    "loopback": (),
}
OF_GUESTS = {"split": ("rx", "tap"), "metal": ("queue", "nic", "tap"), "block": (), "loopback": ("reader", "tap")}
FACTS = [
    "WriteIssued", "CallTimedOut", "CompletionDeferred", "BufferRefilled", "BufferRetired", "SegmentTransmitted",
    "RetransmitTimedOut", "FrameSent", "Parked", "GateClosed", "FrameHeld", "FrameLost", "WriteExecuted", "PacketRead",
    "PacketsDropped", "CarrierLost", "LingeringCopied", "FrontendClosing", "VifDisconnected", "NetbackDied",
]  # fmt: skip


def some(values: Mapping[str, Sequence[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw a value for some of these keys."""
    return st.fixed_dictionaries({}, optional={key: st.sampled_from(options) for key, options in values.items()})


WAY = some({"delay_us": [0, 500, 50_000], "jitter_us": [0, 5000], "loss": [0.0, 0.02, 0.1]})
SECTIONS = {
    "host": some(
        {
            "checksum": ["offload", "software", "software-2011"], "gso": [True, False],
            "segmentation": ["card", "kernel"], "device": ["card", "orphaning", "tun"], "queue_frames": [1, 3, 1000],
            "tap": [True, False], "mirror": [True, False], "inspect_bytes": [0, 200, 5000], "expand": [True, False],
            "socket_buffer": [4096, 212_992], "rx_drain_ms": [1, 300, 10_000], "rx_stall_ms": [1, 2000, 60_000],
        }
    ),
    "server": some({"drc": ["checksum", "no-checksum"], "drc_entries": [3, 1024], "rto_min_ms": [200, 1000]}),
    "tcp": some(
        {
            "rto_init_ms": [20, 1000], "rto_min_ms": [20, 200], "initial_window": [1, 10], "retries": [3, 6],
            "receive_buffer": [4096, 65_536, 1 << 20], "host_queue_check": ["none", "count", "suppress"],
        }
    ),
    "rpc": some({"timeo_ms": [700, 60_000], "retrans": [0, 2], "soft": [True, False]}),
    "workload": some(
        {
            "bytes": [1, 4097, 20_000, 50_000], "buffers": [1, 2, 5], "write_size": [4096, 16_384, 32_768],
            "stable": ["unstable", "file-sync"], "reuse": ["in-place", "half", "reallocated", "copy-on-write"],
            "abort": [True, False], "unmount": [True, False], "transport": ["tcp", "udp"],
        }
    ),
}  # fmt: skip


@st.composite
def frames(draw: st.DrawFn, machines: list[str]) -> dict[str, Any]:
    """Draw which frames are meant."""
    return draw(some({"from": machines, "to": machines, "rpc": ["WRITE", "COMMIT"], "kind": ["call", "reply", "ack"]}))


@st.composite
def triggers(draw: st.DrawFn, machines: list[str]) -> dict[str, Any]:
    """Draw what a rule waits for."""
    nth = {"nth": draw(st.sampled_from([1, 1, 2]))}
    if draw(st.booleans()):
        return {"frame": draw(frames(machines))} | nth
    return {"fact": draw(st.sampled_from(FACTS))} | draw(some({"node": machines})) | nth


@st.composite
def rules(draw: st.DrawFn, kind: str, guests: list[str]) -> dict[str, Any]:
    """Draw a rule that this kind of scenario can have; what it does begins and ends by some trigger, or never."""
    machines = [*guests, "network", *(["backend"] if kind in ("split", "block") else [])]
    places = [f"backend.{place}" for place in KINDS[kind]]
    places += [f"{guest}.{place}" for guest in guests for place in OF_GUESTS[kind]]
    actions = ["hold", "drop", *(["gate"] * 3 if places else []), *(["detach", "crash"] if kind == "split" else [])]
    action = draw(st.sampled_from(actions))
    fault: dict[str, Any] = {"crash": "backend"}
    if action in ("hold", "drop"):
        fault = {action: draw(frames(machines))} | ({"nth": [1, 3]} if action == "drop" else {})
    elif action != "crash":
        fault = {action: draw(st.sampled_from(places if action == "gate" else guests))}
    for when in ("since", "until"):
        if draw(st.sampled_from([True, True, True, False])):
            fault[when] = draw(triggers(machines))
    return fault


@st.composite
def scenarios(draw: st.DrawFn, guest: Sequence[str], backend: Sequence[str]) -> Scenario:
    """Draw a scenario of any kind under one of these strategies of each side."""
    kind = draw(st.sampled_from(["split", "split", "split", "metal", "block", "loopback"]))
    count = 1 if kind == "loopback" else draw(st.sampled_from([1, 1, 2]))
    guests = [f"guest{number}" for number in range(1, count + 1)]
    raw: dict[str, Any] = {name: draw(section) for name, section in SECTIONS.items()}
    raw |= {"story": "weather", "kind": kind, "seed": draw(st.integers(1, 9)), "limits": {"duration_s": DURATION_S}}
    raw["strategies"] = {"guest": draw(st.sampled_from(guest)), "backend": draw(st.sampled_from(backend))}
    raw["guests"] = {"count": count, "tap": draw(st.booleans()), "rx_buffers": draw(st.sampled_from([4, 64]))}
    raw["links"] = {"mtu": draw(st.sampled_from([1500, 9000, 65_521])), "to_server": draw(WAY), "to_guests": draw(WAY)}
    if kind == "split" and draw(st.booleans()):
        stream = some({"count": [1, 5], "bytes": [64, 9000], "head_bytes": [0, 63], "buffers": [1, 4]})
        raw["datagrams"] = [draw(stream) | {"to": draw(st.sampled_from(["host", *guests[1:]]))}]
    drawn = draw(st.lists(rules(kind, guests), max_size=3))
    raw["faults"] = {f"rule{number}": rule for number, rule in enumerate(drawn)}
    return from_raw(fitting(raw), Source("the weather"), [], {})


def fitting(raw: dict[str, Any]) -> dict[str, Any]:
    """Leave out what means nothing in this kind of scenario, and put somebody behind every gate."""
    gated = {rule.get("gate", "") for rule in raw["faults"].values()}
    for kinds, keys in KINDS_OF_KEYS.items():
        for section, key in keys if raw["kind"] not in kinds else ():
            raw[section].pop(key, None)
    if any(gate.startswith("guest") and gate.endswith(".tap") for gate in gated):
        raw["guests"]["tap"] = True
    raw["host"] |= {name: True for name in ("tap", "mirror") if f"backend.{name}" in gated}
    if "backend.socket" in gated:
        raw["datagrams"] = [raw.get("datagrams", [{}])[0] | {"to": "host"}]
    return raw


class Carried:
    """All machines of a world, which are copied as they stand before one of the events, and go on as the copies."""

    def __init__(self, machines: dict[str, Node], copied_before: int) -> None:
        self.machines = machines
        self.left = copied_before

    def handle(self, name: str, event: Event, now: Time) -> Sequence[Effect]:
        """Let a machine handle an event, or its copy, once it is one."""
        self.left -= 1
        if not self.left:
            self.machines = copy.deepcopy(self.machines)
        return self.machines[name].handle(event, now)


class Seat:
    """The place of one machine in a world; see `Carried`."""

    def __init__(self, carried: Carried, name: str) -> None:
        self.carried = carried
        self.name = name

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Pass an event on."""
        return self.carried.handle(self.name, event, now)

    def pending(self) -> int:
        """Return what the machine waits for."""
        return self.carried.machines[self.name].pending()

    def close(self) -> None:
        """Let go of the machine's memory."""
        self.carried.machines[self.name].close()


def ran(topology: Topology, store: MemoryStore, copied_before: int = 0) -> Trace:
    """Run fresh machines to the end; with a number, copies of them from that event on."""
    inputs = {guest: topology.source(guest) for guest in topology.guests}
    memories = {guest: topology.memory(guest) for guest in topology.guests}
    machines = {
        name: topology.build(name, memories=memories, store=store, inputs=inputs, root=store.root)
        for name in reversed(topology.names)
    }
    carried = Carried(machines, copied_before)
    seats: dict[str, Node] = {name: Seat(carried, name) for name in machines}
    trace = VirtualWorld(seats, topology.awaited_facts(), DURATION_S * S).run()
    for seat in seats.values():
        seat.close()
    return trace


def is_shut_at_the_end(trace: Trace) -> bool:
    """Say whether a gate was closed, or a frame held back, when the machines took stock."""
    audit = min(trace.places_of(LeftOver), default=len(trace))
    opened = [fact.rule for place, _, _, fact in trace.placed(GateOpened) if place < audit]
    closed = [fact.rule for _, _, _, fact in trace.of_type(GateClosed)]
    held = sum(1 for _ in trace.of_type(FrameHeld)) - sum(fact.count for _, _, _, fact in trace.of_type(FramesReleased))
    return sorted(opened) != sorted(closed) or held > 0


@settings(max_examples=200)
@given(scenario=scenarios(SAFE_GUESTS, SAFE_BACKENDS))
def test_a_safe_pair_is_safe_in_every_scenario(scenario: Scenario) -> None:
    """Nothing stale leaves, no page is touched that is gone, nothing is lost or kept, where nothing is killed."""
    topology, store = Topology(scenario), MemoryStore(handle_bytes=scenario.server.handle_bytes)

    try:
        trace = ran(topology, store)
    except MemoryExhausted:
        return  # the user is told that the machines need more, for what repeats itself while nothing is taken

    harms = set(oracles.harms(trace))
    finished = {fact.file for _, _, _, fact in trace.of_type(CopyFinished)}
    if not trace.of_type(NetbackDied):
        assert not harms & {"stale-on-wire", "fault"}
        assert "leak" not in harms or "stall" in harms or is_shut_at_the_end(trace)
        if not scenario.workload.abort:
            assert "corrupt-at-rest" not in harms
            for guest in topology.guests:
                path, source = topology.file_name(guest), topology.source(guest)
                assert path not in finished or stored(store, path) == source.read(0, source.size)


@settings(max_examples=100)
@given(scenario=scenarios(names("guest"), names("backend")), event=st.integers(1, 400))
def test_every_run_repeats_and_its_machines_can_be_copied_at_any_moment(scenario: Scenario, event: int) -> None:
    """The same scenario gives the same trace, though halfway all machines were replaced by copies of themselves."""
    topology = Topology(scenario)

    first, second = (digest_of_run(topology, copied_before) for copied_before in (0, event))

    assert first == second


def digest_of_run(topology: Topology, copied_before: int) -> str:
    """Run a scenario and return the digest of its trace, or what machines say that had not enough memory."""
    try:
        return ran(topology, MemoryStore(handle_bytes=36), copied_before).digest()
    except MemoryExhausted as reason:
        return str(reason)
