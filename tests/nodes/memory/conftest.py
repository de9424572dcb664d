"""What the tests of shared memory have in common: a way to look, or to meddle, between any two steps of a call."""

import sys
from collections.abc import Callable
from types import FrameType

import pytest

StepThrough = Callable[[Callable[[], object], Callable[[int], None]], object]


def _step_through(action: Callable[[], object], watch: Callable[[int], None]) -> object:
    """Run `action` and call `watch(n)` before its n-th bytecode instruction; return what the action returned."""
    steps = 0

    def trace(frame: FrameType, event: str, _: object) -> object:
        nonlocal steps
        frame.f_trace_opcodes = True
        if event == "opcode":
            watch(steps)
            steps += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        return action()
    finally:
        sys.settrace(before)


@pytest.fixture
def step_through() -> StepThrough:
    """Give a test the function that stops a call between any two instructions."""
    return _step_through
