"""The host answers ARP, pings and datagrams to port 7, and stays silent where silence is due."""

from hypothesis import example, given, strategies as st

from lateack.nodes.echo import EchoHost, answer
from lateack.nodes.stack.packets import ETH_IP, UDP, checksum_of, ip_checksum, ones_sum, parse, pseudo_sum

HOST_MAC, GUEST_MAC = bytes.fromhex("00163effff01"), bytes.fromhex("00163e000001")
NEIGHBOUR_MAC = bytes.fromhex("00163e000002")
HOST_IP, GUEST_IP = 0x0A000001, 0x0A000065
BROADCAST = b"\xff" * 6
ARP_REQUEST = (
    BROADCAST + GUEST_MAC + bytes.fromhex("0806 0001 0800 06 04 0001")
    + GUEST_MAC + GUEST_IP.to_bytes(4) + bytes(6) + HOST_IP.to_bytes(4)
)  # fmt: skip


class Port:
    """Keeps what it is given."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.frames: list[bytes] = []

    def queue_frame(self, frame: bytes) -> None:
        """Take a frame."""
        self.frames.append(frame)


def ip_frame(protocol: int, rest: bytes, *, fragment: int = 0, target: bytes = HOST_MAC) -> bytes:
    """Return an IPv4 frame from the guest to the host."""
    total = 20 + len(rest)
    check = ip_checksum(total, 7, fragment, protocol, GUEST_IP, HOST_IP)
    fields = (target, GUEST_MAC, 0x0800, 0x45, 0, total, 7, fragment, 64, protocol, check, GUEST_IP, HOST_IP)
    return ETH_IP.pack(*fields) + rest


def datagram(payload: bytes, *, sport: int = 700, dport: int = 7, spoil: int = 0, fragment: int = 0) -> bytes:
    """Return a datagram to the host with a checksum, which *spoil* is added to."""
    length = 8 + len(payload)
    total = pseudo_sum(GUEST_IP, HOST_IP, 17, length) + sport + dport + length + ones_sum(payload)
    check = (checksum_of(total) + spoil) & 0xFFFF
    return ip_frame(17, UDP.pack(sport, dport, length, check) + payload, fragment=fragment)


def ping(payload: bytes = b"are you there?") -> bytes:
    """Return an ICMP echo request."""
    rest = b"\0\7\0\1" + payload
    return ip_frame(1, b"\x08\0" + (0xFFFF - ones_sum(b"\x08\0\0\0" + rest)).to_bytes(2) + rest)


def test_arp_is_answered_with_the_hosts_address() -> None:
    """RFC 826: the answer goes to the one who asked."""
    reply = answer(ARP_REQUEST, HOST_IP, HOST_MAC)

    assert reply is not None
    assert reply[:14] == GUEST_MAC + HOST_MAC + b"\x08\x06"
    assert reply[20:22] == b"\0\2"
    assert reply[22:] == HOST_MAC + HOST_IP.to_bytes(4) + GUEST_MAC + GUEST_IP.to_bytes(4)


def test_a_ping_is_answered_with_good_sums() -> None:
    """RFC 792: an echo reply with the same identifier, number and data."""
    reply = answer(ping(), HOST_IP, HOST_MAC)

    assert reply is not None
    assert reply[34] == 0
    assert reply[38:] == ping()[38:]
    assert ones_sum(reply[14:34]) == ones_sum(reply[34:]) == 0


@given(payload=st.binary(max_size=1472), padding=st.integers(0, 18))
def test_a_datagram_comes_back_as_it_was(payload: bytes, padding: int) -> None:
    """RFC 862: the same bytes between the same ports; what was padded comes without."""
    reply = answer(datagram(payload) + bytes(padding), HOST_IP, HOST_MAC)

    assert reply is not None
    back = parse(reply)
    assert (back.source, back.sport, back.target, back.dport) == (HOST_IP, 7, GUEST_IP, 700)
    assert back.payload == payload
    assert reply[:12] == GUEST_MAC + HOST_MAC


def test_silence_is_kept_where_it_is_due() -> None:
    """Broken sums, fragments, other ports and addresses, groups, and another echo service get no answer."""
    silent = {
        "bad sum": datagram(b"x", spoil=1),
        "another port": datagram(b"x", dport=8),
        "an echo service": datagram(b"x", sport=7),
        "a fragment": datagram(b"x", fragment=0x2000),
        "another host": NEIGHBOUR_MAC + datagram(b"x")[6:],
        "from a group": HOST_MAC + BROADCAST + datagram(b"x")[12:],
        "a broken ping": ping()[:-1] + b"!",
        "an echo reply": ip_frame(1, bytes(2) + b"\xff\xff" + bytes(4)),
        "an ARP reply": ARP_REQUEST[:21] + b"\2" + ARP_REQUEST[22:],
        "ARP for another": ARP_REQUEST[:-1] + b"\2",
        "half an ARP": ARP_REQUEST[:30],
    }

    answered = [name for name, frame in silent.items() if answer(frame, HOST_IP, HOST_MAC) is not None]

    assert answered == []


@given(frame=st.binary(max_size=100), protocol=st.sampled_from([1, 6, 17]))
@example(frame=b"", protocol=17)
def test_nothing_that_comes_can_break_it(frame: bytes, protocol: int) -> None:
    """Whatever the bytes are, there is an answer or none."""
    for each in (
        frame,
        BROADCAST + GUEST_MAC + b"\x08\x06" + frame,
        ip_frame(protocol, frame),
        datagram(b"")[:34] + frame,
    ):
        answer(each, HOST_IP, HOST_MAC)


def test_a_broadcast_goes_to_everybody_but_its_sender() -> None:
    """br_flood: the neighbour sees the question, and the sender the host's answer only."""
    ports = {HOST_MAC: Port(), GUEST_MAC: Port(), NEIGHBOUR_MAC: Port()}
    host = EchoHost(HOST_IP, HOST_MAC, ports)

    host.pass_on(ARP_REQUEST)

    assert ports[NEIGHBOUR_MAC].frames == [ARP_REQUEST]
    assert ports[GUEST_MAC].frames == [answer(ARP_REQUEST, HOST_IP, HOST_MAC)]


def test_what_is_for_one_goes_to_that_one() -> None:
    """A frame of a kind that the emulator does not know reaches its neighbour, and one for nobody is lost."""
    ports = {HOST_MAC: Port(), GUEST_MAC: Port(), NEIGHBOUR_MAC: Port()}
    host = EchoHost(HOST_IP, HOST_MAC, ports)
    six = NEIGHBOUR_MAC + GUEST_MAC + b"\x86\xdd" + bytes(40)

    for frame in (six, b"\x02" + six[1:], b"short"):
        host.pass_on(frame)

    assert ports[NEIGHBOUR_MAC].frames == [six]
    assert ports[GUEST_MAC].frames == ports[HOST_MAC].frames == []
