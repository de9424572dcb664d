"""What initiator and target agree on: both must come to the same, whatever they want."""

import itertools

import pytest

from lateack.nodes.iscsi import iscsi_login
from lateack.nodes.iscsi.iscsi import Digests
from lateack.nodes.iscsi.iscsi_login import Agreed, IscsiParameters, answers, settle, wishes
from lateack.nodes.storage.stream_client import ProtocolError

SIDES = [
    IscsiParameters(),
    IscsiParameters(data_digest=True, initial_r2t=False, first_burst=1024, max_burst=512, max_segment=700),
    IscsiParameters(header_digest=True, initial_r2t=False, immediate_data=False, max_burst=1 << 20),
]


@pytest.mark.parametrize(("initiator", "target"), list(itertools.product(SIDES, SIDES)))
def test_both_sides_come_to_the_same(initiator: IscsiParameters, target: IscsiParameters) -> None:
    """But for the longest segment, which each says for itself, and which binds the other one."""
    offered = wishes(initiator)
    at_target = settle(target, offered)

    at_initiator = settle(initiator, answers(offered, target, at_target))

    assert at_target.send_max == initiator.max_segment
    assert at_initiator.send_max == target.max_segment
    same = [
        (one.digests, one.initial_r2t, one.immediate_data, one.first_burst, one.max_burst)
        for one in (at_target, at_initiator)
    ]
    assert same[0] == same[1]
    assert at_target.digests == Digests(initiator.header_digest, initiator.data_digest)
    assert at_target.first_burst <= at_target.max_burst


def test_what_is_not_said_has_the_default_of_the_standard() -> None:
    """RFC 7143 sections 13.1, 13.10 to 13.14."""
    assert settle(IscsiParameters(max_burst=1 << 20, first_burst=1 << 20), {}) == Agreed()


def test_keys_are_answered_as_the_standard_wants() -> None:
    """What is only said gets no answer, and what nobody knows is not understood (section 6.2)."""
    offered = {"InitiatorName": "iqn.x", "MaxConnections": "8", "X-com.example.speed": "11", "DataDigest": "MD5,None"}
    wanted = IscsiParameters()

    answered = answers(offered, wanted, settle(wanted, offered))

    assert answered == {
        "MaxConnections": "1",
        "X-com.example.speed": "NotUnderstood",
        "DataDigest": "None",
        "MaxRecvDataSegmentLength": "8192",
    }


@pytest.mark.parametrize(
    "said",
    [{"InitialR2T": "maybe"}, {"DataDigest": "MD5"}, {"MaxBurstLength": "-1"}, {"FirstBurstLength": "511"}],
)
def test_a_value_that_is_none_is_refused(said: dict[str, str]) -> None:
    """Numbers are within their bounds, truths are Yes or No."""
    with pytest.raises(ProtocolError, match=next(iter(said))):
        settle(IscsiParameters(), said)


def test_text_is_pairs_with_a_zero_behind_each() -> None:
    """And nothing else."""
    assert iscsi_login.encode_text({"a": "1", "b": "x=y"}) == b"a=1\0b=x=y\0"
    assert iscsi_login.decode_text(b"a=1\0b=x=y\0") == {"a": "1", "b": "x=y"}
    for wrong in (b"a\0", b"a=1\0a=2\0"):
        with pytest.raises(ProtocolError):
            iscsi_login.decode_text(wrong)
