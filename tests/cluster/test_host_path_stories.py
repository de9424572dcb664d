"""The stories of the host's path under every backend strategy: who is told of a page's end too early, late or never."""

import pytest

from lateack.cluster import plugins
from lateack.cluster.experiment import Result, run_experiment
from lateack.cluster.scenario import load
from lateack.nodes.facts import (
    BufferRefilled,
    CompletionDeferred,
    Counted,
    FrameDropped,
    HeadersForged,
    LingeringCopied,
    PacketsDropped,
    RetransmitTimedOut,
)

BACKENDS = plugins.names("backend")
STORIES = (
    "bridge-flood", "host-tap", "header-pull", "split-and-expand", "nic-paused", "silent-socket", "stalled-neighbour",
)  # fmt: skip
TOO_EARLY = ("early-response", "early-unmap")


def run(story: str, backend: str, *overrides: str) -> Result:
    """Run a story in virtual time."""
    scenario = load(story, overrides).replaced(backend=backend)
    return run_experiment(scenario, "virtual", out=None, address=None, progress=None)


def copied_by_the_host(result: Result) -> int:
    """Return how many payload bytes the backend copied."""
    counters = result.trace.of_type(Counted)
    return sum(fact.amount for _, _, node, fact in counters if (node, fact.name) == ("backend", "copied_bytes"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("story", STORIES)
def test_a_story_of_the_host_ends_as_it_says(story: str, backend: str) -> None:
    """Each strategy ends as the story expects; all but those who never get a connection up reach its point."""
    result = run(story, backend)

    assert result.harms == result.scenario.expected()
    assert not result.verdict.missing or backend in TOO_EARLY


@pytest.mark.parametrize("backend", ["skb-destructor", "no-clone", "shinfo-destructor", "dev-zerocopy"])
@pytest.mark.parametrize(
    ("story", "device"),
    [("nic-paused", "orphaning"), ("frontend-detach", "orphaning"), ("stalled-neighbour", "card")],
    ids=["orphaning", "detached", "card"],
)
def test_whether_a_header_outlives_its_driver_is_for_the_driver_to_say(story: str, device: str, backend: str) -> None:
    """A destructor on the header is right exactly where nobody orphans the packet."""
    result = run(story, backend, f"host.device={device}")

    assert result.harms == result.scenario.expected()
    assert (result.harms == ["fault"]) == (device == "orphaning" and backend in ("skb-destructor", "no-clone"))


@pytest.mark.parametrize("backend", ["page-foreign", "frag-destructor"])
@pytest.mark.parametrize("story", ["bridge-flood", "host-tap", "nic-paused"])
def test_those_who_count_are_right_and_late(story: str, backend: str) -> None:
    """The guest sees that it must wait, and nobody has copied its pages."""
    result = run(story, backend)

    assert result.trace.of_type(CompletionDeferred)
    assert copied_by_the_host(result) == 0


@pytest.mark.parametrize("story", ["bridge-flood", "host-tap"])
def test_those_who_copy_at_the_clone_are_right_and_pay(story: str) -> None:
    """dev-zerocopy keeps nobody waiting: every payload byte of the guest was copied once by the host."""
    result = run(story, "dev-zerocopy")

    assert not result.trace.of_type(CompletionDeferred)
    assert copied_by_the_host(result) >= 8192


def test_lazy_copy_lets_a_silent_socket_have_the_pages_for_a_second_at_most() -> None:
    """Each of the 240 datagrams' pages is copied half a second to a second after it came, and nobody starves."""
    result = run("silent-socket", "lazy-copy")

    waited = [fact.waited for _, _, _, fact in result.trace.of_type(LingeringCopied)]
    assert len(waited) == 240
    assert all(500_000_000 <= each <= 1_000_000_000 for each in waited)


def test_a_stalled_neighbour_costs_the_sender_the_drain_timeout() -> None:
    """The last buffer comes back when the packets are given up, and not before."""
    result = run("stalled-neighbour", "dev-zerocopy")

    ((dropped, _, _, _),) = result.trace.of_type(PacketsDropped)
    refilled = [at for at, _, _, fact in result.trace.of_type(BufferRefilled) if fact.buffer == 12]
    assert refilled == [dropped]


@pytest.mark.parametrize("backend", ["dev-zerocopy", "page-foreign", "frag-destructor"])
def test_a_forged_header_is_forged_too_late(backend: str) -> None:
    """A packet of those who lend pages still lay on the ring when its headers were forged, and left as it was."""
    result = run("forged-headers", backend)

    assert [fact.packets for _, _, _, fact in result.trace.of_type(HeadersForged)] == [1]
    assert result.harms == []
    assert not result.trace.of_type(FrameDropped)


def test_a_header_forged_before_netback_looks_is_the_guests_own_doing() -> None:
    """The host drops what it cannot make sense of, and TCP sends the segment once more."""
    result = run("forged-headers", "dev-zerocopy", "faults.egress.gate=backend.ring")

    assert result.harms == []
    assert len(result.trace.of_type(FrameDropped)) == 1
    assert result.trace.of_type(RetransmitTimedOut)
