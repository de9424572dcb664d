"""Whole experiments in virtual time: the tables of expected harms, bad weather, and the folder that a run leaves."""

import json
import sys
from pathlib import Path

import pytest

import lateack
from lateack.cluster.experiment import Session, StrategyFailed, run, run_experiment
from lateack.cluster.scenario import from_raw, load, load_file
from lateack.cluster.trace import read_msgpack
from lateack.nodes.errors import LateackError
from lateack.nodes.facts import (
    CopyFailed,
    CopyFinished,
    Counted,
    DuplicateCall,
    DuplicateDropped,
    FileAtRest,
    FrameLost,
    FrameSent,
    LeftOver,
    RetransmitTimedOut,
    WriteCompleted,
)
from lateack.nodes.stack.packets import digest_of
from lateack.nodes.strategies.backend import GrantCopy
from lateack.nodes.strategies.guest import FragDestructors

GUESTS = ("on-reply", "frag-destructor", "full-copy")
BACKENDS = ("dev-zerocopy", "grant-copy")
NIC, RING = "backend.nic", "backend.ring"
LOSSY = [f"links.{way}.{key}" for way in ("to_server", "to_guests") for key in ("loss=0.02", "jitter_us=5000")]
SMALL_LOSS = ["links.to_server.loss=0.005", "links.to_guests.loss=0.005"]


def harmed(guest: str, backend: str, gate: str) -> bool:
    """Say whether a page that was given away too early is still read: not if the backend had copied it before."""
    return guest == "on-reply" and (backend == "dev-zerocopy" or gate == RING)


def file_of(result: lateack.Result, guest: str = "") -> bytes:
    """Return what lies on the server after a run that left a folder."""
    assert result.run_dir is not None
    return (result.run_dir / "server" / guest / "input.bin").read_bytes()


def input_of(result: lateack.Result, guest: str = "") -> bytes:
    """Return what a guest was given to copy."""
    assert result.run_dir is not None
    return (result.run_dir / "input" / guest / "input.bin").read_bytes()


# --- the tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffers", [1, 2, 4])
@pytest.mark.parametrize("gate", [NIC, RING])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("guest", GUESTS)
def test_late_ack(guest: str, backend: str, gate: str, buffers: int, tmp_path: Path) -> None:
    """The table of section "composition": what leaves the wire is stale or not, and the file is intact everywhere."""
    size = 4096 * (buffers + 2)
    settings = [f"faults.egress.gate={gate}", f"workload.buffers={buffers}", f"workload.bytes={size}"]

    result = run("late-ack", world="virtual", guest=guest, backend=backend, settings=settings, out=tmp_path)

    assert result.harms == (["stale-on-wire"] if harmed(guest, backend, gate) else [])
    assert result.verdict.missing == ()
    assert result.verdict.status == "as-expected"
    assert file_of(result) == input_of(result)
    assert len(file_of(result)) == size


@pytest.mark.parametrize("seed", [0, 2, 3, 99, 2**40])
@pytest.mark.parametrize("guest", GUESTS)
def test_late_ack_is_the_same_under_every_seed(guest: str, seed: int) -> None:
    """A story of causes has no luck in it: only bytes and numbers differ."""
    result = run("late-ack", world="virtual", guest=guest, seed=seed)

    assert result.harms == (["stale-on-wire"] if guest == "on-reply" else [])
    assert result.verdict.status == "as-expected"


def test_late_ack_is_dropped_as_old_data_by_the_server() -> None:
    """TCP alone cannot corrupt the file: the stale segment is a duplicate for the receiver, whatever it holds."""
    trace = run("late-ack", world="virtual").trace
    stale = [fact for _, _, node, fact in trace.of_type(FrameSent) if fact.again and node == "backend"]
    dropped = {(fact.flow, fact.seq): fact.digest for _, _, _, fact in trace.of_type(DuplicateDropped)}

    assert stale
    for fact in stale:
        starts = [fact.seq + at for at in range(0, fact.length, fact.mss)]
        assert [dropped.get((fact.flow, start)) for start in starts] == list(fact.digests)


def test_late_ack_delays_completion_where_it_is_safe() -> None:
    """Waiting for the stack costs time, copying costs copies, and the bug costs neither."""
    bug, waits, copies = (run("late-ack", world="virtual", guest=guest).verdict for guest in GUESTS)

    assert waits.deferred == 1
    assert bug.deferred == copies.deferred == 0
    assert max(waits.latencies) >= max(bug.latencies)
    assert (bug.bytes_copied_by["guest1"], waits.bytes_copied_by["guest1"]) == (0, 0)
    assert copies.bytes_copied_by["guest1"] == 8192


@pytest.mark.parametrize("gate", [NIC, RING])
@pytest.mark.parametrize(("drc", "prefix", "corrupt"), [
    ("none", 0, True), ("none", 1024, True), ("checksum", 0, True), ("checksum", 1024, False),
    ("no-checksum", 0, False), ("no-checksum", 1024, False),
])  # fmt: skip
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("guest", GUESTS)
def test_rpc_retransmit(guest: str, backend: str, drc: str, prefix: int, corrupt: bool, gate: str) -> None:
    """Changed bytes under an old xid: the cache decides, and only its absence or a changed beginning lets them in."""
    settings = [f"server.drc={drc}", f"workload.common_prefix={prefix}", f"faults.egress.gate={gate}"]

    result = run("rpc-retransmit", world="virtual", guest=guest, backend=backend, settings=settings)

    expected = (["corrupt-at-rest"] if corrupt else []) + ["stale-on-wire"]
    assert result.harms == (expected if harmed(guest, backend, gate) else [])
    assert result.verdict.missing == ()


@pytest.mark.parametrize(("handle", "prefix", "corrupt"), [
    (28, 204, False), (28, 203, True), (36, 196, False), (36, 195, True), (64, 168, False), (64, 167, True),
])  # fmt: skip
def test_rpc_retransmit_is_decided_by_the_bytes_that_the_cache_sums(handle: int, prefix: int, corrupt: bool) -> None:
    """The 256 bytes cover the arguments' head and what is left of the payload's: longer handles leave less."""
    settings = [f"server.handle_bytes={handle}", f"workload.common_prefix={prefix}"]

    harms = run("rpc-retransmit", world="virtual", settings=settings).harms

    assert ("corrupt-at-rest" in harms) == corrupt


def test_rpc_retransmit_corrupts_the_file_itself(tmp_path: Path) -> None:
    """The harm is in the bytes on the server, not only in a fact; and the client noticed nothing."""
    bad = run("rpc-retransmit", world="virtual", out=tmp_path)
    good = run("rpc-retransmit", world="virtual", guest="frag-destructor", out=tmp_path)

    assert file_of(bad) != input_of(bad)
    assert file_of(good) == input_of(good)
    assert len(bad.trace.of_type(CopyFinished)) == 1
    (seen,) = [fact for _, _, _, fact in bad.trace.of_type(DuplicateCall)]
    assert (seen.outcome, seen.payload_differs) == ("executed", True)


# --- weather ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("guest", GUESTS)
def test_every_byte_arrives_through_bad_weather(guest: str, backend: str, tmp_path: Path) -> None:
    """Loss of 2 % and jitter of 5 ms both ways, two guests with a mebibyte each: TCP brings it all, nothing leaks."""
    settings = [*LOSSY, "guests.count=2", "workload.bytes=1048576"]

    result = run("calm", world="virtual", guest=guest, backend=backend, settings=settings, out=tmp_path)

    for name in ("guest1", "guest2"):
        assert file_of(result, name) == input_of(result, name)
    assert result.trace.of_type(LeftOver) == []
    assert len(result.trace.of_type(FrameLost)) > 20
    # The bug needs no rule: in such weather a reply does overtake a retransmission that was just queued.
    assert result.harms == [] or (guest == "on-reply" and result.harms == ["stale-on-wire"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("guest", GUESTS)
def test_every_byte_arrives_over_udp(guest: str, backend: str, tmp_path: Path) -> None:
    """Lost datagrams are the RPC client's to repeat, and the cache's to recognise."""
    settings = [*LOSSY, "workload.transport=udp", "workload.write_size=4096"]

    result = run("calm", world="virtual", guest=guest, backend=backend, settings=settings, out=tmp_path)

    assert file_of(result) == input_of(result)
    assert result.harms == []
    assert result.trace.of_type(FrameLost) != []
    assert result.verdict.retransmitted_calls > 0


@pytest.mark.parametrize("settings", [
    ["workload.stable=unstable"], ["host.gso=false"], ["host.checksum=software"],
    ["host.checksum=software", "host.gso=false"], ["links.mtu=9000"], ["links.mtu=9000", "host.gso=false"],
    ["links.mtu=576"], ["links.mtu=9000", "guests.rx_buffers=4"], ["workload.bytes=1"], ["workload.bytes=4097"],
    ["workload.buffers=16", "workload.bytes=2000001"], ["workload.transport=udp"],
    ["workload.transport=udp", "links.mtu=9000"], ["workload.transport=udp", "workload.stable=unstable", *SMALL_LOSS],
    ["workload.stable=unstable", *LOSSY], ["links.mtu=9000", *LOSSY], ["host.gso=false", *LOSSY],
    ["links.to_server.delay_us=0", "links.to_guests.delay_us=0"], ["server.drc=none"], ["server.handle_bytes=64"],
    ["workload.write_size=1048576", "workload.buffers=1", "workload.bytes=2500000", "guests.memory_pages=2048"],
], ids=" ".join)  # fmt: skip
@pytest.mark.parametrize("guest", ["frag-destructor", "full-copy"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_copy_succeeds_in_every_setting(guest: str, backend: str, settings: list[str], tmp_path: Path) -> None:
    """Every byte, no harm, nothing left over, and the facts agree with what lies in the folder."""
    result = run("calm", world="virtual", guest=guest, backend=backend, settings=settings, out=tmp_path)

    assert file_of(result) == input_of(result)
    assert result.harms == []
    assert result.trace.of_type(CopyFailed) == []
    (rest,) = [fact for _, _, _, fact in result.trace.of_type(FileAtRest)]
    data = input_of(result)
    assert rest.digests == tuple(digest_of(data[at : at + rest.chunk]) for at in range(0, len(data), rest.chunk))


def test_software_checksums_freeze_the_bytes_in_the_queue() -> None:
    """Pages of another domain are copied before they are summed (SKBFL_SHARED_FRAG): the late ACK then harms nobody."""
    offloaded = run("late-ack", world="virtual")
    summed = run("late-ack", world="virtual", settings=["host.checksum=software"])

    assert offloaded.harms == ["stale-on-wire"]
    assert summed.harms == []
    assert summed.verdict.bytes_copied_by["backend"] >= 8192


def test_without_gso_the_late_ack_is_the_same() -> None:
    """Three short packets are as stale as one long one."""
    assert run("late-ack", world="virtual", settings=["host.gso=false"]).harms == ["stale-on-wire"]


def test_rules_that_drop_are_repaired_by_tcp(tmp_path: Path) -> None:
    """A reply that never reaches the guest is sent again by the server's TCP."""
    scenario = from_raw({
        "story": "dropped", "workload": {"bytes": 16384, "write_size": 4096, "buffers": 2},
        "faults": {"third": {"drop": {"from": "server", "to": "guest1", "kind": "reply"}, "nth": [3]}},
    })  # fmt: skip

    result = run_experiment(scenario, "virtual", out=tmp_path)

    assert [fact.rule for _, _, _, fact in result.trace.of_type(FrameLost)] == ["third"]
    assert [node for _, _, node, _ in result.trace.of_type(RetransmitTimedOut)] == ["server"]
    assert file_of(result) == input_of(result)
    assert result.harms == []


# --- costs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("guest", "backend", "by_guest", "by_backend"), [
    ("on-reply", "dev-zerocopy", 0, 0), ("on-reply", "grant-copy", 0, 1), ("full-copy", "dev-zerocopy", 1, 0),
    ("frag-destructor", "grant-copy", 0, 1),
])  # fmt: skip
def test_each_scheme_costs_its_copies(guest: str, backend: str, by_guest: int, by_backend: int) -> None:
    """Copies per payload byte, by the domain that pays: none, the guest's, or the backend's."""
    result = run("calm", world="virtual", guest=guest, backend=backend)

    copied, payload = result.verdict.bytes_copied_by, result.verdict.payload_bytes
    assert payload == 262144
    assert copied["guest1"] == by_guest * payload
    assert copied["backend"] == by_backend * payload


@pytest.mark.parametrize("backend", BACKENDS)
def test_maps_and_unmaps_balance(backend: str) -> None:
    """But for the two rings, which stay mapped; grant copy maps nothing else."""
    trace = run("calm", world="virtual", backend=backend).trace

    counts = {fact.name: fact.amount for _, _, node, fact in trace.of_type(Counted) if node == "backend"}
    assert counts["grant_maps"] == counts["grant_unmaps"] + 2
    assert (counts["grant_unmaps"] > 0) == (backend == "dev-zerocopy")


# --- folders and doors ------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_folder_that_replays_it(tmp_path: Path) -> None:
    """Scenario, trace, text and verdict lie there, and the scenario alone gives the same run again."""
    result = run("late-ack", world="virtual", seed=5, out=tmp_path)

    assert result.run_dir == tmp_path / "late-ack-on-reply-dev-zerocopy-5"
    names = {path.name for path in result.run_dir.iterdir()}
    assert names == {"scenario.yaml", "trace.msgpack", "trace.txt", "verdict.json", "server", "input"}
    again = run_experiment(load_file(result.run_dir / "scenario.yaml"), "virtual")
    assert again.trace.digest() == result.trace.digest()
    assert read_msgpack(result.run_dir / "trace.msgpack").digest() == result.trace.digest()
    verdict = json.loads((result.run_dir / "verdict.json").read_text())
    assert (verdict["harms"], verdict["seed"], verdict["world"]) == (["stale-on-wire"], 5, "virtual")
    assert verdict["digest"] == result.trace.digest()
    assert verdict["run_dir"] == str(result.run_dir)


def test_a_folder_changes_nothing_about_the_run(tmp_path: Path) -> None:
    """With a disk under the server or only memory, the trace is the same."""
    assert run("calm", world="virtual", out=tmp_path).trace.digest() == run("calm", world="virtual").trace.digest()


def test_without_out_nothing_is_left() -> None:
    """The result is all there is."""
    assert run("late-ack", world="virtual").run_dir is None


def test_ones_own_file_is_copied(tmp_path: Path) -> None:
    """It lies on the server under its own name, and the folder holds no second copy of the input."""
    mine = tmp_path / "notes.txt"
    mine.write_bytes(b"what I wrote\n" * 3000)

    result = run("calm", world="virtual", input=mine, out=tmp_path / "runs")

    assert result.run_dir is not None
    assert (result.run_dir / "server" / "notes.txt").read_bytes() == mine.read_bytes()
    assert not (result.run_dir / "input").exists()


class Patient(FragDestructors):
    """Someone's own strategy of the guest: built on another, by a subclass."""

    name = "patient"
    summary = "what a user might write"


class Careful(GrantCopy):
    """Someone's own strategy of the backend."""

    name = "careful"
    summary = "what a user might write"


def test_a_strategy_of_ones_own_runs_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the current directory, named with its attribute, goes through the same door."""
    (tmp_path / "my_completion.py").write_text(
        "from lateack import GuestStrategy\n\n\n"
        "class Never(GuestStrategy):\n"
        "    name = 'never'\n"
        "    def replied(self, write):\n"
        "        pass\n"
    )
    monkeypatch.chdir(tmp_path)

    result = run("late-ack", world="virtual", guest="my_completion:Never")

    assert result.harms == ["stall"]
    assert result.trace.of_type(WriteCompleted) == []
    assert result.verdict.guest == "my_completion:Never"


def test_a_subclass_of_a_built_in_strategy_is_used() -> None:
    """It inherits the behaviour, and the verdict names it."""
    here = Path(__file__).stem

    result = run("late-ack", world="virtual", guest="tests.cluster.test_experiment:Patient",
                 backend="tests.cluster.test_experiment:Careful")  # fmt: skip

    assert here == "test_experiment"
    assert result.harms == []
    assert result.verdict.deferred == 0  # the backend copied early: nothing was left to wait for
    assert result.verdict.backend.endswith(":Careful")


def test_the_public_door() -> None:
    """`lateack.run` is all that a user needs, and its result says what happened."""
    result = lateack.run("late-ack", world="virtual", guest="on-reply", backend="dev-zerocopy", seed=1)

    assert isinstance(result, lateack.Result)
    assert result.harms == ["stale-on-wire"]
    assert result.verdict.exit_code == 0


@pytest.mark.parametrize(("arguments", "sentence"), [
    ({"story": "late-akc"}, "the nearest is 'late-ack'"), ({"guest": "on-replay"}, "on-reply"),
    ({"world": "real"}, "choose ray or virtual"), ({"settings": ["server.drc=maybe"]}, "drc"),
    ({"input": "/nowhere/at/all"}, "cannot read"),
])  # fmt: skip
def test_mistakes_are_told_in_a_sentence(arguments: dict[str, object], sentence: str) -> None:
    """Whatever the caller can mend is a LateackError that says how."""
    with pytest.raises(LateackError, match=sentence):
        lateack.run(**({"story": "late-ack", "world": "virtual"} | arguments))  # type: ignore[arg-type]


def test_a_session_runs_many_scenarios() -> None:
    """A world is brought up once."""
    with Session("virtual") as session:
        harms = [session.run(load("late-ack").replaced(guest=guest)).harms for guest in GUESTS]

    assert harms == [["stale-on-wire"], [], []]


@pytest.mark.parametrize("guest", ["on-reply", "frag-destructor", "full-copy"])
@pytest.mark.parametrize("story", ["late-ack", "rpc-retransmit"])
def test_a_file_of_one_write_shows_nothing_and_hangs_nothing(story: str, guest: str, tmp_path: Path) -> None:
    """Where no buffer is ever refilled there is nothing to judge, and the gate opens all the same."""
    short = tmp_path / "short.txt"
    short.write_text("short")

    result = run(story, world="virtual", guest=guest, input=short)

    assert result.verdict.status == "nothing-to-judge"
    assert result.harms == []


MISBEHAVING = {
    "twice": "def replied(self, write):\n        self.kernel.complete(write)\n        self.kernel.complete(write)",
    "raises": "def take(self, write):\n        raise RuntimeError('no idea')",
    "exits": "def replied(self, write):\n        raise SystemExit(7)",
    "nothing": "def take(self, write):\n        return None",
}


@pytest.mark.parametrize("body", MISBEHAVING.values(), ids=MISBEHAVING)
def test_a_strategy_that_breaks_is_told_as_such(body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user's own strategy does wrong ends in one sentence that names it, never in a crash of ours."""
    (tmp_path / "mine.py").write_text(
        f"from lateack import GuestStrategy\nclass Broken(GuestStrategy):\n    name = summary = 'b'\n    {body}\n"
    )
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("mine", None)

    with pytest.raises(StrategyFailed, match="mine:Broken"):
        run("late-ack", world="virtual", guest="mine:Broken")


def test_a_strategy_that_never_completes_stalls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is a harm and counts as one, although the story was not reached."""
    (tmp_path / "lazy.py").write_text(
        "from lateack import GuestStrategy\nclass Lazy(GuestStrategy):\n    def replied(self, write):\n        pass\n"
    )
    monkeypatch.chdir(tmp_path)

    result = run("late-ack", world="virtual", guest="lazy:Lazy")

    assert "stall" in result.harms
    assert result.verdict.exit_code == 1
