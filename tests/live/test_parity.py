"""Both worlds tell the same story: the same machines, the same scenario, the same harms."""

from pathlib import Path

import pytest

from lateack.cluster.experiment import VirtualSession
from lateack.cluster.live import LiveSession
from lateack.cluster.oracles import harms
from lateack.cluster.scenario import list_stories, load
from lateack.nodes.facts import CompletionDeferred, CopyFinished, DuplicateDropped
from lateack.nodes.strategies import BACKEND_STRATEGIES, GUEST_STRATEGIES

pytestmark = pytest.mark.live

GUESTS = [("late-ack", guest, "dev-zerocopy") for guest in GUEST_STRATEGIES]
# A frontend that broke at once is waited for by a server that keeps to RFC 6298, for half a minute.
BACKENDS = [("late-ack", "on-reply", backend) for backend in BACKEND_STRATEGIES if backend != "early-response"]
HARMED = [
    ("one-loss", "clone-destructor", "dev-zerocopy"),
    ("packet-tap", "full-copy", "dev-zerocopy"),
    ("rpc-retransmit", "frag-destructor", "dev-zerocopy"),
    ("udp-retransmit", "copy-on-retransmit", "dev-zerocopy"),
    ("block-path", "frag-destructor", "dev-zerocopy"),
    ("loopback-server", "skb-destructor", "dev-zerocopy"),
    ("late-ack-metal", "msg-zerocopy", "dev-zerocopy"),
    ("bridge-flood", "frag-destructor", "skb-destructor"),
    ("header-pull", "frag-destructor", "shinfo-destructor"),
    ("split-and-expand", "frag-destructor", "no-clone"),
    ("stalled-neighbour", "frag-destructor", "page-foreign"),
    ("silent-socket", "frag-destructor", "lazy-copy"),
    ("frontend-detach", "frag-destructor", "grant-copy"),
    ("netback-crash", "frag-destructor", "staging-grants"),
    ("iscsi-digest", "full-copy", "dev-zerocopy"),
    ("iscsi-late-ack", "msg-zerocopy", "dev-zerocopy"),
    ("drbd-protocol-a", "frag-destructor", "dev-zerocopy"),
    ("ceph-bad-crc", "full-copy", "dev-zerocopy"),
    ("reconnect-new-port", "skb-destructor", "dev-zerocopy"),
    ("server-restart", "clone-destructor", "dev-zerocopy"),
    ("rdma-resend", "send-completion", "dev-zerocopy"),
    ("rdma-late-read", "invalidate-first", "dev-zerocopy"),
    ("rdma-late-read", "bounce", "dev-zerocopy"),
]
CACHES = [(drc, prefix) for drc in ("none", "no-checksum", "checksum") for prefix in (0, 1024)]


def agree(session: LiveSession, folder: Path, story: str, settings: list[str]) -> None:
    """Run a scenario in both worlds and compare what they find with each other and with what the story expects."""
    scenario = load(story, settings)

    live = session.run(scenario, server_dir=folder)
    virtual = VirtualSession().run(scenario, server_dir=None, progress=None)

    assert harms(live) == harms(virtual) == scenario.expected()


@pytest.mark.parametrize("story", list_stories())
def test_a_story_ends_the_same_way_in_both_worlds(session: LiveSession, folder: Path, story: str) -> None:
    """Each story as it ships."""
    agree(session, folder, story, [])


@pytest.mark.parametrize(("story", "guest", "backend"), [*GUESTS, *BACKENDS, *HARMED])
def test_a_strategy_does_the_same_in_both_worlds(
    session: LiveSession, folder: Path, story: str, guest: str, backend: str
) -> None:
    """Every strategy in the story of the project, and in each other story one that ends otherwise than it ships."""
    agree(session, folder, story, [f"strategies.guest={guest}", f"strategies.backend={backend}"])


@pytest.mark.parametrize("guest", ["on-reply", "frag-destructor"])
@pytest.mark.parametrize("backend", ["dev-zerocopy", "grant-copy"])
def test_the_gate_at_the_ring_is_the_same_in_both_worlds(
    session: LiveSession, folder: Path, guest: str, backend: str
) -> None:
    """A backend that is not scheduled has copied nothing."""
    gate = "faults.egress.gate=backend.ring"
    agree(session, folder, "late-ack", [gate, f"strategies.guest={guest}", f"strategies.backend={backend}"])


@pytest.mark.parametrize(("drc", "prefix"), CACHES)
def test_the_request_cache_decides_the_same_in_both_worlds(
    session: LiveSession, folder: Path, drc: str, prefix: int
) -> None:
    """Without a cache, with the old and with the new one, whether the page changes early or late."""
    agree(session, folder, "rpc-retransmit", [f"server.drc={drc}", f"workload.common_prefix={prefix}"])


def test_the_late_copy_is_dropped_as_old_data(session: LiveSession, folder: Path) -> None:
    """On Ray, too, TCP saves the file: the server drops the stale segment."""
    trace = session.run(load("late-ack"), server_dir=folder)

    assert any(node == "server" and fact.length for _, _, node, fact in trace.of_type(DuplicateDropped))


def test_the_waiting_strategy_waits(session: LiveSession, folder: Path) -> None:
    """With fragment destructors the reply alone does not complete the write."""
    trace = session.run(load("late-ack", ["strategies.guest=frag-destructor"]), server_dir=folder)

    assert trace.of_type(CompletionDeferred)


def test_two_guests_copy_through_bad_weather(session: LiveSession, folder: Path) -> None:
    """With 2 % loss and 5 ms of jitter each way every byte arrives, nothing harms, and nothing is left over."""
    given = folder.parent / "weather.dat"
    given.write_bytes(bytes(range(256)) * 2048)
    weather = [f"links.{way}.{key}" for way in ("to_server", "to_guests") for key in ("loss=0.02", "jitter_us=5000")]
    scenario = load("calm", ["guests.count=2", f"workload.input={given}", *weather])

    trace = session.run(scenario, server_dir=folder)

    assert harms(trace) == []
    assert len(trace.of_type(CopyFinished)) == 2
    for guest in ("guest1", "guest2"):
        assert (folder / guest / "weather.dat").read_bytes() == given.read_bytes()
