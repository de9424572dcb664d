"""What `lateack bench` finds and what it measures against; no test says how fast anything is."""

from pathlib import Path

import msgspec
import pytest

from lateack.cluster.bench import main
from lateack.cluster.bench.figures import Bench, Compared, compared, series, shares
from lateack.cluster.bench.floor import GUEST, FloorPlan, Shape, Sink
from lateack.cluster.bench.live_world import LOADS
from lateack.cluster.bench.report import number
from lateack.cluster.bench.virtual_world import BareLoop, TalliedTopology
from lateack.cluster.cli import main as lateack
from lateack.cluster.experiment import run_virtually
from lateack.cluster.scenario import load
from lateack.cluster.topology import Topology
from lateack.cluster.virtual import VirtualWorld
from lateack.nodes.facts import Connected, CopyFinished, Fact
from lateack.nodes.memory.pages import Memory
from lateack.nodes.node import S
from lateack.nodes.storage.memory_store import MemoryStore


def found(path: Path) -> Bench:
    """Read what a benchmark wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Bench)


def is_sound(figure: Compared) -> bool:
    """Say whether a figure and its floor are numbers that fit together."""
    positive = all(value > 0 for each in (figure.ours, figure.floor) for value in (each.value, *each.rounds))
    return positive and figure.ratio == pytest.approx(figure.ours.value / figure.floor.value)


def floor_run(shape: Shape) -> tuple[list[Fact], Sink]:
    """Let the bare machines run in virtual time; return what the sender recorded, and the sink."""
    plan = FloorPlan(shape)
    memories = {GUEST: Memory(1, shape.frames)}
    machines = {
        part.name: plan.build(part.name, memories=memories, store=None, root=b"", input=None, incarnation=0)
        for part in plan.parts
    }
    trace = VirtualWorld(machines, {}, 10 * S).run()
    sink = machines["server"]
    assert isinstance(sink, Sink)
    return [fact for _, _, node, fact in trace.entries if node == GUEST], sink


def test_the_virtual_world_is_measured_beside_its_floors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every figure is there with its floor, their ratio, the time to a verdict, and where the time goes."""
    out = tmp_path / "bench.json"

    status = main(["--world", "virtual", "--seconds", "0.05", "--out", str(out)])

    bench = found(out)
    assert status == 0
    assert bench.virtual.keys() == {"stories", "packets"} and not bench.ray
    assert all(is_sound(figure) for figure in bench.virtual.values())
    assert bench.virtual["stories"].about["events_per_story"]
    assert bench.virtual["packets"].about["frames_to_server"] and bench.virtual["packets"].about["frames_to_guests"]
    assert bench.commands.keys() == {"python", "virtual"}
    assert all(timed.value > 0 for timed in bench.commands.values())
    assert all(sum(place.share for place in places) == pytest.approx(1) for places in bench.busiest.values())
    assert str(out) in capsys.readouterr().out


@pytest.mark.live
def test_the_live_world_is_measured_beside_its_floors(tmp_path: Path) -> None:
    """Every load is there with its floor, and each machine's processor time per request."""
    out = tmp_path / "bench.json"

    status = main(["--world", "ray", "--seconds", "0.1", "--out", str(out)])

    bench = found(out)
    assert status == 0
    assert bench.ray.keys() == {load.name for load in LOADS} and not bench.virtual
    assert all(is_sound(figure) for figure in bench.ray.values())
    for figure in bench.ray.values():
        spent = figure.about["cpu_us_per_request"]
        assert isinstance(spent, dict)
        assert spent.keys() == {"guest1", "backend", "network", "server"}
    assert bench.commands.keys() == {"python", "import_ray", "ray"}


@pytest.mark.parametrize("payload", [1460, 8192])
def test_the_floor_carries_every_byte_of_every_request(payload: int) -> None:
    """The bare path is no cheat: all requests arrive whole, cut into frames or not, and each is answered."""
    shape = Shape(size=8192, window=3, requests=40, payload=payload)

    recorded, sink = floor_run(shape)

    assert recorded == [Connected("floor"), CopyFinished("floor", 40 * 8192)]
    assert bytes(sink.stored) == bytes(range(256)) * (3 * 8192 // 256)


def test_fewer_requests_than_the_window_are_a_run_too() -> None:
    """The sender ends where there is less to send than may be under way."""
    shape = Shape(size=4096, window=16, requests=5, payload=1460)

    recorded, _ = floor_run(shape)

    assert recorded[-1] == CopyFinished("floor", 5 * 4096)


def test_counting_changes_nothing() -> None:
    """A run whose events are counted is the run that is timed: their traces are equal, byte for byte."""
    scenario = load("late-ack")
    tallied = TalliedTopology(scenario)

    counted, timed = (run_virtually(topology, MemoryStore()) for topology in (tallied, Topology(scenario)))

    assert counted.digest() == timed.digest()
    assert sum(tally.frames[target] for tally in tallied.tallies.values() for target in tally.frames) > 0


def test_the_bare_loop_lets_time_pass_in_order() -> None:
    """The floor of the stories is a simulation: whichever event is due first happens first."""
    loop = BareLoop()
    loop.schedule(0, loop.again, 10)
    loop.schedule(0, loop.again, 25)

    loop.run(9)

    assert loop.now == 50
    assert [at for at, *_ in sorted(loop.heap)] == [60, 75]


def test_a_figure_is_the_median_of_its_rounds() -> None:
    """One slow round on a busy computer does not move a figure, and its ratio is that of the medians."""
    ours, floor = series("ours", "1/s", [10.0, 1.0, 12.0]), series("floor", "1/s", [20.0, 40.0, 21.0])

    figure = compared(ours, floor, {})

    assert figure.ratio == pytest.approx(10 / 21)


def test_the_greediest_place_comes_first() -> None:
    """Shares are of the whole, the greatest first."""
    places = shares({"small": 1.0, "great": 3.0})

    assert [(place.where, place.share) for place in places] == [("great", 0.75), ("small", 0.25)]


@pytest.mark.parametrize(("value", "text"), [(1234567.8, "1,234,568"), (99.96, "100"), (1.23456, "1.23")])
def test_numbers_have_three_figures_or_all_of_them(value: float, text: str) -> None:
    """People read three figures of a small number and thousands of a great one."""
    shown = number(value)

    assert shown == text


@pytest.mark.parametrize("options", [["--world", "nowhere"], ["--seconds", "0"], ["--fast"], ["--out", "/"]])
def test_a_mistaken_option_is_told_in_one_sentence(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What bench does not know ends with status 3 before anything is measured."""
    status = lateack(["bench", *options])

    assert status == 3
    assert capsys.readouterr().err.count("\n") == 1
