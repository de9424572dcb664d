"""Random scenarios over all keys: any kind, any protocol, any rules; what means nothing together is left out."""

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from lateack.cluster.checks import BLOCKS_AND_OBJECTS, FACTS, KEYS_OF_NFS, KINDS_OF_KEYS
from lateack.cluster.mistakes import Source
from lateack.cluster.plugins import names
from lateack.cluster.scenario import Scenario, from_raw
from lateack.cluster.schema import BACKEND_PLACES, GUEST_PLACES, MACHINES
from lateack.nodes.rdma.packets import HEADROOM
from lateack.nodes.stack.recognise import MESSAGES

DURATION_S = {"rdma": 20}
"""How long a run of a kind may take, where it is not 120 s: adapters repeat without patience what is lost for good."""
KINDS = ("split", "split", "split", "metal", "metal", "block", "loopback", "rdma")
PROTOCOLS = ("nfs", "nfs", "nfs", *BLOCKS_AND_OBJECTS)
FAMILIES = ("guest", "backend", "rdma")
SAFE: dict[str, Sequence[str]] = {
    "guest": ["full-copy", "frag-destructor", "msg-zerocopy"],
    "backend": [
        "grant-copy", "dev-zerocopy", "page-foreign", "lazy-copy", "frag-destructor", "staging-grants",
        "staging-grants-copy",
    ],
    "rdma": ["invalidate-first", "bounce"],
}  # fmt: skip
"""The strategies that promise to be safe, by family."""
EVERY: dict[str, Sequence[str]] = {"guest": names("guest"), "backend": names("backend"), "rdma": names("rdma")}
"""All strategies, by family."""

COMMON_FACTS = [
    "WriteIssued", "CallTimedOut", "CompletionDeferred", "BufferRefilled", "BufferRetired", "SegmentTransmitted",
    "RetransmitTimedOut", "FrameSent", "Parked", "GateClosed", "FrameHeld", "FrameLost", "WriteExecuted", "PacketRead",
    "PacketsDropped", "CarrierLost", "LingeringCopied", "FrontendClosing", "VifDisconnected", "NetbackDied",
    "ReplyMatched", "CallAborted", "ServerCrashed", "ServerRestarted", "Reconnecting", "ConnectionCut", "DigestFailed",
    "SessionRecovered", "MemoryRegistered", "MemoryInvalidated", "WorkCompleted", "QueuePairFailed", "AccessRefused",
]  # fmt: skip
FACTS_OF_TRACES = sorted(FACTS.keys() - {"FrameCaptured"})
"""What rules may wait for; captured frames are no part of a trace, and would make a capture change a run."""
MESSAGES_OF = {
    "nfs": ["WRITE", "COMMIT", "CREATE"],
    "iscsi": ["SCSI-WRITE", "DATA-OUT", "R2T", "SCSI-RESPONSE", "LOGIN", "LOGIN-RESPONSE", "LOGOUT", "READ-CAPACITY"],
    "drbd": ["P_DATA", "P_WRITE_ACK", "P_RECV_ACK", "P_BARRIER_ACK", "P_RS_DATA_REPLY", "P_PROTOCOL"],
    "ceph": ["OSD_OP", "OSD_OPREPLY"],
    "rdma": [
        "WRITE", "SEND", "SEND-LAST", "RDMA-READ-REQUEST", "RDMA-READ-RESPONSE", "ACK", "NAK", "CONNECT-REQUEST",
        "CONNECT-REPLY", "READY-TO-USE", "DISCONNECT-REQUEST", "DISCONNECT-REPLY",
    ],
}  # fmt: skip
KINDS_OF_FRAMES = ["call", "reply", "ack"]
PORTS = [700, 701, 2049, 3260, 4791, 6800, 7788]


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
    "server": some(
        {
            "drc": ["checksum", "no-checksum", "none", "ganesha-like"], "drc_entries": [3, 1024],
            "drc_expiry_s": [1, 120], "drc_port": [True, False], "drc_high_water": [1, 64],
            "execute_us": [0, 700, 2_000_000], "reboot_ms": [1, 200, 5000], "rto_min_ms": [200, 1000],
        }
    ),
    "tcp": some(
        {
            "rto_init_ms": [20, 1000], "rto_min_ms": [20, 200], "initial_window": [1, 10], "retries": [3, 6],
            "receive_buffer": [4096, 65_536, 1 << 20], "host_queue_check": ["none", "count", "suppress"],
        }
    ),
    "rpc": some(
        {
            "timeo_ms": [700, 60_000], "retrans": [0, 2], "soft": [True, False],
            "reconnect": ["never", "same-port", "new-port"],
        }
    ),
    "iscsi": some(
        {
            "data_digest": [True, False], "header_digest": [True, False], "initial_r2t": [True, False],
            "immediate_data": [True, False], "first_burst": [512, 5000, 65_536], "max_burst": [512, 9001, 262_144],
            "max_segment": [512, 4097, 8192, 262_144],
        }
    ),
    "drbd": some({"protocol": ["A", "B", "C"], "digest": [True, False]}),
    "ceph": some({"crc": [True, False]}),
    "rdma": some(
        {
            "inline_bytes": [0, 1024, 4096, 65_536], "path_mtu": [256, 1024, 4096], "ack_timeout_ms": [10, 100, 2000],
            "retries": [0, 1, 7], "remote_invalidation": [True, False],
        }
    ),
    "workload": some(
        {
            "bytes": [20_000, 50_000, 4097, 1], "buffers": [1, 2, 5], "write_size": [4096, 16_384, 32_768],
            "stable": ["unstable", "file-sync"], "reuse": ["in-place", "half", "reallocated", "copy-on-write"],
            "abort": [True, False], "unmount": [True, False], "transport": ["tcp", "tcp", "udp"],
            "passes": [1, 2, 3], "release": ["commit", "reply"], "stable_pages": [True, False],
        }
    ),
}  # fmt: skip


@st.composite
def frames(draw: st.DrawFn, guests: list[str], messages: Sequence[str]) -> dict[str, Any]:
    """Draw which frames are meant: mostly some that pass, of a direction or by the name of the message they begin."""
    ways = [{}, *({"from": guest} for guest in guests), *({"to": guest} for guest in guests)]
    name = st.one_of(st.sampled_from(messages), st.sampled_from(messages), st.sampled_from(MESSAGES))
    whole = st.fixed_dictionaries({}, optional={"rpc": name, "kind": st.sampled_from(KINDS_OF_FRAMES)})
    way = st.sampled_from(ways)
    named = st.builds(lambda rpc: {"rpc": rpc}, name)
    of_kind = st.sampled_from([{"kind": kind} for kind in KINDS_OF_FRAMES])
    at_port = st.sampled_from([{"port": port} for port in PORTS])
    both = st.builds(lambda one, other: one | other, way, whole)
    return draw(st.one_of(way, way, named, named, of_kind, at_port, both))


@st.composite
def triggers(draw: st.DrawFn, machines: list[str], guests: list[str], messages: Sequence[str]) -> dict[str, Any]:
    """Draw what a rule waits for."""
    nth = {"nth": draw(st.sampled_from([1, 1, 2, 3, 5]))}
    if draw(st.booleans()):
        return {"frame": draw(frames(guests, messages))} | nth
    fact = st.one_of(st.sampled_from(COMMON_FACTS), st.sampled_from(COMMON_FACTS), st.sampled_from(FACTS_OF_TRACES))
    return {"fact": draw(fact)} | draw(st.sampled_from([{}, {}, {"node": draw(st.sampled_from(machines))}])) | nth


@st.composite
def rules(draw: st.DrawFn, kind: str, guests: list[str], messages: Sequence[str]) -> dict[str, Any]:
    """Draw a rule that this kind of scenario can have; what it does begins and ends by some trigger, or never."""
    machines = [*guests, *MACHINES[kind]]  # type: ignore[index]
    places = [f"backend.{place}" for place in BACKEND_PLACES[kind]]  # type: ignore[index]
    places += [f"{guest}.{place}" for guest in guests for place in GUEST_PLACES[kind]]  # type: ignore[index]
    actions = ["hold", "drop", "reset", "rewrite", *(["gate"] * 3 if places else [])]
    actions += ["detach", "forge", "crash-backend"] if kind == "split" else []
    actions += ["crash-server"] if kind in ("split", "metal", "block") else []
    action = draw(st.sampled_from(actions))
    fault: dict[str, Any]
    if action in ("hold", "drop", "reset"):
        nth = draw(st.sampled_from([[], [1], [1, 3], [2]]))
        fault = {action: draw(frames(guests, messages))} | ({"nth": nth} if nth else {})
    elif action.startswith("crash"):
        fault = {"crash": action.removeprefix("crash-")}
    else:
        fault = {action: draw(st.sampled_from(places if action == "gate" else guests))}
    for when in ("since", "until"):
        if draw(st.sampled_from([True, True, True, False])):
            fault[when] = draw(triggers(machines, guests, messages))
    return fault


@st.composite
def scenarios(
    draw: st.DrawFn,
    strategies: Mapping[str, Sequence[str]],
    kinds: Sequence[str] = KINDS,
    protocols: Sequence[str] = PROTOCOLS,
) -> Scenario:
    """Draw a scenario of one of these kinds, with one of these protocols where it has a choice."""
    kind = draw(st.sampled_from(kinds))
    protocol = draw(st.sampled_from(protocols)) if kind in ("split", "metal") else "nfs"
    count = 1 if kind == "loopback" else draw(st.sampled_from([1, 1, 2]))
    guests = [f"guest{number}" for number in range(1, count + 1)]
    raw: dict[str, Any] = {name: draw(section) for name, section in SECTIONS.items()}
    raw |= {
        "story": "weather",
        "kind": kind,
        "seed": draw(st.integers(1, 9)),
        "limits": {"duration_s": DURATION_S.get(kind, 120)},
    }
    family = "rdma" if kind == "rdma" else "guest"
    raw["strategies"] = {
        "guest": draw(st.sampled_from(strategies[family])), "backend": draw(st.sampled_from(strategies["backend"])),
    }  # fmt: skip
    raw["guests"] = {"count": count, "tap": draw(st.booleans()), "rx_buffers": draw(st.sampled_from([4, 64]))}
    raw["links"] = {
        "mtu": draw(st.sampled_from([1500, 9000, 65_521])), "to_server": draw(WAY), "to_guests": draw(WAY),
    }  # fmt: skip
    raw["workload"]["protocol"] = protocol
    if kind == "split" and draw(st.booleans()):
        stream = some({"count": [1, 5], "bytes": [64, 9000], "head_bytes": [0, 63], "buffers": [1, 4]})
        raw["datagrams"] = [draw(stream) | {"to": draw(st.sampled_from(["host", *guests[1:]]))}]
    messages = MESSAGES_OF["rdma" if kind == "rdma" else protocol]
    drawn = draw(st.lists(rules(kind, guests, messages), max_size=4))
    raw["faults"] = {f"rule{number}": rule for number, rule in enumerate(drawn)}
    return from_raw(fitting(raw), Source("the weather"), [], {})


def fitting(raw: dict[str, Any]) -> dict[str, Any]:
    """Leave out what means nothing in this kind of scenario, and put somebody behind every gate."""
    for kinds, keys in KINDS_OF_KEYS.items():
        for section, key in keys if raw["kind"] not in kinds else ():
            raw[section].pop(key, None)
    gated = {rule.get("gate", "") for rule in raw["faults"].values()}
    if any(gate.startswith("guest") and gate.endswith(".tap") for gate in gated):
        raw["guests"]["tap"] = True
    raw["host"] |= {name: True for name in ("tap", "mirror") if f"backend.{name}" in gated}
    if "backend.socket" in gated:
        raw["datagrams"] = [raw.get("datagrams", [{}])[0] | {"to": "host"}]
    _fit_workload(raw)
    if raw["rdma"].get("path_mtu", 1024) + HEADROOM > raw["links"]["mtu"]:
        raw["rdma"].pop("path_mtu")
    for rule in raw["faults"].values():
        if rule.get("crash") == "server":
            rule.pop("until", None)
        if raw["workload"].get("transport") == "udp" and "reset" in rule:
            rule["drop"] = rule.pop("reset")
    if raw["server"].get("drc") != "ganesha-like":
        raw["server"].pop("drc_high_water", None)
    return raw


def _fit_workload(raw: dict[str, Any]) -> None:
    """Leave out what means nothing to a protocol or beside another key, and give room for what is drawn."""
    work = raw["workload"]
    protocol = work.get("protocol", "nfs")
    for section in set(BLOCKS_AND_OBJECTS) - {protocol}:
        raw[section] = {}
    if protocol != "nfs":
        work |= {"transport": "tcp", "abort": False}
        raw["guests"]["memory_pages"] = 4096
        for section, key in KEYS_OF_NFS:
            raw[section].pop(key, None)
    if protocol == "iscsi":
        raw["iscsi"]["first_burst"] = min(
            raw["iscsi"].get("first_burst", 65_536), raw["iscsi"].get("max_burst", 1 << 18)
        )
    if work.get("transport") == "udp":
        raw["rpc"].pop("reconnect", None)
    if work.get("stable") != "unstable":
        work.pop("release", None)
