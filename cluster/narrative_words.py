"""What the things of a run are called, by the protocol that carried its writes."""

from typing import NamedTuple

from lateack.cluster.trace import Trace, ranges_text
from lateack.nodes.facts import SegmentTransmitted


class Words(NamedTuple):
    """The protocol's words for a write, its number and its answer, who repeats it, carries it, and uses its pages."""

    write: str = "WRITE"
    number: str = "xid"
    answer: str = "reply"
    caller: str = "RPC"
    request: str = "call"
    transport: str = "TCP"
    user: str = "the stack"


NFS = Words()
BY_PORT = {
    "2049": NFS,
    "3260": Words("SCSI WRITE", "task tag", "SCSI response", "the initiator", "command"),
    "4791": Words(transport="the adapter", user="the adapter"),
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


def spoken(trace: Trace, sentence: str) -> str:
    """Return a sentence of an oracle, which knows only calls of NFS, in the words of the run's protocol."""
    words = words_of(trace)
    if (words.write, words.number) == (NFS.write, NFS.number):
        return sentence
    return sentence.replace("WRITE xid", f"{words.write} {words.number}").replace(" xid", f" {words.number}")


def frames_text(frames: tuple[int, ...]) -> str:
    """Return "frame 12" or "frames 12-15"."""
    return f"{'frame' if len(frames) == 1 else 'frames'} {ranges_text(frames)}"
