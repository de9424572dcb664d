"""Claims about what comes over the wire: whatever a frame says whose checksums are right, nobody breaks down over it.

Every service and every client gets some of its frames changed, cut or lengthened, in the middle of a real conversation.
"""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings, strategies as st

from lateack.cluster.scenario import Scenario
from lateack.cluster.topology import Topology
from lateack.nodes.errors import MemoryExhausted
from lateack.nodes.messages import Frames
from lateack.nodes.node import Effect, Event, Received, Time
from lateack.nodes.rdma.packets import ICRC, ROCE_PORT, icrc_of
from lateack.nodes.stack.packets import IPPROTO_TCP, IPPROTO_UDP, ones_sum
from lateack.nodes.storage.memory_store import MemoryStore
from tests.cluster.carried import Carried, ran
from tests.cluster.weather import EVERY, scenarios

TRANSPORT_AT, TCP_SUM_AT, UDP_SUM_AT = 34, 50, 40
Mutation = tuple[str, int, bytes]

bytes_written = st.sampled_from([b"\0", b"\1", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff", bytes(4)])
places = st.one_of(st.integers(0, 20), st.integers(0, 120), st.integers(0, 1500))
mutations = st.tuples(
    st.sampled_from(["write", "write", "write", "cut", "lengthen"]),
    places,
    st.one_of(bytes_written, st.binary(min_size=1, max_size=4)),
)
drawn_mutations = st.dictionaries(st.integers(1, 40), mutations, min_size=1, max_size=3)


def mutated(frame: bytes, mutation: Mutation) -> bytes:
    """Return a frame that is changed behind its IPv4 header, with lengths and checksums that fit."""
    what, place, written = mutation
    body = bytearray(frame[TRANSPORT_AT:])
    if what == "cut":
        del body[max(8, place % len(body)) :]
    elif what == "lengthen":
        body += written * 20
    else:
        at = place % len(body)
        body[at : at + len(written)] = written[: len(body) - at]
    return repaired(frame[:TRANSPORT_AT], body)


def repaired(head: bytes, body: bytearray) -> bytes:
    """Put a packet together again behind the Ethernet and IPv4 headers in *head*, as a router does that changes it."""
    header = bytearray(head)
    header[16:18] = (20 + len(body)).to_bytes(2)
    header[24:26] = bytes(2)
    header[24:26] = (0xFFFF - ones_sum(bytes(header[14:]))).to_bytes(2)
    if header[23] == IPPROTO_UDP:
        body[4:6] = len(body).to_bytes(2)
        body[UDP_SUM_AT - TRANSPORT_AT : 8] = bytes(2)  # none was made
        if int.from_bytes(body[2:4]) == ROCE_PORT and len(body) > 8 + ICRC.size:
            return bytes(header + body[:-4]) + icrc_of(bytes(header + body))
    if header[23] == IPPROTO_TCP and len(body) >= 20:
        at = TCP_SUM_AT - TRANSPORT_AT
        body[at : at + 2] = bytes(2)
        pseudo = bytes(header[26:34]) + bytes([0, IPPROTO_TCP]) + len(body).to_bytes(2)
        body[at : at + 2] = (0xFFFF - ones_sum(pseudo + bytes(body))).to_bytes(2)
    return bytes(header + body)


class Mutating(Carried):
    """All machines of a world; some of the frames that one of them receives are changed on their way."""

    def __init__(self, topology: Topology, store: MemoryStore, target: str, changes: dict[int, Mutation]) -> None:
        super().__init__(topology, store, 0)
        self.target = target
        self.changes = changes
        self.seen = 0

    def handle(self, name: str, event: Event, now: Time) -> Sequence[Effect]:
        """Let a machine handle an event."""
        if name == self.target and isinstance(event, Received) and isinstance(event.message, Frames):
            frames = tuple(self.on_its_way(frame) for frame in event.message.frames)
            event = Received(event.source, Frames(frames))
        return super().handle(name, event, now)

    def on_its_way(self, frame: bytes) -> bytes:
        """Return the next frame as it arrives."""
        self.seen += 1
        change = self.changes.get(self.seen)
        return frame if change is None or len(frame) <= TRANSPORT_AT + 8 else mutated(frame, change)


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [("metal", "nfs"), ("metal", "iscsi"), ("metal", "drbd"), ("metal", "ceph"), ("rdma", "nfs"), ("block", "nfs")],
)
def test_nobody_breaks_down_over_a_frame_that_says_something_else(kind: str, protocol: str) -> None:
    """The run goes on to its end, and machines take stock, whatever a server or a client was told."""

    @settings(max_examples=40)
    @given(scenario=scenarios(EVERY, (kind,), (protocol,)), to_server=st.booleans(), changes=drawn_mutations)
    def claim(scenario: Scenario, to_server: bool, changes: dict[int, Mutation]) -> None:
        breaks_nobody(scenario, to_server, changes)

    claim()


def breaks_nobody(scenario: Scenario, to_server: bool, changes: dict[int, Mutation]) -> None:
    """Run a scenario with these changes to what its server, or its client, is sent."""
    client = "backend" if scenario.kind == "block" else "guest1"
    topology = Topology(scenario)
    world = Mutating(topology, MemoryStore(handle_bytes=36), "server" if to_server else client, changes)

    try:
        trace = ran(topology, world.store, carried=world)
    except MemoryExhausted:
        return  # frames that are never acknowledged any more fill the memory of whoever sends them again

    assert trace.entries
