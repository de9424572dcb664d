"""Claims about causal rules: what they wait for, when they act, and what they pick."""

import pickle

from hypothesis import given, strategies as st
from msgspec.structs import replace

from lateack.nodes.facts import Connected, GateOpened, Parked, RetransmitTimedOut
from lateack.nodes.rules import ACTIVE, OVER, WAITING, FactMatch, FrameMatch, Rule, RuleState, Trigger, facts_awaited
from lateack.nodes.stack.dissect import Dissection

WRITE = Dissection("guest", "server", "tcp", kind="call", rpc="WRITE")
CREATE = Dissection("guest", "server", "tcp", kind="call", rpc="CREATE")
REPLY = Dissection("server", "guest", "tcp", kind="reply")
BACK_ACK = Dissection("server", "guest", "tcp", kind="ack")
TIMEOUT = RetransmitTimedOut("flow", 1, 200)
AGAIN = Parked("backend.nic", "flow", 1, 10, True)
FIRST = Parked("backend.nic", "flow", 1, 10, False)


def test_an_empty_match_means_every_frame() -> None:
    """What is not named matches everything."""
    assert all(FrameMatch().fits(frame) for frame in (WRITE, REPLY, Dissection()))


def test_every_named_field_must_fit() -> None:
    """Source, target, protocol, procedure and kind narrow a match, each alone."""
    exact = {"source": "guest", "target": "server", "protocol": "tcp", "rpc": "WRITE", "kind": "call"}

    assert FrameMatch(**exact).fits(WRITE)  # type: ignore[arg-type]
    for field in exact:
        assert not replace(FrameMatch(**exact), **{field: "other"}).fits(WRITE)  # type: ignore[arg-type]
        assert not replace(FrameMatch(), **{field: "other"}).fits(WRITE)


def test_a_connection_is_told_by_the_port_of_either_end() -> None:
    """The whole port, the sender's or the receiver's, and nothing that only looks like it."""
    there = Dissection(flow="10.0.0.11:700>10.0.1.1:2049")
    back = Dissection(flow="10.0.1.1:2049>10.0.0.11:700")

    found = [[FrameMatch(port=port).fits(frame) for frame in (there, back)] for port in (700, 2049, 70, 49, 204)]

    assert found == [[True, True], [True, True], [False, False], [False, False], [False, False]]
    assert not FrameMatch(port=700).fits(Dissection(flow="10.0.0.11>10.0.1.1"))


def test_a_fact_is_meant_by_type_machine_and_values() -> None:
    """The name of the type, who recorded it, and the fields that are given."""
    match = FactMatch("Parked", "backend", (("again", True),))

    assert match.fits("backend", AGAIN)
    assert not match.fits("backend", FIRST)
    assert not match.fits("guest", AGAIN)
    assert not match.fits("backend", TIMEOUT)
    assert FactMatch("Parked").fits("anybody", FIRST)


def test_without_since_a_rule_acts_from_the_start_and_without_until_to_the_end() -> None:
    """Nothing that passes or happens changes it."""
    state = RuleState(Rule("always", "hold", frames=FrameMatch(kind="ack")))

    changed = [state.frame_passed(BACK_ACK), state.fact_occurred("guest", TIMEOUT)]

    assert (state.state, changed) == (ACTIVE, [False, False])
    assert state.picks(BACK_ACK) and not state.picks(WRITE)


def test_a_rule_waits_acts_and_is_over() -> None:
    """since, then until, then nothing ever again; only in between does it pick."""
    rule = Rule(
        "late-ack",
        "hold",
        frames=FrameMatch(source="server"),
        since=Trigger(frames=(FrameMatch(rpc="WRITE"),)),
        until=Trigger(facts=(FactMatch("RetransmitTimedOut"),)),
    )
    state = RuleState(rule)
    states, picked = [], []

    for thing in (TIMEOUT, CREATE, WRITE, WRITE, TIMEOUT, WRITE, TIMEOUT):
        picked.append(state.picks(BACK_ACK))
        if isinstance(thing, Dissection):
            state.frame_passed(thing)
        else:
            state.fact_occurred("guest", thing)
        states.append(state.state)

    assert states == [WAITING, WAITING, ACTIVE, ACTIVE, OVER, OVER, OVER]
    assert picked == [False, False, False, True, True, False, False]


def test_one_event_never_both_starts_and_ends_a_rule() -> None:
    """A frame that means both begins it; the next one ends it."""
    write = Trigger(frames=(FrameMatch(rpc="WRITE"),))
    state = RuleState(Rule("between", "gate", since=write, until=write))

    first = (state.frame_passed(WRITE), state.state)
    second = (state.frame_passed(WRITE), state.state)

    assert (first, second) == ((True, ACTIVE), (True, OVER))


def test_any_of_several_triggers_will_do() -> None:
    """Frames and facts of one trigger are alternatives, and each occurrence of any counts."""
    either = Trigger(
        frames=(FrameMatch(kind="reply"), FrameMatch(rpc="CREATE")),
        facts=(FactMatch("Connected"), FactMatch("Parked")),
        nth=3,
    )

    for things in ((REPLY, CREATE, REPLY), (Connected("f"), FIRST, AGAIN), (REPLY, FIRST, CREATE)):
        state = RuleState(Rule("any", "gate", since=either))
        for thing in (WRITE, TIMEOUT, *things):
            assert state.state == WAITING
            if isinstance(thing, Dissection):
                state.frame_passed(thing)
            else:
                state.fact_occurred("m", thing)
        assert state.state == ACTIVE


def test_the_nth_is_counted_from_the_moment_the_rule_waits_for_it() -> None:
    """What happened before `since` does not count towards `until`."""
    rule = Rule(
        "count",
        "gate",
        since=Trigger(facts=(FactMatch("GateOpened"),)),
        until=Trigger(facts=(FactMatch("Parked"),), nth=2),
    )
    state = RuleState(rule)

    for _ in range(5):
        state.fact_occurred("backend", FIRST)
    state.fact_occurred("backend", GateOpened("r", "p", 0))
    changed = [state.fact_occurred("backend", FIRST), state.fact_occurred("backend", FIRST)]

    assert (changed, state.state) == ([False, True], OVER)


def test_single_frames_are_picked_by_their_number_among_those_that_match() -> None:
    """`nth` counts matching frames while the rule acts; empty means all of them."""
    state = RuleState(
        Rule("drop", "drop", frames=FrameMatch(rpc="WRITE"), since=Trigger(facts=(FactMatch("Connected"),)), nth=(1, 3))
    )

    before = state.picks(WRITE)
    state.fact_occurred("guest", Connected("f"))
    picked = [state.picks(frame) for frame in (CREATE, WRITE, CREATE, WRITE, WRITE, WRITE)]

    assert (before, picked) == (False, [False, True, False, False, True, False])


def test_a_rule_says_what_it_looks_at() -> None:
    """A machine need not dissect frames that mean nothing to any rule, nor ship facts that none waits for."""
    gate = Rule("gate", "gate", since=Trigger(facts=(FactMatch("Connected"),)), until=Trigger(frames=(FrameMatch(),)))
    hold = Rule("hold", "hold", until=Trigger(facts=(FactMatch("Parked"), FactMatch("GateOpened"))))
    waiting, active = RuleState(gate), RuleState(hold)
    acting = RuleState(gate)
    acting.fact_occurred("guest", Connected("f"))

    assert [state.looks_at_frames() for state in (waiting, acting, active)] == [False, True, True]
    assert facts_awaited((gate, hold)) == {"Connected", "Parked", "GateOpened"}
    assert facts_awaited(()) == frozenset()


def test_a_pickled_rule_goes_on_where_it_was() -> None:
    """State is plain data: a copy that travelled between processes waits, acts and ends as the original does."""
    rule = Rule(
        "late", "hold", since=Trigger(frames=(FrameMatch(rpc="WRITE"),)), until=Trigger(facts=(FactMatch("Parked"),))
    )
    waiting = pickle.loads(pickle.dumps(RuleState(rule)))
    waiting.frame_passed(WRITE)
    active = pickle.loads(pickle.dumps(waiting))
    picks = active.picks(WRITE)
    active.fact_occurred("backend", FIRST)

    assert (waiting.state, picks, active.state) == (ACTIVE, True, OVER)


@given(st.integers(1, 5), st.integers(1, 5), st.lists(st.sampled_from((WRITE, CREATE, REPLY)), max_size=30))
def test_a_rule_only_goes_forward_and_counts_right(first: int, second: int, frames: list[Dissection]) -> None:
    """WAITING, ACTIVE, OVER, changed at exactly the nth match, whatever else passes."""
    write = (FrameMatch(rpc="WRITE"),)
    state = RuleState(
        Rule("r", "gate", since=Trigger(frames=write, nth=first), until=Trigger(frames=write, nth=second))
    )

    seen = 0
    for frame in frames:
        changed = state.frame_passed(frame)
        seen += frame is WRITE
        assert changed == (frame is WRITE and seen in (first, first + second))

    assert state.state == (WAITING if seen < first else ACTIVE if seen < first + second else OVER)
