"""What the things of a run are called, by the protocol that carried its writes."""

from typing import NamedTuple

from lateack.cluster.trace import Trace
from lateack.nodes.facts import SegmentTransmitted


class Words(NamedTuple):
    """The protocol's words: for a write and its number, for its answer, who repeats it, and what carries the bytes."""

    write: str = "WRITE"
    number: str = "xid"
    answer: str = "reply"
    caller: str = "RPC"
    request: str = "call"
    transport: str = "TCP"


NFS = Words()
BY_PORT = {
    "2049": NFS,
    "3260": Words("SCSI WRITE", "task tag", "SCSI response", "the initiator", "command"),
    "4791": Words(transport="the adapter"),
    "6800": Words("OSD write", "tid", "OSD reply", "the client", "request"),
    "7788": Words("P_DATA", "block id", "acknowledgement", "DRBD", "request"),
}
"""By the port of the server: NFS, iSCSI, RoCE, Ceph and DRBD."""


def words_of(trace: Trace) -> Words:
    """Return the words for a run, by the first of its flows whose port is known; those of NFS where none is."""
    for place in trace.places_of(SegmentTransmitted):
        fact = trace[place][3]
        assert isinstance(fact, SegmentTransmitted)
        for end in fact.flow.split(">"):
            words = BY_PORT.get(end.rpartition(":")[2])
            if words is not None:
                return words
    return NFS
