"""The xenbus states and keys by which the two halves of a network driver find each other (xen/io/xenbus.h, netif.h).

backend InitWait (features) -> frontend writes its keys, Connected -> backend maps the rings, Connected
"""

UNKNOWN, INITIALISING, INIT_WAIT, INITIALISED, CONNECTED, CLOSING, CLOSED = range(7)

DOMAIN_0 = 0
EVENT_CHANNEL = 1

GRANT_FRAME, TX_RING_FRAME, RX_RING_FRAME, FIRST_FREE_FRAME = range(4)
"""Where a guest keeps its grant table and rings; the toolstack knows the first, xenstore tells the others by grant."""


def backend_features(gso: bool) -> dict[str, str | int]:
    """Return what the backend publishes; without *gso* no packet longer than the MTU may come."""
    return {"feature-sg": 1, "feature-gso-tcpv4": int(gso), "feature-rx-copy": 1, "feature-rx-flip": 0}


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
