"""When a client comes back whose connection was lost."""

from lateack.nodes.nfs.reconnection import WAIT_MAX, Reconnection
from lateack.nodes.node import S


def test_a_connection_that_was_up_is_opened_anew_at_once() -> None:
    """Its loss is news, whenever it comes, and the last attempt was a good one."""
    reconnection = Reconnection("same-port")
    reconnection.started(0)
    reconnection.established()

    reconnection.lost("reset", 7)

    assert (reconnection.at, reconnection.reason) == (7, "reset")


def test_attempts_that_fail_wait_longer_and_longer() -> None:
    """3 s from the beginning of the last attempt, doubled each time, up to 5 min (XS_TCP_INIT_REEST_TO and MAX)."""
    reconnection = Reconnection("same-port")
    now, waits = 0, []

    for _ in range(9):
        reconnection.started(now)
        reconnection.lost("refused", now + 1)
        assert reconnection.at is not None
        waits.append(reconnection.at - now)
        now = reconnection.at

    assert waits == [1, *(seconds * S for seconds in (3, 6, 12, 24, 48, 96, 192, 300))]
    assert waits[-1] == WAIT_MAX


def test_a_server_that_closes_is_left_alone_for_a_while() -> None:
    """3 s from when the connection was begun: who has been there for longer comes back at once."""
    early, late = Reconnection("new-port"), Reconnection("new-port")
    for each in (early, late):
        each.started(S)
        each.established()
        each.closed_by_server()

    early.lost("closed", 2 * S)
    late.lost("closed", 60 * S)

    assert (early.at, late.at) == (4 * S, 60 * S)


def test_a_loss_that_is_known_changes_nothing() -> None:
    """Whoever looks again before the attempt is due finds the same time and reason."""
    reconnection = Reconnection("same-port")
    reconnection.started(0)
    reconnection.closed_by_server()
    reconnection.lost("closed", 1)

    reconnection.lost("timed out", 2)

    assert (reconnection.at, reconnection.reason) == (3 * S, "closed")
