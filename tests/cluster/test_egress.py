"""Two places where a packet can be stuck, and all that may be done to it between them, over both stories of a late ACK.

What to expect is worked out below from what each step does, in words, and compared with what running finds.
"""

from itertools import product

import pytest

from lateack.cluster.experiment import Result, run_experiment
from lateack.cluster.scenario import load
from lateack.nodes.facts import CopyFinished, FileAtRest, FrameDropped, FrameSent, Parked, WriteIssued

PLACES = ("queue", "nic")
SUMS = ("offload", "software", "software-2011")
CUTTERS = ("card", "kernel")
DEVICES = ("card", "orphaning", "tun")
WAYS = list(product(PLACES, SUMS, CUTTERS, DEVICES))

# How the pages were handed over, which is what the stack knows of their owner.
COPIED, BARE, COUNTED, UNCOUNTED, AWAITED = "copied", "bare reference", "counts sharers", "does not", "waits"
METAL = {
    "full-copy": COPIED,
    "on-reply": BARE,
    "copy-on-retransmit": BARE,  # RPC sends nothing again here, TCP does
    "zerocopy-on-reply": COUNTED,
    "msg-zerocopy": AWAITED,
    "frag-destructor": AWAITED,
}
SPLIT = {("on-reply", "dev-zerocopy"): UNCOUNTED, ("on-reply", "grant-copy"): COPIED}
SPLIT[("frag-destructor", "dev-zerocopy")] = AWAITED

WRITE = "{frame: {from: guest1, rpc: WRITE}}"
AGAIN = "{fact: Parked, node: backend, where: {again: true}}"
# late-ack with the rules of late-ack-metal: the retransmission that is stuck is longer than the MTU.
CUT_LATE_ACK = (
    "links.mtu=1500",
    "guests.memory_pages=64",
    f"faults.data={{hold: {{from: guest1, to: server}}, since: {WRITE}, until: {AGAIN}}}",
    "faults.acks.until={fact: RetransmitTimedOut, node: guest1}",
    "faults.egress.since={frame: {from: guest1, rpc: WRITE}, nth: 2}",
)


def is_frozen(pages: str, place: str, checksum: str, cutter: str, device: str) -> bool:
    """Say whether the bytes of a packet that lies at *place* are fixed, however its pages change."""
    if pages == COPIED:
        return True
    if place == "queue":
        return False  # nobody has looked at it yet, and what is copied later is copied too late
    if checksum == "software":
        return True  # what others may rewrite is copied before it is summed
    cut_by_kernel = cutter == "kernel" or checksum != "offload"  # a card that does not sum does not cut
    if pages == UNCOUNTED and cut_by_kernel:
        return True  # several packets would show the pages of an owner who does not count them
    return pages in (COUNTED, UNCOUNTED) and device == "tun"  # a process may keep the packet for ever


def expected(pages: str, way: tuple[str, str, str, str]) -> list[str]:
    """Return the harms to expect: none if the owner waits for the stack, or the bytes are fixed in time."""
    return [] if pages == AWAITED or is_frozen(pages, *way) else ["stale-on-wire"]


def settings(machine: str, way: tuple[str, str, str, str]) -> list[str]:
    """Return the settings that let the egress of a machine be such."""
    place, checksum, cutter, device = way
    return [
        f"faults.egress.gate={machine}.{place}",
        f"host.checksum={checksum}",
        f"host.segmentation={cutter}",
        f"host.device={device}",
    ]


def outcome(story: str, overrides: list[str], guest: str, backend: str | None = None) -> Result:
    """Run a story, see that it got where it was going and that the file is right, and return the result."""
    scenario = load(story, overrides).replaced(guest=guest, backend=backend)
    result = run_experiment(scenario, "virtual", out=None, address=None, progress=None)
    meant = tuple(fact.digest for _, _, _, fact in result.trace.of_type(WriteIssued))
    assert result.verdict.missing == ()
    assert result.trace.of_type(CopyFinished)
    assert [fact.digests for _, _, _, fact in result.trace.of_type(FileAtRest)] == [meant]
    return result


@pytest.mark.parametrize("guest", METAL)
def test_on_bare_metal_every_way_out_does_what_its_steps_say(guest: str) -> None:
    """A retransmission that is stuck shows what the owner's page holds, unless it was copied on its way there."""
    found = {way: outcome("late-ack-metal", settings("guest1", way), guest).harms for way in WAYS}

    assert found == {way: expected(METAL[guest], way) for way in WAYS}


@pytest.mark.parametrize(("guest", "backend"), SPLIT)
def test_behind_netback_every_way_out_does_what_its_steps_say(guest: str, backend: str) -> None:
    """netback's pages have an owner who cannot count: they are copied wherever a second packet would show them."""
    found = {way: outcome("late-ack", [*CUT_LATE_ACK, *settings("backend", way)], guest, backend).harms for way in WAYS}

    assert found == {way: expected(SPLIT[guest, backend], way) for way in WAYS}


@pytest.mark.parametrize("guest", METAL)
def test_the_story_says_what_comes_out(guest: str) -> None:
    """The expectations in the story are those of the steps, at both places."""
    for way in WAYS:
        scenario = load("late-ack-metal", settings("guest1", way)).replaced(guest=guest)

        assert scenario.expected() == expected(METAL[guest], way)


def test_the_old_sum_is_wrong_for_the_new_bytes() -> None:
    """Summed where it lay, the changed page leaves under a wrong sum, once for each piece; the server drops them."""
    result = outcome("late-ack-metal", settings("guest1", ("nic", "software-2011", "card", "card")), "on-reply")

    dropped = [fact.reason for _, _, node, fact in result.trace.of_type(FrameDropped) if node == "server"]
    assert result.harms == ["stale-on-wire"]
    assert set(dropped) == {"bad TCP checksum"}


@pytest.mark.parametrize(("cutter", "pieces"), [("card", 1), ("kernel", 2)])
def test_the_retransmission_that_is_stuck_is_longer_than_the_mtu(cutter: str, pieces: int) -> None:
    """In the queue it is one packet; in the ring, too, if the card cuts, and several if the kernel does."""
    for place, count in (("queue", 1), ("nic", pieces)):
        result = outcome("late-ack-metal", settings("guest1", (place, "offload", cutter, "card")), "on-reply")

        parked = [fact for _, _, _, fact in result.trace.of_type(Parked) if fact.again]
        again = [fact for _, _, _, fact in result.trace.of_type(FrameSent) if fact.again and fact.place == "guest1.nic"]
        assert len(parked) == count
        assert sum(fact.length for fact in parked) > 1460
        assert len(again) == 1 + pieces  # the first segment had gone again before
