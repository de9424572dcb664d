"""Each oracle finds its harm, names what proves it, and is silent about everything that is no harm."""

import pytest
import xxhash
from hypothesis import given, settings, strategies as st

from lateack.cluster import oracles
from lateack.cluster.oracles import corrupt_at_rest, fault, harms, leak, stall
from lateack.cluster.trace import Trace
from lateack.cluster.wire_oracle import Harm, covering, judge_wire, page_at, stale_on_wire
from lateack.nodes.facts import (
    AccessFault,
    BufferRefilled,
    CopyFailed,
    CopyFinished,
    Fact,
    FileAtRest,
    FrameSent,
    FrontendBroken,
    LeftOver,
    SegmentTransmitted,
    VifConnected,
    VifDisabled,
    WriteCompleted,
    WriteExecuted,
    WriteIssued,
    WriteReissued,
)

FLOW = "10.0.0.1:700>10.0.0.9:2049"
MS = 1_000_000


def trace_of(*entries: tuple[str, Fact]) -> Trace:
    """A trace of facts, one a millisecond."""
    return Trace([(at * MS, 0, node, fact) for at, (node, fact) in enumerate(entries)])


def digests(data: bytes, mss: int) -> tuple[int, ...]:
    """The digests of data in pieces of mss."""
    return tuple(xxhash.xxh3_64_intdigest(data[start : start + mss]) for start in range(0, len(data), mss))


def meant(data: bytes, seq: int, mss: int = 10, *, flow: str = FLOW, nth: int = 1) -> tuple[str, Fact]:
    """The guest hands these bytes over."""
    return "guest1", SegmentTransmitted(flow, seq, len(data), mss, nth, digests(data, mss))


def sent(data: bytes, seq: int, mss: int = 10, *, flow: str = FLOW, pages: tuple[int, ...] = ()) -> tuple[str, Fact]:
    """The NIC reads these bytes, from whole frames of domain 1 where some are named."""
    windows = tuple((1, frame, 0, 4096) for frame in pages)
    return "backend", FrameSent("backend.nic", flow, seq, len(data), mss, digests(data, mss), False, windows)


# --- stale-on-wire ----------------------------------------------------------------------------------------------------


def test_a_frame_with_the_bytes_that_were_handed_over_is_no_harm() -> None:
    """The same cut, the same bytes, as often as one likes."""
    trace = trace_of(meant(b"a" * 25, 100), sent(b"a" * 25, 100), sent(b"a" * 25, 100))

    assert judge_wire(trace) == ([], 0)


def test_a_frame_with_other_bytes_is_stale() -> None:
    """The harm names flow, offset and time, and the entries that prove it."""
    trace = trace_of(meant(b"a" * 25, 100), sent(b"a" * 25, 100), sent(b"a" * 10 + b"b" * 15, 100))

    (harm,) = stale_on_wire(trace)

    assert harm.name == "stale-on-wire"
    assert harm.entries == (0, 2)
    assert harm.sentence == (
        f"backend: 25 bytes of {FLOW} from sequence 100 left backend.nic at 2.000 ms; 2 of 3 pieces, from offset 10, "
        "is not what guest1 handed over at 0.000 ms."
    )


def test_a_stale_frame_names_its_page_and_since_when_that_was_wrong() -> None:
    """The refill of the very frame by its owner is part of the proof; another guest's frame of that number is not."""
    trace = trace_of(
        ("backend", VifConnected("guest1", 1)),
        meant(b"a" * 8192, 0, 5000),
        ("guest1", BufferRefilled(0, (12, 13), 0, 1, 2)),
        ("guest2", BufferRefilled(0, (12, 13), 0, 1, 2)),
        sent(b"a" * 5000 + b"b" * 3192, 0, 5000, pages=(12, 13)),
    )

    (harm,) = stale_on_wire(trace)

    assert harm.entries == (1, 2, 4)
    assert "from offset 5000, in frame 13 of domain 1, " in harm.sentence
    assert harm.sentence.endswith("the application refilled that frame at 2.000 ms.")


def test_order_between_machines_does_not_count() -> None:
    """A frame may stand in the trace before the segment that vouches for it."""
    good = trace_of(sent(b"a" * 25, 100), meant(b"a" * 25, 100))
    bad = trace_of(sent(b"b" * 25, 100), meant(b"a" * 25, 100))

    assert stale_on_wire(good) == []
    assert [harm.entries for harm in stale_on_wire(bad)] == [(1, 0)]


def test_a_frame_cut_off_from_a_larger_segment_is_judged_by_its_pieces() -> None:
    """A NIC may send a large segment in several frames, and a frame may span two segments."""
    parts = trace_of(meant(b"abcdefghij" * 3, 100), sent(b"abcdefghij", 110), sent(b"abcdefghij" * 2, 110))
    wrong = trace_of(meant(b"abcdefghij" * 3, 100), sent(b"abcdefghiX", 110))
    spanning = trace_of(meant(b"a" * 10, 100), meant(b"b" * 10, 110), sent(b"a" * 10 + b"b" * 10, 100))

    assert judge_wire(parts) == ([], 0)
    assert len(stale_on_wire(wrong)) == 1
    assert judge_wire(spanning) == ([], 0)


def test_a_lone_piece_may_be_declared_with_another_cut() -> None:
    """A frame of one piece has its own length as its cut, its segment that of the connection."""
    trace = trace_of(meant(b"a" * 8, 100, 1448), sent(b"a" * 8, 100, 8), sent(b"b" * 8, 100, 8))

    assert [harm.entries for harm in stale_on_wire(trace)] == [(0, 2)]


def test_sequence_numbers_wrap() -> None:
    """Pieces behind 2^32 begin at zero again."""
    start = 2**32 - 10
    right = trace_of(meant(b"a" * 20 + b"b" * 10, start), sent(b"b" * 10, 10), sent(b"a" * 10, 0))
    wrong = trace_of(meant(b"a" * 20 + b"b" * 10, start), sent(b"a" * 10, 10))

    assert judge_wire(right) == ([], 0)
    assert [harm.entries for harm in stale_on_wire(wrong)] == [(0, 1)]


def test_either_meaning_of_a_range_will_do() -> None:
    """Where a flow's numbers were used twice, the bytes of either use are right."""
    uses = meant(b"a" * 10, 100), meant(b"b" * 10, 100)

    assert judge_wire(trace_of(*uses, sent(b"a" * 10, 100), sent(b"b" * 10, 100))) == ([], 0)
    assert len(stale_on_wire(trace_of(*uses, sent(b"c" * 10, 100)))) == 1


def test_a_piece_that_nobody_vouched_for_is_counted_not_condemned() -> None:
    """An unknown cut is unjudged; a flow without any intent, such as the server's, is not even that."""
    trace = trace_of(meant(b"a" * 10, 100), sent(b"x" * 25, 500), sent(b"x" * 25, 1, flow="other"), sent(b"", 110))

    assert judge_wire(trace) == ([], 3)


def test_datagrams_are_told_apart_by_their_numbers() -> None:
    """Datagram 2 lies within datagram 1's range of numbers, and is yet another one."""
    trace = trace_of(meant(b"a" * 50, 1, 50), meant(b"b" * 50, 2, 50), sent(b"a" * 50, 1, 50), sent(b"a" * 50, 2, 50))

    (harm,) = stale_on_wire(trace)

    assert harm.entries == (1, 3)


def test_the_proof_goes_back_to_the_first_transmission() -> None:
    """A shorter retransmission of the range does not hide when its bytes were first handed over."""
    trace = trace_of(meant(b"a" * 30, 100), meant(b"a" * 10, 100, nth=2), sent(b"b" * 10, 100))

    (harm,) = stale_on_wire(trace)

    assert harm.entries == (0, 1, 2)
    assert harm.sentence.endswith("is not what guest1 handed over at 0.000 ms.")


def test_any_number_of_stale_frames_is_found() -> None:
    """Only the first hundred are traced to their origin, so that a run of thousands is judged in time."""
    frames = [sent(b"b" * 10, 100)] * 3000

    found = stale_on_wire(trace_of(meant(b"a" * 10, 100), *frames))

    assert len(found) == 3000
    assert found[99].entries == (0, 100)
    assert found[100].entries == (101,)
    assert found[100].sentence.endswith("all of it, from offset 0, is not what was handed over.")


def test_the_page_of_a_byte_is_counted_from_the_end_of_the_windows() -> None:
    """Header bytes may lie in a page too, or payload outside of any."""
    with_head = FrameSent("n", FLOW, 0, 100, 100, (1,), False, ((1, 5, 0, 40), (1, 6, 8, 80)))
    with_linear = FrameSent("n", FLOW, 0, 100, 100, (1,), False, ((1, 6, 8, 80),))

    assert page_at(with_head, 0) == (1, 5, 20, 20)
    assert page_at(with_head, 20) == (1, 6, 8, 80)
    assert page_at(with_linear, 19) is None
    assert page_at(with_linear, 20) == (1, 6, 8, 80)
    assert page_at(with_linear, 100) is None


@settings(max_examples=80, deadline=None)
@given(
    data=st.binary(min_size=1, max_size=200),
    seq=st.integers(0, 2**32 - 1),
    mss=st.integers(1, 60),
    cut=st.integers(0, 200),
    spoiled=st.integers(0, 199),
)
def test_one_changed_byte_is_found_wherever_it_lies(data: bytes, seq: int, mss: int, cut: int, spoiled: int) -> None:
    """Sent whole or from any piece on, right bytes pass and a single wrong byte does not."""
    start = cut % len(data) // mss * mss
    tail = data[start:]
    place = spoiled % len(tail)
    wrong = tail[:place] + bytes([tail[place] ^ 1]) + tail[place + 1 :]
    at = (seq + start) & 0xFFFFFFFF

    right = trace_of(meant(data, seq, mss), sent(tail, at, mss))
    changed = trace_of(meant(data, seq, mss), sent(wrong, at, mss))

    assert judge_wire(right) == ([], 0)
    assert [harm.entries for harm in stale_on_wire(changed)] == [(0, 1)]
    frame = changed[1][3]
    assert isinstance(frame, FrameSent)
    assert covering(changed, SegmentTransmitted, frame, place) == [0]


# --- corrupt-at-rest --------------------------------------------------------------------------------------------------


def issued(xid: int, digest: int, offset: int = 0, count: int = 4096, *, node: str = "guest1") -> tuple[str, Fact]:
    """A guest issues a write."""
    return node, WriteIssued(xid, "f", offset, count, digest, 0, (12,))


def completed(xid: int, offset: int = 0, count: int = 4096, *, node: str = "guest1") -> tuple[str, Fact]:
    """A guest's write completes."""
    return node, WriteCompleted(xid, "f", offset, count, MS)


def executed(xid: int, digest: int, offset: int = 0, count: int = 4096, *, client: str = "guest1") -> tuple[str, Fact]:
    """The server executes a write."""
    return "server", WriteExecuted(xid, client, "f", offset, count, digest)


def at_rest(length: int, *found: int, chunk: int = 4096) -> tuple[str, Fact]:
    """The file at the end."""
    return "server", FileAtRest("f", length, chunk, found)


def names(found: list[Harm]) -> list[str]:
    """The names of harms."""
    return [harm.name for harm in found]


def test_a_write_that_arrives_as_it_was_meant_is_no_harm() -> None:
    """Issued, executed, completed, at rest."""
    assert corrupt_at_rest(trace_of(issued(1, 0xA), executed(1, 0xA), completed(1), at_rest(4096, 0xA))) == []


def test_a_duplicate_execution_with_the_same_bytes_is_harmless() -> None:
    """What is written twice is still what was written."""
    twice = trace_of(issued(1, 0xA), executed(1, 0xA), executed(1, 0xA), completed(1), at_rest(4096, 0xA))

    assert corrupt_at_rest(twice) == []


@pytest.mark.parametrize(
    "wrong",
    [executed(1, 0xB), executed(1, 0xA, 4096), executed(1, 0xA, 0, 100), executed(1, 0xA, client="guest2")],
    ids=["bytes", "offset", "count", "client"],
)
def test_an_executed_write_that_nobody_meant_is_corruption(wrong: tuple[str, Fact]) -> None:
    """Digest, offset, count and client must be those of a write under that xid."""
    trace = trace_of(issued(1, 0xA), executed(1, 0xA), completed(1), wrong)

    (harm,) = corrupt_at_rest(trace)

    assert harm.name == "corrupt-at-rest"
    assert harm.entries[-1] == 3
    assert "xid 0x00000001" in harm.sentence


def test_a_corruption_that_is_overwritten_again_was_still_one() -> None:
    """The server held wrong bytes for a while, and somebody may have read them."""
    trace = trace_of(issued(1, 0xA), executed(1, 0xB), executed(1, 0xA), completed(1), at_rest(4096, 0xA))

    assert [harm.entries for harm in corrupt_at_rest(trace)] == [(0, 1)]


def test_an_old_write_over_a_newer_one_is_corruption() -> None:
    """A lost update: every execution was meant, and the file still ends with the older bytes."""
    trace = trace_of(
        issued(1, 0xA), executed(1, 0xA), completed(1),
        issued(2, 0xB), executed(2, 0xB), completed(2),
        executed(1, 0xA), at_rest(4096, 0xA),
    )  # fmt: skip

    (harm,) = corrupt_at_rest(trace)

    assert harm.entries == (3, 5, 7)
    assert "the older write xid 0x00000001 lies over it" in harm.sentence


def test_writes_in_flight_and_concurrent_ones_may_come_last() -> None:
    """Where two writes overlapped in time, or one never completed, the server may hold the bytes of either."""
    in_flight = [issued(1, 0xA), completed(1), issued(2, 0xB)]
    concurrent = [issued(1, 0xA), issued(2, 0xB), completed(1), completed(2)]

    for story in (in_flight, concurrent):
        assert corrupt_at_rest(trace_of(*story, at_rest(4096, 0xA))) == []
        assert corrupt_at_rest(trace_of(*story, at_rest(4096, 0xB))) == []
        assert names(corrupt_at_rest(trace_of(*story, at_rest(4096, 0xC)))) == ["corrupt-at-rest"]


def test_writes_of_two_machines_count_as_concurrent() -> None:
    """The order between two machines proves nothing."""
    trace = trace_of(
        issued(1, 0xA), completed(1), issued(1, 0xB, node="guest2"), completed(1, node="guest2"), at_rest(4096, 0xA)
    )

    assert corrupt_at_rest(trace) == []


def test_a_range_that_no_write_completed_may_hold_anything() -> None:
    """Until a write has completed, what lay there before may lie there still."""
    assert corrupt_at_rest(trace_of(issued(1, 0xA), at_rest(4096, 0x0))) == []
    assert corrupt_at_rest(trace_of(issued(1, 0xA), at_rest(0))) == []


def test_a_completed_range_that_is_not_there_is_corruption() -> None:
    """A file too short, or none at all, where the server says what it holds."""
    short = trace_of(issued(1, 0xA), completed(1), at_rest(100, 0xA))
    absent = trace_of(issued(1, 0xA), completed(1), ("server", FileAtRest("g", 0, 4096, ())))
    unseen = trace_of(issued(1, 0xA), completed(1))

    assert [harm.entries for harm in corrupt_at_rest(short)] == [(0, 1, 2)]
    assert [harm.entries for harm in corrupt_at_rest(absent)] == [(0, 1)]
    assert corrupt_at_rest(unseen) == []


def test_the_last_chunk_may_be_partial() -> None:
    """It is judged by its own count."""
    story = [issued(1, 0xA), completed(1), issued(2, 0xB, 4096, 10), completed(2, 4096, 10)]

    assert corrupt_at_rest(trace_of(*story, at_rest(4106, 0xA, 0xB))) == []
    assert names(corrupt_at_rest(trace_of(*story, at_rest(4106, 0xA, 0xC)))) == ["corrupt-at-rest"]
    assert names(corrupt_at_rest(trace_of(*story, at_rest(4100, 0xA, 0xB)))) == ["corrupt-at-rest"]


def test_a_file_digested_on_another_grid_is_not_judged_at_rest() -> None:
    """Only the executions are judged then, since digests of other ranges say nothing."""
    story = [issued(1, 0xA), executed(1, 0xA), completed(1)]

    assert corrupt_at_rest(trace_of(*story, at_rest(4096, 0xC, 0xD, chunk=2048))) == []
    assert corrupt_at_rest(trace_of(*story, at_rest(8192, 0xC, chunk=8192))) == []
    assert corrupt_at_rest(trace_of(issued(1, 0xA, 100), completed(1, 100), at_rest(4196, 0xC, 0xD))) == []


@settings(max_examples=80, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(0, 8))
def test_of_writes_in_a_row_only_the_last_completed_and_later_may_be_at_rest(done: list[bool], which: int) -> None:
    """A history of one register: write i is admissible unless a later one completed after it was done."""
    story: list[tuple[str, Fact]] = []
    for number, finishes in enumerate(done):
        story += [issued(number, number)] + ([completed(number)] if finishes else [])
    last = max((number for number, finishes in enumerate(done) if finishes), default=-1)
    admissible = {number for number, finishes in enumerate(done) if not finishes or number == last}

    found = corrupt_at_rest(trace_of(*story, at_rest(4096, which)))

    assert bool(found) == (last >= 0 and which not in admissible)


# --- fault, leak, stall -----------------------------------------------------------------------------------------------


def test_a_touch_of_an_unmapped_page_and_a_broken_frontend_are_faults() -> None:
    """A backend that shuts a lying guest's interface defends itself: that alone is no harm."""
    trace = trace_of(
        ("backend", AccessFault("backend.nic", 1, 12)),
        ("guest1", FrontendBroken("guest1", "grant 9 is still mapped")),
        ("backend", VifDisabled("guest2", "bad ring")),
    )

    found = fault(trace)

    assert [harm.entries for harm in found] == [(0,), (1,)]
    assert "touched frame 12 of domain 1 at 0.000 ms" in found[0].sentence
    assert fault(trace_of(("backend", VifDisabled("guest2", "bad ring")))) == []


def test_what_is_never_given_back_is_a_leak() -> None:
    """The sentence says who lacks how much of what."""
    (harm,) = leak(trace_of(("guest1", LeftOver("grants", 3))))

    assert harm == Harm("leak", "guest1: 3 grants never given back by 0.000 ms.", (0,))
    assert leak(trace_of()) == []


def test_a_write_that_never_completes_is_a_stall() -> None:
    """The completion must be of the same machine and come after."""
    finished = ("guest1", CopyFinished("f", 4096))

    assert stall(trace_of(issued(1, 0xA), completed(1), finished)) == []
    assert [h.entries for h in stall(trace_of(issued(1, 0xA), finished))] == [(0,)]
    assert len(stall(trace_of(issued(1, 0xA), completed(1, node="guest2"), finished))) == 1
    assert len(stall(trace_of(completed(1), issued(1, 0xA), finished))) == 1


def test_a_copy_that_never_finishes_is_a_stall_of_that_guest() -> None:
    """Each guest that wrote must finish; one that gave up says why."""
    trace = trace_of(
        issued(1, 0xA), completed(1), issued(1, 0xB, node="guest2"), completed(1, node="guest2"),
        ("guest1", CopyFinished("f", 4096)), ("guest2", CopyFailed("f", "the server went away.")),
    )  # fmt: skip

    (harm,) = stall(trace)

    assert harm.entries == (2, 5)
    assert harm.sentence.startswith("guest2: ")
    assert harm.sentence.endswith("gave up at 5.000 ms: the server went away.")


# --- all of them ------------------------------------------------------------------------------------------------------


def test_harms_are_named_once_and_sorted() -> None:
    """An empty trace is safe; many harms of a kind are one name."""
    trace = trace_of(
        ("guest1", LeftOver("grants", 3)), ("guest1", LeftOver("pages", 3)), ("backend", AccessFault("n", 1, 2)),
        meant(b"a", 1), sent(b"b", 1),
    )  # fmt: skip

    assert harms(trace) == ["fault", "leak", "stale-on-wire"]
    assert harms(Trace()) == []


def test_every_sentence_begins_with_the_machine_and_ends_as_one() -> None:
    """The narrative and the command line rely on that form."""
    trace = trace_of(
        ("guest1", LeftOver("grants", 3)), ("backend", AccessFault("n", 1, 2)), meant(b"a", 1), sent(b"b", 1),
        issued(1, 0xA), executed(1, 0xB), ("guest1", FrontendBroken("guest1", "why")),
    )  # fmt: skip

    found = [harm for oracle in oracles.ORACLES for harm in oracle(trace)]

    assert {harm.name for harm in found} == {"corrupt-at-rest", "fault", "leak", "stale-on-wire", "stall"}
    for harm in found:
        assert harm.sentence.split(": ")[0] in ("guest1", "backend", "server")
        assert harm.sentence.endswith(".")


@pytest.mark.parametrize("told", range(1 << 6))
def test_the_names_alone_are_those_of_the_sentences(told: int) -> None:
    """A search asks for names only, by a shorter way that must come to the same."""
    wrongs = (
        ("guest1", LeftOver("grants", 3)), ("backend", AccessFault("n", 1, 2)), sent(b"b", 1), issued(1, 0xA),
        executed(1, 0xB), ("guest1", FrontendBroken("guest1", "why")),
    )  # fmt: skip
    trace = trace_of(meant(b"a", 1), *(wrong for number, wrong in enumerate(wrongs) if told >> number & 1))

    names = harms(trace)

    assert names == sorted({harm.name for oracle in oracles.ORACLES for harm in oracle(trace)})


# --- writes that go on under another number ---------------------------------------------------------------------------


@pytest.mark.parametrize(("digest", "found"), [(7, []), (8, ["corrupt-at-rest"])])
def test_a_write_that_is_reissued_is_judged_by_what_it_meant_at_first(digest: int, found: list[str]) -> None:
    """Twice reissued and completed under the last number: nobody waits, and the bytes must be those of the first."""
    trace = trace_of(
        ("guest1", WriteIssued(1, "f", 0, 10, 7, 0, (5,))),
        ("guest1", WriteReissued(1, 2)),
        ("guest1", WriteReissued(2, 3)),
        ("server", WriteExecuted(3, "guest1", "f", 0, 10, digest)),
        ("guest1", WriteCompleted(3, "f", 0, 10, 1)),
        ("guest1", CopyFinished("f", 10)),
    )

    assert harms(trace) == found
    assert sorted({harm.name for oracle in oracles.ORACLES for harm in oracle(trace)}) == found
