"""Hybrid logical clocks: later for every cause, and never far from the time on the wall."""

from hypothesis import given, strategies as st

from lateack.cluster.clock import HybridClock

PROCESSES = 3
# Each step: who, how much its physical clock moves on, and whether it sends to somebody (or None: a local event).
STEPS = st.lists(
    st.tuples(st.integers(0, PROCESSES - 1), st.integers(0, 3), st.one_of(st.none(), st.integers(0, PROCESSES - 1))),
    max_size=80,
)
SKEWS = st.lists(st.integers(0, 20), min_size=PROCESSES, max_size=PROCESSES)


def stamp(clock: HybridClock) -> tuple[int, int]:
    """Return a clock's reading."""
    return clock.wall, clock.logical


@given(STEPS, SKEWS)
def test_causes_are_stamped_before_their_effects(steps: list[tuple[int, int, int | None]], skews: list[int]) -> None:
    """Each event's stamp is greater than the last one's of its process, and than the stamp of a message received."""
    clocks, times = [HybridClock() for _ in range(PROCESSES)], list(skews)

    for who, passed, target in steps:
        times[who] += passed
        before = stamp(clocks[who])
        clocks[who].tick(times[who])
        assert stamp(clocks[who]) > before
        if target is not None and target != who:
            sent, before = stamp(clocks[who]), stamp(clocks[target])
            clocks[target].observe(times[target], *sent)
            assert stamp(clocks[target]) > max(sent, before)


@given(STEPS, SKEWS)
def test_a_clock_stays_between_its_own_time_and_the_latest(
    steps: list[tuple[int, int, int | None]], skews: list[int]
) -> None:
    """The wall part is never behind the process's own clock, nor ahead of the fastest (Kulkarni 2014, theorem 2)."""
    clocks, times = [HybridClock() for _ in range(PROCESSES)], list(skews)

    for who, passed, target in steps:
        times[who] += passed
        clocks[who].tick(times[who])
        if target is not None and target != who:
            clocks[target].observe(times[target], *stamp(clocks[who]))
            assert times[target] <= clocks[target].wall <= max(times)
        assert times[who] <= clocks[who].wall <= max(times)


def test_the_logical_part_starts_again_when_time_moves_on() -> None:
    """It counts only what happens within one reading of the clock."""
    clock = HybridClock()

    clock.observe(5, 9, 4)
    clock.tick(6)
    assert stamp(clock) == (9, 6)
    clock.tick(10)

    assert stamp(clock) == (10, 0)


def test_equal_walls_take_the_greater_logical_part() -> None:
    """A message of the same wall reading is still followed, not met."""
    clock = HybridClock()
    clock.tick(9)

    clock.observe(9, 9, 7)

    assert stamp(clock) == (9, 8)
