"""Claims about sizes, offsets and constants, held against what a C compiler says of Xen's own headers."""

import json
from pathlib import Path
from struct import Struct
from typing import Any

import pytest

from lateack.nodes.memory import abi, grants, hypervisor, netif, ring
from lateack.nodes.memory.pages import PAGE_SIZE

XEN: dict[str, Any] = json.loads((Path(__file__).parents[2] / "data" / "xen_abi.json").read_text())

# Each codec with the C names of its fields, in order.
CODECS: list[tuple[str, Struct, list[str]]] = [
    ("netif_tx_request", netif.TX_REQUEST, ["gref", "offset", "flags", "id", "size"]),
    ("netif_tx_response", netif.TX_RESPONSE, ["id", "status"]),
    ("netif_rx_request", netif.RX_REQUEST, ["id", "pad", "gref"]),
    ("netif_rx_response", netif.RX_RESPONSE, ["id", "offset", "flags", "status"]),
    (
        "netif_extra_info",
        netif.EXTRA_GSO,
        ["type", "flags", "u.gso.size", "u.gso.type", "u.gso.pad", "u.gso.features"],
    ),
    (
        "gnttab_map_grant_ref",
        abi.MAP_GRANT_REF,
        ["host_addr", "flags", "ref", "dom", "status", "handle", "dev_bus_addr"],
    ),
    ("gnttab_unmap_grant_ref", abi.UNMAP_GRANT_REF, ["host_addr", "dev_bus_addr", "handle", "status"]),
    (
        "gnttab_copy",
        abi.COPY,
        [
            "source.u",
            "source.domid",
            "source.offset",
            "dest.u",
            "dest.domid",
            "dest.offset",
            "len",
            "flags",
            "status",
        ],
    ),
]


@pytest.mark.parametrize(("name", "codec", "fields"), CODECS, ids=[name for name, _, _ in CODECS])
def test_each_field_lies_where_the_compiler_puts_it(name: str, codec: Struct, fields: list[str]) -> None:
    """Setting one field to all ones sets exactly that field's bytes, and the size is the compiler's."""
    layout = XEN["structs"][name]

    assert codec.size == layout["sizeof"]
    for position, field in enumerate(fields):
        raw = bytearray(codec.size)
        start, length = layout["fields"][field]["offset"], layout["fields"][field]["size"]
        raw[start : start + length] = b"\xff" * length
        values = codec.unpack(raw)
        assert [index for index, value in enumerate(values) if value] == [position]
        assert codec.pack(*values) == raw


@pytest.mark.parametrize("module", [abi, grants, hypervisor, netif])
def test_each_constant_has_xens_value(module: object) -> None:
    """Every constant that carries one of Xen's names carries its value too."""
    ours = {name: value for name, value in vars(module).items() if name in XEN["constants"]}

    assert ours
    assert ours == {name: XEN["constants"][name] for name in ours}


@pytest.mark.parametrize(
    ("module", "prefix"),
    [(hypervisor, "GNTST_"), (netif, "NETTXF_"), (netif, "NETRXF_"), (netif, "NETIF_RSP_"), (netif, "XEN_NETIF_")],
)
def test_no_constant_of_a_family_is_missing(module: object, prefix: str) -> None:
    """The families of statuses and slot flags are complete."""
    assert not [name for name in XEN["constants"] if name.startswith(prefix) and not hasattr(module, name)]


def test_the_grant_entry_has_xens_shape() -> None:
    """Entries are eight bytes, 512 to a frame, with the flags, domain and frame where the code stores them."""
    entry = XEN["structs"]["grant_entry_v1"]

    assert grants.GRANT_ENTRY_SIZE == entry["sizeof"]
    assert grants.GRANTS_PER_PAGE == XEN["ring"]["grant_v1_entries_per_4096"]
    assert {field: tuple(place.values()) for field, place in entry["fields"].items()} == {
        "flags": (0, 2),
        "domid": (2, 2),
        "frame": (4, 4),
    }


def test_the_ring_has_xens_shape() -> None:
    """Header words, slot sizes and the number of slots are those of ring.h for one page."""
    header = XEN["structs"]["netif_tx_sring"]["fields"]
    facts = XEN["ring"]

    assert facts["page"] == PAGE_SIZE
    assert [header[name]["offset"] // 4 for name in ("req_prod", "req_event", "rsp_prod", "rsp_event")] == [
        ring.REQ_PROD,
        ring.REQ_EVENT,
        ring.RSP_PROD,
        ring.RSP_EVENT,
    ]
    assert ring.RING_HEADER_SIZE == header["ring"]["offset"] == facts["header_bytes"]
    assert (netif.TX_SLOT_SIZE, netif.RX_SLOT_SIZE) == (facts["tx_entry_size"], facts["rx_entry_size"])
    assert ring.ring_size(netif.TX_SLOT_SIZE) == facts["tx_RING_SIZE_4096"]
    assert ring.ring_size(netif.RX_SLOT_SIZE) == facts["rx_CONST_RING_SIZE_4096"]


def test_a_map_operation_has_xens_bytes() -> None:
    """A finished map hypercall is the 32 bytes that a guest compiled against Xen's headers sees."""
    flags = hypervisor.GNTMAP_host_map | hypervisor.GNTMAP_readonly

    operation = abi.MAP_GRANT_REF.pack(0x7F0000001000, flags, 0x1234, 5, hypervisor.GNTST_okay, 0x11, 0xABCDE000)

    assert operation == bytes.fromhex(
        "00100000007f0000 06000000 34120000 0500 0000 11000000 00e0cdab00000000",
    )
