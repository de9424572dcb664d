"""An NFSv3 server as a part: bytes of calls in, bytes of replies out, and a list of what happened."""

from __future__ import annotations

import struct
from typing import Final

import xxhash

from lateack.nodes.nfs import mount, nfs, rpc
from lateack.nodes.nfs.drc import DOIT, DROPIT, Client, DuplicateRequestCache
from lateack.nodes.nfs.mount import MountServer
from lateack.nodes.nfs.nfs import NfsError
from lateack.nodes.nfs.nfs_procedures import (
    PROCEDURES,
    TRANSFER_DEFAULT,
    AdmittedCall,
    NfsProcedures,
)
from lateack.nodes.nfs.server_events import DuplicateSeen, ServerEvent
from lateack.nodes.nfs.xdr import XdrError
from lateack.nodes.storage.store import Store

WITNESSED_MAX: Final = 4096
"""How many modifying calls the server remembers in order to say that one of them came again."""

AUTH_AT: Final = 24
"""Where a call's credential begins, after XID, CALL, RPC version, program, version and procedure."""
OURS: Final = struct.pack(">4I", rpc.CALL, rpc.RPC_VERSION, nfs.PROGRAM, nfs.VERSION)
"""What lies between the XID and the procedure of a call that is for this program."""


class NfsServer:
    """Program 100003 version 3 over a store, and MOUNT for its root; its owner gives it calls and drains `events`.

    `verifier` is the eight bytes by which clients know this instance from the one before a restart. With `write_back`
    UNSTABLE bytes stay in memory until they are committed, and die with this object unless `sync` is called. `own_path`
    is by what other name than "/" the root can be mounted.
    """

    __slots__ = (
        "accepted_auth",
        "calls",
        "drc",
        "mounts",
        "procedures",
        "refused",
        "root_handle",
        "undecodable",
        "witnessed",
    )

    def __init__(
        self,
        store: Store,
        verifier: bytes,
        drc: DuplicateRequestCache | None = None,
        transfer_max: int = TRANSFER_DEFAULT,
        *,
        write_back: bool = False,
        own_path: bytes = mount.ROOT,
    ) -> None:
        self.procedures = NfsProcedures(store, verifier, transfer_max, write_back)
        self.drc = drc if drc is not None else DuplicateRequestCache()
        self.mounts = MountServer(store, own_path)
        self.root_handle = store.root
        self.calls = 0
        self.refused = 0
        self.undecodable = 0
        self.accepted_auth = b""  # the last credential and verifier found good, for most calls carry the same
        # What was executed, by client address, XID and procedure. This is no part of an NFS server: it is the witness
        # who can say, whatever the reply cache forgot, that a call came again and whether its bytes had changed.
        self.witnessed: dict[tuple[str, int, int], int] = {}

    @property
    def events(self) -> list[ServerEvent]:
        """What happened and was not drained yet, in order."""
        return self.procedures.events

    def drain_events(self) -> list[ServerEvent]:
        """Take what happened since the last time."""
        events = self.procedures.events
        self.procedures.events = []
        return events

    def connected(self, client: Client, now: int) -> None:
        """A client has connected: some request caches keep a table for each connection."""
        self.drc.attach(client, now)

    def disconnected(self, client: Client, now: int) -> None:
        """A client's connection is gone."""
        self.drc.detach(client, now)

    def sync(self) -> None:
        """Put everything that was written into the store, as a server does that ends in good order."""
        if self.procedures.cached is not None:
            self.procedures.cached.sync()

    def handle_call(self, record: bytes, client: Client, now: int) -> bytes | None:
        """Serve one call and give its reply; None for a dropped duplicate and for bytes that are no call."""
        admitted = self.admit(record, client, now)
        return self.execute(admitted, now) if isinstance(admitted, AdmittedCall) else admitted

    def admit(self, record: bytes, client: Client, now: int) -> AdmittedCall | bytes | None:
        """Decide on a call without executing it; an AdmittedCall must be executed, now or later.

        Until then the reply cache has it in progress, and duplicates of it are dropped.
        """
        self.calls += 1
        call = self._familiar(record)
        if call is None:
            refusal = None
            try:
                call = rpc.decode_call(record)
                if call.program == mount.PROGRAM and self._credential_is_good(call):
                    return self.mounts.answer(call, record, client)
                refusal = self._refusal(call)
            except XdrError:
                self.undecodable += 1
                return None
            except rpc.RpcRefused as refused:
                refusal = refused.reply
            if refusal is not None or call is None:
                self.refused += 1
                return refusal
            self.accepted_auth = record[AUTH_AT : call.arguments]
        decode, _, cached = PROCEDURES[call.procedure]
        try:
            admitted = AdmittedCall(call, record, client, decode(record, call.arguments))
        except XdrError:
            self.refused += 1
            return rpc.encode_refusal(call.xid, rpc.GARBAGE_ARGS)
        if not cached:
            self.drc.not_cached += 1
            return admitted
        return self._look_up(admitted, now)

    def execute(self, admitted: AdmittedCall, now: int) -> bytes:
        """Execute an admitted call and give its reply."""
        call = admitted.call
        procedures = self.procedures
        try:
            results = PROCEDURES[call.procedure][1](procedures, admitted, now)
        except (NfsError, OSError) as error:
            results = procedures.failure(admitted, error)
        reply = rpc.encode_success(call.xid, results)
        if admitted.entry is not None:
            self.drc.update(admitted.entry, reply, len(results), now)
        return reply

    def _familiar(self, record: bytes) -> rpc.Call | None:
        """Decode a call that begins as the last good one did but for XID and procedure; None for any other.

        Its credential was judged before and is left out.
        """
        auth = self.accepted_auth
        arguments = AUTH_AT + len(auth)
        # The bytes say how long they are themselves, so that no other call begins with the same.
        if not auth or record[4:20] != OURS or record[AUTH_AT:arguments] != auth:
            return None
        procedure = int.from_bytes(record[20:24], "big")
        if procedure >= nfs.PROCEDURES:
            return None
        xid = int.from_bytes(record[:4], "big")
        return rpc.Call(xid, nfs.PROGRAM, nfs.VERSION, procedure, auth[3], b"", arguments)  # flavors are 0 and 1

    def _refusal(self, call: rpc.Call) -> bytes | None:
        """The reply to a call that is none of ours, in the order in which Linux asks (svc_process_common)."""
        if not self._credential_is_good(call):
            return rpc.encode_auth_error(call.xid, rpc.AUTH_BADCRED)
        if call.program != nfs.PROGRAM:
            return rpc.encode_refusal(call.xid, rpc.PROG_UNAVAIL)
        if call.version != nfs.VERSION:
            return rpc.encode_program_mismatch(call.xid, nfs.VERSION, nfs.VERSION)
        if call.procedure >= nfs.PROCEDURES:
            return rpc.encode_refusal(call.xid, rpc.PROC_UNAVAIL)
        return None

    def _credential_is_good(self, call: rpc.Call) -> bool:
        if call.flavor == rpc.AUTH_NONE:
            return True
        if call.flavor != rpc.AUTH_SYS:
            return False
        try:
            rpc.decode_auth_sys(call.credential)
        except XdrError:
            return False
        return True

    def _look_up(self, admitted: AdmittedCall, now: int) -> AdmittedCall | bytes | None:
        """Ask the reply cache about a modifying call, and note where it came before."""
        call, record, client = admitted.call, admitted.record, admitted.client
        outcome, entry = self.drc.lookup(call, record, client, now)
        digest = xxhash.xxh3_64_intdigest(memoryview(record)[call.arguments :])
        key = (client[0], call.xid, call.procedure)
        first = self.witnessed.get(key)
        if outcome == DOIT:
            if first is not None:
                self._note(admitted, "executed-again", first != digest)
            elif len(self.witnessed) >= WITNESSED_MAX:
                del self.witnessed[next(iter(self.witnessed))]
            self.witnessed[key] = digest
            admitted.entry = entry
            return admitted
        differs = first is not None and first != digest
        self._note(admitted, "dropped" if outcome == DROPIT else "replied", differs)
        return None if outcome == DROPIT or entry is None else entry.reply

    def _note(self, admitted: AdmittedCall, outcome: str, differs: bool) -> None:
        call = admitted.call
        self.procedures.events.append(DuplicateSeen(call.xid, admitted.client, call.procedure, outcome, differs))
