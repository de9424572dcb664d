"""An iSCSI target's login: who is there, what both sides want, and which disk it is about (RFC 7143 section 6).

What a connection has from its beginning to its end is here, too: sequence numbers, digests, and what is to be sent.
"""

from typing import Protocol

from lateack.nodes.iscsi import iscsi, iscsi_login, iscsi_pdus
from lateack.nodes.iscsi.iscsi import Digests, Pdu
from lateack.nodes.iscsi.iscsi_disk import Disk
from lateack.nodes.iscsi.iscsi_login import FULL_FEATURE, IscsiParameters
from lateack.nodes.iscsi.iscsi_pdus import Numbers
from lateack.nodes.nfs.nfs import NfsError
from lateack.nodes.node import Effect, Time
from lateack.nodes.storage.stream_client import ProtocolError

COMMANDS_MAX = 32
"""The most commands of a session that are under way at once; MaxCmdSN says so."""
SESSION_HANDLE = 1
"""The TSIH that we give: it tells sessions apart, and one initiator has one here."""
PORTAL_GROUP = "1"

UNTRUSTED, NO_SUCH_TARGET, MISSING_NAME, WRONG_KIND, OUT_OF_RESOURCES = 0x0201, 0x0203, 0x0207, 0x0209, 0x0302
"""Statuses of a refused login, class and detail (section 11.13.5)."""


class Portal(Protocol):
    """Who knows the disks, and the other sessions."""

    name: str
    effects: list[Effect]

    def open_disk(self, size: int | None, now: Time) -> Disk | None:
        """Return the disk of whoever this connection belongs to, made *size* bytes long; None if it has none."""
        ...

    def begun(self, initiator: str) -> None:
        """A session begins: whatever the same initiator had before is over (session reinstatement)."""
        ...


class TargetLogin:
    """One connection, which is one session; `client` is whose machine is at its other end."""

    def __init__(self, portal: Portal, wanted: IscsiParameters, client: str) -> None:
        self.portal = portal
        self.wanted = wanted
        self.client = client
        self.agreed = iscsi_login.NOTHING_AGREED
        self.stage = iscsi_login.SECURITY
        self.session = bytes(8)
        self.initiator = ""
        self.size: int | None = None
        self.disk: Disk | None = None
        self.expected_command = 0
        self.status_number = 0
        self.out: list[bytes] = []
        self.over = False

    def segment_max(self) -> int:
        """Return the longest data segment that we take now."""
        return self.wanted.max_segment if self.stage == FULL_FEATURE else iscsi_login.LOGIN_BYTES_MAX

    def under_way(self) -> int:
        """Return how many commands are not over yet; a connection that takes commands knows."""
        return 0

    def digests(self) -> Digests:
        """Return which digests PDUs carry now: none before the login is over."""
        return self.agreed.digests if self.stage == FULL_FEATURE else iscsi.NO_DIGESTS

    def log_in(self, pdu: Pdu, now: Time) -> None:
        """Take a login request: each may ask to go on to the next stage."""
        if pdu.opcode != iscsi.LOGIN_REQUEST or pdu.flags >> 2 & 3 != self.stage or pdu.flags & iscsi_login.CONTINUE:
            raise ProtocolError("what is not a login request of this stage")
        if not self.status_number:
            self.status_number = 1
            self.expected_command = pdu.word(24)
            self.session = pdu.header[8:14] + SESSION_HANDLE.to_bytes(2, "big")
        said = iscsi_login.decode_text(pdu.data)
        answered = self._identify(said) if self.stage == iscsi_login.SECURITY else self._agree(said)
        status = answered if isinstance(answered, int) else 0
        transit, stage = pdu.flags & iscsi_login.TRANSIT, pdu.flags & 3
        if transit and stage == FULL_FEATURE and not status:
            status = self._open(now)
        if status:
            self._answer_login(pdu, 0, status=status)
            self.over = True
            return
        assert not isinstance(answered, int)
        self._answer_login(pdu, pdu.flags & 0x8F if transit else self.stage << 2, answered)
        if transit:
            self.stage = stage

    def _answer_login(self, pdu: Pdu, stages: int, keys: dict[str, str] | None = None, *, status: int = 0) -> None:
        text = iscsi_login.encode_text(keys or {})
        header = iscsi_pdus.login_response(
            stages, self.session, pdu.tag, self.numbers(), status=status, length=len(text)
        )
        self.out.append(iscsi.whole_pdu(header, text, iscsi.NO_DIGESTS))

    def _identify(self, said: dict[str, str]) -> dict[str, str] | int:
        """Hear who it is; return the answer, or the status of a refusal."""
        self.initiator = said.get("InitiatorName", "")
        if not self.initiator:
            return MISSING_NAME
        if said.get("SessionType", "Normal") != "Normal":
            return WRONG_KIND
        if "None" not in said.get("AuthMethod", "None").split(","):
            return UNTRUSTED
        return {"TargetPortalGroupTag": PORTAL_GROUP, "AuthMethod": "None"}

    def _agree(self, said: dict[str, str]) -> dict[str, str] | int:
        size = said.get(iscsi_login.DISK_BYTES, "")
        self.size = int(size) if size.isdecimal() and len(size) <= iscsi_login.NUMBER_DIGITS_MAX else None
        self.agreed = iscsi_login.settle(self.wanted, said)
        return iscsi_login.answers(said, self.wanted, self.agreed)

    def _open(self, now: Time) -> int:
        """The login is over: end the initiator's former session, and open its disk; return 0, or why that failed."""
        self.portal.begun(self.initiator + self.session[:6].hex())
        try:
            self.disk = self.portal.open_disk(self.size, now)
        except (NfsError, OSError):
            return OUT_OF_RESOURCES
        return 0 if self.disk is not None else NO_SUCH_TARGET

    # --- what everything needs ----------------------------------------------------------------------------------------

    def numbers(self, *, status: bool = True, ahead: bool = False) -> Numbers:
        """Return the sequence numbers for a PDU; with *status* it takes one, *ahead* it shows the next one (R2T)."""
        number = self.status_number if status or ahead else 0
        if status:
            self.status_number = (number + 1) & 0xFFFF_FFFF
        room = COMMANDS_MAX - self.under_way()
        return Numbers(number, self.expected_command, (self.expected_command + room - 1) & 0xFFFF_FFFF)

    def send(self, header: bytes, data: bytes = b"") -> None:
        """Put a PDU out."""
        self.out.append(iscsi.whole_pdu(header, data, self.digests()))
