"""The keys of a scenario: every setting of a run with its type, bounds, default and meaning.

A scenario is YAML on one side and these models on the other; `lateack.cluster.scenario` reads it, and `mistakes` turns
whatever does not fit into one sentence. Units stand in the key names: machines count in nanoseconds, people do not.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StrictBool, StrictInt, StrictStr

from lateack.cluster.schema_faults import Condition, Count, FactSelector, Fault, Name, Section
from lateack.cluster.schema_storage import Ceph, Drbd, Iscsi, Milliseconds, Rdma, Rpc, Server

PAGE_SIZE = 4096
STORY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

Harm = Literal["corrupt-at-rest", "disclosure", "fault", "leak", "stale-on-wire", "stall"]


class Strategies(Section):
    """Which scheme of completion runs on each side: a name, or `module:attribute` of one's own."""

    guest: Name = Field(default="on-reply", description="who gives the application its buffer back")
    backend: Name = Field(default="dev-zerocopy", description="when netback answers the guest")


class Guests(Section):
    """The frontend guests: guest1 to guestN, with domain ids 1 to N."""

    count: Annotated[StrictInt, Field(ge=1, le=200)] = Field(default=1, description="how many guests copy a file")
    memory_pages: Annotated[StrictInt, Field(ge=16, le=2**24)] = Field(
        default=1024, description="4 KiB frames per guest"
    )
    rx_buffers: Annotated[StrictInt, Field(ge=4, le=240)] = Field(
        default=64, description="receive buffers on the ring; with a full transmit ring they fit one frame of grants"
    )
    tap: StrictBool = Field(default=False, description="whether a packet socket (tcpdump) listens on their own device")


class Host(Section):
    """The host between guests and wire: its bridge, its egress queue, its card. A bare-metal host has the last two."""

    checksum: Literal["offload", "software", "software-2011"] = Field(
        default="offload",
        description="who sums a packet: its card at DMA, its CPU when it is handed over (which copies what others may "
        "rewrite first), or a CPU that does not",
    )
    gso: StrictBool = Field(
        default=True, description="whether guests may hand over packets longer than the MTU in one piece"
    )
    segmentation: Literal["card", "kernel"] = Field(
        default="card", description="who cuts them: the card at DMA (TSO), or the kernel when it hands them over (GSO)"
    )
    device: Literal["card", "orphaning", "tun"] = Field(
        default="card",
        description="what the driver does at hand-over: nothing, skb_orphan, or skb_orphan and a copy of pages that "
        "their owner tracks, as TUN does",
    )
    queue_frames: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = Field(
        default=1000, description="room in the egress queue"
    )
    tap: StrictBool = Field(default=False, description="whether a packet socket listens on the bridge")
    mirror: StrictBool = Field(default=False, description="whether the bridge sends what guests send to a second port")
    inspect_bytes: Annotated[StrictInt, Field(ge=0, le=65_535)] = Field(
        default=0, description="bytes that a filter pulls into the linear area of every packet from a guest"
    )
    expand: StrictBool = Field(default=False, description="whether packets get a head of their own (pskb_expand_head)")
    socket_buffer: Annotated[StrictInt, Field(ge=PAGE_SIZE, le=2**30)] = Field(
        default=212_992, description="bytes that a local socket may hold (rmem_default)"
    )
    rx_drain_ms: Milliseconds = Field(
        default=10_000, description="rx_drain_timeout_msecs: how long a guest's packets wait"
    )
    rx_stall_ms: Milliseconds = Field(default=60_000, description="rx_stall_timeout_msecs: then its carrier goes off")


class Direction(Section):
    """One direction of a link; jitter never reorders."""

    delay_us: Annotated[StrictInt, Field(ge=0, le=60_000_000)] = Field(default=500, description="time on the way")
    jitter_us: Annotated[StrictInt, Field(ge=0, le=60_000_000)] = Field(default=0, description="at most this much more")
    loss: Annotated[float, Field(strict=True, ge=0, le=1)] = Field(
        default=0.0, description="chance that a frame is lost"
    )


class Links(Section):
    """The network between the host and the server."""

    mtu: Annotated[StrictInt, Field(ge=576, le=65_521)] = Field(
        default=1500, description="bytes of an IP packet on the wire; 65521 lets a GSO packet cross in one piece"
    )
    to_server: Direction = Field(default=Direction(), description="the way of the data")
    to_guests: Direction = Field(default=Direction(), description="the way of acknowledgements and replies")
    capture: StrictBool = Field(
        default=False,
        description="keep every frame that passes an end of a link, as capture.pcapng",
    )


class Workload(Section):
    """What every guest's application does: copy a file to the server through a few page buffers, refilled in place."""

    input: StrictStr | None = Field(
        default=None, description="the file to copy; without one it is generated from the seed"
    )
    bytes: Annotated[StrictInt, Field(ge=1, le=2**30)] = Field(default=65536, description="length of a generated input")
    common_prefix: Annotated[StrictInt, Field(ge=0, le=2**20)] = Field(
        default=0, description="every generated write begins with the same that many bytes"
    )
    buffers: Count = Field(default=4, description="page buffers, and so writes at once")
    write_size: Annotated[StrictInt, Field(ge=PAGE_SIZE, le=2**20, multiple_of=PAGE_SIZE)] = Field(
        default=32768, description="bytes per WRITE"
    )
    stable: Literal["unstable", "file-sync"] = Field(
        default="file-sync", description="stable_how of NFSv3 (RFC 1813 3.3.7)"
    )
    reuse: Literal["in-place", "half", "reallocated", "copy-on-write"] = Field(
        default="in-place",
        description="what the application does with a buffer it gets back: fills the same frames, half of them, frees "
        "them and allocates others, or writes after a fork, which copies first",
    )
    abort: StrictBool = Field(default=False, description="a call that times out is given up (soft mount, or a signal)")
    unmount: StrictBool = Field(default=True, description="close the connection at the end; else the mount stays")
    transport: Literal["tcp", "udp"] = Field(default="tcp", description="what carries the calls")
    protocol: Literal["nfs", "iscsi", "drbd", "ceph"] = Field(
        default="nfs",
        description="what the file is written through: NFS, a target's disk, a replicated disk, an object store",
    )
    passes: Annotated[StrictInt, Field(ge=1, le=16)] = Field(
        default=1, description="how often the file is written from end to end; all but the last time with other bytes"
    )
    release: Literal["commit", "reply"] = Field(
        default="commit", description="when the pages of an UNSTABLE write are let go: at its COMMIT, or too early"
    )
    stable_pages: StrictBool = Field(
        default=False, description="whether who would rewrite a page that is being written waits until it is done"
    )


class Datagrams(Section):
    """What a guest sends besides its copy: datagrams out of pages that it refills in place when the stack lets go."""

    sender: Name = Field(default="guest1", description="the guest that sends")
    to: Name = Field(description="'host', a socket of the backend's own kernel, or another guest")
    count: Annotated[StrictInt, Field(ge=1, le=100_000)] = Field(default=1, description="how many")
    bytes: Annotated[StrictInt, Field(ge=64, le=32_768)] = Field(default=4096, description="payload of each")
    head_bytes: Annotated[StrictInt, Field(ge=0, lt=64)] = Field(default=0, description="of it in a page of its own")
    buffers: Annotated[StrictInt, Field(ge=1, le=256)] = Field(default=1, description="page buffers, refilled in place")
    after_copy: StrictBool = Field(default=False, description="whether they wait until the sender's own copy is over")


class Tcp(Section):
    """TCP's timers and windows, with Linux's values (include/net/tcp.h)."""

    rto_init_ms: Milliseconds = Field(default=1000, description="TCP_TIMEOUT_INIT")
    rto_min_ms: Milliseconds = Field(default=200, description="TCP_RTO_MIN; RFC 6298 would have one second")
    rto_max_ms: Milliseconds = Field(default=120_000, description="TCP_RTO_MAX")
    initial_window: Annotated[StrictInt, Field(ge=1, le=1000)] = Field(default=10, description="segments (RFC 6928)")
    receive_buffer: Annotated[StrictInt, Field(ge=PAGE_SIZE, le=2**30)] = Field(default=2**20, description="bytes")
    retries: Annotated[StrictInt, Field(ge=1, le=100)] = Field(
        default=15, description="tcp_retries2: so often a segment is sent again before the connection is given up"
    )
    host_queue_check: Literal["none", "count", "suppress"] = Field(
        default="none",
        description="what a retransmission does that finds a clone still below TCP: nothing (2011), count it (2013), "
        "wait (2014)",
    )


class Expectation(Section):
    """The harms to expect when the scenario's keys have these values; a list of values means any of them."""

    when: dict[str, Any] = Field(default={}, description="dotted keys and their values; empty always holds")
    harms: tuple[Harm, ...] = Field(description="what the oracles must find; empty is safe")


Kind = Literal["split", "metal", "block", "loopback", "rdma"]
MACHINES: dict[Kind, tuple[str, ...]] = {
    "split": ("backend", "network", "server"),
    "metal": ("network", "server"),
    "block": ("backend", "network", "server"),
    "loopback": ("network",),
    "rdma": ("network", "server"),
}
BACKEND_PLACES: dict[Kind, tuple[str, ...]] = {
    "split": ("ring", "queue", "nic", "tap", "mirror", "socket"),
    "metal": (),
    "block": ("queue", "nic"),
    "loopback": (),
    "rdma": (),
}
GUEST_PLACES: dict[Kind, tuple[str, ...]] = {
    "split": ("rx", "tap"),
    "metal": ("queue", "nic", "tap"),
    "block": (),
    "loopback": ("reader", "tap"),
    "rdma": ("nic",),
}


class Limits(Section):
    """Where a run that does not end is cut off."""

    duration_s: Annotated[StrictInt, Field(ge=1, le=10**6)] = Field(default=3600, description="of virtual time")
    idle_s: Annotated[StrictInt, Field(ge=1, le=86_400)] = Field(
        default=60, description="of real time in which nothing happens"
    )


class Scenario(Section):
    """Everything that decides a run: written to its folder, it replays it."""

    story: Annotated[StrictStr, Field(pattern=STORY_NAME)] = Field(description="short name; begins the run folder's")
    title: StrictStr = Field(default="", description="one line")
    kind: Kind = Field(
        default="split",
        description="who there is: guests behind netback; bare-metal hosts; guests whose disk the backend keeps on "
        "NFS; one host that serves itself; or hosts whose adapters read and write memory by themselves",
    )
    tells: StrictStr = Field(default="", description="what happens and why, in prose")
    seed: Annotated[StrictInt, Field(ge=0, le=2**63 - 1)] = Field(default=1, description="of all dice")
    strategies: Strategies = Strategies()
    guests: Guests = Guests()
    host: Host = Host()
    server: Server = Server()
    links: Links = Links()
    workload: Workload = Workload()
    datagrams: tuple[Datagrams, ...] = Field(default=(), description="traffic besides the copies")
    tcp: Tcp = Tcp()
    rpc: Rpc = Rpc()
    iscsi: Iscsi = Iscsi()
    drbd: Drbd = Drbd()
    ceph: Ceph = Ceph()
    rdma: Rdma = Rdma()
    faults: dict[str, Fault] = Field(default={}, description="causal rules by name")
    requires: tuple[FactSelector, ...] = Field(default=(), description="facts without which there is nothing to judge")
    expect: tuple[Expectation, ...] = Field(default=(), description="the first whose `when` holds counts")
    limits: Limits = Limits()

    def guest_names(self) -> list[str]:
        """Return the guests' machine names, guest1 first."""
        return [f"guest{number}" for number in range(1, self.guests.count + 1)]

    def machine_names(self) -> list[str]:
        """Return the names of all machines of the topology."""
        return [*self.guest_names(), *MACHINES[self.kind]]

    def places(self) -> list[str]:
        """Return the places of its machines that a rule can gate."""
        guests = [f"{guest}.{place}" for guest in self.guest_names() for place in GUEST_PLACES[self.kind]]
        return [f"backend.{place}" for place in BACKEND_PLACES[self.kind]] + guests

    def expected(self) -> list[str] | None:
        """Return the harms to expect, sorted; None where the scenario says nothing about these settings."""
        for expectation in self.expect:
            if all(_holds(self, key, wanted) for key, wanted in expectation.when.items()):
                return sorted(expectation.harms)
        return None

    def replaced(
        self,
        *,
        guest: str | None = None,
        backend: str | None = None,
        seed: int | None = None,
        input: str | None = None,
    ) -> "Scenario":
        """Return this scenario with other strategies, another seed or another input file; None keeps what is there."""
        strategies = {key: name for key, name in (("guest", guest), ("backend", backend)) if name is not None}
        update: dict[str, object] = {"strategies": self.strategies.model_copy(update=strategies)}
        if seed is not None:
            update["seed"] = seed
        if input is not None:
            update["workload"] = self.workload.model_copy(update={"input": input})
        return self.model_copy(update=update)


MISSING = object()


def value_at(scenario: Scenario, key: str) -> object:
    """Return what stands at a dotted key, or MISSING (a fault that this scenario does not have)."""
    value: Any = scenario
    for step in key.split("."):
        if isinstance(value, BaseModel):
            value = getattr(value, {"from": "source", "to": "target"}.get(step, step), MISSING)
        elif isinstance(value, Mapping):
            value = value.get(step, MISSING)
        elif isinstance(value, tuple) and step.isdecimal():
            value = value[int(step)] if int(step) < len(value) else MISSING
        else:
            return MISSING
    return value


def conditions(scenario: Scenario) -> Iterator[tuple[tuple[str | int, ...], Condition]]:
    """Yield every condition of the scenario's faults with the path on which it stands."""
    for name, fault in scenario.faults.items():
        for edge, trigger in (("since", fault.since), ("until", fault.until)):
            for index, condition in enumerate(trigger.any if trigger else ()):
                yield ("faults", name, edge, "any", index), condition


def _holds(scenario: Scenario, key: str, wanted: object) -> bool:
    value = value_at(scenario, key)
    return value in wanted if isinstance(wanted, Sequence) and not isinstance(wanted, str) else value == wanted
