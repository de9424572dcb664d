"""The target's side of a connection in the hand: PDUs go in, PDUs and facts come out."""

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.facts import DigestFailed, WriteExecuted
from lateack.nodes.iscsi import iscsi, iscsi_login, iscsi_pdus, scsi
from lateack.nodes.iscsi.iscsi import FINAL, NO_TAG, READS, WRITES, Pdu, next_pdu
from lateack.nodes.iscsi.iscsi_disk import Disk
from lateack.nodes.iscsi.iscsi_login import DISK_BYTES, IscsiParameters, encode_text
from lateack.nodes.iscsi.iscsi_target import TargetConnection
from lateack.nodes.node import Effect, Time
from lateack.nodes.stack.packets import digest_of
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.storage.stream_client import ByteStream, ProtocolError
from tests.nodes.hand import facts_of

SESSION = bytes.fromhex("8000000100000000")
SECURITY_TO_OPERATIONAL, OPERATIONAL_TO_FULL = 0x81, 0x87
ILLEGAL_REQUEST = 0x05


class Portal:
    """A store with one disk, and nobody else's sessions."""

    name = "server"

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self.store = MemoryStore(capacity_bytes=1 << 16)
        self.there = True
        self.sessions: list[str] = []

    def open_disk(self, size: int | None, now: Time) -> Disk | None:
        """Open the disk."""
        return Disk(self.store, "disk", size, now) if self.there else None

    def begun(self, initiator: str) -> None:
        """Note the session."""
        self.sessions.append(initiator)

    def content(self) -> bytes:
        """Return what lies on the disk."""
        return self.store.read(self.store.lookup(self.store.root, b"disk"), 0, 1 << 20)


class Session:
    """An initiator that is made by hand."""

    def __init__(self, wanted: IscsiParameters | None = None, *, size: int = 10_000, log_in: bool = True) -> None:
        self.portal = Portal()
        self.wanted = wanted or IscsiParameters()
        self.target = TargetConnection(self.portal, self.wanted, "guest1")
        self.stream = ByteStream()
        self.number = 1
        if log_in:
            self.login(SECURITY_TO_OPERATIONAL, {"InitiatorName": "iqn.x", "TargetName": "iqn.y"})
            self.login(OPERATIONAL_TO_FULL, iscsi_login.wishes(self.wanted) | {DISK_BYTES: str(size)})

    def login(self, stages: int, keys: dict[str, str]) -> Pdu:
        """Send a login request, and return the answer."""
        text = encode_text(keys)
        header = iscsi_pdus.login_request(stages, SESSION, 1, self.number, expected_status=0, length=len(text))
        (answer,) = self.send(header, text)
        return answer

    def send(self, header: bytes, data: bytes = b"") -> list[Pdu]:
        """Send a PDU, and return what comes back."""
        self.target.take(Pdu(header, data), 0)
        for pdu in self.target.out:
            self.stream.feed(pdu)
        self.target.out = []
        answers = []
        while (answer := next_pdu(self.stream, iscsi.NO_DIGESTS, 1 << 20)) is not None:
            answers.append(answer)
        return answers

    def command(self, tag: int, descriptor: bytes, moved: int, data: bytes = b"", *, more: bool = False) -> list[Pdu]:
        """Send a command with its immediate data."""
        way = WRITES if descriptor[0] in scsi.WRITE_COMMANDS else READS if moved else 0
        header = iscsi_pdus.scsi_command(
            (0 if more else FINAL) | way, tag, moved, descriptor,
            command_number=self.number, expected_status=0, length=len(data),
        )  # fmt: skip
        self.number += 1
        return self.send(header, data)

    def data(self, tag: int, number: int, offset: int, data: bytes, *, asked: int = NO_TAG, final: bool) -> list[Pdu]:
        """Send a Data-Out."""
        header = iscsi_pdus.data_out(tag, asked, 0, number, offset=offset, length=len(data), final=final)
        return self.send(header, data)


def refusal(answers: list[Pdu]) -> scsi.Sense:
    """Return why a command was refused."""
    (answer,) = answers
    assert (answer.opcode, answer.header[3]) == (iscsi.SCSI_RESPONSE, scsi.CHECK_CONDITION)
    return scsi.SENSES[answer.data[4], answer.data[14] << 8 | answer.data[15]]


def test_a_session_begins_with_a_login_in_two_stages() -> None:
    """Each stage is answered, the last one with the handle of the session; a disk of the wanted length is there."""
    session = Session(log_in=False)

    first = session.login(SECURITY_TO_OPERATIONAL, {"InitiatorName": "iqn.x", "AuthMethod": "CHAP,None"})
    second = session.login(OPERATIONAL_TO_FULL, {"DataDigest": "CRC32C", DISK_BYTES: "1000"})

    assert iscsi_login.decode_text(first.data) == {"TargetPortalGroupTag": "1", "AuthMethod": "None"}
    assert (first.flags, second.flags) == (SECURITY_TO_OPERATIONAL, OPERATIONAL_TO_FULL)
    assert second.header[8:16] == SESSION[:6] + b"\0\1"
    assert (first.word(24), second.word(24), second.word(28), second.word(32)) == (1, 2, 1, 32)
    assert iscsi_login.decode_text(second.data)["DataDigest"] == "CRC32C"
    assert session.portal.content() == bytes(1000)
    assert session.portal.sessions == ["iqn.x" + SESSION[:6].hex()]


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        ({}, 0x0207),
        ({"InitiatorName": "iqn.x", "SessionType": "Discovery"}, 0x0209),
        ({"InitiatorName": "iqn.x", "AuthMethod": "CHAP"}, 0x0201),
    ],
)
def test_a_login_that_cannot_be_is_refused_with_a_status(keys: dict[str, str], status: int) -> None:
    """And the connection is over."""
    session = Session(log_in=False)

    answer = session.login(SECURITY_TO_OPERATIONAL, keys)

    assert answer.word(36) >> 16 == status
    assert session.target.over


@pytest.mark.parametrize(("there", "size", "status"), [(False, 1, 0x0203), (True, 1 << 20, 0x0302)])
def test_a_disk_that_is_not_there_or_too_long_is_refused(there: bool, size: int, status: int) -> None:
    """At the end of the login, when it would be opened."""
    session = Session(log_in=False)
    session.portal.there = there
    session.login(SECURITY_TO_OPERATIONAL, {"InitiatorName": "iqn.x"})

    answer = session.login(OPERATIONAL_TO_FULL, {DISK_BYTES: str(size)})

    assert answer.word(36) >> 16 == status
    assert session.target.over


def test_a_write_is_asked_for_burst_by_burst() -> None:
    """Immediate data, then R2Ts of the agreed length, each answered by PDUs in order; executed once it is whole."""
    session = Session(IscsiParameters(max_burst=1024, first_burst=512, max_segment=512))
    data = bytes(range(256)) * 8
    descriptor = scsi.write(1, 4)

    (first,) = session.command(7, descriptor, 2048, data[:512])
    nothing = session.data(7, 0, 512, data[512:1024], asked=first.word(20), final=False)
    (second,) = session.data(7, 1, 1024, data[1024:1536], asked=first.word(20), final=True)
    (done,) = session.data(7, 0, 1536, data[1536:], asked=second.word(20), final=True)

    assert [(pdu.opcode, pdu.word(36), pdu.word(40), pdu.word(44)) for pdu in (first, second)] == [
        (iscsi.R2T, 0, 512, 1024), (iscsi.R2T, 1, 1536, 512),
    ]  # fmt: skip
    assert nothing == []
    assert (done.opcode, done.header[3], done.word(36)) == (iscsi.SCSI_RESPONSE, scsi.GOOD, 2)
    assert session.portal.content() == bytes(512) + data + bytes(10_000 - 2560)
    (fact,) = facts_of(session.portal.effects, WriteExecuted)
    assert fact == WriteExecuted(7, "guest1", "disk", 512, 2048, digest_of(data))


def test_data_that_nobody_asked_for_comes_if_it_was_agreed_on() -> None:
    """InitialR2T=No: as much as FirstBurstLength, in the command and right behind it."""
    session = Session(IscsiParameters(initial_r2t=False, first_burst=1024, max_segment=512))
    data = bytes(range(256)) * 4

    nothing = session.command(7, scsi.write(0, 2), 1024, data[:512], more=True)
    (done,) = session.data(7, 0, 512, data[512:], final=True)

    assert nothing == []
    assert done.header[3] == scsi.GOOD
    assert session.portal.content()[:1024] == data


def test_what_sticks_out_of_the_file_is_not_kept() -> None:
    """The last block is written whole, and the file ends where it is to end; it reads as zeros behind that."""
    session = Session(size=1000)

    (done,) = session.command(7, scsi.write(1, 1), 512, b"\x55" * 512)
    (read,) = session.command(8, bytes.fromhex("2800 00000001 00 0001 00").ljust(16, b"\0"), 512)

    assert done.header[3] == scsi.GOOD
    assert session.portal.content() == bytes(512) + b"\x55" * 488
    assert read.data == b"\x55" * 488 + bytes(24)
    (fact,) = facts_of(session.portal.effects, WriteExecuted)
    assert (fact.count, fact.digest) == (488, digest_of(b"\x55" * 488))


def test_a_long_read_comes_in_segments_and_ends_with_the_status() -> None:
    """Data-In, section 11.7: none longer than the initiator takes; only the last has a status."""
    session = Session(IscsiParameters(max_segment=512))

    answers = session.command(7, bytes.fromhex("2800 00000000 00 0003 00").ljust(16, b"\0"), 1536)

    assert [(pdu.flags, pdu.word(36), pdu.word(40), len(pdu.data)) for pdu in answers] == [
        (0, 0, 0, 512), (0, 1, 512, 512), (0x81, 2, 1024, 512),
    ]  # fmt: skip


def test_a_short_answer_tells_how_short() -> None:
    """The residual of section 11.4.5, with its direction."""
    session = Session()

    (answer,) = session.command(7, scsi.inquiry()[:4] + b"\xff" + bytes(11), 255)

    assert (answer.flags, answer.word(44), len(answer.data)) == (0x83, 255 - 36, 36)


@pytest.mark.parametrize(
    ("descriptor", "moved", "reason"),
    [
        (scsi.write(20, 1), 512, scsi.OUT_OF_RANGE),
        (scsi.write(0, 1), 1024, scsi.WRONG_FIELD),
        (b"\x42".ljust(16, b"\0"), 0, scsi.NOT_SUPPORTED),
        (b"\x12\x01".ljust(16, b"\0"), 36, scsi.WRONG_FIELD),
    ],
)
def test_a_command_that_cannot_be_done_says_why(descriptor: bytes, moved: int, reason: scsi.Sense) -> None:
    """CHECK CONDITION with sense data; the session goes on, and late data of the command is passed over."""
    session = Session()

    answers = session.command(7, descriptor, moved)
    late = session.data(7, 0, 0, bytes(512), final=True)
    (ready,) = session.command(8, scsi.test_unit_ready(), 0)

    assert refusal(answers) == reason
    assert late == []
    assert ready.header[3] == scsi.GOOD


def test_a_unit_that_is_not_there_is_told() -> None:
    """Only REPORT LUNS is for any unit."""
    session = Session()
    header = iscsi_pdus.scsi_command(FINAL, 7, 0, scsi.test_unit_ready(), command_number=1, expected_status=0)

    answers = session.send(header[:8] + b"\0\1" + bytes(6) + header[16:])

    assert refusal(answers) == scsi.NO_SUCH_UNIT


def test_data_whose_digest_is_wrong_ends_the_session() -> None:
    """A Reject with the header goes before (section 7.8); nothing is executed, and a fact says what came."""
    session = Session()
    (asked,) = session.command(7, scsi.write(2, 8), 4096)
    header = iscsi_pdus.data_out(7, asked.word(20), 0, 0, offset=0, length=4, final=False)

    session.target.take(Pdu(header, b"abcd", "data"), 0)

    (reject,) = session.target.out
    assert (reject[0], reject[2], reject[48:]) == (iscsi.REJECT, 0x02, header)
    assert session.target.over
    assert facts_of(session.portal.effects, DigestFailed) == [
        DigestFailed("server", "iscsi", 7, 1024, 4, digest_of(b"abcd"), "disconnected")
    ]
    assert facts_of(session.portal.effects, WriteExecuted) == []


def test_a_command_out_of_its_turn_is_passed_over() -> None:
    """It was there before, or is not due (section 4.2.2.1)."""
    session = Session()
    session.number = 5

    assert session.command(7, scsi.test_unit_ready(), 0) == []


def test_a_ping_comes_back() -> None:
    """NOP-Out, section 11.18; and a goodbye is answered, a task management request refused, a text not understood."""
    session = Session()
    words = (NO_TAG, 1, 0, 0, 0, 0, 0)
    kinds = (iscsi.NOP_OUT, iscsi.LOGOUT_REQUEST, iscsi.TASK_REQUEST, iscsi.TEXT_REQUEST)

    answers = [session.send(iscsi.bhs(kind | iscsi.IMMEDIATE, FINAL, words, tag=9, length=2), b"hi") for kind in kinds]

    assert [answer.opcode for [answer] in answers] == [
        iscsi.NOP_IN, iscsi.LOGOUT_RESPONSE, iscsi.TASK_RESPONSE, iscsi.REJECT,
    ]  # fmt: skip
    assert answers[0][0].data == b"hi"


@pytest.mark.parametrize(
    ("number", "offset", "length", "final"),
    [(1, 0, 512, True), (0, 512, 512, True), (0, 0, 1536, True), (0, 0, 8, True)],
)
def test_data_out_of_its_turn_ends_the_connection(number: int, offset: int, length: int, final: bool) -> None:
    """Another number, another place, more than was asked for, or less."""
    session = Session()
    (asked,) = session.command(7, scsi.write(0, 2), 1024)

    with pytest.raises(ProtocolError):
        session.data(7, number, offset, bytes(length), asked=asked.word(20), final=final)


@given(st.lists(st.tuples(st.binary(min_size=48, max_size=48), st.binary(max_size=600)), max_size=6), st.booleans())
def test_nonsense_ends_a_connection_and_nothing_else(pdus: list[tuple[bytes, bytes]], log_in: bool) -> None:
    """Whatever comes, logged in or not: the worst is a ProtocolError, by which the connection is dropped."""
    session = Session(log_in=log_in)

    for header, data in pdus:
        try:
            session.target.take(Pdu(header, data), 0)
        except ProtocolError:
            break

    assert len(session.portal.content() if log_in else b"") <= 10_000


OPCODES = st.sampled_from([0x00, 0x01, 0x02, 0x05, 0x06, 0x41, 0x45])


@given(
    st.lists(
        st.tuples(
            OPCODES,
            st.sampled_from([0x80, 0xA0, 0x20, 0xC0, 0]),
            st.integers(0, 3),
            st.integers(0, 2100),
            st.sampled_from([0x2A, 0x28, 0x8A, 0x88, 0x12, 0x25, 0x9E, 0xA0, 0x35]),
            st.integers(0, 25),
            st.binary(max_size=600),
        ),
        max_size=8,
    )
)
def test_likely_nonsense_ends_a_connection_and_nothing_else(
    pdus: list[tuple[int, int, int, int, int, int, bytes]],
) -> None:
    """The same with opcodes, tags and lengths that mean something; what is executed stays on the disk."""
    session = Session(IscsiParameters(initial_r2t=False, first_burst=1024, max_burst=1024))
    number = 1

    for opcode, flags, tag, moved, operation, blocks, data in pdus:
        descriptor = scsi.write(blocks, blocks % 4).replace(b"\x2a", bytes((operation,)), 1)
        words = [int.from_bytes(descriptor[at : at + 4], "big") for at in (0, 4, 8, 12)]
        moved = blocks % 4 * 512 if moved % 2 else moved
        header = iscsi.bhs(opcode, flags, (moved, number, 0, *words), tag=tag, length=len(data))
        number += not opcode & 0x40 and opcode != 0x05
        try:
            session.target.take(Pdu(header, data), 0)
        except ProtocolError:
            break

    assert len(session.portal.content()) == 10_000
    assert all(fact.offset + fact.count <= 10_000 for fact in facts_of(session.portal.effects, WriteExecuted))
