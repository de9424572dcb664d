"""When an RPC client whose connection is lost connects anew, and from which local port (net/sunrpc/xprtsock.c).

Linux goes back to the port that it had (`xs_get_srcport`, SO_REUSEPORT), because the servers' request caches know a
client by its address *and* port; other clients take the next one.
"""

from lateack.nodes.node import S, Time

NEVER, SAME_PORT, NEW_PORT = "never", "same-port", "new-port"
"""What a client does whose connection is lost: its copy fails, or it connects anew, from the port it had or another."""

WAIT_MIN = 3 * S
"""XS_TCP_INIT_REEST_TO: how long after one attempt's beginning the next may begin, where the first one failed."""
WAIT_MAX = 300 * S
"""XS_TCP_MAX_REEST_TO: the cap on the doubled wait."""


class Reconnection:
    """The backing off of one client; `at` is when it is to connect anew (ns), None while it need not.

    The loss of a connection that was up is mended at once. A server that has closed it, or does not take a new one, is
    left alone for 3 s from the last attempt's beginning, then for 6 s, up to 5 min (`xprt_reconnect_backoff`).
    """

    __slots__ = ("at", "policy", "reason", "started_at", "wait")

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.at: Time | None = None
        self.reason = ""
        self.started_at = 0
        self.wait = 0

    def started(self, now: Time) -> None:
        """An attempt begins."""
        self.started_at = now
        self.at = None

    def established(self) -> None:
        """The connection is up: its loss would be news."""
        self.wait = 0

    def closed_by_server(self) -> None:
        """The server has had enough of us: do not come back at once (`xs_tcp_state_change`, TCP_CLOSE_WAIT)."""
        self.wait = max(self.wait, WAIT_MIN)

    def lost(self, reason: str, now: Time) -> None:
        """The connection is gone: say when the next attempt may begin, and double the wait for the one after it."""
        if self.at is None:
            self.reason = reason
            self.at = max(now, self.started_at + self.wait)
            self.wait = min(max(2 * self.wait, WAIT_MIN), WAIT_MAX)
