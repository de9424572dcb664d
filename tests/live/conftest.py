"""One Ray cluster for all live tests, whose end asserts that nothing of ours is left."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from lateack.cluster.live import LiveSession
from tests.live.traces import listening_addresses, processes_marked, sockets_named, temporary_folders

MARK = "LATEACK_TESTS"


@pytest.fixture(scope="session")
def mark() -> Iterator[str]:
    """A word in the environment of every process that the tests start, by which it is found again."""
    word = f"{MARK}={secrets.token_hex(8)}"
    os.environ[MARK] = word.partition("=")[2]
    yield word
    del os.environ[MARK]


@pytest.fixture(scope="session")
def session(mark: str) -> Iterator[LiveSession]:
    """A session of the live world in which a process may be silent for three seconds."""
    shared = set(os.listdir("/dev/shm"))
    with LiveSession(silence_s=3.0) as live:
        yield live
        started = processes_marked(mark) - {os.getpid()}
        listening = listening_addresses(started)

    assert started, "Ray has processes of its own"
    assert listening == {"127.0.0.1"}, "nobody but this machine reaches the cluster"
    assert processes_marked(mark) <= {os.getpid()}
    assert temporary_folders(os.getpid()) == []
    assert sockets_named(f"lateack-{os.getpid()}-") == []
    assert set(os.listdir("/dev/shm")) <= shared


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for the server's files."""
    made = tmp_path / "server"
    made.mkdir()
    return made
