"""The stories of DRBD and Ceph: under every strategy, with and without sums, and as another's dissector sees them."""

from pathlib import Path

import pytest

from lateack.cluster import plugins
from lateack.cluster.experiment import run_experiment
from lateack.cluster.mistakes import ScenarioError
from lateack.cluster.scenario import load
from lateack.nodes.facts import DigestFailed, SessionRecovered, WriteIssued
from tests.cluster.sniffer import capture_of, tshark
from tests.tools import needs

GUESTS = plugins.names("guest")
VARIANTS = [
    ("drbd-protocol-a", ("drbd.digest=false",)),
    ("drbd-protocol-a", ("drbd.protocol=B",)),
    ("drbd-protocol-a", ("drbd.protocol=C", "drbd.digest=false")),
    ("ceph-bad-crc", ("ceph.crc=false",)),
    ("ceph-bad-crc", ("workload.stable_pages=true",)),
    ("drbd-protocol-a", ("workload.stable_pages=true",)),
]


@pytest.mark.parametrize(("story", "overrides"), VARIANTS)
def test_each_strategy_ends_as_the_story_says(story: str, overrides: tuple[str, ...]) -> None:
    """For all strategies of the guest, under the other terms that the text names."""
    scenario = load(story, overrides)

    found = {guest: run_experiment(scenario.replaced(guest=guest), "virtual").verdict for guest in GUESTS}

    assert {guest: verdict.harms for guest, verdict in found.items()} == {
        guest: scenario.replaced(guest=guest).expected() for guest in GUESTS
    }
    assert not any(verdict.missing for verdict in found.values())


def test_a_digest_heals_what_protocol_a_breaks() -> None:
    """The price is one connection, and a resync of both blocks."""
    trace = run_experiment(load("drbd-protocol-a"), "virtual").trace

    assert len(trace.of_type(DigestFailed)) == 1
    assert [fact.commands for _, _, _, fact in trace.of_type(SessionRecovered)] == [2]


def test_the_fault_loop_goes_round_as_often_as_the_page_changes() -> None:
    """Three connections break over one write, which never changes its number."""
    trace = run_experiment(load("ceph-bad-crc"), "virtual").trace

    failed = [fact.xid for _, _, _, fact in trace.of_type(DigestFailed)]

    assert failed == [trace.of_type(WriteIssued)[0][3].xid] * 3
    assert len(trace.of_type(SessionRecovered)) == 3


def test_a_capture_says_whose_bytes_a_refused_block_ends_with(tmp_path: Path) -> None:
    """The rest of the first block left with the second one's bytes, though nothing had been sent before."""
    needs("tshark")
    trace = capture_of(tmp_path / "capture.pcapng", "drbd-protocol-a", end="guest1")
    second = trace.of_type(WriteIssued)[1][3]

    comments = tshark(tmp_path / "capture.pcapng", "frame.comment contains stale", "frame.comment")

    assert len(comments) > 10
    bytes_of_second = f"into the bytes of P_DATA block id {second.xid:#010x} at offset 32768"
    assert all(bytes_of_second in comment for [comment] in comments)


def test_tshark_reads_every_block_that_drbd_writes(tmp_path: Path) -> None:
    """With its heuristic switched on, since DRBD has no port of its own: sectors, numbers, the digest's name."""
    needs("tshark")
    path = tmp_path / "capture.pcapng"
    trace = capture_of(path, "drbd-protocol-a", "drbd.protocol=C", end="guest1")
    issued = [(fact.offset // 512, fact.xid) for _, _, _, fact in trace.of_type(WriteIssued)]

    wrong = tshark(path, "_ws.malformed or _ws.expert.severity == error", "frame.number", heuristic="drbd_tcp")
    names = tshark(path, "drbd.integrity_alg", "drbd.integrity_alg", heuristic="drbd_tcp")
    blocks = tshark(path, "drbd.command == 0", "drbd.sector", "drbd.block_id", heuristic="drbd_tcp")

    assert wrong == []
    assert names[0] == ["crc32c"]
    assert [(int(sector), int(number, 16)) for sector, number in blocks] == issued


def test_tshark_reads_every_write_that_ceph_sends(tmp_path: Path) -> None:
    """It knows the banner, and with it the connection: requests, replies, and where they write."""
    needs("tshark")
    path = tmp_path / "capture.pcapng"
    trace = capture_of(path, "ceph-bad-crc", "strategies.guest=full-copy", end="guest1")
    issued = [(fact.xid, fact.offset, fact.count) for _, _, _, fact in trace.of_type(WriteIssued)]

    wrong = tshark(path, "_ws.malformed or _ws.expert.severity == error", "frame.number")
    calls = tshark(path, "ceph.type == 0x002a", "ceph.tid", "ceph.osd_op.extent.offset", "ceph.osd_op.extent.size")
    replies = tshark(path, "ceph.type == 0x002b", "ceph.tid")

    assert wrong == []
    assert [tuple(map(int, call)) for call in calls] == issued
    assert [int(number) for [number] in replies] == [number for number, _, _ in issued]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("workload.protocol=nfs",), "drbd.protocol means nothing where workload.protocol is nfs"),
        (("workload.transport=udp",), "is udp, and drbd needs tcp"),
        (("workload.abort=true",), "means nothing with drbd"),
        (("ceph.crc=false",), "ceph.crc means nothing where workload.protocol is drbd"),
        (("kind=loopback",), "is drbd, which a scenario of kind loopback does not have"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(overrides: tuple[str, ...], said: str) -> None:
    """One sentence names the key and why."""
    with pytest.raises(ScenarioError, match=said):
        load("drbd-protocol-a", overrides)
