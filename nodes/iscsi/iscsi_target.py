"""An iSCSI target's side of one connection: the commands in their order, and the data that they wait for.

It is a part and knows no sockets: its owner feeds it PDUs (`take`), sends what lies in `out`, and closes the connection
once it is `over`. ErrorRecoveryLevel is 0: a PDU whose digest is wrong ends the session (RFC 7143 section 7.8 has the
Reject that goes before it; Linux's target closes as well, iscsit_handle_data_out in drivers/target/iscsi).

Where we differ from a real target: there is one connection per session, one unit, no unit attention after the login,
and no discovery; and the disk is made when its owner logs in first.
"""

from lateack.nodes.facts import DigestFailed, WriteExecuted
from lateack.nodes.iscsi import iscsi, iscsi_pdus, scsi
from lateack.nodes.iscsi.iscsi import FINAL, NO_TAG, Pdu
from lateack.nodes.iscsi.iscsi_login import FULL_FEATURE, IscsiParameters
from lateack.nodes.iscsi.iscsi_target_login import Portal, TargetLogin
from lateack.nodes.iscsi.scsi import ScsiError, Sense
from lateack.nodes.node import Time
from lateack.nodes.stack.packets import digest_of
from lateack.nodes.storage.stream_client import ProtocolError

DATA_DIGEST_ERROR, NOT_SUPPORTED = 0x02, 0x05
"""Reasons of a Reject (section 11.17.1)."""
NO_TASK_MANAGEMENT = 0x05


class Transfer:
    """A WRITE whose data is still coming."""

    __slots__ = ("bursts", "data", "end", "number", "start", "tag", "transfer_tag", "wanted")

    def __init__(self, tag: int, start: int, wanted: int) -> None:
        """Expect *wanted* bytes for the disk from byte *start* on, under the initiator's *tag*."""
        self.tag = tag
        self.start = start
        self.wanted = wanted
        self.data = bytearray()
        self.end = 0
        self.number = 0
        self.bursts = 0
        self.transfer_tag = NO_TAG


class TargetConnection(TargetLogin):
    """One connection once it is logged in; `transfers` are the writes whose data is still coming, by their tags."""

    def __init__(self, portal: Portal, wanted: IscsiParameters, client: str) -> None:
        super().__init__(portal, wanted, client)
        self.transfers: dict[int, Transfer] = {}
        self.next_transfer_tag = 1

    def under_way(self) -> int:
        """Return how many writes still wait for data."""
        return len(self.transfers)

    def take(self, pdu: Pdu, now: Time) -> None:
        """Take one PDU. Raises ProtocolError, after which there is nothing to do but to drop the connection."""
        if pdu.damaged:
            self._damaged(pdu)
        elif self.stage != FULL_FEATURE:
            self.log_in(pdu, now)
        elif pdu.opcode == iscsi.DATA_OUT:
            self._data(pdu, now)
        elif pdu.immediate or pdu.word(24) == self.expected_command:
            if not pdu.immediate:
                self.expected_command = (self.expected_command + 1) & 0xFFFF_FFFF
            self._request(pdu, now)
        # A command out of its turn is ignored without a word (section 4.2.2.1).

    # --- requests -----------------------------------------------------------------------------------------------------

    def _request(self, pdu: Pdu, now: Time) -> None:
        opcode = pdu.opcode
        if opcode == iscsi.SCSI_COMMAND:
            self._command(pdu, now)
        elif opcode == iscsi.NOP_OUT:
            if pdu.tag != NO_TAG:
                self.send(iscsi_pdus.nop_in(pdu.tag, self.numbers(), len(pdu.data)), pdu.data)
        elif opcode == iscsi.LOGOUT_REQUEST:
            self.send(iscsi_pdus.logout_response(pdu.tag, self.numbers()))
        elif opcode == iscsi.TASK_REQUEST:
            self.send(iscsi_pdus.task_response(pdu.tag, self.numbers(), NO_TASK_MANAGEMENT))
        else:
            self._reject(pdu, NOT_SUPPORTED)

    def _command(self, pdu: Pdu, now: Time) -> None:
        """Do a SCSI command, or begin to take its data."""
        descriptor, disk = pdu.header[32:48], self.disk
        assert disk is not None, "a session without a disk"
        try:
            if pdu.header[8:16] != iscsi.NO_LUN and descriptor[0] != scsi.REPORT_LUNS:
                raise ScsiError(scsi.NO_SUCH_UNIT)
            if descriptor[0] in scsi.WRITE_COMMANDS:
                self._begin(pdu, *disk.check(descriptor), now=now)
            elif descriptor[0] == scsi.TEST_UNIT_READY or descriptor[0] in scsi.SYNCHRONIZE_COMMANDS:
                self._respond(pdu.tag)  # what was written has reached the disk
            else:
                self._answer(pdu, disk.get(descriptor))
        except ScsiError as error:
            self._respond(pdu.tag, error.sense)

    def _answer(self, pdu: Pdu, data: bytes) -> None:
        """Send what a command reads, the status with the last of it."""
        expected = pdu.word(20)
        residual = abs(len(data) - expected)
        flags = FINAL | iscsi.STATUS
        if residual:
            flags |= iscsi.UNDERFLOW if len(data) < expected else iscsi.OVERFLOW
        data = data[:expected]
        if not data:
            self._respond(pdu.tag, residual=(flags & 6, residual))
            return
        longest = self.agreed.send_max
        for number, at in enumerate(range(0, len(data), longest)):
            piece = data[at : at + longest]
            last = at + len(piece) == len(data)
            numbers = self.numbers() if last else self.numbers(status=False)
            header = iscsi_pdus.data_in(
                flags if last else 0, pdu.tag, numbers, number,
                offset=at, length=len(piece), residual=residual if last else 0,
            )  # fmt: skip
            self.send(header, piece)

    def _respond(
        self, tag: int, sense: Sense | None = None, *, residual: tuple[int, int] = (0, 0), count: int = 0
    ) -> None:
        """End a command, well or with the reason why not."""
        data = b""
        if sense is not None:
            reason = scsi.sense_data(sense)
            data = len(reason).to_bytes(2, "big") + reason
        status = scsi.CHECK_CONDITION if data else scsi.GOOD
        header = iscsi_pdus.scsi_response(
            tag, status, self.numbers(), residual=residual, data_count=count, length=len(data)
        )
        self.send(header, data)

    # --- writes -------------------------------------------------------------------------------------------------------

    def _begin(self, pdu: Pdu, start: int, wanted: int, *, now: Time) -> None:
        """Take a WRITE's immediate data, and expect or ask for the rest."""
        if pdu.tag in self.transfers:
            raise ProtocolError("a second task under one tag")
        if pdu.data and not self.agreed.immediate_data:
            raise ProtocolError("immediate data, which was not agreed on")
        if pdu.word(20) != wanted:
            raise ScsiError(scsi.WRONG_FIELD)  # a residual of a write is a bug of the initiator's
        transfer = self.transfers[pdu.tag] = Transfer(pdu.tag, start, wanted)
        unasked_follows = not pdu.flags & FINAL
        if unasked_follows and self.agreed.initial_r2t:
            raise ProtocolError("unsolicited data, which was not agreed on")
        transfer.end = min(self.agreed.first_burst, wanted) if unasked_follows else len(pdu.data)
        self._add(transfer, pdu.data, final=not unasked_follows, now=now)

    def _data(self, pdu: Pdu, now: Time) -> None:
        """Take a Data-Out: its place and its number must be the next ones, for everything comes in order."""
        transfer = self.transfers.get(pdu.tag)
        if transfer is None:
            return  # of a command that has failed already
        if (pdu.word(20), pdu.word(36), pdu.word(40)) != (transfer.transfer_tag, transfer.number, len(transfer.data)):
            raise ProtocolError("a Data-Out out of its turn")
        transfer.number += 1
        self._add(transfer, pdu.data, final=bool(pdu.flags & FINAL), now=now)

    def _add(self, transfer: Transfer, data: bytes, *, final: bool, now: Time) -> None:
        transfer.data += data
        if len(transfer.data) > transfer.end:
            raise ProtocolError("more data than was asked for")
        if not final:
            return
        if transfer.transfer_tag != NO_TAG and len(transfer.data) != transfer.end:
            raise ProtocolError("less data than was asked for")
        if len(transfer.data) < transfer.wanted:
            self._ask(transfer)
        else:
            self._execute(transfer, now)

    def _ask(self, transfer: Transfer) -> None:
        """Ask for the next burst (R2T), which has a tag of its own."""
        start = len(transfer.data)
        length = min(self.agreed.max_burst, transfer.wanted - start)
        transfer.end = start + length
        transfer.number = 0
        transfer.transfer_tag = self.next_transfer_tag
        self.next_transfer_tag = self.next_transfer_tag % 0x7FFF_FFFF + 1
        numbers = self.numbers(status=False, ahead=True)
        self.send(
            iscsi_pdus.ready_to_transfer(
                transfer.tag, transfer.transfer_tag, numbers, transfer.bursts, offset=start, length=length
            )
        )
        transfer.bursts += 1

    def _execute(self, transfer: Transfer, now: Time) -> None:
        """Everything is here: write it, and say so."""
        del self.transfers[transfer.tag]
        disk = self.disk
        assert disk is not None, "a session without a disk"
        try:
            kept = disk.put(transfer.start, bytes(transfer.data), now)
        except ScsiError as error:
            self._respond(transfer.tag, error.sense, count=transfer.bursts)
            return
        self.portal.effects.append(
            WriteExecuted(transfer.tag, self.client, disk.name, transfer.start, len(kept), digest_of(kept))
        )
        self._respond(transfer.tag, count=transfer.bursts)

    # --- errors -------------------------------------------------------------------------------------------------------

    def _damaged(self, pdu: Pdu) -> None:
        """A digest is wrong. At this recovery level that is the end of the session, whatever made it wrong."""
        whose = pdu.tag if pdu.damaged == "data" else 0
        self.portal.effects.append(
            DigestFailed(
                self.portal.name,
                "iscsi",
                whose,
                self._place_of(pdu),
                len(pdu.data),
                digest_of(pdu.data),
                "disconnected",
            )
        )
        if pdu.damaged == "header":
            raise ProtocolError("the header digest of a PDU is wrong")
        self._reject(pdu, DATA_DIGEST_ERROR)
        self.transfers.clear()
        self.over = True

    def _place_of(self, pdu: Pdu) -> int:
        """Return which byte of the disk a PDU's data begins at, as far as its header can be believed."""
        transfer = self.transfers.get(pdu.tag)
        if pdu.damaged == "data" and pdu.opcode == iscsi.DATA_OUT and transfer is not None:
            return transfer.start + pdu.word(40)
        if pdu.damaged == "data" and pdu.opcode == iscsi.SCSI_COMMAND:
            return scsi.extent_of(pdu.header[32:48])[0] * scsi.BLOCK_BYTES
        return 0

    def _reject(self, pdu: Pdu, reason: int) -> None:
        self.send(iscsi_pdus.reject(reason, self.numbers(), len(pdu.header)), pdu.header)
