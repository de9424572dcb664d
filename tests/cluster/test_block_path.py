"""The block path of 2008 as a whole: what becomes of a guest's disk in every weather, and under every strategy."""

from pathlib import Path

import pytest

from lateack.cluster import plugins
from lateack.cluster.experiment import Result, run_experiment
from lateack.cluster.scenario import load
from lateack.cluster.verdict import Verdict
from lateack.nodes.facts import AccessFault, CopyFinished

CALM = """
story: disks
kind: block
"""
WEATHER = {
    "calm": [],
    "three guests": ["guests.count=3"],
    "a long file": ["workload.bytes=1048576"],
    "writes of many requests": ["workload.bytes=1048576", "workload.write_size=262144"],
    "loss": ["workload.bytes=1048576", "links.to_server.loss=0.02", "links.to_guests.loss=0.02"],
    "loss for three": ["guests.count=3", "links.to_server.loss=0.02", "links.to_guests.loss=0.02"],
    "udp": ["workload.transport=udp", "links.mtu=9000"],
    "unstable writes": ["workload.stable=unstable"],
    "a mount that stays": ["workload.unmount=false"],
    "sums in software": ["host.checksum=software"],
    "other pages each time": ["workload.reuse=reallocated"],
    "half a buffer": ["workload.reuse=half"],
}
EGRESS = [
    (f"backend.{place}", checksum)
    for place in ("nic", "queue")
    for checksum in ("offload", "software", "software-2011")
]


def ran(
    scenario: Path | str, settings: list[str], *, guest: str = "frag-destructor", out: Path | None = None
) -> Result:
    """Run a scenario in the virtual world."""
    return run_experiment(load(str(scenario), settings, {"strategies.guest": guest}), "virtual", out=out)


def verdict_of(result: Result) -> Verdict:
    """See that there was something to judge, and return the verdict."""
    assert result.verdict.missing == ()
    return result.verdict


@pytest.fixture
def calm(tmp_path: Path) -> Path:
    """A scenario in which guests copy a file to their disks, and nothing goes wrong."""
    path = tmp_path / "disks.yaml"
    path.write_text(CALM, encoding="utf-8")
    return path


@pytest.mark.parametrize("settings", WEATHER.values(), ids=WEATHER)
@pytest.mark.parametrize("guest", ["on-reply", "full-copy", "frag-destructor"])
def test_a_disk_holds_what_its_guest_wrote(calm: Path, tmp_path: Path, guest: str, settings: list[str]) -> None:
    """Without a stalled queue no strategy does harm, nothing stays behind, and every image equals its guest's file."""
    result = ran(calm, settings, guest=guest, out=tmp_path)

    verdict = verdict_of(result)

    assert (verdict.harms, verdict.issued) == ([], len(verdict.latencies))
    assert result.run_dir is not None
    inputs = [path for path in (result.run_dir / "input").rglob("*") if path.is_file()]
    assert inputs
    for path in inputs:
        image = result.run_dir / "server" / path.relative_to(result.run_dir / "input")
        assert image.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("length", [0, 1, 511, 513, 70_001])
def test_an_image_is_as_long_as_the_file(calm: Path, tmp_path: Path, length: int) -> None:
    """A disk counts whole sectors, and its image still ends where the guest's file does."""
    source = tmp_path / "any.bin"
    source.write_bytes(bytes(number % 251 for number in range(length)))

    result = ran(calm, [f"workload.input={source}"], out=tmp_path)

    assert result.harms == []
    assert result.run_dir is not None
    assert (result.run_dir / "server" / "any.bin").read_bytes() == source.read_bytes()


@pytest.mark.parametrize(("gate", "checksum"), EGRESS)
@pytest.mark.parametrize("guest", plugins.names("guest"))
def test_block_path_ends_as_it_says(guest: str, gate: str, checksum: str) -> None:
    """The host faults exactly where a page was unmapped under a packet that is still to be read; the copy ends well."""
    settings = [f"faults.egress.gate={gate}", f"host.checksum={checksum}"]

    result = ran("block-path", settings, guest=guest)

    verdict = verdict_of(result)
    assert verdict.harms == load("block-path", settings, {"strategies.guest": guest}).expected()
    assert (verdict.issued, len(verdict.latencies)) == (2, 2)
    assert {node for _, _, node, _ in result.trace.of_type(CopyFinished)} == {"backend", "guest1"}


@pytest.mark.parametrize("device", ["orphaning", "tun"])
@pytest.mark.parametrize("gate", ["backend.nic", "backend.queue"])
@pytest.mark.parametrize("guest", ["clone-destructor", "zerocopy-on-reply", "on-reply", "msg-zerocopy"])
def test_what_the_driver_does_at_hand_over_counts(guest: str, gate: str, device: str) -> None:
    """To orphan deceives whoever believes a destructor; to copy the pages that are tracked protects their owner."""
    settings = [f"faults.egress.gate={gate}", f"host.device={device}"]

    result = ran("block-path", settings, guest=guest)

    assert verdict_of(result).harms == load("block-path", settings, {"strategies.guest": guest}).expected()


def test_the_card_faults_where_the_packet_waited() -> None:
    """In the ring it is the card that touches the page, in the queue a sum in software on the way to the driver."""
    ring = ran("block-path", [], guest="on-reply")
    queue = ran("block-path", ["faults.egress.gate=backend.queue", "host.checksum=software"], guest="on-reply")

    places = [[fact.place for _, _, _, fact in result.trace.of_type(AccessFault)] for result in (ring, queue)]

    assert places == [["backend.nic"], ["backend.queue"]]


def test_one_seed_gives_one_trace() -> None:
    """Same scenario, same trace."""
    settings = ["guests.count=3", "links.to_server.loss=0.02"]

    digests = {ran("block-path", settings, guest="on-reply").verdict.digest for _ in range(2)}

    assert len(digests) == 1
