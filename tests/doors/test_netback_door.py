"""The netback door serves frontends that are not ours, and outlives those that lie."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doors.netback_frontend import BUFFER_COUNT, WAIT_S, Door, Frontend, open_door
from tests.tools import needs, needs_xen_headers

pytestmark = pytest.mark.live

SOURCES = Path(__file__).parent / "frontend"
PACKETS = {"dev-zerocopy": 100_000, "grant-copy": 20_000, "page-foreign": 20_000, "lazy-copy": 20_000}
PACKETS |= {"frag-destructor": 20_000, "staging-grants": 5_000}


@pytest.fixture(scope="module")
def echo_test(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frontend in C, compiled against Xen's own headers."""
    compiler, headers = needs("gcc"), needs_xen_headers()
    program = tmp_path_factory.mktemp("frontend") / "echo_test"
    sources = [str(path) for path in sorted(SOURCES.glob("*.c"))]
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{headers.parent}"]
    subprocess.run([compiler, *flags, "-o", program, *sources], check=True)
    return program


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """One door for all tests that must not be able to break it."""
    with open_door(tmp_path_factory.mktemp("door") / "netback") as opened:
        yield opened


def run(program: Path, door: Door, packets: int, segmented: int) -> subprocess.CompletedProcess[str]:
    """Let the frontend in C do its work."""
    words = [str(program), str(door.path), str(packets), str(segmented)]
    return subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)


# --- Xen's own headers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", PACKETS)
def test_a_frontend_on_xens_headers_gets_back_every_byte(backend: str, echo_test: Path, tmp_path: Path) -> None:
    """Datagrams in pieces and long segments arrive whole, every request is answered, and every grant ends."""
    with open_door(tmp_path / "netback", backend) as door:
        before = door.descriptors()

        done = run(echo_test, door, PACKETS[backend], 200)

        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        door.hear("left")
        door.hear("left")
        assert told["echoes"] == PACKETS[backend]
        assert told["segments"] > 200  # each was cut for the neighbour, who is not told of GSO
        assert door.descriptors() == before
        assert door.stop() == 0
        assert [each for each in door.said if each["event"] in ("lost", "refused")] == []


@pytest.mark.parametrize(
    ("backend", "complaint", "loss"),
    [
        ("early-response", "is still in use", None),
        ("early-unmap", "when 0 was due", "a page of the guest is not mapped any more"),
    ],
)
def test_an_early_backend_harms_a_foreign_frontend_too(
    backend: str, complaint: str, loss: str | None, echo_test: Path, tmp_path: Path
) -> None:
    """Who answers early leaves grants in use; who unmaps early loses what the host's socket has not read yet."""
    with open_door(tmp_path / "netback", backend) as door:
        done = run(echo_test, door, 500, 0)

        assert done.returncode == 1
        assert complaint in done.stderr
        assert door.stop() == 0
        assert loss is None or loss in {each["reason"] for each in door.said if each["event"] == "lost"}


def test_a_frontend_that_is_killed_leaves_nothing_behind(echo_test: Path, tmp_path: Path) -> None:
    """Its interface is closed, its memory let go of, and its name is free for the next."""
    with open_door(tmp_path / "netback") as door:
        before = door.descriptors()
        running = subprocess.Popen([echo_test, door.path, "100000000", "0"])
        door.hear("attached")
        door.hear("attached")

        running.kill()
        running.wait()
        door.hear("left")
        door.hear("left")

        assert door.descriptors() == before
        assert run(echo_test, door, 500, 5).returncode == 0


def test_a_frontend_is_let_go_with_its_last_packet(tmp_path: Path) -> None:
    """Its memory and its name are kept while a neighbour's queue shows its pages, and free as soon as that is gone."""
    with open_door(tmp_path / "netback") as door:
        with Frontend(door.path, 2) as two:
            two.greet()
            with Frontend(door.path, 1) as one:
                one.greet()
                for _ in range(BUFFER_COUNT + 8):
                    one.send(one.datagram(bytes(1000), two.mac, two.ip))
                answers = [one.answered() for _ in range(BUFFER_COUNT)]
            with Frontend(door.path, 3, one.name) as early:
                refusal = early.greet()[-1]

        left = [door.hear("left")["name"] for _ in range(2)]
        with Frontend(door.path, 1) as again:
            assert again.greet()[-1]["state"] == 4

    assert answers == [(7, 0)] * BUFFER_COUNT
    assert "last packets are not gone yet" in refusal["error"]
    assert sorted(left) == ["python1", "python2"]


# --- the line ---------------------------------------------------------------------------------------------------------


def test_two_frontends_talk_through_the_bridge(door: Door) -> None:
    """A datagram to a neighbour's address arrives there as it was sent."""
    with Frontend(door.path, 1) as one, Frontend(door.path, 2) as two:
        one.greet()
        two.greet()

        frame = one.datagram(b"hello neighbour", two.mac, two.ip)
        one.send(frame)

        assert one.answered() == (7, 0)
        assert two.receive() == frame


def test_the_lines_of_a_life(door: Door) -> None:
    """InitWait with features, Connected, Closing and Closed; and all over again on the same connection."""
    with Frontend(door.path, 1) as frontend:
        first = _greet_step_by_step(frontend)
        frontend.say({"state": 5})
        closing = frontend.lines_to(5)
        frontend.say({"state": 6})
        closed = frontend.lines_to(6)
        frontend.say({"state": 1})
        again = frontend.lines_to(2)
        frontend.say({"state": 4, "keys": frontend.keys})
        connected = frontend.lines_to(4)

    assert [line["state"] for line in first] == [2, 4]
    assert first[0]["keys"] | {"feature-sg": 1, "feature-gso-tcpv4": 1, "feature-rx-copy": 1} == first[0]["keys"]
    assert [line["state"] for line in (*closing, *closed, *again, *connected)] == [5, 6, 2, 4]


def _greet_step_by_step(frontend: Frontend) -> list[dict[str, Any]]:
    """Say Initialising first, and Connected once netback waits."""
    frontend.say(frontend.greeting(state=1, keys={}), [frontend.memfd, frontend.wake_door, frontend.wake_us])
    lines = frontend.lines_to(2)
    frontend.say({"state": 4, "keys": frontend.keys})
    return lines + frontend.lines_to(4)


# --- the socket -------------------------------------------------------------------------------------------------------


def serve(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a door that cannot be opened."""
    command = [sys.executable, "-m", "lateack", "serve", "netback", "--socket", str(path), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_socket_goes_with_the_door(number: int, tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM are a clean end, with a frontend connected or not."""
    with open_door(tmp_path / "netback") as door, Frontend(door.path) as frontend:
        frontend.greet()

        assert door.stop(number) == 0
        assert frontend.hear() == {}
        assert frontend.grants.query_access(frontend.keys["tx-ring-ref"]) == 0
        assert not door.path.exists()
        assert door.said[-1]["event"] == "closed"


def _file(path: Path) -> Path:
    path.write_text("mine")
    return path


def _stale(path: Path) -> Path:
    socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).bind(str(path))
    return path


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        (_file, "something else by that name"),
        (_stale, "a door that was killed"),
        (lambda path: path / "missing" / "netback", "no socket can be made"),
        (lambda path: path.parent / ("x" * 150), "no socket can be made"),
    ],
)
def test_a_socket_that_cannot_be_made_is_one_sentence(
    place: Callable[[Path], Path], complaint: str, tmp_path: Path
) -> None:
    """What is in the way stays, and the exit code is 3."""
    path = place(tmp_path / "netback")
    there = path.exists()

    done = serve(path)

    assert done.returncode == 3
    assert complaint in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert path.exists() == there


def test_a_second_door_leaves_the_first_its_socket(door: Door) -> None:
    """Whoever listens there keeps it."""
    done = serve(door.path)

    assert done.returncode == 3
    assert "another door listens there" in done.stderr
    assert door.path.exists()


@pytest.mark.parametrize(("words", "complaint"), [(("--backend", "nobody"), "nobody"), (("--guests-max", "0"), "1 to")])
def test_a_bad_word_is_one_sentence(words: tuple[str, ...], complaint: str, tmp_path: Path) -> None:
    """A strategy that there is not, or room for nobody, makes no socket."""
    done = serve(tmp_path / "netback", *words)

    assert done.returncode == 3
    assert complaint in done.stderr
    assert not (tmp_path / "netback").exists()
