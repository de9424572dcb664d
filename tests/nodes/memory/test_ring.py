"""Claims about the shared ring: nothing is lost, nobody sleeps through work, and a liar is seen."""

import copy
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings, strategies as st

from lateack.nodes.errors import RingBroken
from lateack.nodes.memory.pages import Memory
from lateack.nodes.memory.ring import (
    REQ_EVENT,
    REQ_PROD,
    RSP_EVENT,
    RSP_PROD,
    BackRing,
    FrontRing,
    init_shared_ring,
    ring_size,
)

StepThrough = Callable[[Callable[[], object], Callable[[int], None]], object]

FRAME = 1
HEADER = 1024
WRAP = 1 << 32
SLOT = 12


def make_ring(start: int = 0, shared: bool = False) -> tuple[Memory, FrontRing, BackRing]:
    """Make an empty ring whose indices stand at `start`, and both its ends."""
    memory = Memory(1, 2, shared=shared)
    init_shared_ring(memory, FRAME)
    for word in (REQ_PROD, RSP_PROD):
        memory.words[HEADER + word] = start % WRAP
    for word in (REQ_EVENT, RSP_EVENT):
        memory.words[HEADER + word] = (start + 1) % WRAP
    return memory, FrontRing(memory, FRAME, SLOT), BackRing(memory, FRAME, SLOT)


def test_a_new_ring_has_xens_header() -> None:
    """Initialising clears the header and asks for a notification of the first request and the first response."""
    memory = Memory(1, 2)
    memory.write(FRAME, 0, b"\xff" * 64)

    init_shared_ring(memory, FRAME)

    assert memory.read(FRAME, 0, 64) == bytes.fromhex("00000000010000000000000001000000") + bytes(48)


@pytest.mark.parametrize(("slot_size", "slots"), [(12, 256), (8, 256), (16, 128), (112, 32)])
def test_a_ring_holds_a_power_of_two_of_slots(slot_size: int, slots: int) -> None:
    """As many slots as fit behind the header, rounded down."""
    assert ring_size(slot_size) == slots


@pytest.mark.parametrize(
    ("old", "new", "event", "notify"),
    [
        (3, 5, 4, True),
        (3, 5, 5, True),
        (3, 5, 6, False),
        (3, 5, 3, False),
        (4, 4, 4, False),
        (WRAP - 1, 1, 0, True),
        (WRAP - 1, 1, 1, True),
        (WRAP - 1, 1, 2, False),
        (WRAP - 1, 1, WRAP - 1, False),
        (WRAP - 2, 0, 0, True),
    ],
)
def test_a_push_notifies_exactly_when_it_passes_the_event(old: int, new: int, event: int, notify: bool) -> None:
    """The other side is woken when old < event <= new, also across 2^32, for requests and for responses."""
    memory, front, back = make_ring(old)
    memory.words[HEADER + REQ_EVENT] = memory.words[HEADER + RSP_EVENT] = event
    front.req_prod_pvt = back.rsp_prod_pvt = new

    assert front.push_requests() is notify
    assert back.push_responses() is notify
    assert (memory.words[HEADER + REQ_PROD], memory.words[HEADER + RSP_PROD]) == (new, new)


def test_slots_are_seen_only_after_the_push() -> None:
    """A burst is invisible until one push publishes all of it."""
    _, front, back = make_ring()
    addresses = [front.next_request() for _ in range(3)]

    before = back.unconsumed_requests()
    notify = front.push_requests()

    assert (before, back.unconsumed_requests(), notify) == (0, 3, True)
    assert [back.next_request() for _ in range(3)] == addresses == [4096 + 64, 4096 + 76, 4096 + 88]


def test_indices_run_through_two_to_the_32() -> None:
    """Slots, free space and waiting work are right while the indices wrap."""
    _, front, back = make_ring(WRAP - 2)
    asked = [front.next_request() for _ in range(5)]
    front.push_requests()

    taken = [back.next_request() for _ in range(back.unconsumed_requests())]
    answered = [back.next_response() for _ in range(5)]
    back.push_responses()
    read = [front.next_response() for _ in range(front.unconsumed_responses())]

    assert asked == taken == answered == read
    assert len(asked) == 5
    assert (front.req_prod_pvt, back.req_cons, front.free_requests()) == (3, 3, 256)


def test_a_full_ring_takes_no_request() -> None:
    """256 requests fill the ring, and only a consumed response makes room."""
    _, front, back = make_ring(WRAP - 100)
    for _ in range(256):
        front.next_request()
    front.push_requests()

    with pytest.raises(AssertionError, match="full ring"):
        front.next_request()
    back.next_request()
    back.next_response()
    back.push_responses()
    full = front.free_requests()
    front.next_response()

    assert (full, front.free_requests()) == (0, 1)


def test_a_response_needs_a_request() -> None:
    """A backend that answers more than it took has a bug."""
    _, _, back = make_ring()

    with pytest.raises(AssertionError, match="no request"):
        back.next_response()


def test_a_lying_frontend_is_seen() -> None:
    """A request index beyond the ring is an overflow, and the backend never takes more than the ring holds."""
    memory, _, back = make_ring(WRAP - 5)

    memory.words[HEADER + REQ_PROD] = 251
    honest = (back.requests_overflowed(), back.unconsumed_requests())
    memory.words[HEADER + REQ_PROD] = 252
    lying = (back.requests_overflowed(), back.unconsumed_requests())

    assert (honest, lying) == ((False, 256), (True, 256))


def test_a_lying_backend_is_seen() -> None:
    """A response index beyond the ring is an overflow."""
    memory, front, _ = make_ring()

    memory.words[HEADER + RSP_PROD] = 256
    honest = front.responses_overflowed()
    memory.words[HEADER + RSP_PROD] = 257

    assert (honest, front.responses_overflowed()) == (False, True)


def test_a_backend_attaches_where_the_last_one_stopped() -> None:
    """A new backend sees the unanswered requests again, and refuses indices that cannot be."""
    memory, front, old = make_ring(WRAP - 1)
    addresses = [front.next_request() for _ in range(3)]
    front.push_requests()
    for _ in range(3):
        old.next_request()
    old.next_response()
    old.push_responses()

    new = BackRing(memory, FRAME, SLOT)
    waiting = new.unconsumed_requests()
    memory.words[HEADER + REQ_PROD] = 257

    assert waiting == 2
    assert new.next_request() == addresses[1]
    with pytest.raises(RingBroken, match="do not connect this frontend"):
        BackRing(memory, FRAME, SLOT)


def test_a_copied_ring_goes_its_own_way() -> None:
    """Both ends of a deep copy share the copied page, and not the original."""
    _, front, back = make_ring()
    front.next_request()

    twin_front, twin_back = copy.deepcopy((front, back))
    twin_front.push_requests()

    assert (twin_back.unconsumed_requests(), back.unconsumed_requests()) == (1, 0)


def make_ring_behind_its_events(shared: bool) -> tuple[Memory, FrontRing, BackRing]:
    """Make a ring on which both sides have moved on since they last asked to be notified."""
    memory, front, back = make_ring(WRAP - 1, shared)
    front.next_request()
    front.push_requests()
    back.next_request()
    back.next_response()
    back.push_responses()
    front.next_response()
    return memory, front, back


@pytest.mark.parametrize("shared", [False, True])
def test_no_request_falls_between_the_check_and_sleep(step_through: StepThrough, shared: bool) -> None:
    """Wherever a push falls into the final check, the check sees the request or the push asks for a wake-up."""
    outcomes = set()
    for moment in range(150):
        _, front, back = make_ring_behind_its_events(shared)
        notified: list[bool] = []

        def meddle(step: int, moment: int = moment, front: FrontRing = front, notified: list[bool] = notified) -> None:
            if step == moment:
                front.next_request()
                notified.append(front.push_requests())

        seen = step_through(back.final_check_for_requests, meddle)
        outcomes.add((bool(seen), *notified))

    # Before the event is set, between that and the last look, after it, and not at all (the check was over).
    assert outcomes == {(True, False), (True, True), (False, True), (False,)}


@pytest.mark.parametrize("shared", [False, True])
def test_no_response_falls_between_the_check_and_sleep(step_through: StepThrough, shared: bool) -> None:
    """Wherever a final check falls into a push, the push asks for a wake-up or the check sees the response."""
    outcomes = set()
    for moment in range(150):
        _, front, back = make_ring_behind_its_events(shared)
        front.next_request()
        front.push_requests()
        back.next_request()
        back.next_response()
        seen: list[bool] = []

        def meddle(step: int, moment: int = moment, front: FrontRing = front, seen: list[bool] = seen) -> None:
            if step == moment:
                seen.append(front.final_check_for_responses() > 0)

        notify = step_through(back.push_responses, meddle)
        outcomes.add((notify, *seen))

    assert outcomes == {(True, False), (False, True), (False,)}


class Side:
    """One side of the conversation, which sleeps when its final check finds nothing, until it is notified."""

    def __init__(self, start: int) -> None:
        """Begin awake, as a driver that has just connected."""
        self.awake = True
        self.next_number = start


def front_step(memory: Memory, front: FrontRing, side: Side, burst: int) -> bool:
    """Put up to `burst` numbered requests, push, and check the numbers of all responses; True to notify."""
    for _ in range(min(burst, front.free_requests())):
        number = front.req_prod_pvt
        memory.words[front.next_request() >> 2] = number
    notify = front.push_requests()
    if side.awake:
        while front.unconsumed_responses():
            assert memory.words[front.next_response() >> 2] == side.next_number ^ 0xFFFF
            side.next_number = (side.next_number + 1) % WRAP
        side.awake = front.final_check_for_responses() > 0
    return notify


def back_step(memory: Memory, back: BackRing, side: Side, budget: int) -> bool:
    """Take up to `budget` requests, check their numbers, answer each, push; True to notify."""
    for _ in range(min(budget, back.unconsumed_requests())):
        assert memory.words[back.next_request() >> 2] == side.next_number
        memory.words[back.next_response() >> 2] = side.next_number ^ 0xFFFF
        side.next_number = (side.next_number + 1) % WRAP
    notify = back.push_responses()
    side.awake = back.final_check_for_requests() > 0
    return notify


@settings(max_examples=60, deadline=None)
@given(st.integers(0, WRAP - 1), st.lists(st.tuples(st.booleans(), st.integers(0, 300)), max_size=60))
@example(WRAP - 3, [(True, 300), (False, 300), (True, 300)])
def test_a_conversation_of_sleepers_loses_nothing(start: int, turns: list[tuple[bool, int]]) -> None:
    """Whoever moves when, each request is answered once, in order, though both sides wake only when told."""
    memory, front, back = make_ring(start)
    guest, host = Side(start), Side(start)

    def turn(front_moves: bool, amount: int) -> None:
        if front_moves:
            host.awake |= front_step(memory, front, guest, amount)
        elif host.awake:
            guest.awake |= back_step(memory, back, host, amount)
        assert not back.requests_overflowed()
        assert not front.responses_overflowed()

    for front_moves, amount in turns:
        turn(front_moves, amount)
    for _ in range(20):
        turn(True, 0)
        turn(False, 256)

    assert guest.next_number == host.next_number == front.req_prod_pvt
    assert front.free_requests() == 256
    assert not guest.awake
    assert not host.awake
