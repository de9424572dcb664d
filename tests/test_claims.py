"""What was claimed in 2011, when the fate of paged fragments was discussed, each claim shown by running real parts.

Ian Campbell, "SKB paged fragment lifecycle on receive" (xen-devel and netdev). Every test's sentence is the claim.
"""

from functools import cache

import pytest

import lateack
from lateack.cluster.experiment import Result
from lateack.nodes.facts import (
    AccessFault,
    CompletionDeferred,
    Counted,
    ForeignPageFreed,
    LeftOver,
    SegmentTransmitted,
    WriteCompleted,
)
from lateack.nodes.strategies import BACKEND_STRATEGIES

HONEST = "frag-destructor"
"""A guest that waits for its own stack, so that whatever goes wrong is the backend's doing."""


@cache
def run(story: str, guest: str = HONEST, backend: str = "dev-zerocopy") -> Result:
    """Run a story in virtual time, once for all tests."""
    return lateack.run(story, world="virtual", guest=guest, backend=backend)


def counted(result: Result, name: str) -> int:
    """Return the backend's own count of something."""
    return sum(
        fact.amount for _, _, node, fact in result.trace.of_type(Counted) if (node, fact.name) == ("backend", name)
    )


# --- skb->destructor ------------------------------------------------------------------------------------------------


def test_the_destructor_fires_while_a_clone_lives() -> None:
    """A clone outlives the packet, and its pages are gone by the time that it is read."""
    touched = [fact.place for _, _, _, fact in run("host-tap", backend="skb-destructor").trace.of_type(AccessFault)]

    assert set(touched) == {"backend.tap"}
    assert run("host-tap", backend="skb-destructor").harms == ["fault"]
    assert run("host-tap", backend="frag-destructor").harms == []


def test_the_destructor_is_right_as_long_as_nobody_clones() -> None:
    """On a quiet host it works, which is why it looks like a solution."""
    assert run("calm", backend="skb-destructor").harms == []
    assert counted(run("calm", backend="skb-destructor"), "copied_bytes") == 0


def test_the_pulled_page_is_not_there_when_the_destructor_runs() -> None:
    """A page that __pskb_pull_tail has eaten is never answered for; its last put hands it to the wrong allocator."""
    trace = run("header-pull", backend="skb-destructor").trace

    freed = [fact for _, _, _, fact in trace.of_type(ForeignPageFreed)]
    unanswered = [fact.count for _, _, node, fact in trace.of_type(LeftOver) if fact.what == "grant pins"]
    assert {fact.domid for fact in freed} == {1}
    assert unanswered == [len(freed)]
    assert run("header-pull", backend="skb-destructor").harms == ["leak"]
    assert run("header-pull", backend="frag-destructor").harms == []


# --- a flag against cloning -----------------------------------------------------------------------------------------


def test_forbidding_clones_works_on_the_host() -> None:
    """With the flag the tap gets a copy, and the destructor can be believed."""
    assert run("host-tap", backend="no-clone").harms == []


def test_forbidding_clones_costs_a_copy_of_nearly_every_packet() -> None:
    """TCP clones whatever it sends, so that every payload byte of a guest is copied, again at each transmission."""
    calm, late = run("calm", guest="no-clone"), run("late-ack", guest="no-clone")

    segments = [fact for _, _, _, fact in late.trace.of_type(SegmentTransmitted) if fact.length > 4096]
    assert (calm.harms, late.harms) == ([], [])
    assert calm.verdict.bytes_copied_by["guest1"] == calm.verdict.payload_bytes
    assert late.verdict.bytes_copied_by["guest1"] == 4096 * len(segments) > late.verdict.payload_bytes


def test_a_host_that_only_forwards_copies_nothing_until_somebody_listens() -> None:
    """On the backend the share of packets that are cloned is that of packets which are tapped: none, or all."""
    quiet, tapped = run("calm", backend="no-clone"), run("host-tap", backend="no-clone")

    assert counted(quiet, "copied_bytes") == 0
    assert counted(tapped, "copied_bytes") >= tapped.verdict.payload_bytes


def test_forbidding_clones_does_not_help_against_a_pull() -> None:
    """The page is gone from the packet all the same."""
    assert run("header-pull", backend="no-clone").harms == ["leak"]


# --- grant copy -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("story", ["calm", "host-tap", "header-pull", "late-ack"])
def test_grant_copy_is_safe_and_the_backend_pays(story: str) -> None:
    """Nothing of the guest's is ever in the stack, and each payload byte is copied on the backend's account."""
    result = run(story, backend="grant-copy")

    assert result.harms == []
    assert result.verdict.bytes_copied_by["guest1"] == 0
    assert result.verdict.bytes_copied_by["backend"] >= result.verdict.payload_bytes
    assert counted(result, "grant_bytes_copied") >= result.verdict.payload_bytes
    assert counted(result, "grant_maps") == 2  # the rings


# --- fragment destructors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("story", ["late-ack", "rpc-retransmit"])
def test_a_completion_that_waits_for_the_stack_fixes_nfs(story: str) -> None:
    """The same crossing puts wrong bytes on the wire if the reply decides, and none if the last fragment does."""
    broken, fixed = run(story, guest="on-reply"), run(story, guest="frag-destructor")

    assert "stale-on-wire" in broken.harms
    assert fixed.harms == []
    assert fixed.trace.of_type(CompletionDeferred)
    assert fixed.verdict.bytes_copied_by["guest1"] == 0


def test_waiting_for_the_stack_costs_time_and_no_copy() -> None:
    """The completion comes as late as the queue below TCP is long."""
    broken, fixed = run("late-ack", guest="on-reply"), run("late-ack", guest="frag-destructor")

    latencies = [[fact.latency for _, _, _, fact in each.trace.of_type(WriteCompleted)] for each in (broken, fixed)]
    assert max(latencies[1]) > max(latencies[0])


@pytest.mark.parametrize("story", ["calm", "host-tap", "header-pull"])
def test_fragment_destructors_survive_what_the_stack_does(story: str) -> None:
    """Clones, pulls and retransmissions are all covered, since each goes through the same two functions."""
    assert run(story, backend="frag-destructor").harms == []


# --- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [name for name in BACKEND_STRATEGIES if not name.startswith("early")])
def test_every_backend_strategy_but_the_early_ones_serves_a_calm_host(backend: str) -> None:
    """Those that answer after the stack's last use, as they see it, are found wrong only by company."""
    assert run("calm", backend=backend).harms == []


@pytest.mark.parametrize("backend", ["early-response", "early-unmap"])
def test_an_early_answer_is_wrong_from_the_first_page_on(backend: str) -> None:
    """It takes no clone and no queue: either the guest or the card finds the page in the wrong state."""
    assert "fault" in run("calm", backend=backend).harms
