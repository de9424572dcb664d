"""The RPC client's transport: requests known by XID and their timers (net/sunrpc/xprt.c); the owner moves the bytes."""

from __future__ import annotations

import struct
from typing import Any, Final, Literal

from lateack.nodes.records import Record

SECOND: Final = 1_000_000_000
DECISECOND: Final = SECOND // 10
UDP_TIMEOUT_MAX: Final = 60 * SECOND
"""The cap on a doubled timeout (NFS_MAX_UDP_TIMEOUT)."""
TCP_TIMEOUT_MAX: Final = 600 * SECOND
"""The cap on an incremented timeout (NFS_MAX_TCP_TIMEOUT)."""
REQUESTS_MAX: Final = 65536
"""The most requests in flight at once (RPC_MAX_SLOT_TABLE_LIMIT)."""

RETRANSMIT: Final = "retransmit"
FAILED: Final = "failed"
Expiry = Literal["retransmit", "failed"]
"""What an expired request wants of its owner: to be sent once more, or to be reported to the application as failed."""

_REPLY = 1
_TWO = struct.Struct(">2I")


class RpcTimeouts(Record):
    """When a request is sent again and when it is given up (struct rpc_timeout); times in nanoseconds.

    `retrans` is the number of minor timeouts that make a major one. An `exponential` timeout doubles at each minor
    timeout, any other grows by `increment`; neither grows beyond `maximum`. A `soft` request fails at its major
    timeout, a hard one never does.
    """

    timeo: int
    retrans: int
    increment: int
    exponential: bool
    maximum: int
    soft: bool = False

    @classmethod
    def tcp(cls, timeo: int = 600 * DECISECOND, retrans: int = 2, soft: bool = False) -> RpcTimeouts:
        """NFS's timers over TCP: linear, by `timeo` at each step (NFS_DEF_TCP_TIMEO, NFS_DEF_TCP_RETRANS)."""
        return cls(timeo, retrans, timeo, False, TCP_TIMEOUT_MAX, soft)

    @classmethod
    def udp(cls, timeo: int = 11 * DECISECOND, retrans: int = 3, soft: bool = False) -> RpcTimeouts:
        """NFS's timers over UDP: doubling (NFS_DEF_UDP_TIMEO, NFS_DEF_UDP_RETRANS)."""
        return cls(timeo, retrans, 0, True, UDP_TIMEOUT_MAX, soft)

    def major(self) -> int:
        """Nanoseconds from a request's start to its major timeout (xprt_calc_majortimeo)."""
        span = self.timeo << self.retrans if self.exponential else self.timeo + self.increment * self.retrans
        return min(span, self.maximum)

    def next_timeout(self, timeout: int) -> int:
        """The timeout that follows `timeout` after a minor timeout (xprt_adjust_timeout)."""
        grown = timeout << 1 if self.exponential else timeout + self.increment
        return min(grown, self.maximum)


class RpcRequest:
    """One call until it is answered or given up (struct rpc_rqst).

    `head`, `payload` and `tail` are its xdr_buf: every transmission sends them again, and `payload` is whatever the
    owner keeps there, such as references to pages. `context` is the owner's too.
    """

    __slots__ = (
        "context",
        "deadline",
        "head",
        "major_deadline",
        "payload",
        "proc",
        "replied_at",
        "retries",
        "started_at",
        "tail",
        "timeout",
        "transmissions",
        "xid",
    )

    started_at: int
    timeout: int
    deadline: int
    major_deadline: int

    def __init__(self, xid: int, proc: int, head: bytes, payload: Any, tail: bytes, context: Any) -> None:
        self.xid = xid
        self.proc = proc
        self.head = head
        self.payload = payload
        self.tail = tail
        self.context = context
        self.transmissions = 0
        self.retries = 0  # minor timeouts since the last major one
        self.replied_at: int | None = None


class RpcClient:
    """The requests of one client on one transport, whatever connections they are sent on.

    The owner encodes a call with `next_xid`, starts it, transmits it and says so, feeds the replies, and asks for what
    has expired when `deadline` (the earliest of all, None where nothing waits) has come.
    """

    __slots__ = (
        "deadline",
        "major_timeouts",
        "next_xid",
        "pending",
        "retransmissions",
        "timeouts",
        "unmatched_replies",
    )

    def __init__(self, first_xid: int, timeouts: RpcTimeouts) -> None:
        self.next_xid = first_xid
        self.timeouts = timeouts
        self.pending: dict[int, RpcRequest] = {}
        self.deadline: int | None = None
        self.unmatched_replies = 0
        self.retransmissions = 0
        self.major_timeouts = 0

    def start(self, proc: int, head: bytes, payload: Any, tail: bytes, context: Any, now: int) -> RpcRequest:
        """Take a call, whose head was encoded with `next_xid`, and let its timers run; the owner transmits it."""
        xid = self.next_xid
        assert head[:4] == xid.to_bytes(4, "big"), "the head must carry next_xid"
        assert xid not in self.pending and len(self.pending) < REQUESTS_MAX
        self.next_xid = (xid + 1) & 0xFFFFFFFF
        request = RpcRequest(xid, proc, head, payload, tail, context)
        timeouts = self.timeouts
        request.started_at = now
        request.timeout = timeout = timeouts.timeo
        major = timeouts.major()
        request.major_deadline = now + major
        request.deadline = deadline = now + min(timeout, major)
        self.pending[xid] = request
        if self.deadline is None or deadline < self.deadline:
            self.deadline = deadline
        return request

    def transmitted(self, request: RpcRequest, now: int) -> None:
        """Count a transmission of a request and let its timer run afresh."""
        request.transmissions += 1
        if request.transmissions > 1:
            self.retransmissions += 1
        deadline = now + request.timeout
        if deadline != request.deadline:
            request.deadline = min(deadline, request.major_deadline)
            self._find_deadline()

    def reply(self, record: bytes, now: int) -> RpcRequest | None:
        """Complete the request that a reply answers and give it; None where nobody waits for it.

        The XID alone decides (xprt_lookup_rqst), not the transmission that is answered. The record's body is not read.
        """
        try:
            xid, kind = _TWO.unpack_from(record)
        except struct.error:
            kind = xid = -1
        request = self.pending.pop(xid, None) if kind == _REPLY else None
        if request is None:
            self.unmatched_replies += 1
            return None
        request.replied_at = now
        if request.deadline == self.deadline:
            self._find_deadline()
        return request

    def abandon(self, request: RpcRequest) -> None:
        """Forget a request whose caller was interrupted: a later reply will find nobody (xprt_release)."""
        del self.pending[request.xid]
        self._find_deadline()

    def expired(self, now: int) -> list[tuple[RpcRequest, Expiry]]:
        """Move the timers of all requests whose deadline has come and say what each wants, in order of their start."""
        if self.deadline is None or now < self.deadline:
            return []
        due = [request for request in self.pending.values() if request.deadline <= now]
        wants = [(request, self._expire(request, now)) for request in due]
        self._find_deadline()
        return wants

    def _expire(self, request: RpcRequest, now: int) -> Expiry:
        timeouts = self.timeouts
        if now < request.major_deadline:
            request.timeout = timeouts.next_timeout(request.timeout)
            request.retries += 1
        else:
            self.major_timeouts += 1
            if timeouts.soft:
                del self.pending[request.xid]
                return FAILED
            # A hard mount says "not responding" and tries for ever.
            request.timeout = timeouts.timeo
            request.retries = 0
            request.major_deadline = now + timeouts.major()
        # No wait reaches beyond the major timeout, as in today's kernels (xprt_request_timeout); those of 2011 let the
        # last wait do so.
        request.deadline = min(now + request.timeout, request.major_deadline)
        return RETRANSMIT

    def _find_deadline(self) -> None:
        pending = self.pending
        self.deadline = min([request.deadline for request in pending.values()]) if pending else None
