"""The RST of a machine on the way: whom it reaches, and that its receiver believes it."""

import pytest

from lateack.nodes.facts import ConnectionReset
from lateack.nodes.stack.forged_reset import reset_for
from lateack.nodes.stack.packets import ACK, PSH, RST, SYN, parse
from lateack.nodes.stack.tcp import CLOSED
from tests.nodes.hand import SERVER_MAC, tcp_frame, udp_frame
from tests.nodes.stack.fakes import GUEST, PORT, SERVER, Host, wire


def test_a_segment_is_refused_where_its_sender_expects_the_next_byte() -> None:
    """From the receiver's addresses and ports to the sender's, without an acknowledgement (RFC 9293 3.10.7.1)."""
    frame = tcp_frame(b"data", seq=70, ack=900, flags=ACK | PSH)

    answer = reset_for(frame)

    assert answer is not None
    segment, refused = parse(answer), parse(frame)
    assert (segment.flags, segment.seq, segment.payload) == (RST, 900, b"")
    assert (segment.source, segment.sport) == (refused.target, refused.dport)
    assert (segment.target, segment.dport) == (refused.source, refused.sport)
    assert answer[6:12] == SERVER_MAC == frame[:6]


def test_a_syn_is_refused_by_its_own_number() -> None:
    """It expects nothing yet: the answer acknowledges it."""
    answer = reset_for(tcp_frame(seq=0xFFFF_FFFF, flags=SYN))

    assert answer is not None
    segment = parse(answer)
    assert (segment.flags, segment.seq, segment.ack) == (RST | ACK, 0, 0)


@pytest.mark.parametrize("frame", [tcp_frame(flags=RST), udp_frame(b"data"), tcp_frame(b"data")[:50], b""])
def test_what_has_no_connection_is_not_answered(frame: bytes) -> None:
    """Datagrams, broken segments, and a RST, which must never be answered by another."""
    assert reset_for(frame) is None


def test_a_real_sender_believes_it() -> None:
    """In the middle of a connection as well as at its SYN."""
    link = wire()
    near, _ = link.connect()
    link.client.send(near, b"refused", link.now)
    (frame,) = link.client.nic.take_frames()
    young = Host(GUEST)
    opening = young.stack.connect(SERVER, PORT, 0)
    (syn,) = young.nic.take_frames()

    for host, sent in ((link.client, frame), (young, syn)):
        answer = reset_for(sent)
        assert answer is not None
        host.stack.receive(answer, link.now)

    assert near.state == opening.state == CLOSED
    assert [fact.reason for fact in young.effects if isinstance(fact, ConnectionReset)] == [
        "the peer refused the connection"
    ]
