"""The life of a netfront: it closes in step with its backend, takes back what it lent, and begins anew."""

from lateack.nodes.facts import FrontendClosing
from lateack.nodes.messages import Xenbus
from lateack.nodes.node import SetTimer
from lateack.nodes.split.netfront_life import GRANTS_RETRY, GRANTS_TIMER, NetfrontLife
from lateack.nodes.split.xenbus import CLOSED, CLOSING, CONNECTED, DOMAIN_0, INIT_WAIT, INITIALISING, NO_SESSION
from lateack.nodes.strategies.backend import DevZerocopy
from tests.nodes.hand import GUEST_MAC, Pair, facts_of, messages_to, tcp_frame

FEATURES: dict[str, str | int] = {"feature-sg": 1}


class Life:
    """A netfront that is connected to a real vif, and its life; the backend's states are the test's."""

    def __init__(self, rx_target: int = 8) -> None:
        self.pair = Pair(DevZerocopy, rx_target=rx_target)
        self.netfront = self.pair.netfront
        self.life = NetfrontLife(self.netfront, "backend", GUEST_MAC)
        self.life.state = CONNECTED
        self.said = 0

    def hears(self, state: int, session: int = 0) -> list[tuple[int, int]]:
        """The backend changes its state; return what the frontend answers, as (state, session)."""
        self.life.backend_changed(state, FEATURES | ({"session": session} if session else {}), 0)
        return self.says()

    def says(self) -> list[tuple[int, int]]:
        """Return what the frontend has said since the last time."""
        effects = self.pair.front.effects
        said = [message for message in messages_to(effects, "backend") if isinstance(message, Xenbus)]
        new, self.said = said[self.said :], len(said)
        return [(message.state, int(message.keys.get("session", 0))) for message in new]

    def unmap(self) -> None:
        """The backend lets go of the rings."""
        hypervisor = self.pair.kernel.hypervisor
        hypervisor.unmap_batch(DOMAIN_0, list(hypervisor.maptracks[DOMAIN_0].live))


def test_it_closes_in_step_and_begins_anew() -> None:
    """Closing, Closed behind the backend's Closing, and Initialising with a new session behind its Closed."""
    life = Life()

    life.life.detach()
    closing = life.says()
    closed = life.hears(CLOSING)
    life.unmap()
    anew = life.hears(CLOSED)
    connected = life.hears(INIT_WAIT, 1)

    assert (closing, closed) == ([(CLOSING, 0)], [(CLOSED, 0)])
    assert (anew, connected) == ([(INITIALISING, 1)], [(CONNECTED, 1)])
    assert [fact.unanswered for fact in facts_of(life.pair.front.effects, FrontendClosing)] == [0]


def test_what_belongs_to_another_session_changes_nothing() -> None:
    """States that were still on their way when it began anew are not taken for answers."""
    life = Life()
    life.unmap()
    life.hears(INIT_WAIT, NO_SESSION)

    late = [life.hears(state) for state in (CONNECTED, CLOSING, CLOSED, INIT_WAIT)]

    assert late == [[], [], [], []]
    assert life.hears(INIT_WAIT, 1) == [(CONNECTED, 1)]


def test_a_backend_that_knows_of_no_session_is_connected_anew() -> None:
    """Requests that a dead netback left behind are freed, and everything that was lent comes back."""
    life = Life()
    life.pair.front.send(tcp_frame(), [b"x" * 100])
    life.pair.take()
    life.pair.strategy.forget(life.pair.vif)
    life.unmap()

    said = life.hears(INIT_WAIT, NO_SESSION)

    assert said == [(INITIALISING, 1)]
    assert life.pair.front.grants.in_use == 0
    assert life.pair.front.pool.outstanding == len(life.pair.front.slab.pages)
    assert life.pair.front.slab.outstanding == 0


def test_a_grant_that_is_still_mapped_is_taken_back_later() -> None:
    """A backend that does not wait leaves the packet's page mapped; a timer looks for it every second."""
    life = Life()
    life.pair.front.send(tcp_frame(), [b"x" * 100])
    skbs = life.pair.take()

    life.life.detach()
    life.hears(CLOSED)
    before = life.pair.front.grants.in_use
    life.pair.finish(*skbs)
    life.unmap()
    life.life.retry(GRANTS_RETRY)

    assert before == 3  # both rings and the page; the header was copied
    assert SetTimer(GRANTS_TIMER, GRANTS_RETRY) in life.pair.front.effects
    assert life.pair.front.grants.in_use == 0


def test_packets_wait_while_it_is_not_connected() -> None:
    """They are queued, dropped beyond the queue's bound, and in the ring as soon as there is one again."""
    life = Life()
    life.unmap()
    life.hears(INIT_WAIT, NO_SESSION)
    life.pair.front.send(tcp_frame(b"waits"))

    queued = (len(life.netfront.queue), life.netfront.unanswered())
    life.hears(INIT_WAIT, 1)

    assert queued == (1, 0)
    assert (len(life.netfront.queue), life.netfront.unanswered()) == (0, 1)


def test_receive_buffers_that_a_gate_keeps_back_come_back_too() -> None:
    """A buffer that is lent to nobody at the moment is freed like the others."""
    life = Life(rx_target=4)
    life.netfront.withhold()
    life.pair.deliver(b"x" * 60, b"y" * 60)
    life.unmap()

    life.hears(INIT_WAIT, NO_SESSION)
    life.netfront.offer_again()
    life.hears(INIT_WAIT, 1)

    assert life.netfront.rx_offered == 4
    assert life.pair.front.grants.in_use == life.netfront.lent() == 6


def test_a_packet_that_finds_no_grant_is_dropped_whole() -> None:
    """Nothing of it stays in the ring, and those before and after it go their way."""
    pair = Pair()
    table = pair.front.grants
    pair.front.send(tcp_frame(), [b"first"])
    while table.nr_refs - 8 - table.in_use > 1:
        table.grant_access(DOMAIN_0, 900, True)

    pair.front.send(tcp_frame(), [b"dropped"])
    pair.front.send(tcp_frame(b"small"))

    assert len(pair.take()) == 2
    assert pair.netfront.unanswered() == 3
