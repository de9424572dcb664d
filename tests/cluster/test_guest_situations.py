"""Every strategy of the guest in every situation in which it is the page's owner, each cell by running its story.

A cell is what the mechanism says, in words: "stale" on the wire, "corrupt" at rest, "delay" (safe, and completed later
than the reply, or the abort), "copy" (safe, and more was copied than the strategy copies by itself), or "safe".
"""

import pytest

from lateack.cluster.experiment import Result, run_experiment
from lateack.cluster.narrative import moments
from lateack.cluster.scenario import load
from lateack.cluster.schema import Scenario

GUESTS = (
    "on-reply", "skb-destructor", "clone-destructor", "no-clone", "zerocopy-on-reply", "copy-on-retransmit",
    "frag-destructor", "msg-zerocopy", "full-copy",
)  # fmt: skip
SITUATIONS = {
    #                     on-reply skb-des clone-d no-clone zc-reply  rtx-copy frag   msg-zc full-copy
    "late-ack":          "stale    stale   .       safe     stale     stale    delay  delay  safe",
    "rpc-retransmit":    "corrupt  delay   .       delay    corrupt   safe     delay  delay  safe",
    "one-loss":          "safe     safe    corrupt safe     safe      safe     safe   safe   safe",
    "udp-retransmit":    "corrupt  corrupt corrupt corrupt  corrupt   corrupt  delay  delay  safe",
    "aborted-call":      "corrupt  delay   delay   delay    corrupt   corrupt  delay  delay  safe",
    "packet-tap":        "stale    stale   stale   safe     safe      stale    delay  safe   safe",
    "rewrite-in-flight": "corrupt  corrupt corrupt corrupt  corrupt   corrupt  corrupt corrupt safe",
    "first-copy-stuck":  "stale    stale   delay   safe     stale     stale    delay  delay  safe",
}  # fmt: skip
CELLS = [
    (story, guest, said)
    for story, line in SITUATIONS.items()
    for guest, said in zip(GUESTS, line.split(), strict=True)
    if said != "."  # it completes before anything can be late: the story is not its own
]


def run(scenario: Scenario) -> Result:
    """Run a scenario in the virtual world."""
    return run_experiment(scenario, "virtual", out=None, address=None, progress=None)


def told(result: Result) -> str:
    """Return in one word what a run has shown."""
    if result.harms:
        words = {"stale-on-wire": "stale", "corrupt-at-rest": "corrupt"}
        assert set(result.harms) <= set(words), result.harms
        return words[result.harms[0]]
    return "delay" if result.verdict.deferred else "safe"


@pytest.mark.parametrize(("story", "guest", "said"), CELLS)
def test_a_strategy_fares_as_its_mechanism_says(story: str, guest: str, said: str) -> None:
    """The run reaches what the story is about, and shows what the table says; what is corrupt was stale on the wire."""
    result = run(load(story).replaced(guest=guest, backend="dev-zerocopy"))

    assert result.verdict.missing == ()
    assert told(result) == said
    assert said != "corrupt" or "stale-on-wire" in result.harms


@pytest.mark.parametrize("reuse", ["reallocated", "copy-on-write"])
@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize(
    "story", ["calm", "rpc-retransmit", "one-loss", "udp-retransmit", "aborted-call", "packet-tap"]
)
def test_only_reuse_in_place_shows_anything(story: str, guest: str, reuse: str) -> None:
    """A page that is freed, or written to after a fork, stays what it is for everybody who still refers to it."""
    result = run(load(story, [f"workload.reuse={reuse}"]).replaced(guest=guest, backend="dev-zerocopy"))

    assert result.harms == []


@pytest.mark.parametrize(
    ("reuse", "said"),
    [("in-place", "stale"), ("half", "stale"), ("reallocated", "safe"), ("copy-on-write", "safe")],
)
def test_half_a_buffer_is_enough(reuse: str, said: str) -> None:
    """The late retransmission shows what lies in the frames that the application gave, wherever it writes next."""
    result = run(load("late-ack", [f"workload.reuse={reuse}"]))

    assert told(result) == said


@pytest.mark.parametrize(("guest", "length"), [("skb-destructor", 262_144), ("clone-destructor", 8192)])
def test_a_destructor_does_not_survive_a_packet_that_exceeds_the_window(guest: str, length: int) -> None:
    """On a calm day: tcp_fragment cuts the packet, the rest has no destructor, and is sent from a page given back.

    Short writes never reach the window if they wait for acknowledgements; if not, the file must be short, too.
    """
    long = run(load("calm").replaced(guest=guest))
    short = run(load("calm", ["workload.write_size=4096", f"workload.bytes={length}"]).replaced(guest=guest))

    assert long.harms == ["corrupt-at-rest", "stale-on-wire"]
    assert short.harms == []


@pytest.mark.parametrize(
    ("story", "overrides", "said"),
    [
        ("first-copy-stuck", ["tcp.host_queue_check=none"], "stale"),
        ("first-copy-stuck", ["tcp.host_queue_check=count"], "stale"),
        ("first-copy-stuck", ["tcp.host_queue_check=suppress"], "safe"),
        ("late-ack", ["tcp.host_queue_check=suppress"], "stale"),
    ],
)
def test_the_host_queue_check_helps_while_the_first_transmission_is_stuck(
    story: str, overrides: list[str], said: str
) -> None:
    """It is no fix of the late ACK: once the first transmission has left, there is nothing for it to find."""
    result = run(load(story, overrides))

    assert told(result) == said


@pytest.mark.parametrize(("device", "said", "hits"), [("card", "safe", 1), ("orphaning", "stale", 0)])
def test_a_driver_that_orphans_blinds_the_host_queue_check(device: str, said: str, hits: int) -> None:
    """On a bare-metal host the clone still waits in the ring, but it names no socket any more."""
    gates = [f"faults.{rule}.gate=guest1.nic" for rule in ("stall", "egress")]
    settings = ["kind=metal", f"host.device={device}", "tcp.host_queue_check=suppress", *gates]

    result = run(load("first-copy-stuck", settings))

    assert told(result) == said
    assert len(list(result.trace.named("HostQueueHit"))) == hits


def test_what_a_tap_has_read_is_told_as_what_a_card_has_read() -> None:
    """The packet that decided is a capture: who reads it, and that these are not the bytes that were handed over."""
    result = run(load("packet-tap"))

    sentences = [moment.sentence for moment in moments(result.trace)]

    assert any("guest1.tap read 4228 bytes" in sentence and "not the bytes" in sentence for sentence in sentences)
