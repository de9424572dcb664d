"""The control ring's bytes, as netif.h has them."""

from lateack.nodes.memory.pages import Memory
from lateack.nodes.memory.ring import init_shared_ring
from lateack.nodes.split.control_ring import (
    CTRL_REQUEST,
    CTRL_RESPONSE,
    GREF_LIST_MAX,
    NETIF_GREF,
    XEN_NETIF_CTRL_STATUS_SUCCESS,
    XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING,
    XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE,
    CtrlBackRing,
    CtrlFrontRing,
    XEN_NETIF_CTRLF_GREF_readonly,
)

FIRST_SLOT = 64


def test_structures_have_the_bytes_of_the_header() -> None:
    """Golden vectors: a request, a response, and one entry of a list of references."""
    request = CTRL_REQUEST.pack(1, XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING, 0, 0x1234, 128)
    response = CTRL_RESPONSE.pack(1, XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE, XEN_NETIF_CTRL_STATUS_SUCCESS, 256)
    entry = NETIF_GREF.pack(0x1234, XEN_NETIF_CTRLF_GREF_readonly, 2)

    assert request.hex(" ") == "01 00 09 00 00 00 00 00 34 12 00 00 80 00 00 00"
    assert response.hex(" ") == "01 00 08 00 00 00 00 00 00 01 00 00"
    assert entry.hex(" ") == "34 12 00 00 01 00 02 00"
    assert GREF_LIST_MAX == 512


def test_a_question_and_its_answer_share_a_slot() -> None:
    """What is not given is zero; the answer comes back by its id and lies where the question lay."""
    memory = Memory(1, 1)
    init_shared_ring(memory, 0)
    front, back = CtrlFrontRing(memory, 0), CtrlBackRing(memory, 0)

    front.put_request(7, XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE)
    notify = front.push_requests()
    asked = back.get_request()
    back.put_response(7, asked[1], XEN_NETIF_CTRL_STATUS_SUCCESS, 99)
    back.push_responses()

    assert notify
    assert front.size == 128
    assert asked == (7, 8, 0, 0, 0)
    assert front.get_response() == (7, 8, 0, 99)
    assert memory.read(0, FIRST_SLOT, 2) == b"\x07\x00"
