"""Captures: tshark reads every frame of every story, agrees with the trace, and finds our comments where harm is."""

from pathlib import Path

import pytest

import lateack
from lateack.cluster.capture import CaptureError, once
from lateack.cluster.capture_comments import Captured
from lateack.cluster.cli import main
from lateack.cluster.experiment import run_experiment
from lateack.cluster.scenario import list_stories, load
from lateack.cluster.wire_oracle import pieces
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
    assert (wanted.run_dir / "capture.pcapng").stat().st_size > 10_000
    assert not (plain.run_dir / "capture.pcapng").exists()
    with pytest.raises(CaptureError, match=r"say where folders go, with out="):
        lateack.run("late-ack", world="virtual", capture=True)


def test_each_end_has_a_file_of_its_own_beside_the_whole(tmp_path: Path) -> None:
    """The whole shows each frame once, and each end what a sniffer there sees; one end needs no other file."""
    ended = lateack.run("late-ack", world="virtual", out=tmp_path, capture=True)
    alone = lateack.run("loopback-server", world="virtual", out=tmp_path, capture=True)

    assert ended.run_dir is not None
    assert alone.run_dir is not None
    found = sorted(path.name for path in ended.run_dir.glob("*.pcapng"))
    assert found == ["capture-backend.pcapng", "capture-server.pcapng", "capture.pcapng"]
    assert [path.name for path in alone.run_dir.glob("*.pcapng")] == ["capture.pcapng"]


def test_a_frame_that_came_otherwise_than_it_left_is_shown_as_it_came_too() -> None:
    """Bytes altered on the way, and a second copy of one frame, are seen by nobody but the far end."""
    sightings = [("guest1", b"one"), ("server", b"one"), ("server", b"one"), ("guest1", b"two"), ("server", b"tvo")]
    frames = [Captured(0, at, FrameCaptured(end, end == "guest1", frame)) for at, (end, frame) in enumerate(sightings)]

    shown = once(frames, {1: ["came"], 0: ["left"]})

    assert [frame.at for frame, _ in shown] == [0, 2, 3, 4]
    assert shown[0].comments == ["left", "came"]


@pytest.mark.slow
@needs_tshark
@pytest.mark.parametrize("story", list_stories())
def test_tshark_finds_no_fault_with_any_frame_of_a_story(story: str, tmp_path: Path) -> None:
    """Nothing is malformed, no sum is wrong, nothing else is an error, in the whole file and at the server's end."""
    capture_of(tmp_path / "capture.pcapng", story)
    capture_of(tmp_path / "server.pcapng", story, end="server")

    assert (tmp_path / "capture.pcapng").stat().st_size > 5000
    for path in tmp_path.iterdir():
        assert tshark(path, WRONG, "frame.number", "_ws.expert.message") == []


@pytest.mark.slow
@needs_tshark
@pytest.mark.parametrize("story", [story for story in list_stories() if not story.startswith("rdma")])
def test_tshark_marks_as_sent_again_what_tcp_sent_again_and_nothing_else(story: str, tmp_path: Path) -> None:
    """What Wireshark reads off sequence numbers is what the trace says of the frames that left for the network.

    A repetition that a card lets go in one instant with the first transmission is to Wireshark a segment out of order.
    """
    trace = capture_of(tmp_path / "capture.pcapng", story)
    sent = [fact for _, _, _, fact in trace.of_type(FrameSent) if fact.again and fact.place.endswith(".nic")]
    again = "tcp.analysis.retransmission or tcp.analysis.out_of_order"

    marked = tshark(tmp_path / "capture.pcapng", again, "tcp.seq_raw")

    assert sorted(int(sequence) for [sequence] in marked) == sorted(seq for fact in sent for seq, _ in pieces(fact))


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
    """A stale frame is marked where it left; a run with a safe strategy has nothing to say."""
    capture_of(tmp_path / "harm.pcapng", "late-ack")
    capture_of(tmp_path / "safe.pcapng", "late-ack", "strategies.guest=full-copy")

    stale = tshark(tmp_path / "harm.pcapng", "frame.comment contains stale", "frame.interface_name")
    safe = tshark(tmp_path / "safe.pcapng", "frame.comment contains stale", "frame.number")

    assert stale == [["backend"]]
    assert safe == []


@needs_tshark
def test_a_call_that_corrupts_a_file_says_so(tmp_path: Path) -> None:
    """Over UDP the repeated call is executed with the next write's bytes: its datagram is the culprit, at both ends."""
    capture_of(tmp_path / "capture.pcapng", "udp-retransmit")
    capture_of(tmp_path / "server.pcapng", "udp-retransmit", end="server")

    shown = ("frame.comment contains corrupt", "frame.interface_name", "nfs.offset3")
    whole, server = tshark(tmp_path / "capture.pcapng", *shown), tshark(tmp_path / "server.pcapng", *shown)

    assert (whole, server) == ([["backend", "0"]], [["server", "0"]])


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
