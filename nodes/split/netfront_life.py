"""The life of a netfront: through the xenbus states to Connected, and back when either half of the driver goes away.

    Initialising -> Connected -> Closing -> Closed -> Initialising -> ...        (drivers/net/xen-netfront.c)

A frontend that is unbound closes in step with its backend (xennet_bus_close); only when the backend has closed, too,
does it take back what it lent. One whose backend comes back knowing nothing takes it back at once: what the backend had
mapped was taken from it when it died.

Where we differ: a frontend that has closed is bound again at once, and one whose backend announces itself anew begins
anew by itself; in Linux somebody plugs the device out and in. While it is not connected its packets wait in the queue
in front of the ring, where Linux switches the carrier off and drops them; TCP would repeat them.
"""

from lateack.nodes.facts import FrontendClosing
from lateack.nodes.memory.deferred_grants import DeferredGrants
from lateack.nodes.memory.pages import Page, put_page
from lateack.nodes.messages import Xenbus
from lateack.nodes.node import S, Send, SetTimer, Time
from lateack.nodes.split.netfront import Netfront
from lateack.nodes.split.xenbus import (
    CLOSED,
    CLOSING,
    CONNECTED,
    INIT_WAIT,
    INITIALISING,
    NO_SESSION,
    session_of,
    with_session,
)
from lateack.nodes.stack.skb import SkBuff, kfree_skb

GRANTS_TIMER = "grants"
GRANTS_RETRY: Time = S
"""How often Linux looks at deferred grants (HZ)."""


class NetfrontLife:
    """The xenbus half of one netfront."""

    __slots__ = ("backend", "deferred", "mac", "netfront", "session", "state")

    def __init__(self, netfront: Netfront, backend: str, mac: bytes) -> None:
        self.netfront = netfront
        self.backend = backend
        self.mac = mac
        self.state = INITIALISING
        self.session = 0
        self.deferred = DeferredGrants(netfront.grants)

    def backend_changed(self, state: int, keys: dict[str, str | int], now: Time) -> bool:
        """The backend has changed its state (netback_changed); return whether the device can be used from now on.

        What belongs to another session than ours changes nothing, unless it says that the backend knows of none.
        """
        session = session_of(keys)
        if state == INIT_WAIT and session in (NO_SESSION, self.session):
            if self.state == INITIALISING and session == self.session:
                self._connect(keys)
            else:
                self._begin_anew(now)
        elif session != self.session:
            return False
        elif state == CONNECTED:
            return self.state == CONNECTED
        elif state == CLOSING and self.state in (CONNECTED, CLOSING):
            self._announce(CLOSED)
        elif state == CLOSED and self.state in (CONNECTED, CLOSING, CLOSED):
            self._begin_anew(now)
        return False

    def detach(self) -> None:
        """The driver is unbound from the device: tell the backend, and wait for it."""
        if self.state == CONNECTED:
            self._announce(CLOSING)
            netfront = self.netfront
            netfront.effects.append(FrontendClosing(netfront.guest, netfront.unanswered()))

    def retry(self, now: Time) -> None:
        """Look again whether the host has let go of what we could not take back."""
        if self.deferred.retry():
            self.netfront.effects.append(SetTimer(GRANTS_TIMER, now + GRANTS_RETRY))

    def _connect(self, keys: dict[str, str | int]) -> None:
        mine = self.netfront.connect(self.mac)
        if keys.get("feature-ctrl-ring"):
            mine |= self.netfront.offer_staging()
        self._announce(CONNECTED, mine)

    def _begin_anew(self, now: Time) -> None:
        """Take back everything, as far as the host lets us, and look for the backend as at the first time."""
        disconnect(self.netfront, self.deferred)
        if self.deferred.waiting:
            self.retry(now)
        self.session += 1
        self._announce(INITIALISING)

    def _announce(self, state: int, keys: dict[str, str | int] | None = None) -> None:
        self.state = state
        message = Xenbus(state, with_session(keys or {}, self.session))
        self.netfront.effects.append(Send(self.backend, message))


class VifSwitch:
    """The place guestN.vif: the frontend detaches itself when a rule acts; it connects anew without being told."""

    __slots__ = ("life",)

    def __init__(self, life: NetfrontLife) -> None:
        self.life = life

    def on(self) -> None:
        """The frontend goes."""
        self.life.detach()

    def off(self) -> None:
        """Nothing: it is on its way back already."""

    def waiting(self) -> int:
        """Return how many packets the backend has not answered, or has never seen."""
        return self.life.netfront.pending()


# --- taking back ------------------------------------------------------------------------------------------------------


def disconnect(netfront: Netfront, deferred: DeferredGrants) -> None:
    """Take back every request, every receive buffer and both rings, and begin with empty ones.

    Source: xennet_disconnect_backend. What the backend still has mapped comes back later, by way of *deferred*.
    """
    if netfront.ring_grefs:
        _release_requests(netfront, deferred)
        _release_staging(netfront, deferred)
        _release_buffers(netfront, deferred)
        for ref in netfront.ring_grefs:
            deferred.end(ref, None)
        netfront.ring_grefs = []
        netfront.start_rings()
    netfront.free_ids = []  # so that nothing fits until it is connected again
    netfront.unpushed = False
    netfront.broken = False


def _release_requests(netfront: Netfront, deferred: DeferredGrants) -> None:
    """Free every packet that was never answered; its pages stay as long as they are mapped (xennet_release_tx_bufs)."""
    for request_id, skb in enumerate(netfront.tx_skbs):
        if skb is not None:
            ref = netfront.tx_grefs[request_id]
            deferred.end(ref, _page_of(netfront, skb, ref))
            kfree_skb(skb)


def _page_of(netfront: Netfront, skb: SkBuff, ref: int) -> Page | None:
    """Return the packet's page that was lent under a reference; the linear area lies in a slab, which keeps its own."""
    frame = netfront.memory.words[netfront.grants.first_word + ref * 2 + 1]
    return next((frag.page for frag in skb.shinfo.frags if frag.page.frame == frame), None)


def _release_buffers(netfront: Netfront, deferred: DeferredGrants) -> None:
    """Free every receive buffer; one that a gate keeps back is lent to nobody (xennet_release_rx_bufs)."""
    kept = set(netfront.withheld or ())
    for request_id, page in enumerate(netfront.rx_pages):
        if page is None:
            continue
        ref = netfront.rx_grefs[request_id]
        if request_id in kept:
            netfront.grants.lend_again(ref)  # an ended grant has no reference to give back
        deferred.end(ref, page)
        put_page(page)
    if netfront.withheld is not None:
        netfront.withheld = []
    netfront.rx_offered = 0


def _release_staging(netfront: Netfront, deferred: DeferredGrants) -> None:
    """Give up the pool of pages that the backend kept mapped."""
    staging = netfront.staging
    if staging is not None:
        netfront.staged_bytes += staging.charge()
        for staged in staging.close():
            deferred.end(staged.gref, staged.page)
            put_page(staged.page)
        netfront.staging = None
