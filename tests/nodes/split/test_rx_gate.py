"""The gate at a guest's receive buffers."""

from lateack.nodes.messages import Notify
from lateack.nodes.split.rx_gate import ReceiveGate
from tests.nodes.hand import Pair, messages_to, udp_frame


def test_behind_a_closed_gate_buffers_are_used_and_not_offered_again() -> None:
    """The guest takes what has found a buffer; then everything waits in the backend until the gate opens."""
    pair = Pair(rx_target=2)
    gate = ReceiveGate(pair.netfront)
    gate.on()
    taken = pair.deliver(*[udp_frame(b"%d" % number) for number in range(3)])
    kept, waiting = gate.waiting(), len(pair.vif.rx_queue)

    gate.off()
    rest = pair.deliver()

    assert [frame[42:] for frame in taken + rest] == [b"0", b"1", b"2"]
    assert (kept, waiting) == (2, 1)
    assert messages_to(pair.front.effects, "backend") == [Notify(1)]
    assert gate.waiting() == 0
