"""The stories of lost connections and servers that restart, under the settings of which their texts speak."""

import pytest
from hypothesis import given, settings, strategies as st

from lateack.cluster import plugins
from lateack.cluster.experiment import Result, run_experiment
from lateack.cluster.scenario import from_raw, load
from lateack.nodes.facts import CopyFinished, FileAtRest, Reconnecting, VerifierChanged, WriteExecuted, WriteIssued

GUESTS = plugins.names("guest")
SETTINGS = {
    "reconnect-new-port": (
        ["rpc.reconnect=same-port"],
        ["rpc.reconnect=same-port", "server.drc=none"],
        ["rpc.reconnect=never"],
        ["server.drc_port=false"],
        ["server.drc_port=false", "server.drc=no-checksum"],
        ["server.drc_port=false", "server.drc=none"],
        ["server.drc=none"],
        ["workload.abort=true"],
    ),
    "server-restart": (
        ["workload.release=reply"],
        ["rpc.reconnect=new-port"],
        ["rpc.reconnect=never"],
        ["rpc.reconnect=never", "workload.release=reply"],
        ["workload.passes=2", "workload.buffers=2"],
    ),
}
CASES = [(story, settings) for story, cases in SETTINGS.items() for settings in cases]

CLONES_STUCK = [
    "links.mtu=1500", "host.gso=false", "workload.passes=1", "workload.bytes=8192",
    "faults.stray.until=[{fact: Reconnecting, node: guest1}]",
    (
        "faults.egress={gate: guest1.nic, since: {frame: {from: guest1, rpc: WRITE}}, "
        "until: [{fact: BufferRefilled}, {fact: RetransmitTimedOut, node: guest1}]}"
    ),
]  # fmt: skip
"""A WRITE is three packets: the first is refused on its way, but arrives all the same; the others wait in the card's
ring until the page was refilled, or, where the strategy keeps it, until the SYN behind them is repeated."""


def run(story: str, guest: str, *overrides: str) -> Result:
    """Run a story in virtual time."""
    return run_experiment(load(story, overrides).replaced(guest=guest), "virtual")


@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize(("story", "overrides"), CASES, ids=[" ".join((story, *each)) for story, each in CASES])
def test_a_story_ends_as_it_says_under_other_settings(story: str, overrides: list[str], guest: str) -> None:
    """What the text promises of a setting is found by running."""
    result = run(story, guest, *overrides)

    assert result.harms == result.verdict.expected
    assert result.harms or not result.verdict.missing


def test_every_byte_of_the_lost_update_was_meant() -> None:
    """The older write is executed twice, with its own bytes, the second time after the newer one."""
    trace = run("reconnect-new-port", "full-copy").trace

    meant = [(fact.xid, fact.digest) for _, _, _, fact in trace.of_type(WriteIssued)]
    done = [(fact.xid, fact.digest) for _, _, _, fact in trace.of_type(WriteExecuted)]
    assert done == [*meant, meant[0]]
    assert [fact.port for _, _, _, fact in trace.of_type(Reconnecting)] == [701]


@pytest.mark.parametrize("guest", GUESTS)
def test_only_the_bytes_are_resent_that_the_page_still_holds(guest: str) -> None:
    """Whoever has given the page back before the COMMIT sends the next write's bytes under the first one's offset."""
    trace = run("server-restart", guest).trace

    first = trace.of_type(WriteIssued)[0][3]
    changed = [fact.offset for _, _, _, fact in trace.of_type(VerifierChanged)]
    last = [fact.digest for _, _, _, fact in trace.of_type(WriteExecuted) if fact.offset == 0][-1]
    assert changed[0] == 0
    assert (last == first.digest) == (guest not in ("skb-destructor", "clone-destructor", "no-clone"))


@given(
    cuts=st.lists(st.integers(1, 11), min_size=1, max_size=4, unique=True),
    loss=st.sampled_from((0.0, 0.05, 0.2)),
    kind=st.sampled_from(("split", "metal", "block")),
    guest=st.sampled_from(("full-copy", "frag-destructor", "msg-zerocopy", "on-reply")),
    stable=st.sampled_from(("unstable", "file-sync")),
    seed=st.integers(1, 1000),
)
@settings(max_examples=40)
def test_a_client_that_comes_back_from_its_port_leaves_the_file_as_it_was_meant(
    cuts: list[int], loss: float, kind: str, guest: str, stable: str, seed: int
) -> None:
    """However often its connection is cut, and whatever else is lost: every write ends, under no older one."""
    sender = "backend" if kind == "block" else "guest1"
    scenario = from_raw({
        "story": "cuts", "kind": kind, "seed": seed, "strategies": {"guest": guest}, "rpc": {"reconnect": "same-port"},
        "workload": {"bytes": 20_000, "write_size": 4096, "buffers": 2, "passes": 2, "stable": stable},
        "links": {"to_server": {"loss": loss}, "to_guests": {"loss": loss}},
        "faults": {"firewall": {"reset": {"from": sender, "kind": "call"}, "nth": cuts}},
    })  # fmt: skip

    result = run_experiment(scenario, "virtual")

    assert set(result.harms) <= {"stale-on-wire", "fault"}
    assert loss or result.trace.of_type(Reconnecting)  # else the RST, too, may be lost
    assert len(result.trace.of_type(CopyFinished)) == len(result.trace.of_type(FileAtRest)) + (kind == "block")


@pytest.mark.parametrize(
    ("guest", "right"),
    [("skb-destructor", False), ("no-clone", True), ("on-reply", True), ("msg-zerocopy", True), ("full-copy", True)],
)
def test_clones_of_a_lost_connection_are_delivered_for_the_first_time(guest: str, right: bool) -> None:
    """TCP's queue is purged, and what waits below it goes out: to a server that still has the connection.

    Whoever took the purge for the end of the write has refilled the page by then. Who waits for a reply is out of reach
    here: the reply's call has to leave by the same card, behind those clones.
    """
    result = run("reconnect-new-port", guest, *CLONES_STUCK)

    issued = result.trace.of_type(WriteIssued)[0][3]
    executed = result.trace.of_type(WriteExecuted)[0][3]
    assert executed.xid == issued.xid
    assert (executed.digest == issued.digest) == right
    assert "corrupt-at-rest" in result.harms or guest not in ("skb-destructor", "no-clone")
