"""Claims about a server with an RDMA adapter: clients may say what they like, it serves calls and nothing else."""

import pytest

from lateack.nodes.facts import FrameDropped, WriteExecuted
from lateack.nodes.messages import Frames
from lateack.nodes.node import Received
from lateack.nodes.rdma import connection, packets
from lateack.nodes.rdma.connection import ConnectionMessage
from lateack.nodes.rdma.packets import decode, encode
from lateack.nodes.rdma.rpc_rdma import ReadChunk, encode_header
from lateack.nodes.rdma_server import CONNECTIONS_MAX
from lateack.nodes.stack.host import HostAddress
from tests.nodes.hand import GUEST_IP, GUEST_MAC, SERVER_IP, SERVER_MAC
from tests.nodes.one_rdma_host import RdmaHand

CLIENT, SERVER = HostAddress(GUEST_IP, GUEST_MAC), HostAddress(SERVER_IP, SERVER_MAC)


class Stranger:
    """A client that a test plays itself."""

    def __init__(self, address: HostAddress = CLIENT) -> None:
        self.hand = RdmaHand()
        self.address = address
        self.psn = 100
        self.target_qp = 0

    def give(self, **fields: object) -> list[packets.RocePacket]:
        """Send the server one packet; return what it answers."""
        given: dict[str, object] = {"source_port": 0xC012, "psn": self.psn} | fields
        frame = encode(self.address, SERVER, **given)  # type: ignore[arg-type]
        self.hand.handle("server", Received("network", Frames((frame,))))
        answers, self.hand.queue = self.hand.queue, []
        return [decode(answer) for _, answer in answers]

    def manage(self, message: ConnectionMessage) -> list[ConnectionMessage]:
        """Send the server a message of the connection manager; return what it answers."""
        deth = packets.DETH.pack(packets.MANAGEMENT_KEY, 1)
        datagram = connection.encode(message)
        answers = self.give(opcode=packets.UD_SEND_ONLY, target_qp=1, transport=deth, payload=datagram)
        return [connection.decode(answer.payload) for answer in answers]

    def connect(self) -> ConnectionMessage:
        """Ask for a queue pair; return the reply."""
        [reply] = self.manage(ConnectionMessage(connection.CONNECT_REQUEST, 18, 0, 0x12, self.psn))
        self.target_qp = reply.qpn
        return reply

    def send(self, message: bytes) -> list[packets.RocePacket]:
        """Send the server a message in one packet; return what it answers."""
        answers = self.give(opcode=packets.SEND_ONLY, target_qp=self.target_qp, payload=message, wants_ack=True)
        self.psn += 1
        return answers


def test_a_repeated_request_gets_the_same_queue_pair() -> None:
    """Its reply was lost; there is one connection and not two."""
    stranger = Stranger()

    assert stranger.connect() == stranger.connect()


def test_clients_that_never_say_goodbye_do_not_pile_up() -> None:
    """The oldest queue pair goes, and its client is told; the newest serves."""
    stranger = Stranger()
    told: list[tuple[int, int]] = []

    for number in range(CONNECTIONS_MAX + 10):
        request = ConnectionMessage(connection.CONNECT_REQUEST, 18 + number, 0, 0x12 + number, stranger.psn)
        *goodbyes, reply = stranger.manage(request)
        told += [(message.kind, message.remote) for message in goodbyes]
        stranger.target_qp = reply.qpn

    assert told == [(connection.DISCONNECT_REQUEST, 18 + number) for number in range(10)]
    assert len(stranger.hand.server.adapter.pairs) == CONNECTIONS_MAX
    assert stranger.send(b"anything") != []


def test_the_two_sides_number_their_packets_far_apart() -> None:
    """Answers to READs have the server's numbers and leave in the client's flow."""
    stranger = Stranger()

    assert abs(stranger.connect().psn - stranger.psn) >= 1 << 19


def test_a_disconnected_queue_pair_is_forgotten() -> None:
    """Twice, if the reply was lost; nothing is acknowledged then."""
    stranger = Stranger()
    reply = stranger.connect()
    request = ConnectionMessage(connection.DISCONNECT_REQUEST, 18, reply.local, reply.qpn)

    answers = [stranger.manage(request) for _ in range(2)]

    assert [[answer.kind for answer in each] for each in answers] == [[connection.DISCONNECT_REPLY]] * 2
    assert stranger.send(b"anything") == []


@pytest.mark.parametrize(
    "message",
    [
        b"", b"noise", encode_header(1, 32),
        encode_header(1, 32, ReadChunk(9999, 1, 4096, 0)), encode_header(1, 32, ReadChunk(0, 1, 0, 0)),
        encode_header(1, 32, ReadChunk(0, 1, 0xFFFFFFFF, 0)),
    ],
    ids=["empty", "noise", "no call", "position beyond", "no length", "far too long"],
)  # fmt: skip
def test_what_is_no_call_is_acknowledged_and_not_served(message: bytes) -> None:
    """The adapter has taken it, and nothing more comes of it: no reply, no READ."""
    stranger = Stranger()
    stranger.connect()

    answers = stranger.send(message)

    assert [answer.opcode for answer in answers] == [packets.ACKNOWLEDGE]
    assert not stranger.hand.of(WriteExecuted)


def test_nobody_else_can_speak_for_a_client() -> None:
    """A packet for its queue pair from another address is dropped, and an unknown host gets no queue pair."""
    stranger = Stranger()
    stranger.connect()
    stranger.address = HostAddress(GUEST_IP + 1, GUEST_MAC)

    assert stranger.send(b"anything") == []
    assert stranger.manage(ConnectionMessage(connection.CONNECT_REQUEST, 18, 0, 0x12, 1)) == []


def test_noise_is_dropped_and_said_to_be() -> None:
    """A frame that is no packet of RoCEv2."""
    stranger = Stranger()

    stranger.hand.handle("server", Received("network", Frames((b"noise" * 20,))))

    assert [fact.reason for fact in stranger.hand.of(FrameDropped)] == ["not a RoCEv2 packet"]
