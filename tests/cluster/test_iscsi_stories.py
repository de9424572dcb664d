"""What iSCSI's two stories claim: what a digest sees and what it cannot see, and what stable pages are worth."""

import subprocess
from pathlib import Path

import pytest

import lateack
from lateack.cluster import plugins
from lateack.cluster.experiment import VirtualSession
from lateack.cluster.orders_iscsi import iscsi_parameters, pages_for_pdus
from lateack.cluster.scenario import ScenarioError, load
from lateack.cluster.trace import Trace
from lateack.nodes.facts import (
    BufferRewritten,
    DigestFailed,
    DuplicateDropped,
    FileAtRest,
    Reconnecting,
    RewriteDeferred,
    WriteExecuted,
    WriteIssued,
    WriteReissued,
)
from lateack.nodes.iscsi.iscsi_login import IscsiParameters
from tests.cluster.sniffer import capture_of, tshark
from tests.tools import needs

BARE = [name for name in plugins.names("guest") if name not in ("full-copy", "no-clone")]


def trace_of(story: str, *overrides: str) -> Trace:
    """Run a story in virtual time and return its trace."""
    return VirtualSession().run(load(story, list(overrides)), server_dir=None, progress=None)


def shown(path: Path) -> list[str]:
    """Return every line that tshark has to say about a capture."""
    command = ["tshark", "-r", str(path), "-V"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()


@pytest.mark.parametrize("strategy", plugins.names("guest"))
@pytest.mark.parametrize("stable", ["false", "true"])
def test_no_digest_sees_a_late_retransmission(strategy: str, stable: str) -> None:
    """TCP drops the changed bytes as old ones, whoever sent them: the target checks nothing twice."""
    scenario = load("iscsi-late-ack", ["iscsi.data_digest=true", f"workload.stable_pages={stable}"])

    trace = VirtualSession().run(scenario.replaced(guest=strategy), server_dir=None, progress=None)

    assert trace.of_type(DuplicateDropped)
    assert not trace.of_type(DigestFailed)
    assert not trace.of_type(Reconnecting)
    executed = [fact.digest for _, _, _, fact in trace.of_type(WriteExecuted)]
    assert executed == [fact.digest for _, _, _, fact in trace.of_type(WriteIssued)]


@pytest.mark.parametrize("strategy", [name for name in BARE if name not in ("clone-destructor", "skb-destructor")])
def test_a_digest_sees_a_page_that_was_rewritten_and_the_disk_gets_it_all_the_same(strategy: str) -> None:
    """The session is lost; the command given anew has what the page holds by then, whole and under a good digest."""
    trace = trace_of("iscsi-digest", f"strategies.guest={strategy}")

    [(_, _, _, failed)] = trace.of_type(DigestFailed)
    [(_, _, _, again)] = trace.of_type(WriteReissued)
    [(_, _, _, rewritten)] = trace.of_type(BufferRewritten)
    first = trace.of_type(WriteExecuted)[0][3]
    assert (failed.xid, failed.digest) == (again.former, rewritten.holds)
    assert (first.xid, first.digest) == (again.xid, rewritten.holds)


@pytest.mark.parametrize("strategy", BARE)
def test_without_a_digest_the_rewritten_page_is_written_in_silence(strategy: str) -> None:
    """The same bytes lie on the disk, and nobody has noticed anything."""
    trace = trace_of("iscsi-digest", "iscsi.data_digest=false", f"strategies.guest={strategy}")

    [(_, _, _, rewritten)] = trace.of_type(BufferRewritten)
    assert not trace.of_type(DigestFailed)
    assert not trace.of_type(Reconnecting)
    assert trace.of_type(WriteExecuted)[0][3].digest == rewritten.holds


@pytest.mark.parametrize("strategy", ["clone-destructor", "skb-destructor"])
def test_a_command_given_anew_out_of_a_buffer_that_was_given_back_writes_other_bytes(strategy: str) -> None:
    """The digest is right, since it is computed anew; the first write's place holds the second one's bytes."""
    trace = trace_of("iscsi-digest", f"strategies.guest={strategy}")

    second = trace.of_type(WriteIssued)[1][3]
    rest = trace.of_type(FileAtRest)[0][3]
    assert len(trace.of_type(DigestFailed)) == 1
    assert rest.digests == (second.digest, second.digest)


def test_stable_pages_keep_the_writer_waiting_and_nothing_happens() -> None:
    """With the digest and without: the buffer is rewritten once its write is done."""
    for digest in ("true", "false"):
        trace = trace_of("iscsi-digest", "workload.stable_pages=true", f"iscsi.data_digest={digest}")

        deferred, rewritten = trace.of_type(RewriteDeferred), trace.of_type(BufferRewritten)
        assert (len(deferred), len(rewritten)) == (1, 1)
        assert trace.of_type(DigestFailed) == []


def test_a_file_of_any_length_arrives_as_it_is(tmp_path: Path) -> None:
    """The disk has whole blocks, and the file is as long as it was: byte for byte the same in the run's folder."""
    given = tmp_path / "odd.bin"
    given.write_bytes(bytes(range(251)) * 301)

    result = lateack.run(
        "calm", world="virtual", guest="on-reply", input=str(given), out=tmp_path / "out",
        settings=["kind=metal", "workload.protocol=iscsi", "iscsi.data_digest=true", "iscsi.max_segment=1500"],
    )  # fmt: skip

    assert result.harms == []
    assert result.run_dir is not None
    assert (result.run_dir / "server" / "odd.bin").read_bytes() == given.read_bytes()


@pytest.mark.parametrize("settings", [("guests.count=3",), ("kind=split",), ("kind=split", "iscsi.header_digest=true")])
def test_several_hosts_and_guests_have_a_disk_each(settings: tuple[str, ...]) -> None:
    """Behind netback as on metal."""
    result = lateack.run(
        "calm", world="virtual", settings=["kind=metal", "workload.protocol=iscsi", *settings], guest="msg-zerocopy"
    )

    assert result.harms == []
    assert result.verdict.status == "as-expected"


def test_terms_are_handed_on_and_memory_for_them_is_asked_for() -> None:
    """Every key of the section reaches both sides; a digest lies in a page of its own."""
    given = ["kind=metal", "workload.protocol=iscsi", "iscsi.data_digest=true", "iscsi.header_digest=true"]
    given += ["iscsi.initial_r2t=false", "iscsi.immediate_data=false", "iscsi.first_burst=1000", "iscsi.max_burst=2000"]
    scenario = load("calm", [*given, "iscsi.max_segment=4096"])

    buffers, write_size = scenario.workload.buffers, scenario.workload.write_size
    assert iscsi_parameters(scenario) == IscsiParameters(True, True, False, False, 1000, 2000, 4096)
    assert pages_for_pdus(scenario) == buffers * (-(-write_size // 2000) + 1) * 3
    assert pages_for_pdus(load("calm")) == 0


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("workload.protocol=iscsi", "iscsi.first_burst=2000", "iscsi.max_burst=1000"), "is 2000, above the max_burst"),
        (("iscsi.data_digest=true",), "iscsi.data_digest means nothing where workload.protocol is nfs"),
        (("workload.protocol=iscsi", "workload.transport=udp"), "is udp, and iscsi needs tcp"),
        (("workload.protocol=iscsi", "kind=loopback"), "is iscsi, which a scenario of kind loopback does not have"),
        (("workload.stable_pages=true", "kind=block"), "workload.stable_pages means nothing where kind is block"),
    ],
)
def test_keys_that_do_not_fit_together_are_told(overrides: tuple[str, ...], told: str) -> None:
    """In one sentence that names the key."""
    with pytest.raises(ScenarioError, match=told):
        load("calm", list(overrides))


@pytest.mark.parametrize(
    "settings",
    [
        ("iscsi.data_digest=false",),
        ("iscsi.header_digest=true",),
        ("iscsi.max_segment=1500", "iscsi.first_burst=2000", "iscsi.max_burst=3000", "iscsi.initial_r2t=false"),
    ],
)
def test_wireshark_reads_every_pdu_as_it_was_meant(settings: tuple[str, ...], tmp_path: Path) -> None:
    """Nothing is malformed; every write has its place and length, every digest that it sees is good."""
    needs("tshark")
    path = tmp_path / "capture.pcapng"
    stable = ("workload.stable_pages=true", "workload.bytes=20000", *settings)

    trace = capture_of(path, "iscsi-digest", *stable, end="guest1")

    issued = [(fact.xid, fact.offset // 512) for _, _, _, fact in trace.of_type(WriteIssued)]
    lines = shown(path)
    writes = tshark(path, "iscsi.scsicommand.W == 1", "iscsi.initiatortasktag", "scsi_sbc.rdwr10.lba")
    assert [(int(tag.split(",")[0], 16), int(lba.split(",")[0])) for tag, lba in writes] == issued
    assert tshark(path, "_ws.malformed", "frame.number") == []
    assert not [line for line in lines if "Bad CRC32" in line]
    summed = len([line for line in lines if "DataDigest: 0x" in line and "Good" in line])
    assert summed == 0 if "iscsi.data_digest=false" in settings else summed >= len(issued)


def test_wireshark_finds_the_bad_digest_of_a_rewritten_page(tmp_path: Path) -> None:
    """It is the first write's, once; and the target's Reject says so."""
    needs("tshark")
    path = tmp_path / "capture.pcapng"

    capture_of(path, "iscsi-digest", "iscsi.header_digest=true", end="guest1")

    assert len([line for line in shown(path) if "DataDigest" in line and "Bad CRC32" in line]) == 1
    assert tshark(path, "iscsi.opcode == 0x3f", "iscsi.reject.reason") != []
