"""An iSCSI initiator's session: the login, the sequence numbers, and commands that carry no data of ours.

What it says first is who it is, and that nobody has to prove it; then what it wants (RFC 7143 section 6).
"""

from lateack.nodes.application import Copier
from lateack.nodes.facts import DigestFailed
from lateack.nodes.iscsi import iscsi, iscsi_login, iscsi_pdus, scsi
from lateack.nodes.iscsi.iscsi import FINAL, NO_TAG, READS, Pdu
from lateack.nodes.iscsi.iscsi_login import IscsiParameters
from lateack.nodes.node import Time
from lateack.nodes.stack.host import IpStack
from lateack.nodes.stack.packets import digest_of
from lateack.nodes.storage.stream_client import Peer, ProtocolError, StreamClient
from lateack.nodes.strategies.guest import GuestStrategy

SESSION = bytes.fromhex("8000000100000000")
"""Our ISID, of the random kind (section 11.12.5), and a TSIH of 0: a new session, in the place of any old one."""
SERIAL_HALF = 0x8000_0000

CAPACITY, READY, IDENTITY, FLUSH, GOODBYE, PING = "capacity", "ready", "identity", "flush", "goodbye", "ping"
"""What may be asked besides writes."""


class InitiatorSession(StreamClient):
    """The part of an initiator that knows nothing of writes; `asked` is what besides them has no answer yet."""

    __slots__ = (
        "agreed", "asked", "command_number", "expected_status", "max_command", "name", "parameters", "stage",
    )  # fmt: skip

    def __init__(
        self, name: str, peer: Peer, parameters: IscsiParameters, stack: IpStack, *,
        copier: Copier, strategy: GuestStrategy,
    ) -> None:  # fmt: skip
        """Log in for the host *name*, which is also the initiator's name."""
        super().__init__(peer, stack, copier, strategy)
        self.name = name
        self.parameters = parameters
        self._begin_session()

    def _begin_session(self) -> None:
        self.agreed = iscsi_login.NOTHING_AGREED
        self.stage = iscsi_login.SECURITY
        self.command_number = 1
        self.max_command = 1
        self.expected_status = 0
        self.asked: dict[int, str] = {}

    def greet(self, now: Time) -> None:
        """Log in: first who we are, and that nobody has to prove it."""
        self._begin_session()
        self._login(
            {
                "InitiatorName": f"{iscsi_login.NAME}:{self.name}",
                "TargetName": f"{iscsi_login.NAME}:disk-of-{self.name}",
                "SessionType": "Normal",
                "AuthMethod": "None",
            },
            iscsi_login.OPERATIONAL,
            now,
        )

    def _login(self, keys: dict[str, str], next_stage: int, now: Time) -> None:
        text = iscsi_login.encode_text(keys)
        stages = iscsi_login.TRANSIT | self.stage << 2 | next_stage
        header = iscsi_pdus.login_request(
            stages, SESSION, self.next_tag(), self.command_number,
            expected_status=self.expected_status, length=len(text),
        )  # fmt: skip
        self.say(iscsi.whole_pdu(header, text, iscsi.NO_DIGESTS), now)

    def logged_in(self, pdu: Pdu, now: Time) -> None:
        """Go on to the next stage; at the last one both sides are bound by what they said."""
        status = pdu.word(36) >> 16
        if status:
            self.copier.fail(f"the target refused the login with status {status:#06x}")
            raise ProtocolError("the login was refused")
        said = iscsi_login.decode_text(pdu.data)
        if not pdu.flags & iscsi_login.TRANSIT:
            raise ProtocolError("the target would go on with the login, and there is nothing to go on with")
        if self.stage == iscsi_login.SECURITY:
            self.stage = iscsi_login.OPERATIONAL
            wishes = iscsi_login.wishes(self.parameters)
            wishes[iscsi_login.DISK_BYTES] = str(self.copier.source.size)
            self._login(wishes, iscsi_login.FULL_FEATURE, now)
            return
        self.stage = iscsi_login.FULL_FEATURE
        self.agreed = iscsi_login.settle(self.parameters, said)
        if self.begun:
            self.ready_now(now)
        else:
            self.ask(IDENTITY, scsi.inquiry(), now, expected_bytes=scsi.INQUIRY_BYTES)

    def count(self, pdu: Pdu) -> None:
        """Take note of the target's sequence numbers, which are compared as serial ones (RFC 1982)."""
        opcode = pdu.opcode
        carries = opcode != iscsi.R2T and not (opcode == iscsi.DATA_IN and not pdu.flags & iscsi.STATUS)
        if carries and not (opcode == iscsi.NOP_IN and pdu.tag == NO_TAG):
            self.expected_status = (pdu.word(24) + 1) & 0xFFFF_FFFF
        if (pdu.word(32) - self.max_command) & 0xFFFF_FFFF < SERIAL_HALF:
            self.max_command = pdu.word(32)

    def damaged(self, pdu: Pdu) -> None:
        """A digest of the target's is wrong: drop the connection."""
        digest = digest_of(pdu.data)
        self.effects.append(DigestFailed(self.name, "iscsi", pdu.tag, 0, len(pdu.data), digest, "disconnected"))
        raise ProtocolError(f"the {pdu.damaged} digest of a PDU from the target is wrong")

    # --- what is sent -------------------------------------------------------------------------------------------------

    def ask(self, what: str, descriptor: bytes, now: Time, *, expected_bytes: int = 0) -> None:
        """Give a command that carries no data of ours."""
        tag = self.next_tag()
        self.asked[tag] = what
        flags = FINAL | (READS if expected_bytes else 0)
        header = iscsi_pdus.scsi_command(
            flags, tag, expected_bytes, descriptor,
            command_number=self.next_command(), expected_status=self.expected_status,
        )  # fmt: skip
        self.tell(header, now)

    def ask_for_life(self, now: Time) -> None:
        """Ping the target, unless it has not answered the last one."""
        if PING not in self.asked.values():
            tag = self.next_tag()
            self.asked[tag] = PING
            self.tell(iscsi_pdus.ping(tag, self.command_number, self.expected_status), now)

    def tell(self, header: bytes, now: Time) -> None:
        """Send a PDU without data."""
        self.say(iscsi.whole_pdu(header, b"", self.agreed.digests), now)

    def next_command(self) -> int:
        """Return the CmdSN of another command."""
        number = self.command_number
        self.command_number = (number + 1) & 0xFFFF_FFFF
        return number

    def next_tag(self) -> int:
        """Return another initiator task tag; writes take theirs from the same row."""
        tag = self.next_number
        self.next_number = (tag + 1) & 0x7FFF_FFFF
        return tag

    def has_room(self) -> bool:
        """Say whether the target takes one more command: up to MaxCmdSN."""
        return (self.max_command - self.command_number) & 0xFFFF_FFFF < SERIAL_HALF
