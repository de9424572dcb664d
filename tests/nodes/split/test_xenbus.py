"""What the two halves of a network driver tell each other through xenstore."""

from lateack.nodes.split import xenbus


def test_states_have_xens_numbers() -> None:
    """The numbers are those of xen/io/xenbus.h."""
    states = (xenbus.UNKNOWN, xenbus.INITIALISING, xenbus.INIT_WAIT, xenbus.INITIALISED, xenbus.CONNECTED)

    assert states == (0, 1, 2, 3, 4)
    assert (xenbus.CLOSING, xenbus.CLOSED) == (5, 6)


def test_the_backend_says_whether_it_takes_long_packets() -> None:
    """feature-gso-tcpv4 follows the host's setting; receiving by copy is the only way (netif.h)."""
    assert xenbus.backend_features(True)["feature-gso-tcpv4"] == 1
    assert xenbus.backend_features(False)["feature-gso-tcpv4"] == 0
    assert xenbus.backend_features(True)["feature-rx-flip"] == 0


def test_the_frontend_publishes_its_address_as_text() -> None:
    """The keys are those under device/vif/0."""
    keys = xenbus.frontend_keys(bytes.fromhex("00163e000001"), 8, 9)

    assert keys["mac"] == "00:16:3e:00:00:01"
    assert (keys["tx-ring-ref"], keys["rx-ring-ref"], keys["event-channel"]) == (8, 9, xenbus.EVENT_CHANNEL)


def test_the_fixed_frames_do_not_overlap() -> None:
    """The grant table, the two rings and the first free frame are four different places."""
    places = {xenbus.GRANT_FRAME, xenbus.TX_RING_FRAME, xenbus.RX_RING_FRAME, xenbus.FIRST_FREE_FRAME}

    assert len(places) == 4
