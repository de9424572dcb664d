"""iSCSI's login: what the two sides agree on, as `key=value` text (RFC 7143 sections 6 and 13).

Either side settles what it wants with what the other has said. Results are the smaller of two numbers, or one of two
answers; MaxRecvDataSegmentLength is not negotiated at all: each side says what it takes.
"""

from lateack.nodes.iscsi.iscsi import NO_DIGESTS, Digests
from lateack.nodes.records import Record
from lateack.nodes.storage.stream_client import ProtocolError

LOGIN_BYTES_MAX = 8192
"""The most that a login PDU's data segment may hold (section 13.12: the default counts until it is over)."""

NUMBER_DIGITS_MAX = 20
"""The longest number that is read: 64 bits (section 6.1)."""

SECURITY, OPERATIONAL, FULL_FEATURE = 0, 1, 3
"""The stages of a login (section 11.12.3)."""
TRANSIT, CONTINUE = 0x80, 0x40

NAME = "iqn.2011-07.org.lateack"
DISK_BYTES = "X-org.lateack.DiskBytes"
"""A key of our own (section 13.24): how long the disk is to be, to the byte.

The administrator of a real target makes the disk's backing file before anybody logs in. Here nobody does: the target
makes it at the first login, as long as the initiator says.
"""

SAID_AND_NOT_ANSWERED = (
    "InitiatorName", "InitiatorAlias", "TargetName", "SessionType", "AuthMethod", "MaxRecvDataSegmentLength",
)  # fmt: skip
FIXED = {
    "MaxConnections": "1",
    "MaxOutstandingR2T": "1",
    "DefaultTime2Wait": "2",
    "DefaultTime2Retain": "0",
    "DataPDUInOrder": "Yes",
    "DataSequenceInOrder": "Yes",
    "ErrorRecoveryLevel": "0",
}
"""What we always want: one connection, one burst at a time, everything in order, and no recovery but a new session."""


class IscsiParameters(Record):
    """What one side wants of a session; lengths in bytes."""

    data_digest: bool = False
    header_digest: bool = False
    initial_r2t: bool = True
    immediate_data: bool = True
    first_burst: int = 65_536
    max_burst: int = 262_144
    max_segment: int = 8_192


class Agreed(Record):
    """What both sides have agreed on; `send_max` is the longest data segment that the other side takes."""

    digests: Digests = NO_DIGESTS
    initial_r2t: bool = True
    immediate_data: bool = True
    first_burst: int = 65_536
    max_burst: int = 262_144
    send_max: int = 8_192


NOTHING_AGREED = Agreed()


def encode_text(keys: dict[str, str]) -> bytes:
    """Return a text data segment."""
    return "".join([f"{key}={value}\0" for key, value in keys.items()]).encode()


def decode_text(data: bytes) -> dict[str, str]:
    """Return the pairs of a text data segment; raises ProtocolError where one is none, or comes twice."""
    keys: dict[str, str] = {}
    for pair in data.rstrip(b"\0").split(b"\0") if data else ():
        key, equals, value = pair.decode("utf-8", "backslashreplace").partition("=")
        if not equals or key in keys:
            raise ProtocolError("a text segment that is not made of different keys with values")
        keys[key] = value
    return keys


def wishes(wanted: IscsiParameters) -> dict[str, str]:
    """Return the operational keys as an initiator offers them."""
    return {
        "HeaderDigest": "CRC32C,None" if wanted.header_digest else "None",
        "DataDigest": "CRC32C,None" if wanted.data_digest else "None",
        "InitialR2T": _yes(wanted.initial_r2t),
        "ImmediateData": _yes(wanted.immediate_data),
        "FirstBurstLength": str(wanted.first_burst),
        "MaxBurstLength": str(wanted.max_burst),
        "MaxRecvDataSegmentLength": str(wanted.max_segment),
        **FIXED,
    }


def settle(wanted: IscsiParameters, said: dict[str, str]) -> Agreed:
    """Return what follows from what we want and what the other side has said, be it an offer or an answer.

    A key that was not said has its default. Raises ProtocolError where a value is not one.
    """
    max_burst = min(wanted.max_burst, _number(said, "MaxBurstLength", 262_144))
    return Agreed(
        Digests(_digest(said, "HeaderDigest"), _digest(said, "DataDigest")),
        _truth(said, "InitialR2T") or wanted.initial_r2t,
        _truth(said, "ImmediateData") and wanted.immediate_data,
        min(wanted.first_burst, _number(said, "FirstBurstLength", 65_536), max_burst),
        max_burst,
        _number(said, "MaxRecvDataSegmentLength", 8_192),
    )


def answers(offered: dict[str, str], wanted: IscsiParameters, agreed: Agreed) -> dict[str, str]:
    """Return what a target answers to an offer: the result of every key, and what it takes itself."""
    results = {
        "HeaderDigest": "CRC32C" if agreed.digests.header else "None",
        "DataDigest": "CRC32C" if agreed.digests.data else "None",
        "InitialR2T": _yes(agreed.initial_r2t),
        "ImmediateData": _yes(agreed.immediate_data),
        "FirstBurstLength": str(agreed.first_burst),
        "MaxBurstLength": str(agreed.max_burst),
        **FIXED,
    }
    answered = {
        key: results.get(key, value if key == DISK_BYTES else "NotUnderstood")
        for key, value in offered.items()
        if key not in SAID_AND_NOT_ANSWERED
    }
    return answered | {"MaxRecvDataSegmentLength": str(wanted.max_segment)}


def _yes(truth: bool) -> str:
    return "Yes" if truth else "No"


def _truth(said: dict[str, str], key: str) -> bool:
    """Return a boolean key, Yes by default (as InitialR2T and ImmediateData are)."""
    value = said.get(key, "Yes")
    if value not in ("Yes", "No"):
        raise ProtocolError(f"{key}={value}")
    return value == "Yes"


def _digest(said: dict[str, str], key: str) -> bool:
    """Say whether the first digest that the other side names is CRC32C; None is the only other one that we know."""
    known = [name for name in said.get(key, "None").split(",") if name in ("CRC32C", "None")]
    if not known:
        raise ProtocolError(f"{key}={said[key]}, and none of them is known here")
    return known[0] == "CRC32C"


def _number(said: dict[str, str], key: str, default: int) -> int:
    value = said.get(key)
    if value is None:
        return default
    if not value.isdecimal() or len(value) > NUMBER_DIGITS_MAX or not 512 <= int(value) <= 0xFF_FFFF:
        raise ProtocolError(f"{key}={value}")
    return int(value)
