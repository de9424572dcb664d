"""What was read at the decisive moment, told with the bytes: which were meant, and why they did no harm."""

from lateack.cluster.narrative_case import Case, Moment, in_private, moment_at, refilled
from lateack.cluster.narrative_rdma import reads_remotely
from lateack.cluster.trace import Trace
from lateack.cluster.wire_oracle import SEEN, SEQUENCES, Seen, covering, page_at, pieces
from lateack.nodes import facts
from lateack.nodes.facts import AccessFault, FrameSent, SegmentTransmitted

BYTES_SHOWN = 16
PAGE_SIZE = 4096


def reading(case: Case) -> list[Moment]:
    """A card, or somebody who had kept the packet, reads its bytes, or touches what is no longer there."""
    trace, packet = case.trace, case.packet
    if packet is None:
        return []
    gates = trace.placed(facts.GateOpened, case.sent)
    opened = any(fact.place == packet.place and place < case.frame for place, _, _, fact in gates)
    what = f"{'The gate opened, and ' if opened else ''}{packet.place} "
    if case.touched or not isinstance(packet, SEEN):
        return [moment_at(trace, case.frame, f"{what}{_touch(case)}", *_more_faults(trace))]
    did = "answered the server's remote read with" if reads_remotely(case) else "read"
    what += f"{did} {packet.length} bytes of sequence {packet.seq}"
    what += " once more" if isinstance(packet, FrameSent) and packet.again else ""
    if case.stale:
        sentence = f"{what}: they are not the bytes that were handed over."
        return [moment_at(trace, case.frame, sentence, *_difference(case, packet))]
    sentence = f"{what}, and they are still right: {_safety(case)}."
    return [moment_at(trace, case.frame, sentence, *_copies(trace))]


def _touch(case: Case) -> str:
    """Say what was touched that is no longer mapped."""
    fact = case.trace[case.frame][3]
    assert isinstance(fact, AccessFault)
    return f"touched frame {fact.frame} of domain {fact.domid}, which the packet shows and which was no longer mapped."


def _more_faults(trace: Trace) -> list[str]:
    more = len(trace.places_of(AccessFault)) - 1
    return ["the run goes on without the packet"] + ([f"and {more} more of the kind"] if more else [])


def _safety(case: Case) -> str:
    """Say why a late read did no harm."""
    if in_private(case):
        return "a private copy had frozen them, and the application's own frames were not read"
    if not 0 <= refilled(case) < case.frame:
        done = case.write.issued < case.write.completed < case.frame
        return f"the application had not {'refilled the frames' if done else 'got its buffer back'} yet"
    return "they had been frozen before the application refilled the frames"


def _copies(trace: Trace) -> list[str]:
    counts = [(node, fact.amount) for _, _, node, fact in trace.placed(facts.Counted) if fact.name == "copied_bytes"]
    return [f"{node} copied {amount} bytes in this run" for node, amount in counts if amount]


def _difference(case: Case, packet: Seen) -> list[str]:
    """Show the first bytes that differ; without the bytes themselves say at least that they do."""
    meant = kept_bytes(case.trace, packet.flow, packet.seq)
    read = packet.payload if isinstance(packet, FrameSent) else b""
    pairs = enumerate(zip(meant, read, strict=False))
    offset = next((i for i, (should, was) in pairs if should != was), -1)
    if offset < 0:
        return [_digests(case, packet)]
    start = max(0, offset - BYTES_SHOWN // 4)
    shown = slice(start, start + BYTES_SHOWN)
    return [
        f"the first difference is at offset {offset}{_place_in_file(case, packet, offset)}; from offset {start}:",
        f"should be {dump(meant[shown])}",
        f"was       {dump(read[shown])}",
    ]


def _digests(case: Case, packet: Seen) -> str:
    """Say how many pieces differ where nobody kept the bytes, as of a packet that was read for the first time."""
    meant = {
        piece: digest
        for place in covering(case.trace, SegmentTransmitted, packet, 0)
        for piece, digest in _digested(case.trace[place][3])
    }
    known = [(digest, meant[piece]) for piece, digest in _digested(packet) if piece in meant]
    wrong = sum(was != should for was, should in known)
    count = f"{wrong} of {len(known)} pieces" if len(known) > 1 else "they"
    return f"the bytes of a first reading are not kept; by their digests {count} differ"


def _digested(fact: object) -> list[tuple[tuple[int, int], int]]:
    assert isinstance(fact, SegmentTransmitted | FrameSent | facts.PacketRead)
    return list(zip(pieces(fact), fact.digests, strict=False))


def _place_in_file(case: Case, packet: Seen, offset: int) -> str:
    page, fact = page_at(packet, offset), case.write.fact
    if page is None or page[1] not in fact.frames:
        return ""
    place = fact.offset + fact.frames.index(page[1]) * PAGE_SIZE + page[2]
    return f" (byte {page[2]} of frame {page[1]}, byte {place} of the file)"


def kept_bytes(trace: Trace, flow: str, seq: int) -> bytes:
    """Return the bytes that a transport meant from a sequence number on, as many as any segment kept together."""
    kept = (
        fact.intended[(seq - fact.seq) & SEQUENCES :]
        for _, _, _, fact in trace.placed(SegmentTransmitted)
        if fact.flow == flow and fact.intended
    )
    return max(kept, key=len, default=b"")


def dump(data: bytes) -> str:
    """Return bytes as people read them: in hexadecimal, and as text where they are printable."""
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
    return f"{data.hex(' ')} |{text}|"
