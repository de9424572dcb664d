"""Claims about the slots of network rings, byte for byte."""

import pytest

from lateack.nodes.memory.netif import (
    NETIF_RSP_NULL,
    NETIF_RSP_OKAY,
    XEN_NETIF_EXTRA_TYPE_GSO,
    XEN_NETIF_GSO_TYPE_TCPV4,
    NETRXF_data_validated,
    NETRXF_extra_info,
    NETRXF_more_data,
    NETTXF_csum_blank,
    NETTXF_data_validated,
    NETTXF_extra_info,
    NETTXF_more_data,
    RxBackRing,
    RxFrontRing,
    TxBackRing,
    TxFrontRing,
)
from lateack.nodes.memory.pages import Memory
from lateack.nodes.memory.ring import init_shared_ring


def transmit_ring() -> tuple[Memory, TxFrontRing, TxBackRing]:
    """Make an empty transmit ring in frame 0 and both its ends."""
    memory = Memory(1, 1)
    init_shared_ring(memory, 0)
    return memory, TxFrontRing(memory, 0), TxBackRing(memory, 0)


def receive_ring() -> tuple[Memory, RxFrontRing, RxBackRing]:
    """Make an empty receive ring in frame 0 and both its ends."""
    memory = Memory(1, 1)
    init_shared_ring(memory, 0)
    return memory, RxFrontRing(memory, 0), RxBackRing(memory, 0)


def test_a_packet_in_two_slots_has_xens_bytes() -> None:
    """Two transmit requests lie in the ring as netif.h says, and come off it as they were put."""
    memory, front, back = transmit_ring()
    flags = NETTXF_csum_blank | NETTXF_data_validated | NETTXF_more_data

    front.put_request(0x1234, 0x100, flags, 7, 1514)
    front.put_request(0x1235, 0, 0, 8, 1000)
    front.push_requests()

    assert memory.read(0, 64, 12) == bytes.fromhex("341200000001070007 00ea05")
    assert memory.read(0, 76, 12) == bytes.fromhex("351200000000000008 00e803")
    assert back.get_request() == (0x1234, 0x100, 7, 7, 1514)
    assert back.get_request() == (0x1235, 0, 0, 8, 1000)


def test_a_transmit_response_has_xens_bytes() -> None:
    """An answer takes the slot of a request and names it by id, in any order."""
    memory, front, back = transmit_ring()
    for request_id in (6, 7):
        front.put_request(1, 0, 0, request_id, 60)
    front.push_requests()
    for _ in range(back.unconsumed_requests()):
        back.get_request()

    back.put_response(7, NETIF_RSP_OKAY)
    back.put_response(6, -2)
    back.push_responses()

    assert memory.read(0, 64, 4) == bytes.fromhex("07000000")
    assert [front.get_response() for _ in range(front.unconsumed_responses())] == [(7, 0), (6, -2)]


def test_a_request_rewritten_later_changes_nothing() -> None:
    """What the backend took off the ring is its own, whatever the guest writes afterwards."""
    memory, front, back = transmit_ring()
    front.put_request(8, 0, 0, 1, 60)
    front.push_requests()

    request = back.get_request()
    memory.write(0, 64, b"\xff" * 12)

    assert request == (8, 0, 0, 1, 60)


def test_a_segmentation_slot_has_xens_bytes() -> None:
    """The extra slot follows the first request, says how to cut the packet, and is answered with null."""
    memory, front, back = transmit_ring()

    front.put_request(9, 0, NETTXF_extra_info, 3, 60000)
    front.put_extra_gso(1448, XEN_NETIF_GSO_TYPE_TCPV4)
    front.push_requests()
    raw = memory.read(0, 76, 8)
    back.get_request()
    extra = back.get_extra()
    back.put_response(3, NETIF_RSP_OKAY)
    back.put_response(0, NETIF_RSP_NULL)
    back.push_responses()

    assert raw == bytes.fromhex("0100a80501000000")
    assert extra == (XEN_NETIF_EXTRA_TYPE_GSO, 0, 1448, XEN_NETIF_GSO_TYPE_TCPV4, 0, 0)
    assert front.get_response() == (3, NETIF_RSP_OKAY)
    assert front.get_response()[1] == NETIF_RSP_NULL


def test_a_received_frame_has_xens_bytes() -> None:
    """A receive request and its response lie in the same slot as netif.h says."""
    memory, front, back = receive_ring()
    front.put_request(3, 0x2001)
    front.push_requests()
    asked = memory.read(0, 64, 8)

    taken = back.get_request()
    back.put_response(3, 0, NETRXF_data_validated | NETRXF_more_data, 1448)
    back.push_responses()

    assert asked == bytes.fromhex("0300000001200000")
    assert taken == (3, 0x2001)
    assert memory.read(0, 64, 8) == bytes.fromhex("030000000500a805")
    assert front.get_response() == (3, 0, 5, 1448)


def test_a_received_large_packet_says_how_it_was_cut() -> None:
    """The extra slot of the receive ring uses up a request of its own."""
    memory, front, back = receive_ring()
    for request_id in (0, 1):
        front.put_request(request_id, 100 + request_id)
    front.push_requests()

    back.get_request()
    back.get_request()
    back.put_response(0, 0, NETRXF_extra_info, 4000)
    back.put_extra_gso(1448, XEN_NETIF_GSO_TYPE_TCPV4)
    back.push_responses()

    assert memory.read(0, 72, 8) == bytes.fromhex("0100a80501000000")
    assert front.get_response() == (0, 0, NETRXF_extra_info, 4000)
    assert front.get_extra() == (XEN_NETIF_EXTRA_TYPE_GSO, 0, 1448, XEN_NETIF_GSO_TYPE_TCPV4, 0, 0)


def test_a_receive_response_stays_in_the_slot_of_its_request() -> None:
    """Answering a younger request first would give a frontend that goes by slots the wrong buffer."""
    _, front, back = receive_ring()
    for request_id in (10, 11):
        front.put_request(request_id, 100)
    front.push_requests()
    back.get_request()
    back.get_request()

    with pytest.raises(AssertionError, match="missed the slot"):
        back.put_response(11, 0, 0, 60)
