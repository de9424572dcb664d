"""The command line: what it prints where, and how it ends. Runs use the virtual world."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lateack
from lateack.cluster import plugins
from lateack.cluster.cli import main

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(lateack.__file__).parent.parent)}
KEYS = {
    "story", "world", "guest", "backend", "seed", "harms", "expected", "writes", "completion_ms", "copies", "server",
    "digest", "run_dir",
}  # fmt: skip


def virtual(*words: str | Path, out: Path) -> list[str]:
    """Return a command line for the virtual world with run folders in *out*."""
    return [*(str(word) for word in words), "--world", "virtual", "--out", str(out)]


# --- mistakes ---------------------------------------------------------------------------------------------------------

MISTAKES = {
    ("run", "late-akc"): "there is no story 'late-akc'; the nearest is 'late-ack', and a file's name ends in .yaml.",
    ("run", "none.yaml"): "cannot read the scenario none.yaml: No such file or directory.",
    ("run", "late-ack", "--guest", "on-repli"): (
        "--guest on-repli: strategies.guest names no strategy: 'on-repli'; the nearest is 'on-reply'."
    ),
    ("run", "late-ack", "--backend", "none_such:Here"): (
        "there is no module 'none_such' here or installed, for 'none_such:Here'."
    ),
    ("run", "late-ack", "--set", "workload.bufers=2"): (
        "--set workload.bufers=2: unknown key 'workload.bufers'; the nearest is 'workload.buffers'."
    ),
    ("table", "late-ack", "--set", "workload.buffers=two"): (
        "--set workload.buffers=two: workload.buffers must be a whole number of at least 1, not 'two'."
    ),
    ("run", "late-ack", "--seed", "-1"): (
        "--seed -1: seed must be a whole number from 0 to 9223372036854775807, not -1."
    ),
    ("run", "late-ack", "--input", "/nowhere"): (
        "--input /nowhere: cannot read the input /nowhere: No such file or directory."
    ),
    ("run", "late-ack", "--input", "/dev/zero"): "--input /dev/zero: the input /dev/zero is not a regular file.",
    ("matrix", "--guest", "on-repli"): (
        "there is no guest strategy 'on-repli'; the nearest is 'on-reply', and one of your own is module:attribute."
    ),
    ("matrix", "--side", "reuse", "--json", "/nowhere/cells.json"): (
        "cannot write /nowhere/cells.json: No such file or directory; name another file with --json."
    ),
    ("matrix", "--side", "reuse", "--out", "/nowhere/runs"): (
        "cannot make the folder /nowhere/runs: No such file or directory; name another with --out."
    ),
    ("run", "block-path", "--backend", "grant-copy"): (
        "--backend names a strategy of netback, and there is none in block-path, of kind block: leave it out, or name "
        "a strategy with --guest."
    ),
    ("run", "late-ack", "--world", "virtual", "--address", "auto"): (
        "--address names a Ray cluster, and --world virtual needs none: leave one out."
    ),
}


@pytest.mark.parametrize(("argv", "sentence"), MISTAKES.items(), ids=range(len(MISTAKES)))
def test_a_mistake_is_one_sentence(argv: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake of the user's ends with status 3, one sentence on stderr, and nothing on stdout."""
    status = main(argv)

    out, err = capsys.readouterr()
    assert status == 3
    assert out == ""
    assert err == f"lateack: {sentence}\n"


USAGE = [
    ([], "Missing command"),
    (["runn"], "No such command 'runn'"),
    (["run"], "Missing argument"),
    (["run", "late-ack", "--gest", "x"], "No such option: --gest"),
    (["run", "late-ack", "--world", "moon"], "Invalid value for '--world'"),
    (["run", "late-ack", "--seed", "one"], "Invalid value for '--seed'"),
    (["run", "late-ack", "extra"], "unexpected extra argument"),
    (["run", "late-ack", "--set"], "requires an argument"),
    (["matrix", "--side", "moon"], "Invalid value for '--side'"),
    (["matrix", "--jobs", "0"], "Invalid value for '--jobs'"),
]


@pytest.mark.parametrize(("argv", "begins"), USAGE, ids=range(len(USAGE)))
def test_a_usage_error_is_one_sentence(argv: list[str], begins: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line's own grammar gives the same status and the same form."""
    status = main(argv)

    out, err = capsys.readouterr()
    assert status == 3
    assert out == ""
    assert err.startswith("lateack: ")
    assert begins in err
    assert err.count("\n") == 1


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Asking for help ends well and names every command."""
    status = main(["--help"])

    out, _ = capsys.readouterr()
    assert status == 0
    assert all(command in out for command in ("list", "run", "table", "matrix", "demo", "bench"))


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run folders that cannot be made end the run with what to do about it."""
    status = main(virtual("run", "calm", out=tmp_path / "no" / "parent"))

    assert status == 3
    assert capsys.readouterr().err == (
        f"lateack: cannot make a run folder in {tmp_path}/no/parent: No such file or directory; "
        "name another with --out.\n"
    )


def test_memory_that_cannot_be_had_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guests that are too big for this machine are refused before anything is brought up."""
    grow = ("--set", "guests.memory_pages=16777216", "--set", "guests.count=200")

    status = main(virtual("run", "calm", *grow, out=tmp_path))

    assert status == 3
    assert "guests.memory_pages=16777216 for 200 guest(s) asks for 12800.0 GiB" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_termination_signal_stops_the_run_like_ctrl_c(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGTERM, here sent while a user's strategy is being loaded, ends the command with its sentence."""
    (tmp_path / "plugin_that_is_stopped.py").write_text("import signal\nsignal.raise_signal(signal.SIGTERM)\n")

    with contextlib.chdir(tmp_path):
        status = main(virtual("run", "calm", "--guest", "plugin_that_is_stopped:Any", out=tmp_path))

    assert status == 3
    assert capsys.readouterr().err == "lateack: stopped by Ctrl-C; nothing of the run is left behind.\n"


# --- results ----------------------------------------------------------------------------------------------------------


def test_list_names_stories_and_strategies(capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, with what it is."""
    status = main(["list"])

    out, err = capsys.readouterr()
    lines = [line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  ")]
    assert status == 0
    assert err == ""
    assert {"calm", "late-ack", "rpc-retransmit", "on-reply", "full-copy", "grant-copy"} <= {name for name, _ in lines}


def test_the_list_fits_a_terminal() -> None:
    """On a terminal of 100 columns a long sentence goes on below its beginning, and no name is broken."""
    leader, follower = os.openpty()
    with os.fdopen(leader, "rb", buffering=0) as screen:
        subprocess.run(
            [sys.executable, "-m", "lateack", "list"],
            env=ENVIRONMENT | {"TERM": "dumb", "COLUMNS": "100"}, stdin=follower, stdout=follower, stderr=follower,
            check=True,
        )  # fmt: skip
        os.close(follower)
        shown = read_all(screen)

    assert max(len(line) for line in shown) <= 100
    assert any(line.startswith("  staging-grants-copy ") for line in shown)


def read_all(screen: io.RawIOBase | io.FileIO) -> list[str]:
    """Read what was printed on a pseudo-terminal whose other end is closed, which ends in an input/output error."""
    text = b""
    with contextlib.suppress(OSError):
        while chunk := screen.read(65536):
            text += chunk
    return text.decode().splitlines()


def test_json_is_one_object_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other programs read the verdict of a run from stdout."""
    status = main(virtual("run", "late-ack", "--json", out=tmp_path))

    out, err = capsys.readouterr()
    verdict = json.loads(out)
    assert (status, err) == (0, "")
    assert set(verdict) >= KEYS
    assert verdict["harms"] == verdict["expected"] == ["stale-on-wire"]
    assert verdict["writes"] == {"issued": 2, "completed": 2}
    assert Path(verdict["run_dir"]) == tmp_path / "late-ack-on-reply-dev-zerocopy-1"


def test_a_run_folder_replays_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The scenario in a run folder gives the same trace again."""
    main(virtual("run", "rpc-retransmit", "--seed", "7", "--set", "server.drc=none", "--json", out=tmp_path))
    first = json.loads(capsys.readouterr().out)

    main(virtual("run", Path(first["run_dir"]) / "scenario.yaml", "--json", out=tmp_path))

    second = json.loads(capsys.readouterr().out)
    assert second["digest"] == first["digest"]
    assert second["run_dir"] != first["run_dir"]


def test_an_input_file_arrives_at_the_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the guest copies lies in the run folder under its own name."""
    given = tmp_path / "letter.txt"
    given.write_bytes(bytes(range(256)) * 64)

    main(virtual("run", "calm", "--input", given, "--json", out=tmp_path))

    run_dir = Path(json.loads(capsys.readouterr().out)["run_dir"])
    [copied] = (run_dir / "server").rglob("letter.txt")
    assert copied.read_bytes() == given.read_bytes()


def test_people_read_what_happened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json a run is told: title, moments, verdict, costs, and where its files lie."""
    status = main(virtual("run", "late-ack", out=tmp_path))

    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    assert out.startswith("A late ACK frees a page while its retransmission still waits to be sent")
    assert "verdict: stale-on-wire, as expected" in out
    assert "copies per byte" in out
    assert f"{tmp_path}/late-ack-on-reply-dev-zerocopy-1/ holds" in out


def test_a_table_has_every_pair_of_strategies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every guest strategy meets every backend strategy, and each cell is as the story expects."""
    status = main(virtual("table", "late-ack", "--json", out=tmp_path))

    cells = {(cell["guest"], cell["backend"]): cell for cell in json.loads(capsys.readouterr().out)}
    assert status == 0
    assert cells["on-reply", "dev-zerocopy"]["harms"] == ["stale-on-wire"]
    assert cells["on-reply", "grant-copy"]["harms"] == []
    assert cells["frag-destructor", "dev-zerocopy"]["harms"] == []
    assert all(cell["harms"] == cell["expected"] for cell in cells.values())


def test_a_table_keeps_the_strategy_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --guest only the backend's strategies vary, and people see harm and safety side by side."""
    status = main(virtual("table", "late-ack", "--guest", "on-reply", out=tmp_path))

    out, _ = capsys.readouterr()
    assert status == 0
    assert "stale-on-wire" in out
    assert "safe" in out
    assert "full-copy" not in out


def test_without_a_netback_only_the_guests_strategies_vary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is said of a backend's strategy, which nobody asks."""
    status = main(virtual("table", "block-path", out=tmp_path))
    main(virtual("run", "block-path", out=tmp_path))

    table, _, story = capsys.readouterr().out.partition("(on-reply, seed 1)")
    assert status == 0
    assert [line.split()[0] for line in table.splitlines()[2:11]] == plugins.names("guest")
    assert "dev-zerocopy" not in table
    assert "verdict: fault, as expected" in story


def test_a_table_puts_ones_own_strategy_beside_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A module:attribute is one more row, called by its own name, and every built-in strategy keeps its row."""
    with contextlib.chdir(Path(__file__).parents[2] / "docs" / "examples"):
        main(virtual("table", "late-ack", "--guest", "copy_again:CopyAgain", "--backend", "grant-copy", out=tmp_path))

    out, _ = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[2:] if not line.startswith(" ")] == [
        *plugins.names("guest"), "copy-again"
    ]  # fmt: skip


def test_the_matrix_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One side of it: people see the grid, other programs the cells, and the status says that nothing surprises."""
    status = main(["matrix", "--side", "composition", "--jobs", "1", "--json", str(tmp_path / "cells.json")])

    out, err = capsys.readouterr()
    cells = json.loads((tmp_path / "cells.json").read_text())
    assert (status, err) == (0, "")
    assert "18 runs: 18 as expected." in out
    assert {cell["side"] for cell in cells} == {"composition"}
    assert {cell["strategy"] for cell in cells} == {"on-reply", "frag-destructor", "full-copy"}


def test_the_matrix_on_stdout_is_json_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json - the cells can be piped; --out keeps a folder for each run."""
    main(["matrix", "--side", "reuse", "--jobs", "1", "--json", "-", "--out", str(tmp_path)])

    cells = json.loads(capsys.readouterr().out)
    assert len(cells) == len(list(tmp_path.iterdir())) == 4


def test_a_surprise_is_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Harms other than those expected are told and change the exit status."""
    status = main(virtual("run", "late-ack", "--set", "expect=[{harms: [leak]}]", out=tmp_path))

    assert status == 1
    assert "stale-on-wire (expected: leak)" in capsys.readouterr().out


def test_nothing_to_judge_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without its faults the story shows nothing, and says so."""
    status = main(virtual("run", "late-ack", "--set", "faults={}", out=tmp_path))

    assert status == 2
    assert "nothing to judge" in capsys.readouterr().out


def test_the_demo_ends_with_the_story_of_the_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table comes first, then what happened in the cell that goes wrong, and where it lies."""
    status = main(["demo", "--world", "virtual", "--out", str(tmp_path)])

    out, _ = capsys.readouterr()
    assert status == 0
    assert out.index("frag-destructor") < out.index("(on-reply over dev-zerocopy, seed 1)")
    assert f"{tmp_path}/late-ack-on-reply-dev-zerocopy-1/" in out


# --- as a process of its own ------------------------------------------------------------------------------------------


def test_the_virtual_world_needs_neither_ray_nor_grpc(tmp_path: Path) -> None:
    """A run in virtual time never imports what only the live world uses."""
    code = (
        "import sys; from lateack.cluster.cli import main; status = main(sys.argv[1:]); "
        "sys.exit(status or any(name in sys.modules for name in ('ray', 'grpc')))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, *virtual("run", "calm", "--json", out=tmp_path)],
        env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """`lateack list | head -0` ends without a word."""
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run(
        [sys.executable, "-m", "lateack", "list"],
        env=ENVIRONMENT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip

    os.close(writer)
    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_sentence() -> None:
    """When stdout cannot be written the command says so once."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lateack", "list"],
            env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip

    assert done.returncode == 3
    assert done.stderr == "lateack: No space left on device: make room, or name another folder with --out.\n"
