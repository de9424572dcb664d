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


def test_a_message_tells_its_session_unless_it_is_the_first() -> None:
    """The number travels as a key; what is no number belongs to no session."""
    assert xenbus.with_session({"a": 1}, 0) == {"a": 1}
    assert xenbus.session_of(xenbus.with_session({"a": 1}, 3)) == 3
    assert xenbus.session_of({}) == 0
    assert xenbus.session_of({"session": "x"}) == xenbus.NO_SESSION


def test_a_backend_goes_from_state_to_state_without_leaving_one_out() -> None:
    """set_backend_state: through Closing and Closed back to InitWait, and only from there to Connected."""
    ways = {
        (state, wanted): xenbus.step_towards(state, wanted)
        for state in (xenbus.INIT_WAIT, xenbus.CLOSING, xenbus.CLOSED)
        for wanted in (xenbus.INIT_WAIT, xenbus.CONNECTED, xenbus.CLOSING, xenbus.CLOSED)
        if state != wanted
    }

    assert ways == {
        (xenbus.INIT_WAIT, xenbus.CONNECTED): xenbus.CONNECTED,
        (xenbus.INIT_WAIT, xenbus.CLOSING): xenbus.CLOSING,
        (xenbus.INIT_WAIT, xenbus.CLOSED): xenbus.CLOSING,
        (xenbus.CLOSING, xenbus.INIT_WAIT): xenbus.CLOSED,
        (xenbus.CLOSING, xenbus.CONNECTED): xenbus.CLOSED,
        (xenbus.CLOSING, xenbus.CLOSED): xenbus.CLOSED,
        (xenbus.CLOSED, xenbus.INIT_WAIT): xenbus.INIT_WAIT,
        (xenbus.CLOSED, xenbus.CONNECTED): xenbus.INIT_WAIT,
        (xenbus.CLOSED, xenbus.CLOSING): xenbus.CLOSING,
    }
