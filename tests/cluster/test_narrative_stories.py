"""Every story is told as it went, under strategies that fail and under those that do not."""

import pytest

from lateack.cluster import plugins
from lateack.cluster.experiment import Session
from lateack.cluster.narrative import MOMENTS_MAX, moments
from lateack.cluster.scenario import list_stories, load_story
from lateack.cluster.trace import Trace
from lateack.nodes import facts
from tests.cluster.late_write import in_order, sentences

GUEST, BACKEND = "guest", "backend"


def told(story: str, *, guest: str | None = None, backend: str | None = None) -> tuple[str, Trace]:
    """What is told of a story, line by line, and its trace."""
    with Session("virtual") as session:
        trace = session.run(load_story(story).replaced(guest=guest, backend=backend)).trace
    return sentences(moments(trace)), trace


def test_a_block_driver_writes_for_a_guest() -> None:
    """The write is the backend's, the pages are the guest's, and the driver takes them away when the reply is here."""
    text, _ = told("block-path", guest="on-reply")

    assert in_order(
        text,
        "For the disk of guest1, the backend wrote 4096 bytes at offset 0 of input.bin from the guest's frame 31",
        "No acknowledgement came within",
        "while a packet with its bytes still waited at backend.nic: the disk's driver unmapped the page and answered",
        "The application refilled frame 31, which the waiting packet shows",
        "backend.nic touched frame 31 of domain 1, which the packet shows and which was no longer mapped.",
        "The file is intact; the host would have gone down over that packet.",
    )


def test_an_abort_is_no_reply() -> None:
    """The application gives up; whoever waits for its fragments keeps the buffer all the same."""
    given, _ = told("aborted-call", guest="on-reply")
    kept, _ = told("aborted-call", guest="frag-destructor")

    assert in_order(given, "the application gave up on the call, while a packet", "which the waiting packet shows")
    assert in_order(kept, "gave up on the call, but its buffer stayed away", "it came back at", "only now")
    assert "The reply" not in given + kept


@pytest.mark.parametrize(("story", "guest"), [("one-loss", "clone-destructor"), ("udp-retransmit", "skb-destructor")])
def test_a_destructor_completes_before_any_reply(story: str, guest: str) -> None:
    """What completes the write is named only where the trace knows it."""
    text, _ = told(story, guest=guest)

    assert in_order(
        text, "was completed after 0.000 ms, before any reply", "whose old bytes were still to be sent again"
    )


def test_who_rewrites_in_flight_is_told() -> None:
    """The application has not waited for anything."""
    text, _ = told("rewrite-in-flight")

    assert in_order(
        text, "rewrote frames 62-63, although its write was not done", "not the bytes that were handed over"
    )


@pytest.mark.parametrize(
    ("story", "side", "strategy", "outcome"),
    [
        ("packet-tap", GUEST, "on-reply", "The file is intact; what guest1.tap read was not."),
        ("packet-tap", GUEST, "msg-zerocopy", "frame 63, of which the packet has a copy"),
        (
            "packet-tap",
            GUEST,
            "frag-destructor",
            "guest1.tap read 4228 bytes of sequence 2515258128, and they are still",
        ),
        ("host-tap", BACKEND, "skb-destructor", "backend.tap touched frame"),
        ("bridge-flood", BACKEND, "skb-destructor", "backend.mirror touched frame"),
        ("bridge-flood", BACKEND, "frag-destructor", "backend.mirror read 4228 bytes"),
        ("split-and-expand", BACKEND, "shinfo-destructor", "backend.nic touched frame"),
        ("loopback-server", GUEST, "on-reply", "guest1.reader read 4228 bytes"),
    ],
)
def test_late_readers_are_told(story: str, side: str, strategy: str, outcome: str) -> None:
    """A packet waits for somebody who had kept it, and is read, or touched."""
    text, _ = told(story, **{side: strategy})

    assert in_order(text, "behind the gate at", "The gate opened, and")
    assert outcome in text


def test_drivers_that_come_and_go_are_told() -> None:
    """They are why a packet's pages are gone, or why they are not."""
    crashed, _ = told("netback-crash")
    detached, _ = told("frontend-detach")

    assert in_order(
        crashed,
        "netback died with 1 packet of mapped pages in the host's stack: what it had mapped was taken from it.",
        "netback was back, knew nothing of before",
        "backend.nic touched frame",
    )
    assert in_order(
        detached, "The frontend of guest1 was detached, with 2 requests", "the backend let its interface go"
    )


def test_datagrams_are_told_beside_the_copy() -> None:
    """Who sent them to whom, who took none of them, and when their pages came back."""
    stalled, _ = told("stalled-neighbour", backend="frag-destructor")
    silent, _ = told("silent-socket", backend="lazy-copy")

    assert in_order(
        stalled,
        "guest1 sent 12 datagrams of 4096 bytes to guest2",
        "guest2.vif gave up 10 packets",
        "The last of the pages came back after 300.000 ms.",
    )
    assert in_order(
        silent, "guest2 sent 120 datagrams of 256 bytes to a socket of the host", "The backend copied 240 pages"
    )


def test_a_suppressed_retransmission_is_told() -> None:
    """TCP's own check of 2014."""
    with Session("virtual") as session:
        story = load_story("first-copy-stuck")
        tcp = story.tcp.model_copy(update={"host_queue_check": "count"})
        text = sentences(moments(session.run(story.model_copy(update={"tcp": tcp})).trace))

    assert "TCP found an earlier clone of the segment still below it, and sent another all the same." in text


@pytest.mark.parametrize("story", list_stories())
def test_what_is_told_is_in_the_trace(story: str) -> None:
    """Under every strategy: few moments, a reply only where one came, nothing calm where something went wrong."""
    scenario = load_story(story)
    guests, backends = plugins.names_for(scenario.kind), plugins.names("backend")
    pairs = [(name, None) for name in guests] + [(None, name) for name in backends]
    with Session("virtual") as session:
        for guest, backend in pairs:
            result = session.run(scenario.replaced(guest=guest, backend=backend))

            found = moments(result.trace)
            text = sentences(found)

            assert 1 <= len(found) <= MOMENTS_MAX
            assert not (result.harms and "nothing went wrong" in text), (guest, backend, text)
            replied = {(node, fact.xid) for _, _, node, fact in result.trace.of_type(facts.ReplyMatched)}
            assert "The reply c" not in text or replied
