"""Timers against the obvious way to keep them."""

from hypothesis import given, strategies as st

from lateack.cluster.live.timers import NEVER, STALE_MAX, Timers

ORDERS = st.lists(st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), st.integers(-5, 50))), max_size=60)


@given(ORDERS)
def test_timers_come_due_in_order(orders: list[tuple[str, int | None]]) -> None:
    """Whatever was set, replaced and cancelled, what is left comes due by time, then in the order of setting."""
    timers, expected = Timers(), dict[str, tuple[int, int]]()
    for turn, (name, at) in enumerate(orders):
        if at is None:
            timers.cancel(name)
            expected.pop(name, None)
        else:
            timers.set(name, at)
            expected[name] = (at, turn)

    found = []
    while timers.next_deadline() < NEVER:
        found.append((timers.next_deadline(), timers.take_next()))

    assert found == [(at, name) for at, _, name in sorted((at, turn, name) for name, (at, turn) in expected.items())]
    assert len(timers) == 0


def test_a_timer_set_again_and_again_takes_no_room() -> None:
    """A retransmission timer is set anew with every acknowledgement: what it replaces is thrown out in time."""
    timers = Timers()

    for at in range(10_000):
        timers.set("rto", at)

    assert len(timers._heap) <= STALE_MAX + 2
    assert timers.next_deadline() == 9_999
