"""What the keys of a scenario must have to do with each other and with the machines: names, facts, frames, sizes."""

import typing
from collections.abc import Iterator

import msgspec
from pydantic import BaseModel, TypeAdapter, ValidationError

from lateack.cluster import mistakes, plugins
from lateack.cluster.mistakes import Path, ScenarioError, Source, dotted, field_at, keys_at, nearest
from lateack.cluster.schema import PAGE_SIZE, Scenario, Tcp, conditions
from lateack.cluster.schema_faults import FrameSelector
from lateack.cluster.schema_storage import Rpc
from lateack.nodes import facts
from lateack.nodes.rdma.packets import HEADROOM
from lateack.nodes.stack.recognise import MESSAGES

FACTS: dict[str, type[facts.Fact]] = {
    fact.__name__: fact for fact in typing.get_args(facts.AnyFact) if fact is not facts.FrameCaptured
}
"""What a rule can wait for: not for the frames of a capture, which must change nothing."""
FIELD_KINDS = {int: "a whole number", bool: "true or false", str: "text"}

KINDS_OF_KEYS: dict[tuple[str, ...], tuple[tuple[str, str], ...]] = {
    ("split",): (
        ("host", "tap"),
        ("host", "mirror"),
        ("host", "inspect_bytes"),
        ("host", "expand"),
        ("host", "socket_buffer"),
        ("host", "rx_drain_ms"),
        ("host", "rx_stall_ms"),
    ),
    ("split", "metal", "block"): (
        ("host", "checksum"),
        ("host", "segmentation"),
        ("host", "device"),
        ("host", "queue_frames"),
    ),
    ("split", "metal", "loopback"): (("guests", "tap"),),
    ("split", "metal", "loopback", "rdma"): (("workload", "stable_pages"),),
    ("rdma",): (
        ("rdma", "inline_bytes"),
        ("rdma", "path_mtu"),
        ("rdma", "ack_timeout_ms"),
        ("rdma", "retries"),
        ("rdma", "remote_invalidation"),
    ),
    ("split", "metal", "block", "loopback"): (
        ("workload", "transport"),
        ("workload", "protocol"),
        ("workload", "release"),
        ("rpc", "reconnect"),
        ("server", "rto_min_ms"),
        ("server", "drc_port"),
        *(("tcp", key) for key in Tcp.model_fields),
    ),
}
"""Keys by the kinds of scenario in which they mean something."""

BLOCKS_AND_OBJECTS = ("iscsi", "drbd", "ceph")
"""Protocols that are sections of a scenario, too, and no file service."""

KEYS_OF_NFS = (
    ("workload", "stable"),
    ("workload", "release"),
    ("server", "drc"),
    ("server", "drc_entries"),
    ("server", "drc_expiry_s"),
    ("server", "drc_port"),
    ("server", "handle_bytes"),
    ("server", "execute_us"),
    *(("rpc", key) for key in Rpc.model_fields),
)
"""Keys that mean nothing to the other protocols."""

# A sentence goes after the name of the key that it is about.
Problem = tuple[Path, str]


def first_problem(scenario: Scenario, raw: object, source: Source) -> ScenarioError | None:
    """Return the first thing in which the scenario's parts do not fit together, or None."""
    for check in (_strategies, _sizes, _kind, _useless, _places, _datagrams, _selectors, _waited_facts, _expectations):
        for path, sentence in check(scenario):
            path = mistakes.written(path, raw)
            return source.error(path, f"{dotted(path)} {sentence}")
    return None


def _strategies(scenario: Scenario) -> Iterator[Problem]:
    """Strategies that are known by name; one of the form `module:attribute` is looked up when it is needed."""
    for side in plugins.SIDES:
        name, valid = getattr(scenario.strategies, side), plugins.names(plugins.family_of(side, scenario.kind))
        if ":" not in name and name not in valid:
            yield ("strategies", side), _unknown_strategy(name, valid, scenario.kind)


def _sizes(scenario: Scenario) -> Iterator[Problem]:
    work, tcp = scenario.workload, scenario.tcp
    pages, frames = work.buffers * (work.write_size // PAGE_SIZE), scenario.guests.memory_pages
    if pages >= frames:
        yield ("workload", "buffers"), f"needs {pages} pages, and guests.memory_pages gives {frames}"
    if work.common_prefix > work.write_size:
        yield ("workload", "common_prefix"), f"is {work.common_prefix}, longer than the write_size of {work.write_size}"
    server, ganesha = scenario.server, scenario.server.drc == "ganesha-like"
    if not ganesha and server.drc_high_water != type(server).model_fields["drc_high_water"].default:
        yield ("server", "drc_high_water"), f"means nothing where server.drc is {server.drc}, only with ganesha-like"
    if scenario.kind == "rdma" and scenario.rdma.path_mtu + HEADROOM > scenario.links.mtu:
        yield ("rdma", "path_mtu"), f"is {scenario.rdma.path_mtu}, and {HEADROOM} bytes more do not fit into links.mtu"
    if tcp.rto_min_ms > tcp.rto_max_ms:
        yield ("tcp", "rto_min_ms"), f"is {tcp.rto_min_ms}, above the rto_max_ms of {tcp.rto_max_ms}"


def _places(scenario: Scenario) -> Iterator[Problem]:
    """Places that this kind of scenario has and where somebody is, and machines to which something can be done."""
    crashing = _mortal(scenario)
    for name, fault in scenario.faults.items():
        named = (("rewrite", fault.rewrite, scenario.guest_names()), ("crash", fault.crash, crashing))
        with_netfront = scenario.guest_names() if scenario.kind == "split" else []
        driven = (("forge", fault.forge, with_netfront), ("detach", fault.detach, with_netfront))
        for key, machine, valid in (*named, *driven):
            if machine is not None and machine not in valid:
                yield ("faults", name, key), _unknown("machine to which that can be done", machine, valid)
        if fault.crash == "server" and fault.until is not None:
            yield ("faults", name, "until"), "means nothing: the server is back by itself, after server.reboot_ms"
        if fault.gate is not None and fault.gate not in scenario.places():
            yield ("faults", name, "gate"), _unknown("place", fault.gate, scenario.places())
        elif fault.gate is not None and (absent := _nobody_at(scenario, fault.gate)):
            yield ("faults", name, "gate"), f"names {fault.gate}, where nothing waits {absent}"


def _mortal(scenario: Scenario) -> tuple[str, ...]:
    """Machines that a rule may kill: netback where there is one, and the NFS server where it is a machine."""
    netback = ("backend",) if scenario.kind == "split" else ()
    return (*netback, "server") if "server" in scenario.machine_names() and scenario.kind != "rdma" else netback


def _nobody_at(scenario: Scenario, place: str) -> str:
    """Say what a scenario would need for anything to pass a place; nothing where it has that."""
    machine, _, name = place.rpartition(".")
    to_host = any(datagrams.to == "host" for datagrams in scenario.datagrams)
    needs = {
        "tap": (scenario.host.tap, "without host.tap: true")
        if machine == "backend"
        else (scenario.guests.tap, "without guests.tap: true"),
        "mirror": (scenario.host.mirror, "without host.mirror: true"),
        "socket": (to_host, "without datagrams to 'host'"),
    }
    there, absent = needs.get(name, (True, ""))
    return "" if there else absent


def _kind(scenario: Scenario) -> Iterator[Problem]:
    """Keys that mean nothing in this kind of scenario stay as they are."""
    if scenario.kind == "loopback" and scenario.guests.count > 1:
        yield ("guests", "count"), "must be 1 where a host serves itself"
    for kinds, keys in KINDS_OF_KEYS.items():
        for section, key in keys if scenario.kind not in kinds else ():
            part: BaseModel = getattr(scenario, section)
            if getattr(part, key) != type(part).model_fields[key].default:
                others = " or ".join((", ".join(kinds[:-1]), kinds[-1])) if kinds[1:] else kinds[0]
                yield (section, key), f"means nothing where kind is {scenario.kind}, only where it is {others}"


def _useless(scenario: Scenario) -> Iterator[Problem]:
    """Keys that mean nothing beside others stay as they are."""
    work = scenario.workload
    if scenario.rpc.reconnect != "never" and work.transport == "udp":
        yield ("rpc", "reconnect"), "means nothing where workload.transport is udp: there is no connection to lose"
    if work.release != "commit" and work.stable != "unstable":
        yield ("workload", "release"), "means nothing unless workload.stable is unstable: no COMMIT is waited for"
    yield from _protocols(scenario)
    for name, fault in scenario.faults.items():
        if fault.reset is not None and "udp" in (fault.reset.protocol, work.transport):
            yield ("faults", name, "reset"), "means nothing over udp: there is no connection to cut"


def _protocols(scenario: Scenario) -> Iterator[Problem]:
    """Protocols beside NFS are for hosts of their own, over TCP; and each has keys that mean nothing to the others."""
    work, protocol = scenario.workload, scenario.workload.protocol
    if protocol in BLOCKS_AND_OBJECTS and scenario.kind not in ("split", "metal"):
        yield ("workload", "protocol"), f"is {protocol}, which a scenario of kind {scenario.kind} does not have"
    if protocol in BLOCKS_AND_OBJECTS and work.transport == "udp":
        yield ("workload", "transport"), f"is udp, and {protocol} needs tcp"
    if protocol in BLOCKS_AND_OBJECTS and work.abort:
        yield ("workload", "abort"), f"means nothing with {protocol}: nobody gives a write up"
    for section, key in KEYS_OF_NFS if protocol in BLOCKS_AND_OBJECTS else ():
        part: BaseModel = getattr(scenario, section)
        if getattr(part, key) != type(part).model_fields[key].default:
            yield (section, key), f"means nothing with {protocol}, only with nfs"
    for section in BLOCKS_AND_OBJECTS:
        terms = getattr(scenario, section)
        for name, field in type(terms).model_fields.items():
            if protocol != section and getattr(terms, name) != field.default:
                yield (section, name), f"means nothing where workload.protocol is {protocol}"
    if scenario.iscsi.first_burst > scenario.iscsi.max_burst:
        longest = scenario.iscsi.max_burst
        yield ("iscsi", "first_burst"), f"is {scenario.iscsi.first_burst}, above the max_burst of {longest}"


def _datagrams(scenario: Scenario) -> Iterator[Problem]:
    """Datagrams go from a guest to another one, or to the host."""
    for index, datagrams in enumerate(scenario.datagrams):
        guests = scenario.guest_names() if scenario.kind == "split" else []
        for key, machine, valid in (("sender", datagrams.sender, guests), ("to", datagrams.to, ["host", *guests])):
            if machine not in valid:
                yield ("datagrams", index, key), _unknown("machine", machine, valid)
        if datagrams.sender == datagrams.to:
            yield ("datagrams", index, "to"), f"is '{datagrams.to}', who sends them; name 'host' or another guest"


def _selectors(scenario: Scenario) -> Iterator[Problem]:
    """Frames: machines that exist and procedures that NFS has."""
    machines = scenario.machine_names()
    for path, selector in _frame_selectors(scenario):
        for key, machine in (("from", selector.source), ("to", selector.target)):
            if machine is not None and machine not in machines:
                yield (*path, key), _unknown("machine", machine, machines)
        if selector.rpc is not None and selector.rpc not in MESSAGES:
            yield (*path, "rpc"), _unknown("storage message", selector.rpc, MESSAGES)


def _frame_selectors(scenario: Scenario) -> Iterator[tuple[Path, FrameSelector]]:
    for name, fault in scenario.faults.items():
        for action, selector in (("hold", fault.hold), ("drop", fault.drop), ("reset", fault.reset)):
            if selector is not None:
                yield ("faults", name, action), selector
    for path, condition in conditions(scenario):
        if condition.frame is not None:
            yield (*path, "frame"), condition.frame


def _waited_facts(scenario: Scenario) -> Iterator[Problem]:
    """Facts: types that the machines record, with fields that they have and values that these can hold."""
    for path, condition in conditions(scenario):
        if condition.fact is not None:
            yield from _fact(scenario, path, condition.fact, condition.node, condition.where)
    for index, fact in enumerate(scenario.requires):
        yield from _fact(scenario, ("requires", index), fact.fact, fact.node, fact.where)


def _fact(
    scenario: Scenario, path: Path, name: str, node: str | None, where: dict[str, typing.Any]
) -> Iterator[Problem]:
    if name not in FACTS:
        yield (*path, "fact"), _unknown("fact", name, FACTS)
        return
    if node is not None and node not in scenario.machine_names():
        yield (*path, "node"), _unknown("machine", node, scenario.machine_names())
    fields = typing.get_type_hints(FACTS[name])
    for field, value in where.items():
        if field not in fields:
            yield (*path, "where", field), f"names no field of {name}; the nearest is '{nearest(field, fields)}'"
        elif not _fits(value, fields[field]):
            kind = FIELD_KINDS.get(fields[field], "what the fact holds")
            yield (*path, "where", field), f"must be {kind}, not {value!r}"


def _fits(value: object, kind: object) -> bool:
    try:
        msgspec.convert(value, type=kind, builtin_types=(bytes,))
    except msgspec.ValidationError:
        return False
    return True


def _expectations(scenario: Scenario) -> Iterator[Problem]:
    """The keys of `when` exist, and the values are among those that they can have."""
    for index, expectation in enumerate(scenario.expect):
        for key, values in expectation.when.items():
            path: Path = ("expect", index, "when", key)
            steps = tuple(int(step) if step.isdecimal() else step for step in key.split("."))
            annotation, metadata = field_at(steps)
            if annotation is None:
                yield path, f"names no key of a scenario; {_near(steps)}"
                continue
            adapter: TypeAdapter[object] = TypeAdapter(
                typing.Annotated[annotation, *metadata] if metadata else annotation
            )
            for value in values if isinstance(values, list) else [values]:
                side = next((each for each in plugins.SIDES if steps == ("strategies", each)), None)
                names = plugins.names(plugins.family_of(side, scenario.kind)) if side is not None else []
                if side is not None and ":" not in str(value) and value not in names:
                    yield path, _unknown_strategy(str(value), names, scenario.kind)
                try:
                    adapter.validate_python(value)
                except ValidationError:
                    yield path, mistakes.wrong_value(steps, value, "").strip()


def _near(steps: Path) -> str:
    for length in range(len(steps)):
        valid = keys_at(steps[:length])
        if valid and steps[length] not in valid:
            return f"the nearest is '{dotted([*steps[:length], nearest(steps[length], valid)])}'"
    return f"{dotted(steps[:-1])} has no keys of its own"


def _unknown_strategy(name: str, valid: list[str], kind: str) -> str:
    if kind != "rdma" and name in plugins.names("rdma"):
        return f"names a strategy of hosts with RDMA adapters, '{name}', and kind is {kind}: take a story of kind rdma"
    if kind != "rdma":
        return _unknown("strategy", name, valid)
    return f"names no strategy of a host with an RDMA adapter: '{name}'; it can have {', '.join(valid)}"


def _unknown(what: str, name: str, valid: typing.Collection[str]) -> str:
    near = f"; the nearest is '{nearest(name, valid)}'" if valid else ": a scenario of this kind has none"
    return f"names no {what}: '{name}'{near}"
