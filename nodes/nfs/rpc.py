"""ONC RPC version 2 (RFC 5531): calls, replies and the marks that cut a TCP stream into records."""

from __future__ import annotations

import struct

from lateack.nodes.nfs.xdr import Packer, Unpacker, XdrError
from lateack.nodes.records import LightRecord, Record

RPC_VERSION = 2
CALL = 0
REPLY = 1

MSG_ACCEPTED = 0
MSG_DENIED = 1

# accept_stat
SUCCESS = 0
PROG_UNAVAIL = 1
PROG_MISMATCH = 2
PROC_UNAVAIL = 3
GARBAGE_ARGS = 4
SYSTEM_ERR = 5

# reject_stat
RPC_MISMATCH = 0
AUTH_ERROR = 1

# auth_stat
AUTH_BADCRED = 1
AUTH_BADVERF = 3

# auth_flavor
AUTH_NONE = 0
AUTH_SYS = 1

AUTH_BYTES_MAX = 400
"""The longest body of an opaque_auth (RFC 5531 section 8.2)."""
MACHINE_NAME_MAX = 255
GROUPS_MAX = 16
RECORD_BYTES_MAX = (1 << 20) + 4096
"""The longest record that a reader takes: 1 MiB of payload, as Linux's RPCSVC_MAXPAYLOAD, and room for headers."""
FRAGMENTS_MAX = 4096
"""The most fragments that one record may be cut into."""

_LAST_FRAGMENT = 0x80000000
_UINT = struct.Struct(">I")
_TWO = struct.Struct(">2I")
_THREE = struct.Struct(">3I")
_SIX = struct.Struct(">6I")
_EIGHT = struct.Struct(">8I")
# REPLY, MSG_ACCEPTED, a verifier of AUTH_NONE, SUCCESS: all that follows the XID of almost every reply.
_SUCCESS_HEAD = struct.pack(">5I", REPLY, MSG_ACCEPTED, AUTH_NONE, 0, SUCCESS)
REPLY_HEAD_BYTES = 4 + len(_SUCCESS_HEAD)

AUTH_NONE_CREDENTIAL = bytes(16)
"""A credential and a verifier of AUTH_NONE, as `encode_call` takes them."""


class RpcRefused(Exception):
    """A call that cannot be served but can be answered; `reply` is the whole answer."""

    def __init__(self, reply: bytes) -> None:
        super().__init__("the call was refused")
        self.reply = reply


class RecordTooLong(XdrError):
    """A stream announced a record beyond the reader's bound: the connection can only be closed."""


class Call(LightRecord):
    """The header of one call; the arguments begin at byte `arguments` of its record."""

    xid: int
    program: int
    version: int
    procedure: int
    flavor: int
    credential: bytes
    arguments: int


class Reply(LightRecord):
    """The header of one reply; the results of a success begin at byte `results` of its record.

    `status` is an accept_stat where `accepted`, else a reject_stat. `low` and `high` are the versions of a mismatch;
    for AUTH_ERROR `low` is the auth_stat.
    """

    xid: int
    accepted: bool
    status: int
    results: int
    low: int = 0
    high: int = 0

    def succeeded(self) -> bool:
        """Whether results follow."""
        return self.accepted and self.status == SUCCESS


class AuthSys(Record):
    """An AUTH_SYS credential (RFC 5531 appendix A)."""

    stamp: int
    machine: bytes
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def encode_auth_sys(credential: AuthSys) -> bytes:
    """The opaque_auth of an AUTH_SYS credential and a verifier of AUTH_NONE, made once and put into every call."""
    assert len(credential.machine) <= MACHINE_NAME_MAX and len(credential.groups) <= GROUPS_MAX
    body = Packer()
    body.uint(credential.stamp)
    body.opaque(credential.machine)
    body.uint(credential.uid)
    body.uint(credential.gid)
    body.uint(len(credential.groups))
    for group in credential.groups:
        body.uint(group)
    return _TWO.pack(AUTH_SYS, len(body.buffer)) + body.finish() + bytes(8)


def decode_auth_sys(body: bytes) -> AuthSys:
    """Read the body of an AUTH_SYS credential; raises XdrError."""
    unpacker = Unpacker(body)
    stamp = unpacker.uint()
    machine = unpacker.opaque(MACHINE_NAME_MAX)
    uid = unpacker.uint()
    gid = unpacker.uint()
    count = unpacker.uint()
    if count > GROUPS_MAX:
        raise XdrError(f"{count} groups, where {GROUPS_MAX} are allowed")
    return AuthSys(stamp, machine, uid, gid, tuple(unpacker.uint() for _ in range(count)))


def encode_call(xid: int, program: int, version: int, procedure: int, credential: bytes) -> bytes:
    """The header of a call; `credential` holds credential and verifier, as `encode_auth_sys` makes them."""
    return _SIX.pack(xid, CALL, RPC_VERSION, program, version, procedure) + credential


def decode_call(record: bytes) -> Call:
    """Read a call's header; raises XdrError where no answer is possible and RpcRefused where one is."""
    try:
        xid, kind, rpc_version, program, version, procedure, flavor, length = _EIGHT.unpack_from(record)
    except struct.error:
        raise XdrError("a call cut short") from None
    if kind != CALL:
        raise XdrError("not a call")
    if rpc_version != RPC_VERSION:
        raise RpcRefused(encode_rpc_mismatch(xid))
    if length > AUTH_BYTES_MAX:
        raise RpcRefused(encode_auth_error(xid, AUTH_BADCRED))
    verifier = 32 + ((length + 3) & ~3)
    arguments = _after_verifier(record, verifier, xid)
    return Call(xid, program, version, procedure, flavor, record[32 : 32 + length], arguments)


def _after_verifier(record: bytes, position: int, xid: int) -> int:
    try:
        _, length = _TWO.unpack_from(record, position)
    except struct.error:
        raise XdrError("a call cut short in its verifier") from None
    if length > AUTH_BYTES_MAX:
        raise RpcRefused(encode_auth_error(xid, AUTH_BADVERF))
    arguments = position + 8 + ((length + 3) & ~3)
    if arguments > len(record):
        raise XdrError("a call cut short in its verifier")
    return int(arguments)


def encode_success(xid: int, results: bytes) -> bytes:
    """The whole reply to a call that was executed."""
    return _UINT.pack(xid) + _SUCCESS_HEAD + results


def encode_refusal(xid: int, status: int) -> bytes:
    """The reply to a call not executed: PROG_UNAVAIL, PROC_UNAVAIL, GARBAGE_ARGS or SYSTEM_ERR."""
    return _SIX.pack(xid, REPLY, MSG_ACCEPTED, AUTH_NONE, 0, status)


def encode_program_mismatch(xid: int, low: int, high: int) -> bytes:
    """The reply to a call of a program's version that is not served; `low` to `high` are."""
    return encode_refusal(xid, PROG_MISMATCH) + _TWO.pack(low, high)


def encode_rpc_mismatch(xid: int) -> bytes:
    """The denial of a call of another RPC version than 2."""
    return _SIX.pack(xid, REPLY, MSG_DENIED, RPC_MISMATCH, RPC_VERSION, RPC_VERSION)


def encode_auth_error(xid: int, why: int) -> bytes:
    """The denial of a call whose credential or verifier is not taken; `why` is an auth_stat."""
    return struct.pack(">5I", xid, REPLY, MSG_DENIED, AUTH_ERROR, why)


def decode_reply(record: bytes) -> Reply:
    """Read a reply's header; raises XdrError."""
    if record[4:REPLY_HEAD_BYTES] == _SUCCESS_HEAD:
        return Reply(_UINT.unpack_from(record)[0], True, SUCCESS, REPLY_HEAD_BYTES)
    unpacker = Unpacker(record)
    xid, kind, reply_status = unpacker.take(_THREE)
    if kind != REPLY or reply_status > MSG_DENIED:
        raise XdrError("not a reply")
    return _decode_accepted(xid, unpacker) if reply_status == MSG_ACCEPTED else _decode_denied(xid, unpacker)


def _decode_accepted(xid: int, unpacker: Unpacker) -> Reply:
    unpacker.uint()  # the verifier's flavor, which a client without security does not judge
    unpacker.opaque(AUTH_BYTES_MAX)
    status = unpacker.uint()
    if status > SYSTEM_ERR:
        raise XdrError(f"accept_stat {status}")
    low, high = unpacker.take(_TWO) if status == PROG_MISMATCH else (0, 0)
    return Reply(xid, True, status, unpacker.position, low, high)


def _decode_denied(xid: int, unpacker: Unpacker) -> Reply:
    status = unpacker.uint()
    if status > AUTH_ERROR:
        raise XdrError(f"reject_stat {status}")
    low, high = unpacker.take(_TWO) if status == RPC_MISMATCH else (unpacker.uint(), 0)
    return Reply(xid, False, status, unpacker.position, low, high)


def record_mark(length: int, last: bool = True) -> bytes:
    """The four bytes before a fragment of `length` bytes on TCP; bit 31 marks the record's last (section 11)."""
    return _UINT.pack(length | _LAST_FRAGMENT if last else length)


class RecordReader:
    """Cuts a TCP stream into records, however the stream was cut into chunks.

    A reader that has raised RecordTooLong has lost the framing and raises it for ever.
    """

    __slots__ = ("chunks", "fragment_left", "fragments", "last", "mark", "record_bytes", "record_bytes_max")

    def __init__(self, record_bytes_max: int = RECORD_BYTES_MAX) -> None:
        self.record_bytes_max = record_bytes_max
        self.chunks: list[bytes] = []  # of the unfinished record
        self.record_bytes = 0  # announced so far by the unfinished record's marks
        self.fragments = 0
        self.fragment_left = 0  # bytes of the current fragment still to come
        self.last = False  # whether the current fragment ends its record
        self.mark = b""  # the part of a mark that has come

    def feed(self, chunk: bytes | memoryview) -> list[bytes]:
        """Take the stream's next bytes and give the records that they complete; raises RecordTooLong."""
        size = len(chunk)
        if size < self.fragment_left:
            # The bulk path. The bytes are taken out of the view now: a frame's memory is not ours to keep.
            self.fragment_left -= size
            self.chunks.append(bytes(chunk))
            return []
        if not self.fragments and not self.mark and size >= 4:
            mark = _UINT.unpack_from(chunk)[0]
            if mark == size - 4 | _LAST_FRAGMENT and size - 4 <= self.record_bytes_max:
                return [bytes(chunk[4:])]  # one whole record and nothing else, as nearly always
        return self._feed(bytes(chunk))

    def _feed(self, data: bytes) -> list[bytes]:
        records: list[bytes] = []
        position = 0
        end = len(data)
        while position < end:
            if self.fragment_left == 0:
                position = self._take_mark(data, position)
            if self.fragment_left:
                position = self._take_bytes(data, position)
            if self.last and self.fragment_left == 0:
                records.append(self._finish())
        return records

    def _take_mark(self, data: bytes, position: int) -> int:
        taken = data[position : position + 4 - len(self.mark)]
        self.mark += taken
        if len(self.mark) == 4:
            mark = _UINT.unpack(self.mark)[0]
            self._open_fragment(mark & ~_LAST_FRAGMENT, mark >= _LAST_FRAGMENT)
        return position + len(taken)

    def _open_fragment(self, length: int, last: bool) -> None:
        if self.record_bytes + length > self.record_bytes_max or self.fragments >= FRAGMENTS_MAX:
            self.record_bytes = self.record_bytes_max + 1
            raise RecordTooLong(f"a record of more than {self.record_bytes_max} bytes: close the connection")
        self.mark = b""
        self.record_bytes += length
        self.fragments += 1
        self.fragment_left = length
        self.last = last

    def _take_bytes(self, data: bytes, position: int) -> int:
        taken = data[position : position + self.fragment_left]
        self.fragment_left -= len(taken)
        self.chunks.append(taken)
        return position + len(taken)

    def _finish(self) -> bytes:
        record = b"".join(self.chunks)
        self.chunks.clear()
        self.record_bytes = 0
        self.fragments = 0
        self.last = False
        return record
