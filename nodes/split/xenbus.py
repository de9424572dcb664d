"""The xenbus states and keys by which the two halves of a network driver find each other (xen/io/xenbus.h, netif.h).

    backend InitWait (features) -> frontend writes its keys, Connected -> backend maps the rings, Connected
    frontend Closing -> backend disconnects, Closing -> frontend Closed -> backend Closed -> frontend Initialising

In Xen each half reads the other's present state in xenstore. Here states travel as messages, and some may still be on
their way when one half begins anew. So whatever belongs to one connection carries its number, the session, which the
frontend counts up in Initialising; what carries another number is ignored.
"""

UNKNOWN, INITIALISING, INIT_WAIT, INITIALISED, CONNECTED, CLOSING, CLOSED = range(7)

SESSION = "session"
NO_SESSION = -1
"""The session of a backend that has come back and knows of none."""

DOMAIN_0 = 0
EVENT_CHANNEL = 1

GRANT_FRAME, TX_RING_FRAME, RX_RING_FRAME, FIRST_FREE_FRAME = range(4)
"""Where a guest keeps its grant table and rings; the toolstack knows the first, xenstore tells the others by grant."""


def backend_features(gso: bool, control_ring: bool = False) -> dict[str, str | int]:
    """Return what the backend publishes; without *gso* no packet longer than the MTU may come."""
    features: dict[str, str | int] = {
        "feature-sg": 1, "feature-gso-tcpv4": int(gso), "feature-rx-copy": 1, "feature-rx-flip": 0,
    }  # fmt: skip
    if control_ring:
        features["feature-ctrl-ring"] = 1
    return features


def frontend_keys(mac: bytes, tx_ring_ref: int, rx_ring_ref: int) -> dict[str, str | int]:
    """Return what a frontend publishes under device/vif/0."""
    return {
        "mac": mac.hex(":"),
        "tx-ring-ref": tx_ring_ref,
        "rx-ring-ref": rx_ring_ref,
        "event-channel": EVENT_CHANNEL,
        "request-rx-copy": 1,
        "feature-sg": 1,
    }


def with_session(keys: dict[str, str | int], session: int) -> dict[str, str | int]:
    """Return *keys* with the number of the session; the first one goes without saying."""
    return keys | {SESSION: session} if session else keys


def session_of(keys: dict[str, str | int]) -> int:
    """Return the session that a message belongs to; what is no number is none."""
    session = keys.get(SESSION, 0)
    return session if isinstance(session, int) else NO_SESSION


def step_towards(state: int, wanted: int) -> int:
    """Return the next state of a backend that is not connected and wants to be elsewhere (set_backend_state)."""
    if state == INIT_WAIT:
        return CONNECTED if wanted == CONNECTED else CLOSING
    if state == CLOSING:
        return CLOSED
    return CLOSING if wanted == CLOSING else INIT_WAIT
