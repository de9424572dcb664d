"""A host's iSCSI initiator: it logs in, asks what disk it has got, and writes the application's pages to it.

One SCSI command per write. What of its data may go unasked goes along with the command and right behind it; for the
rest the target asks, burst by burst (R2T). A data digest is computed over what the pages hold when their PDU is made,
and the pages then go by reference: whoever changes them before they have left makes the digest wrong.

At ErrorRecoveryLevel 0 there is one answer to every error: the connection is dropped, the initiator logs in again under
its old name, which ends the old session (session reinstatement, RFC 7143 section 6.3.5), and every command without a
response is given anew, under another task tag, with digests over what the pages hold by then.

Source: RFC 7143; drivers/scsi/iscsi_tcp.c and libiscsi.c for the order of things. Where we differ: PDUs are made when
they may be sent, and not as the socket takes them; there is no queue above the window of MaxCmdSN but this one.
"""

from lateack.nodes.application import Copier, PageBuffer
from lateack.nodes.facts import ReplyMatched, SessionRecovered, WriteReissued
from lateack.nodes.iscsi import iscsi, iscsi_login, iscsi_pdus, scsi
from lateack.nodes.iscsi.iscsi import FINAL, NO_TAG, WRITES, Pdu
from lateack.nodes.iscsi.iscsi_burst import Burst, send_burst
from lateack.nodes.iscsi.iscsi_login import IscsiParameters
from lateack.nodes.iscsi.iscsi_session import CAPACITY, FLUSH, GOODBYE, IDENTITY, READY, InitiatorSession
from lateack.nodes.node import Time
from lateack.nodes.stack.host import IpStack
from lateack.nodes.storage.page_write import PageWrite
from lateack.nodes.storage.stream_client import Peer, ProtocolError
from lateack.nodes.strategies.guest import GuestStrategy

SEGMENT_MAX = 1 << 16
"""The longest data segment that is taken here; what a target of ours sends is far shorter."""


class IscsiInitiator(InitiatorSession):
    """One session to one disk; `unsent` are the writes for which the target's window has no room yet."""

    __slots__ = ("parting", "unsent")

    def __init__(
        self, name: str, peer: Peer, parameters: IscsiParameters, stack: IpStack, *,
        copier: Copier, strategy: GuestStrategy,
    ) -> None:  # fmt: skip
        """Write for the host *name*."""
        super().__init__(name, peer, parameters, stack, copier=copier, strategy=strategy)
        self.unsent: list[PageWrite] = []
        self.parting = False

    # --- what a stream client says ------------------------------------------------------------------------------------

    def arrived(self, now: Time) -> None:
        """Take the target's PDUs; then give it what its window has room for by now."""
        while True:
            pdu = iscsi.next_pdu(self.stream, self.agreed.digests, SEGMENT_MAX)
            if pdu is None:
                break
            if pdu.damaged:
                self.damaged(pdu)
            self._take(pdu, now)
        self._send_waiting(now)
        self._part(now)

    def recover(self, now: Time) -> None:
        """The new session knows nothing of the old one's commands: give anew what was not answered, in order."""
        given = [write for write in self.pending.values() if write.transmissions]
        self.effects.append(SessionRecovered("iscsi", len(given)))
        self.unsent = list(self.pending.values())
        self.pending.clear()
        for write in self.unsent:
            if write.transmissions:
                former, write.xid = write.xid, self.next_tag()
                self.effects.append(WriteReissued(former, write.xid))
            self.pending[write.xid] = write
        self._send_waiting(now)
        self._part(now)

    def dropped(self, now: Time) -> None:
        """What was asked besides writes is asked again when it is needed."""
        self.asked.clear()
        self.unsent.clear()

    def quiet(self) -> bool:
        """Say whether the target has flushed its cache and heard our goodbye."""
        return self.parting and not self.pending and not self.asked

    def write(self, buffer: PageBuffer, now: Time) -> PageWrite:
        """Give a command for what lies in *buffer*, or let it wait for the window, or for the session."""
        write = self.issue(buffer, now)
        self.pending[write.xid] = write
        if self.ready:
            self.unsent.append(write)
            self._send_waiting(now)
        return write

    def finish(self, now: Time) -> None:
        """Every byte is written: flush the target's cache, log out, and close, once no command waits."""
        self.finishing = True
        self._part(now)

    # --- PDUs that come -----------------------------------------------------------------------------------------------

    def _take(self, pdu: Pdu, now: Time) -> None:
        opcode = pdu.opcode
        if (opcode == iscsi.LOGIN_RESPONSE) == (self.stage == iscsi_login.FULL_FEATURE):
            raise ProtocolError(f"opcode {opcode:#x} at this stage of the session")
        self.count(pdu)
        if opcode == iscsi.LOGIN_RESPONSE:
            self.logged_in(pdu, now)
        elif opcode == iscsi.R2T:
            self._asked_for_data(pdu, now)
        elif opcode == iscsi.SCSI_RESPONSE:
            self._responded(pdu, now)
        elif opcode == iscsi.DATA_IN:
            self._read(pdu, now)
        elif opcode == iscsi.NOP_IN:
            self.asked.pop(pdu.tag, None)
            if pdu.word(20) != NO_TAG:
                self.tell(iscsi_pdus.nop_out(pdu.word(20), self.command_number, self.expected_status), now)
        elif opcode == iscsi.LOGOUT_RESPONSE:
            self.asked.pop(pdu.tag, None)
        elif opcode not in (iscsi.REJECT, iscsi.ASYNC_MESSAGE):
            # A Reject is followed by the end of the connection at our recovery level (iscsi_handle_reject).
            raise ProtocolError(f"opcode {opcode:#x} from a target")

    def _responded(self, pdu: Pdu, now: Time) -> None:
        """A command has ended; only for GOOD, and only if nothing is left over, it has done what it was to do."""
        target_failed, status = pdu.header[2], pdu.header[3]
        if target_failed or status or pdu.word(44):
            reason = scsi.sense_text(pdu.data[2:]) if status == scsi.CHECK_CONDITION else f"status {status:#04x}"
            self.copier.fail(f"a SCSI command failed: {reason}")
        write = self.pending.get(pdu.tag)
        if write is None:
            self._answered(self.asked.pop(pdu.tag, ""), now)
        elif not self.copier.over:
            blocks = scsi.blocks_of(write.count)
            self.effects.append(ReplyMatched(write.xid, scsi.write(write.offset // scsi.BLOCK_BYTES, blocks)[0]))
            self.answered(write)

    def _read(self, pdu: Pdu, now: Time) -> None:
        """What was asked has come, in one PDU and with the status, for it is short."""
        what = self.asked.pop(pdu.tag, "")
        if not pdu.flags & iscsi.STATUS:
            raise ProtocolError("a Data-In without a status, where everything fits into one")
        if what == CAPACITY:
            if len(pdu.data) < scsi.CAPACITY_16_BYTES:
                raise ProtocolError("a capacity that is none")
            if scsi.blocks_in(pdu.data) < scsi.blocks_of(self.copier.source.size):
                self.copier.fail(f"the disk has only {scsi.blocks_in(pdu.data)} blocks")
                return
        self._answered(what, now)

    def _answered(self, what: str, now: Time) -> None:
        """Ask the next thing that an initiator wants to know of a disk (`scsi_probe_lun`, `sd_revalidate_disk`)."""
        if self.copier.over:
            return
        if what == IDENTITY:
            self.ask(READY, scsi.test_unit_ready(), now)
        elif what == READY:
            self.ask(CAPACITY, scsi.read_capacity(), now, expected_bytes=scsi.CAPACITY_16_BYTES)
        elif what == CAPACITY:
            self.ready_now(now)
        elif what == FLUSH:
            self.parting = True
            if self.peer.unmount:
                tag = self.next_tag()
                self.asked[tag] = GOODBYE
                self.tell(iscsi_pdus.logout_request(tag, self.command_number, self.expected_status), now)

    # --- writes -------------------------------------------------------------------------------------------------------

    def _part(self, now: Time) -> None:
        """Once every write is answered at the end, have the disk's cache flushed; what follows is the logout."""
        if self.finishing and self.ready and not (self.pending or self.asked or self.parting or self.copier.over):
            self.ask(FLUSH, scsi.synchronize_cache(), now)

    def _send_waiting(self, now: Time) -> None:
        """Give the commands for which the target has room: up to MaxCmdSN."""
        while self.unsent and self.ready and self.has_room():
            self._command(self.unsent.pop(0), now)

    def _command(self, write: PageWrite, now: Time) -> None:
        """Send a WRITE with its immediate data, and what else may go before it is asked for."""
        sk, agreed = self.socket, self.agreed
        assert sk is not None, "a command before the connection"
        write.transmissions += 1
        blocks = scsi.blocks_of(write.count)
        total = blocks * scsi.BLOCK_BYTES
        first = min(agreed.first_burst, total)
        along = min(agreed.send_max, first) if agreed.immediate_data else 0
        unasked = along if agreed.initial_r2t else first
        header = iscsi_pdus.scsi_command(
            (FINAL if unasked == along else 0) | WRITES, write.xid, total,
            scsi.write(write.offset // scsi.BLOCK_BYTES, blocks),
            command_number=self.next_command(), expected_status=self.expected_status, length=along,
        )  # fmt: skip
        burst = Burst(sk, self.strategy, write, agreed)
        burst.send(header, 0, along)
        send_burst(burst, NO_TAG, self.expected_status, start=along, end=unasked)
        self.stack.send_queued(sk, now)

    def _asked_for_data(self, pdu: Pdu, now: Time) -> None:
        """The target has room for the next burst of a write: send it."""
        sk, write = self.socket, self.pending.get(pdu.tag)
        assert sk is not None
        if write is None:
            raise ProtocolError("an R2T for no command of ours")
        start, length = pdu.word(40), pdu.word(44)
        total = scsi.blocks_of(write.count) * scsi.BLOCK_BYTES
        if not 0 < length <= self.agreed.max_burst or start + length > total:
            raise ProtocolError("an R2T for more than there is, or than was agreed on")
        burst = Burst(sk, self.strategy, write, self.agreed)
        send_burst(burst, pdu.word(20), self.expected_status, start=start, end=start + length)
        self.stack.send_queued(sk, now)
