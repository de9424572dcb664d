"""Claims about what a sniffer reads off a frame."""

from hypothesis import given, strategies as st

from lateack.nodes.stack.dissect import Dissection, dissect
from lateack.nodes.stack.packets import ACK, PSH, SYN
from lateack.nodes.stack.recognise import NFS_PROCEDURES
from tests.nodes.stack.fakes import GUEST, SERVER, slow_ip, slow_tcp, slow_udp

NAMES = {GUEST: "guest", SERVER: "server"}
FLOW = "10.0.0.1:700>10.0.0.2:2049"


def call(procedure: int, xid: int = 7, program: int = 100003) -> bytes:
    """Return the beginning of an RPC call as RFC 5531 lays it out."""
    return b"".join(word.to_bytes(4, "big") for word in (xid, 0, 2, program, 3, procedure))


def tcp(payload: bytes, flags: int = ACK | PSH) -> bytes:
    """Return a frame of the guest to the server."""
    return slow_tcp(
        source=GUEST, target=SERVER, sport=700, dport=2049, seq=11, ack=22, flags=flags, payload=payload
    )  # fmt: skip


def test_a_call_over_tcp_is_named() -> None:
    """Behind the record mark stands the call: who, where, which bytes, which procedure, which xid."""
    seen = dissect(tcp(b"\x80\0\0\x40" + call(7)), NAMES)

    assert seen == Dissection("guest", "server", "tcp", FLOW, 11, 22, ACK | PSH, 28, "call", "WRITE", 7)


def test_every_procedure_of_nfs_has_its_name() -> None:
    """The numbers of RFC 1813 section 3.3."""
    named = [dissect(slow_udp(call(procedure)), NAMES).rpc for procedure in range(22)]

    assert tuple(named) == NFS_PROCEDURES
    assert (named[1], named[8], named[21]) == ("GETATTR", "CREATE", "COMMIT")


def test_a_reply_is_known_by_its_xid() -> None:
    """A reply does not name its procedure."""
    reply = (9).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes(16)

    seen = dissect(tcp(b"\x80\0\0\x18" + reply), NAMES)

    assert (seen.kind, seen.rpc, seen.xid) == ("reply", "", 9)


def test_a_segment_without_payload_is_an_ack() -> None:
    """Nothing but headers: an ACK, whatever its other flags."""
    assert dissect(tcp(b"", ACK), NAMES).kind == "ack"
    assert dissect(tcp(b"", SYN), NAMES).flags == SYN


def test_other_programs_and_versions_are_not_named() -> None:
    """Only NFS has procedures that we know; bytes that merely look like a call are not one."""
    for payload in (call(7, program=100005), call(22), call(7)[:8] + (3).to_bytes(4, "big") + call(7)[12:], b"short"):
        assert dissect(slow_udp(payload), NAMES).rpc == ""


def test_the_first_bytes_are_enough() -> None:
    """A card shows the beginning of a large packet and says how much follows."""
    whole = tcp(b"\x80\0\0\x40" + call(7) + bytes(1000))

    assert dissect(whole[:128], NAMES, more=len(whole) - 128) == dissect(whole, NAMES)


def test_a_datagram_is_known_by_its_identification() -> None:
    """In UDP the identification stands where TCP has a sequence number, as in the facts."""
    seen = dissect(slow_udp(call(7)), NAMES)

    assert (seen.protocol, seen.flow, seen.seq, seen.length, seen.rpc) == ("udp", FLOW, 7, 24, "WRITE")


def test_a_fragment_is_not_taken_for_a_datagram() -> None:
    """Only the first fragment has ports and a call; later ones may hold anything, a call of another time included."""
    body = slow_udp(call(7))[34:]
    first = dissect(slow_ip(17, body, source=GUEST, target=SERVER, ident=5, fragment=0x2000), NAMES)
    later = dissect(slow_ip(17, body, source=GUEST, target=SERVER, ident=5, fragment=0x2000 | 4), NAMES)

    assert (first.flow, first.seq, first.rpc) == ("10.0.0.1>10.0.0.2", 5 << 16, "WRITE")
    assert (later.flow, later.seq, later.rpc, later.kind) == ("10.0.0.1>10.0.0.2", 5 << 16 | 32, "", "")
    assert (first.length, later.length) == (32, 32)


def test_strangers_have_no_name() -> None:
    """Addresses that the topology does not know stay unnamed; the flow shows them all the same."""
    seen = dissect(tcp(b""), {})

    assert (seen.source, seen.target, seen.flow) == ("", "", FLOW)


@given(st.binary(max_size=120), st.booleans())
def test_noise_does_not_decode_and_does_no_harm(noise: bytes, dressed: bool) -> None:
    """Whatever is on the wire, a sniffer survives it."""
    frame = tcp(b"")[:24] + noise if dressed else noise

    dissect(frame, NAMES)
