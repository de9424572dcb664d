"""The side that connects: it finds the server's queue pair, connects anew when its own has failed, and disconnects."""

from collections.abc import Iterator
from typing import Final

from lateack.nodes.facts import Connected, Reconnecting
from lateack.nodes.node import Effect, S, Time
from lateack.nodes.rdma import connection
from lateack.nodes.rdma.adapter import Adapter
from lateack.nodes.rdma.connection import CM_RETRIES, CM_TIMEOUT, ConnectionMessage
from lateack.nodes.rdma.packets import PSN_MASK, flow_of, source_port_of
from lateack.nodes.rdma.queue_pair import ERROR, QueuePair
from lateack.nodes.rdma.work import Failed, Incoming, Outcome
from lateack.nodes.stack.host import HostAddress

CLOSED, CONNECTING, CONNECTED, DISCONNECTING, WAITING = (
    "closed", "connecting", "connected", "disconnecting", "waiting",
)  # fmt: skip

PSN_STEP: Final = 0x1_0000
"""Between the first PSNs of two connections."""
REESTABLISH_FIRST: Final = 5 * S
REESTABLISH_MAX: Final = 30 * S
"""How long a client waits whose connections fail one after the other (RPCRDMA_INIT_REEST_TO, RPCRDMA_MAX_REEST_TO)."""


class Connector:
    """One connection at a time; its owner looks at `established` (and clears it) and at `reason`, why there is none."""

    __slots__ = (
        "adapter", "deadline", "effects", "established", "first_psn", "local", "pair", "reason", "remote", "server",
        "state", "tries", "wait",
    )  # fmt: skip

    def __init__(self, adapter: Adapter, server: HostAddress, *, first_psn: int) -> None:
        """Connect from *adapter* to *server*, with packets numbered from *first_psn* on."""
        self.adapter = adapter
        self.server = server
        self.effects: list[Effect] = adapter.effects
        self.first_psn = first_psn
        self.state = CLOSED
        self.pair: QueuePair | None = None
        self.local = self.remote = 0
        self.deadline: Time | None = None
        self.tries = 0
        self.wait: Time = 0
        self.established = False
        self.reason = ""

    def connect(self, now: Time) -> None:
        """Make a queue pair and ask the server for one."""
        pair = self.pair = self.adapter.create_pair(self.first_psn)
        self.first_psn = self.first_psn + PSN_STEP & PSN_MASK
        self.local = pair.qpn  # any number that is used once
        self.remote = 0
        self._begin(CONNECTING, now)

    def busy(self) -> bool:
        """Say whether something is under way that has to end before the connection may."""
        return self.state in (CONNECTING, WAITING) or (self.pair is not None and self.pair.pending() > 0)

    def disconnected(self, now: Time) -> bool:
        """Disconnect, if that was not begun; say whether it is done."""
        if self.state == CONNECTED:
            self._begin(DISCONNECTING, now)
        return self.pair is None

    def give_up(self, reason: str) -> None:
        """Tear the connection, if there is one: another follows."""
        if self.state == CONNECTED and self.pair is not None:
            self.pair.fail(reason)

    def outcomes(self, now: Time) -> Iterator[tuple[QueuePair, Outcome]]:
        """Yield what has become of the owner's requests; what concerns the connection is seen to here."""
        adapter = self.adapter
        while adapter.management or adapter.happened:
            while adapter.management:
                self._managed(*adapter.management.pop(0), now)
            happened, adapter.happened = adapter.happened, []
            for pair, outcome in happened:
                if not isinstance(outcome, Failed):
                    if pair is self.pair and isinstance(outcome, Incoming):
                        self.wait = 0  # this connection is of use
                    yield pair, outcome
                elif pair is self.pair:
                    self._failed(pair, outcome.reason, now)

    def timed_out(self, now: Time) -> None:
        """A message of the connection manager was not answered: send it again, or give up."""
        if self.deadline is None or now < self.deadline:
            return
        if self.state == WAITING:
            self._reconnect("the connection before it failed, too", now)
            return
        if self.tries <= CM_RETRIES:
            self._ask(now)
            return
        self.deadline = None
        if self.state == CONNECTING:
            self.reason = "the server does not answer"
            self.state = CLOSED
        else:
            self._gone()

    def _begin(self, state: str, now: Time) -> None:
        self.state = state
        self.tries = 0
        self._ask(now)

    def _ask(self, now: Time) -> None:
        """Send, or send again, what the connection manager waits for an answer to."""
        pair = self.pair
        assert pair is not None
        self.tries += 1
        self.deadline = now + CM_TIMEOUT
        if self.state == CONNECTING:
            self._send(ConnectionMessage(connection.CONNECT_REQUEST, self.local, 0, pair.qpn, pair.next_psn))
        else:
            self._send(ConnectionMessage(connection.DISCONNECT_REQUEST, self.local, self.remote, pair.route.target_qp))

    def _send(self, message: ConnectionMessage) -> None:
        adapter = self.adapter
        datagram = connection.encode(
            message, own=adapter.address.ip, peer=self.server.ip, path_mtu=adapter.parameters.path_mtu
        )
        adapter.send_management(self.server, datagram, self.tries)

    def _managed(self, source: int, datagram: bytes, now: Time) -> None:
        try:
            message = connection.decode(datagram)
        except connection.Malformed:
            return
        if source != self.server.ip:
            return
        if message.kind == connection.DISCONNECT_REQUEST:
            self._send(ConnectionMessage(connection.DISCONNECT_REPLY, message.remote, message.local))
        if message.remote != self.local or self.pair is None:
            return  # of a connection that is no more
        if message.kind == connection.CONNECT_REPLY:
            self._connected(message)
        elif message.kind == connection.DISCONNECT_REQUEST:
            self.give_up("the server disconnected")
        elif message.kind == connection.DISCONNECT_REPLY and self.state == DISCONNECTING:
            self._gone()

    def _connected(self, reply: ConnectionMessage) -> None:
        """The server's queue pair is known: tell it so, every time that it says it."""
        pair = self.pair
        assert pair is not None
        self._send(ConnectionMessage(connection.READY_TO_USE, self.local, reply.local))
        if self.state != CONNECTING:
            return
        own, server = self.adapter.address.ip, self.server
        self.remote = reply.local
        pair.connect(self.adapter.route_to(pair, server, reply.qpn), reply.psn, flow_of(server.ip, reply.qpn, own))
        self.state = CONNECTED
        self.deadline = None
        self.established = True
        self.effects.append(Connected(pair.route.flow))

    def _failed(self, pair: QueuePair, reason: str, now: Time) -> None:
        """The queue pair is of no use any more: tell the server, and connect anew.

        At once, unless nothing came of the connection: then after a while, which doubles each time.
        """
        assert pair.state == ERROR
        closing = self.state == DISCONNECTING
        self._send(ConnectionMessage(connection.DISCONNECT_REQUEST, self.local, self.remote, pair.route.target_qp))
        self._gone()
        if closing:
            return
        if self.wait:
            self.state = WAITING
            self.deadline = now + self.wait
        else:
            self._reconnect(reason, now)
        self.wait = min(2 * self.wait, REESTABLISH_MAX) or REESTABLISH_FIRST

    def _reconnect(self, reason: str, now: Time) -> None:
        self.effects.append(Reconnecting(source_port_of(self.adapter.next_qpn), reason))
        self.connect(now)

    def _gone(self) -> None:
        assert self.pair is not None
        self.adapter.destroy_pair(self.pair)
        self.pair = None
        self.deadline = None
        self.state = CLOSED
