"""The RPC client's requests and timers."""

from __future__ import annotations

import copy

import pytest

from lateack.nodes.nfs import rpc
from lateack.nodes.nfs.rpc_client import DECISECOND, FAILED, RETRANSMIT, SECOND, RpcClient, RpcRequest, RpcTimeouts

WRITE = 7


def start(client: RpcClient, now: int = 0) -> RpcRequest:
    """Start a call and transmit it at once."""
    head = rpc.encode_call(client.next_xid, 100003, 3, WRITE, rpc.AUTH_NONE_CREDENTIAL)
    request = client.start(WRITE, head, ["page"], b"", "write 1", now)
    client.transmitted(request, now)
    return request


def follow(client: RpcClient, until: int) -> list[tuple[int, str]]:
    """Let every timer fire and send again whatever wants it, until nothing waits or a time has passed."""
    story: list[tuple[int, str]] = []
    while client.deadline is not None and client.deadline <= until:
        now = client.deadline
        for request, wants in client.expired(now):
            story.append((now, wants))
            if wants == RETRANSMIT:
                client.transmitted(request, now)
    return story


def test_udp_doubles_its_timeout_until_the_major_one() -> None:
    """1.1 s, 2.2 s and 4.4 s, and the major timeout of 1.1 s << 3 cuts the fourth wait short."""
    client = RpcClient(1, RpcTimeouts.udp())
    start(client)

    story = follow(client, 10 * SECOND)

    assert [time for time, _ in story] == [
        11 * DECISECOND,
        33 * DECISECOND,
        77 * DECISECOND,
        88 * DECISECOND,
        99 * DECISECOND,
    ]
    assert client.major_timeouts == 1


def test_tcp_grows_its_timeout_by_steps() -> None:
    """60 s, then 120 s, which ends at the major timeout of 60 s + 2 * 60 s; then all begins again."""
    client = RpcClient(1, RpcTimeouts.tcp())
    request = start(client)

    story = follow(client, 420 * SECOND)

    assert story == [(time * SECOND, RETRANSMIT) for time in (60, 180, 240, 360, 420)]
    assert request.transmissions == 6
    assert client.retransmissions == 5
    assert client.major_timeouts == 2


def test_a_soft_call_fails_at_its_major_timeout() -> None:
    """A soft mount gives up where a hard one goes on."""
    client = RpcClient(1, RpcTimeouts.tcp(soft=True))
    start(client)

    story = follow(client, 1000 * SECOND)

    assert story == [(60 * SECOND, RETRANSMIT), (180 * SECOND, FAILED)]
    assert client.pending == {}
    assert client.deadline is None


GOLDEN = {
    # 1, 2, 4, 8 s, and the major timeout of 1 s << 3 cuts the fourth wait short; then 1, 2, 4 s from there.
    "udp, hard": (RpcTimeouts.udp(SECOND), (1, 3, 7, 8, 9, 11, 15, 16), (8, 16)),
    "udp, soft": (RpcTimeouts.udp(SECOND, soft=True), (1, 3, 7, 8), (8,)),
    # 20, 40, then 60 s where it would be 80; the major timeout, 20 s << 4, is capped as well.
    "udp, capped": (RpcTimeouts.udp(20 * SECOND, 4), (20, 60, 80, 120), (60, 120)),
    # 10, 20, 30, 40 s add up to more than 10 + 3 * 10 s, which is the major timeout.
    "tcp, hard": (RpcTimeouts.tcp(10 * SECOND, 3), (10, 30, 40, 50, 70, 80), (40, 80)),
    "tcp, soft": (RpcTimeouts.tcp(10 * SECOND, 3, soft=True), (10, 30, 40), (40,)),
    # 250 and 500 s, and the major timeout of 250 + 4 * 250 s is capped at 600 s.
    "tcp, capped": (RpcTimeouts.tcp(250 * SECOND, 4), (250, 600, 850, 1200), (600, 1200)),
    # Without repeats every timeout is a major one.
    "tcp, none": (RpcTimeouts.tcp(5 * SECOND, 0), (5, 10, 15), (5, 10, 15)),
}
"""Timers, and by hand when a call is sent again or given up, and which of that is at a major timeout (s)."""


@pytest.mark.parametrize(("timeouts", "times", "majors"), GOLDEN.values(), ids=GOLDEN)
def test_timeouts_follow_one_another_as_in_todays_kernels(
    timeouts: RpcTimeouts, times: tuple[int, ...], majors: tuple[int, ...]
) -> None:
    """As xprt_adjust_timeout has them, and no wait reaches beyond the major timeout (xprt_request_timeout).

    In kernels of 2011 the last wait before it did: the calls were the same, at other times.
    """
    client = RpcClient(1, timeouts)
    request = start(client)
    seen: list[int] = []
    major: list[int] = []

    while client.deadline is not None and len(seen) < len(times):
        now, before = client.deadline, client.major_timeouts
        for _, wants in client.expired(now):
            if wants == RETRANSMIT:
                client.transmitted(request, now)
        seen.append(now)
        major += [now] * (client.major_timeouts - before)

    assert seen == [time * SECOND for time in times]
    assert major == [time * SECOND for time in majors]
    assert (client.pending == {}) == timeouts.soft


@pytest.mark.parametrize(
    ("timeouts", "cap"),
    [(RpcTimeouts.udp(retrans=30), 60 * SECOND), (RpcTimeouts.tcp(retrans=30), 600 * SECOND)],
)
def test_a_timeout_never_grows_beyond_its_cap(timeouts: RpcTimeouts, cap: int) -> None:
    """60 s over UDP, 600 s over TCP, for the major timeout as well."""
    timeout = timeouts.timeo
    for _ in range(40):
        timeout = timeouts.next_timeout(timeout)

    assert timeout == cap
    assert timeouts.major() == cap


def test_a_reply_completes_the_call_whichever_transmission_it_answers() -> None:
    """The XID alone is matched, and what was sent again may still be on its way."""
    client = RpcClient(0xFFFFFFFF, RpcTimeouts.udp())
    request = start(client)
    follow(client, 2 * SECOND)

    found = client.reply(rpc.encode_success(0xFFFFFFFF, b"results"), 2 * SECOND)

    assert found is request
    assert (request.transmissions, request.payload, request.context, request.replied_at) == (
        2,
        ["page"],
        "write 1",
        2 * SECOND,
    )
    assert client.deadline is None
    assert client.next_xid == 0


@pytest.mark.parametrize("record", [b"", b"\0\0\0\1", rpc.encode_success(2, b""), rpc.encode_call(1, 1, 1, 1, b"")])
def test_what_answers_no_call_is_counted(record: bytes) -> None:
    """Second replies, foreign bytes and calls complete nothing."""
    client = RpcClient(1, RpcTimeouts.udp())
    start(client)

    found = client.reply(record, 1)

    assert found is None
    assert client.unmatched_replies == 1
    assert list(client.pending) == [1]


def test_the_deadline_is_the_earliest_of_all_requests() -> None:
    """It moves as requests start, are answered and are abandoned."""
    client = RpcClient(1, RpcTimeouts.tcp(timeo=10))
    first, second, third = start(client, 0), start(client, 3), start(client, 5)
    seen = [client.deadline]

    client.reply(rpc.encode_success(first.xid, b""), 6)
    seen.append(client.deadline)
    client.abandon(second)
    seen.append(client.deadline)
    client.reply(rpc.encode_success(third.xid, b""), 7)
    seen.append(client.deadline)

    assert seen == [10, 13, 15, None]


def test_requests_expire_in_the_order_of_their_start() -> None:
    """Only those whose time has come, oldest first."""
    client = RpcClient(1, RpcTimeouts.tcp(timeo=10))
    first, second, _ = start(client, 0), start(client, 2), start(client, 9)

    wants = client.expired(12)

    assert wants == [(first, RETRANSMIT), (second, RETRANSMIT)]
    assert client.expired(12) == []


def test_a_late_transmission_starts_the_timer_afresh() -> None:
    """A call that waited for room in the socket has its whole timeout from when it was sent."""
    client = RpcClient(1, RpcTimeouts.tcp(timeo=10))
    request = start(client, 0)

    client.transmitted(request, 4)

    assert client.deadline == 14


def test_a_copied_client_goes_its_own_way() -> None:
    """Machines are copied in a search, and the copy shares nothing."""
    client = RpcClient(1, RpcTimeouts.udp())
    start(client)
    twin = copy.deepcopy(client)

    twin.reply(rpc.encode_success(1, b""), 5)

    assert list(client.pending) == [1]
    assert twin.pending == {}
