"""Claims about all scenarios: whatever the keys say and whichever rules act, a run ends, repeats and keeps promises."""

from typing import Any

from hypothesis import assume, example, given, settings, strategies as st

from lateack.cluster import capture, oracles
from lateack.cluster.capture_comments import comments_of
from lateack.cluster.mistakes import Source
from lateack.cluster.narrative import moments
from lateack.cluster.scenario import Scenario, from_raw
from lateack.cluster.topology import Topology
from lateack.cluster.trace import Trace
from lateack.nodes.errors import MemoryExhausted
from lateack.nodes.facts import (
    CopyFinished,
    FrameHeld,
    FrameLost,
    FramesReleased,
    GateClosed,
    GateOpened,
    LeftOver,
    NetbackDied,
)
from lateack.nodes.storage.memory_store import MemoryStore
from tests.cluster.carried import ran
from tests.cluster.test_weather import stored
from tests.cluster.weather import EVERY, SAFE, scenarios


def is_shut_at_the_end(scenario: Scenario, trace: Trace) -> bool:
    """Say whether a gate was closed, or frames were held back or lost for good, when the machines took stock."""
    lost = {fact.rule for _, _, _, fact in trace.of_type(FrameLost)}
    if any(rule in lost and fault.drop and not fault.nth for rule, fault in scenario.faults.items()):
        return True
    audit = min(trace.places_of(LeftOver), default=len(trace))
    opened = [fact.rule for place, _, _, fact in trace.placed(GateOpened) if place < audit]
    closed = [fact.rule for _, _, _, fact in trace.of_type(GateClosed)]
    held = sum(1 for _ in trace.of_type(FrameHeld)) - sum(fact.count for _, _, _, fact in trace.of_type(FramesReleased))
    return sorted(opened) != sorted(closed) or held > 0


def owners_keep_their_word(scenario: Scenario) -> bool:
    """Say whether nobody rewrites, forges or lets go of what is being written: no strategy answers for those who do."""
    rewritten = any(rule.rewrite for rule in scenario.faults.values()) and not scenario.workload.stable_pages
    forged = any(rule.forge for rule in scenario.faults.values())
    return not rewritten and not forged and scenario.workload.release == "commit"


def may_be_executed_late(scenario: Scenario) -> bool:
    """Say whether a server may execute an older write of a range when a newer one is done.

    It takes a range that is written twice, and a call that reaches the server late, or twice without being known again:
    given up by its caller, forgotten by the cache, or come from another port.
    """
    work, server = scenario.workload, scenario.server
    if work.passes == 1 or work.protocol != "nfs":
        return False
    crashes = any(rule.crash == "server" for rule in scenario.faults.values())
    remembers = server.drc in ("checksum", "no-checksum") and server.drc_entries > 3 and server.drc_expiry_s >= 120
    other_port = scenario.rpc.reconnect == "new-port" and server.drc_port
    return work.abort or not remembers or other_port or (crashes and work.transport == "udp")


@settings(max_examples=200)
@given(scenario=scenarios(SAFE))
def test_a_safe_pair_is_safe_in_every_scenario(scenario: Scenario) -> None:
    """Nothing stale leaves, no page is touched that is gone, nothing is lost or kept, where nothing is killed."""
    assume(owners_keep_their_word(scenario))
    topology, store = Topology(scenario), MemoryStore(handle_bytes=scenario.server.handle_bytes)

    try:
        trace = ran(topology, store)
    except MemoryExhausted:
        return  # the user is told that the machines need more, for what repeats itself while nothing is taken

    harms = set(oracles.harms(trace))
    finished = {fact.file for _, _, _, fact in trace.of_type(CopyFinished)}
    if not trace.of_type(NetbackDied):
        assert not harms & {"stale-on-wire", "fault"}
        unfinished = len(finished) < len(topology.guests)  # whatever it needed for the rest it still has
        assert "leak" not in harms or unfinished or is_shut_at_the_end(scenario, trace)
        # A primary's own disk has every write at once: what the peer has yet to get is out of sync, and known to be.
        out_of_sync = scenario.workload.protocol == "drbd" and "stall" in harms
        if not may_be_executed_late(scenario) and not out_of_sync:
            assert "corrupt-at-rest" not in harms
            for guest in () if scenario.workload.abort else topology.guests:
                path, source = topology.file_name(guest), topology.source(guest)
                assert path not in finished or stored(store, path) == source.read(0, source.size)


@settings(max_examples=100)
@given(scenario=scenarios(EVERY), event=st.integers(1, 400))
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


REPLY_BEFORE_FAILURE: dict[str, Any] = {
    "story": "weather", "kind": "rdma", "seed": 2, "links": {"to_guests": {"jitter_us": 5000}},
    "workload": {"stable": "unstable", "passes": 3}, "rdma": {"ack_timeout_ms": 1, "retries": 1},
}  # fmt: skip
"""A queue pair fails right behind a reply, for which the client has a COMMIT to send."""


@settings(max_examples=100)
@given(scenario=scenarios(EVERY))
@example(scenario=from_raw(REPLY_BEFORE_FAILURE, Source("a fault that was found"), [], {}))
def test_every_run_can_be_told_and_captured_and_a_capture_changes_nothing(scenario: Scenario) -> None:
    """Who captures finds the trace that would be there without, and something to say of any run."""
    links = scenario.links.model_copy(update={"capture": True})
    captured = scenario.model_copy(update={"links": links})

    try:
        plain = ran(Topology(scenario), MemoryStore(handle_bytes=36))
    except MemoryExhausted:
        return
    trace, seen = capture.split(ran(Topology(captured), MemoryStore(handle_bytes=36)))

    assert trace.digest() == plain.digest()
    assert all(moment.sentence for moment in moments(trace))
    assert all(comments_of(trace, seen).values())
