"""Captures: tshark reads every frame of every story, agrees with the trace, and finds our comments where harm is."""

from pathlib import Path

import pytest

import lateack
from lateack.cluster.capture import CaptureError
from lateack.cluster.cli import main
from lateack.cluster.experiment import run_experiment
from lateack.cluster.scenario import list_stories, load
from lateack.nodes.facts import DuplicateDropped, FrameCaptured, FrameLost, FrameSent, WriteIssued
from tests.cluster.sniffer import capture_of, captured, tshark
from tests.test_documentation import Shell, blocks
from tests.tools import needs


@pytest.fixture
def sniffer() -> str:
    """Return where tshark is, or skip."""
    return needs("tshark")


needs_tshark = pytest.mark.usefixtures("sniffer")
WRONG = "_ws.malformed or _ws.expert.severity == error or tcp.checksum.status == 0 or udp.checksum.status == 0 "
WRONG += "or ip.checksum.status == 0"
ENDS = {"block": "backend", "split": "backend", "metal": "guest1", "loopback": "guest1.lo"}


def test_a_captured_run_leaves_the_very_trace_of_one_that_is_not() -> None:
    """Capturing changes nothing of what happens, in any story's weather: rules, losses and waits are the same."""
    for story in ("late-ack", "rpc-retransmit", "loopback-server", "udp-retransmit"):
        trace, frames = captured(story)

        assert frames
        assert trace.digest() == run_experiment(load(story), "virtual").trace.digest()
        assert not trace.of_type(FrameCaptured)


def test_equal_runs_make_equal_files(tmp_path: Path) -> None:
    """Virtual time has no clock to differ by."""
    for name in ("one", "two"):
        capture_of(tmp_path / name, "late-ack")

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_frame_is_seen_where_it_leaves_and_where_it_arrives_unless_it_is_lost() -> None:
    """The network's delay lies between the two; a frame that a rule dropped was never seen at the far end."""
    trace, frames = captured("one-loss")
    left = [frame for frame in frames if frame.fact.outbound]
    came = [frame for frame in frames if not frame.fact.outbound]
    lost = len(trace.of_type(FrameLost))

    assert lost == len(left) - len(came) == 1
    first = next(frame for frame in came if frame.fact.frame == left[0].fact.frame)
    assert (left[0].fact.end, first.fact.end, first.at - left[0].at) == ("backend", "server", 500_000)


def test_the_capture_lies_in_the_run_folder_and_in_no_other(tmp_path: Path) -> None:
    """It is written with `capture`, not without, and a run that leaves no folder is refused in one sentence."""
    wanted = lateack.run("late-ack", world="virtual", out=tmp_path / "wanted", capture=True)
    plain = lateack.run("late-ack", world="virtual", out=tmp_path / "plain")

    assert wanted.run_dir is not None
    assert plain.run_dir is not None
    assert (wanted.run_dir / "capture.pcapng").stat().st_size > 20_000
    assert not (plain.run_dir / "capture.pcapng").exists()
    with pytest.raises(CaptureError, match=r"say where folders go, with out="):
        lateack.run("late-ack", world="virtual", capture=True)


@pytest.mark.slow
@needs_tshark
@pytest.mark.parametrize("story", list_stories())
def test_tshark_finds_no_fault_with_any_frame_of_a_story(story: str, tmp_path: Path) -> None:
    """Nothing is malformed, no sum is wrong, and nothing else is an error, at the end where the writes leave."""
    end = ENDS.get(load(story).kind, "server")
    capture_of(tmp_path / "capture.pcapng", story, end=end)

    assert tshark(tmp_path / "capture.pcapng", WRONG, "frame.number", "_ws.expert.message") == []
    assert (tmp_path / "capture.pcapng").stat().st_size > 5000


@needs_tshark
@pytest.mark.parametrize(
    ("story", "overrides"),
    [
        ("calm", ("workload.write_size=65536", "workload.bytes=1048576")),
        ("calm", ("workload.stable=unstable",)),
        ("udp-retransmit", ()),
        ("loopback-server", ()),
    ],
)
def test_tshark_dissects_every_write_with_its_offset(story: str, overrides: tuple[str, ...], tmp_path: Path) -> None:
    """What another's dissector reads off the wire is what the application asked for, whole and in its order."""
    path = tmp_path / "capture.pcapng"
    trace = capture_of(path, story, *overrides, end=ENDS[load(story).kind])
    issued = [(fact.xid, fact.offset, fact.count) for _, _, _, fact in trace.of_type(WriteIssued)]

    calls = tshark(path, "nfs.procedure_v3 == 7 and rpc.msgtyp == 0", "rpc.xid", "nfs.offset3", "nfs.count3")
    commits = tshark(path, "nfs.procedure_v3 == 21 and rpc.msgtyp == 0", "nfs.offset3")

    seen = [(int(xid, 16), int(offset), int(count)) for xid, offset, count in calls]
    assert list(dict.fromkeys(seen)) == issued
    if "workload.stable=unstable" in overrides:
        assert sorted(int(offset) for [offset] in commits) == sorted(offset for _, offset, _ in issued)


@needs_tshark
def test_tshark_marks_the_late_retransmission_and_shows_what_it_carries(tmp_path: Path) -> None:
    """The one spurious retransmission of the late ACK says whose bytes it carries, since when, and how it ended."""
    trace = capture_of(tmp_path / "capture.pcapng", "late-ack", end="server")
    [_, second] = [fact for _, _, _, fact in trace.of_type(WriteIssued)]
    [sent] = [fact for _, _, _, fact in trace.of_type(FrameSent) if fact.again]
    [dropped] = [fact for _, _, _, fact in trace.of_type(DuplicateDropped)]

    [[sequence, comment]] = tshark(
        tmp_path / "capture.pcapng", "tcp.analysis.spurious_retransmission", "tcp.seq_raw", "frame.comment"
    )

    assert int(sequence) == sent.seq == dropped.seq
    assert f"guest1 changed frame {second.frames[0]} of domain 1 from byte 0 at 204.000 ms" in comment
    assert f"the bytes of WRITE xid {second.xid:#010x} at offset 4096 of input.bin" in comment
    assert "dropped by server, which had these 4228 bytes already" in comment


@needs_tshark
def test_every_stale_frame_has_a_comment_and_no_other_says_so(tmp_path: Path) -> None:
    """Both sightings of a stale frame are marked; a run with a safe strategy has nothing to say."""
    capture_of(tmp_path / "harm.pcapng", "late-ack")
    capture_of(tmp_path / "safe.pcapng", "late-ack", "strategies.guest=full-copy")

    stale = tshark(tmp_path / "harm.pcapng", "frame.comment contains stale", "frame.interface_name")
    safe = tshark(tmp_path / "safe.pcapng", "frame.comment contains stale", "frame.number")

    assert stale == [["backend"], ["server"]]
    assert safe == []


@needs_tshark
def test_a_call_that_corrupts_a_file_says_so_where_it_arrives(tmp_path: Path) -> None:
    """Over UDP the repeated call is executed with the next write's bytes: its datagram at the server is the culprit."""
    capture_of(tmp_path / "capture.pcapng", "udp-retransmit")

    found = tshark(tmp_path / "capture.pcapng", "frame.comment contains corrupt", "frame.interface_name", "nfs.offset3")

    assert found == [["server", "0"]]


@needs_tshark
def test_bytes_that_were_read_late_are_told_at_the_frame_that_went_by(tmp_path: Path) -> None:
    """On the loopback device a frame is right when it passes; its comment says what its reader found in its pages."""
    capture_of(tmp_path / "capture.pcapng", "loopback-server", "strategies.guest=skb-destructor")

    [[interface, comment]] = tshark(
        tmp_path / "capture.pcapng", "frame.comment contains late", "frame.interface_name", "frame.comment"
    )

    assert interface == "guest1.lo"
    assert "read late by guest1.reader at" in comment


@needs_tshark
def test_the_file_says_what_it_was_taken_from(tmp_path: Path) -> None:
    """Each end has its interface, directions are marked, and a run begins at the documented moment, to the ns."""
    capture_of(tmp_path / "capture.pcapng", "late-ack-metal")

    first, *_ = tshark(
        tmp_path / "capture.pcapng", "frame", "frame.interface_name", "frame.packet_flags_direction", "frame.time_epoch"
    )

    assert first == ["guest1", "0x00000002", "1293840000.000000000"]


@pytest.mark.slow
@needs_tshark
def test_what_the_document_shows_of_tshark_is_what_it_prints(tmp_path: Path) -> None:
    """The page on captures can be followed with the real dissector."""
    shell = Shell(tmp_path)
    steps = [block for block in blocks("docs/captures.md") if block.language in ("console", "shell")]
    lines = [line for block in steps for line in block.text.splitlines()]

    _, printed = shell.type("\n".join(line.removeprefix("$ ") for line in lines if line.startswith("$ ")))

    assert printed.splitlines() == [line for line in lines if not line.startswith("$ ")]


def test_the_command_takes_captures_too(tmp_path: Path) -> None:
    """`--capture` is the key links.capture, which any command takes that takes keys."""
    by_option = main(["run", "late-ack", "--world", "virtual", "--capture", "--out", str(tmp_path / "one")])
    by_key = main(
        ["run", "late-ack", "--world", "virtual", "--set", "links.capture=true", "--out", str(tmp_path / "two")]
    )

    assert by_option == by_key == 0
    [one, two] = sorted(tmp_path.glob("*/*/capture.pcapng"))
    assert one.read_bytes() == two.read_bytes()
