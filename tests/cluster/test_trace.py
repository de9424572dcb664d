"""A trace keeps facts in order, has one digest whoever computes it, and comes back from its file as it was."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import xxhash
from hypothesis import given, settings, strategies as st

from lateack.cluster.trace import CHUNK, Entry, Trace, TraceUnreadable, fields_text, ranges_text, read_msgpack
from lateack.nodes.facts import (
    Connected,
    Counted,
    FileAtRest,
    FrameSent,
    GateOpened,
    SegmentTransmitted,
    WriteCompleted,
    WriteIssued,
)

ISSUED = WriteIssued(7, "f", 0, 4096, 0xFEED, 1, (12, 13, 14, 20))
SENT = FrameSent("backend.nic", "a>b", 1001, 100, 1448, (2**64 - 1,), True, ((1, 12, 0, 100),), b"x" * 100)


def small() -> Trace:
    """A trace of three facts."""
    return Trace([(1, 0, "guest1", ISSUED), (1, 1, "backend", SENT), (2, 0, "guest1", Connected("a>b"))])


def long(count: int) -> Trace:
    """A trace of many facts of two types."""
    return Trace([(at, 0, "n", Counted("c", at) if at % 3 else GateOpened("r", "p", at)) for at in range(count)])


def test_facts_of_a_type_come_in_order_and_with_their_positions() -> None:
    """of_type and places_of agree with each other and with the entries."""
    trace = long(100)

    gates = trace.of_type(GateOpened)

    assert [entry[3].waiting for entry in gates] == list(range(0, 100, 3))
    assert [trace[place] for place in trace.places_of(GateOpened)] == gates
    assert trace.of_type(Connected) == []
    assert len(trace) == 100
    assert list(trace) == trace.entries


def test_facts_recorded_after_a_question_are_found_by_the_next() -> None:
    """The index by type follows a world that goes on appending."""
    trace = small()
    trace.of_type(Connected)

    trace.entries.append((3, 0, "server", Connected("b>a")))

    assert [fact.flow for _, _, _, fact in trace.of_type(Connected)] == ["a>b", "b>a"]
    assert list(trace.placed(Connected, after=2)) == [(3, 3, "server", Connected("b>a"))]
    assert trace.named("Connected") == trace.of_type(Connected)
    assert trace.named("Nonsense") == []


def test_the_digest_is_that_of_the_records_one_after_the_other() -> None:
    """The canonical form is the msgpack of (at, logical, node, fact) in order, whatever the chunks."""
    for trace in (Trace(), small(), long(15), long(16), long(CHUNK + 5)):
        records = b"".join(msgspec.msgpack.encode(entry) for entry in trace)

        assert trace.digest() == xxhash.xxh3_128(records).hexdigest()


def test_the_digest_is_the_same_in_another_process() -> None:
    """Neither hash seeds nor processes show in a digest."""
    script = (
        "from tests.cluster.test_trace import small; "
        "print(small().digest())"
    )  # fmt: skip

    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }

    assert digests == {small().digest()}


def test_the_digest_tells_any_two_traces_apart() -> None:
    """Time, clock, machine, fact and order all count."""
    at, logical, node, fact = small()[0]
    others: list[Entry] = [(at + 1, logical, node, fact), (at, 9, node, fact), (at, logical, "guest2", fact)]

    digests = {Trace([entry, *small().entries[1:]]).digest() for entry in others}
    digests |= {Trace(small().entries[::-1]).digest(), small().digest()}

    assert len(digests) == 5


@pytest.mark.parametrize("count", [0, 1, 15, 16, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_a_trace_comes_back_from_its_file(tmp_path: Path, count: int) -> None:
    """What was written is read back, fact by fact, at every size where the file's form might change."""
    trace = long(count)

    trace.write_msgpack(tmp_path / "trace.msgpack")

    assert read_msgpack(tmp_path / "trace.msgpack").entries == trace.entries


numbers = st.integers(0, 2**64 - 1)
facts_drawn = st.one_of(
    st.builds(Counted, st.text(max_size=5), numbers),
    st.builds(FileAtRest, st.text(max_size=5), numbers, numbers, st.lists(numbers, max_size=4).map(tuple)),
    st.builds(
        SegmentTransmitted, st.text(max_size=5), numbers, numbers, numbers, numbers,
        st.lists(numbers, max_size=4).map(tuple), st.binary(max_size=70),
    ),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(numbers, st.integers(0, 9), st.text(max_size=4), facts_drawn), max_size=40))
def test_any_trace_comes_back_with_its_digest(tmp_path_factory: pytest.TempPathFactory, entries: list[Entry]) -> None:
    """Whatever values facts have, the file holds them."""
    path = tmp_path_factory.mktemp("trace") / "trace.msgpack"
    trace = Trace(entries)

    trace.write_msgpack(path)

    assert read_msgpack(path).entries == entries
    assert xxhash.xxh3_128(path.read_bytes()).hexdigest() == trace.digest()


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data + b"\xc1", lambda data: b"\x01" + data])
def test_a_file_that_is_no_trace_is_refused_in_one_sentence(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    """A trace cut short or spoiled is an error that says what to do, not a shorter trace."""
    path = tmp_path / "trace.msgpack"
    small().write_msgpack(path)
    path.write_bytes(spoil(path.read_bytes()))

    with pytest.raises(TraceUnreadable, match="run the story again"):
        read_msgpack(path)


def test_the_text_has_aligned_columns_and_short_values(tmp_path: Path) -> None:
    """People read times in ms, hexadecimal digests and xids, runs of frames, and no walls of bytes."""
    trace = small()
    trace.entries.append((1_203_250_999, 0, "guest1", WriteCompleted(7, "a b", 0, 4096, 1_500_000)))

    trace.write_text(tmp_path / "trace.txt")
    lines = (tmp_path / "trace.txt").read_text().splitlines()

    assert lines[0] == (
        "         0.000  guest1   WriteIssued     "
        "xid=0x00000007 file=f offset=0 count=4096 digest=000000000000feed buffer=1 frames=12-14,20"
    )
    assert lines[1].endswith("digests=ffffffffffffffff again=True pages=1:12+0/100 payload=7878787878787878..(100B)")
    assert lines[3].startswith("      1203.250  guest1   WriteCompleted  xid=0x00000007 file='a b'")
    assert lines[3].endswith("latency=1.500ms")
    assert len(lines) == 4


def test_runs_of_numbers_are_drawn_together() -> None:
    """12, 13, 14 are 12-14; lone numbers stand alone; nothing is nothing."""
    assert ranges_text((12, 13, 14, 20, 7, 8)) == "12-14, 20, 7-8"
    assert ranges_text(()) == ""
    assert fields_text(SegmentTransmitted("a>b", 1, 2, 3, 1, (1, 2, 3))).endswith("digests=0000000000000001(+2)")
