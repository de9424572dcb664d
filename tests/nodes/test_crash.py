"""A server dies at a place in the order of its effects: what is before it has happened, what is behind it has not."""

from collections.abc import Sequence

import pytest

from lateack.nodes.crash import rules_in_force
from lateack.nodes.facts import FrameSent, ServerCrashed, ServerRestarted, WriteCompleted, WriteExecuted
from lateack.nodes.messages import Frames, Noticed
from lateack.nodes.nfs import nfs
from lateack.nodes.nfs.rpc import record_mark
from lateack.nodes.node import MS, Boot, Effect, Halt, Received, Send
from lateack.nodes.rules import FactMatch, FrameMatch, Rule, Trigger
from lateack.nodes.server import Server, after_crashes
from tests.nodes.hand import facts_of, messages_to
from tests.nodes.nfs.conversation import call_record, write_arguments
from tests.nodes.test_server import Client, Hand

HALT = Halt(200 * MS)
CRASHED = ServerCrashed("server.nfsd")


def crash(since: Trigger | None) -> Rule:
    """Return the rule that kills the server."""
    return Rule("death", "crash", "server.nfsd", since=since)


def fact(name: str, nth: int = 1, node: str | None = "server") -> Rule:
    """Return the rule that kills the server when this fact has occurred so many times."""
    return crash(Trigger(facts=(FactMatch(name, node),), nth=nth))


def frame(nth: int = 1, **meant: str) -> Rule:
    """Return the rule that kills the server when so many of these frames have passed its card."""
    return crash(Trigger(frames=(FrameMatch(**meant),), nth=nth))  # type: ignore[arg-type]


def prepared(rule: Rule) -> tuple[Hand, Client, bytes]:
    """Return a server under this rule, a client with a connection, and the handle of its file."""
    hand = Hand(rules=(rule,))
    client = hand.connected()
    return hand, client, hand.create(client, b"f")


def writes(hand: Hand, client: Client, file: bytes, count: int) -> Sequence[Effect]:
    """Bring so many small writes in one burst, each in a frame of its own; return what the server did."""
    for number in range(count):
        record = call_record(nfs.WRITE, write_arguments(file, 10 * number, b"%10d" % number), 100 + number)
        client.send(record_mark(len(record)) + record)
        client.stack.flush(0)
    return hand.handle(Received("network", Frames(tuple(client.nic.take_frames()))))


def frames_in(effects: Sequence[Effect]) -> int:
    """Count the frames that left."""
    return sum(len(message.frames) for message in messages_to(effects, "network") if isinstance(message, Frames))


def test_who_follows_no_rule_is_in_no_danger() -> None:
    """The plain path has nobody who looks at its frames."""
    hand = Hand()

    assert hand.server.doom is None
    assert hand.server.nic.watch is None


def test_what_was_executed_stays_and_its_reply_never_leaves() -> None:
    """The crash comes right behind the fact; neither the reply nor the rest of the burst is heard of."""
    hand, client, file = prepared(fact("WriteExecuted", nth=2))

    effects = writes(hand, client, file, 3)

    assert [executed.xid for executed in facts_of(effects, WriteExecuted)] == [100, 101]
    assert hand.nfs.store.getattr(file).size == 20
    assert list(effects[-2:]) == [CRASHED, HALT]
    assert len(facts_of(effects, FrameSent)) == 1, "the first write's reply had left before"
    assert frames_in(effects) == 1


def test_a_frame_that_kills_the_server_is_not_looked_at() -> None:
    """It has passed the card, and nobody reads it; those before it in the same burst were served."""
    hand, client, file = prepared(frame(nth=2, rpc="WRITE", kind="call"))

    effects = writes(hand, client, file, 3)

    assert [executed.xid for executed in facts_of(effects, WriteExecuted)] == [100]
    assert list(effects[-2:]) == [CRASHED, HALT]


def test_a_frame_that_leaves_has_left() -> None:
    """The crash comes behind the second reply, which is still under way, and before the third."""
    hand, client, file = prepared(frame(nth=3, kind="reply"))  # the first was CREATE's

    effects = writes(hand, client, file, 3)

    assert frames_in(effects) == len(facts_of(effects, FrameSent)) == 2
    assert isinstance(effects[-3], Send)
    assert list(effects[-2:]) == [CRASHED, HALT]


def test_the_fact_of_a_frame_leaves_with_it() -> None:
    """A rule that waits for FrameSent sees the frame off."""
    hand, client, file = prepared(fact("FrameSent", nth=4))

    effects = writes(hand, client, file, 3)

    sent = len(facts_of(effects, FrameSent))
    assert frames_in(effects) == sent
    assert effects[-1] == HALT


def test_news_of_another_machine_kills() -> None:
    """What a guest records can be what the rule waits for."""
    hand, _, _ = prepared(fact("WriteCompleted", node="guest1"))
    news = Noticed("guest1", WriteCompleted(1, "f", 0, 10, MS))

    effects = hand.handle(Received("guest1", news))

    assert list(effects) == [CRASHED, HALT]


def test_news_for_a_rule_that_is_over_are_no_news() -> None:
    """The machine whose fact the rule waited for goes on telling of them, when the server has come back without it."""
    hand = Hand(rules=(fact("WriteCompleted", node="guest1"),))
    server = Server(after_crashes(hand.server.config, 1), hand.store)
    server.handle(Boot(), MS)

    effects = server.handle(Received("guest1", Noticed("guest1", WriteCompleted(1, "f", 0, 10, MS))), MS)

    assert list(effects) == []


def test_who_waits_for_nothing_dies_at_boot() -> None:
    """A rule without a trigger acts at once."""
    hand = Hand(rules=(crash(None),))

    assert hand.of(ServerCrashed) == [CRASHED]


def test_crashes_come_one_after_the_other() -> None:
    """Each life waits for the next rule; when all are over none is left."""
    first, gate, second = fact("WriteExecuted"), Rule("gate", "gate", "server.nic"), fact("FrameSent")

    lives = [rules_in_force((first, gate, second), deaths) for deaths in range(3)]

    assert lives == [(first, gate), (gate, second), (gate,)]


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_server_that_is_back_is_another_one(deaths: int) -> None:
    """Its verifier is new, no old segment fits its connections, and it says that it is back."""
    hand = Hand(rules=(fact("WriteExecuted"),) * 3)
    config = after_crashes(hand.server.config, deaths)
    server = Server(config, hand.store)

    effects = server.handle(Boot(), MS)

    assert config.verifier != hand.server.config.verifier
    assert facts_of(effects, ServerRestarted) == [ServerRestarted("server.nfsd", config.verifier)]
    assert (server.stack.isn - hand.server.stack.isn) & 0xFFFF_FFFF > 1 << 20
