"""The command `lateack serve`: what it offers, and how it says that a door cannot be opened."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import get_args

import pytest

from lateack.cluster import cli
from lateack.cluster.doors.command import DrcMode
from lateack.cluster.doors.listening import DoorRefused, listen
from lateack.nodes.nfs.drc import Mode


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Type a command that is refused with exit status 3, and return its one sentence."""
    status = cli.main(["serve", *words])
    printed = capsys.readouterr()

    assert status == cli.ENVIRONMENT
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_every_mode_of_the_duplicate_request_cache_is_offered() -> None:
    """The command line knows the modes that the server knows, and no other."""
    assert {mode.value for mode in DrcMode} == set(get_args(Mode))


def test_a_directory_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Nothing is made that was not there."""
    assert f"there is no directory {tmp_path}/missing" in refusal(capsys, "nfs", f"{tmp_path}/missing")


def test_a_file_cannot_be_served(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Nor can a circle of symbolic links."""
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")

    assert "file is not a directory" in refusal(capsys, "nfs", f"{tmp_path}/file")
    assert "there is no directory" in refusal(capsys, "nfs", f"{tmp_path}/circle")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_a_directory_that_may_not_be_used_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What may be read but not written can be served with --read-only, and the sentence says so."""
    tmp_path.chmod(0o500)
    unwritable = refusal(capsys, "nfs", str(tmp_path), "--port", "0")
    tmp_path.chmod(0o300)
    unreadable = refusal(capsys, "nfs", str(tmp_path), "--port", "0")
    tmp_path.chmod(0o700)

    assert "--read-only" in unwritable
    assert "may not be read" in unreadable


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_that_is_in_use_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: socket.SocketKind
) -> None:
    """Whichever protocol somebody else has it for."""
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]

        said = refusal(capsys, "nfs", str(tmp_path), "--port", str(port))

    assert f"port {port} of 127.0.0.1 is in use" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--port", "65536"), "there is no port 65536"),
        (("--port", "-1"), "there is no port -1"),
        (("--host", "192.0.2.1"), "192.0.2.1 is no IPv4 address of this computer"),
        (("--host", "::1"), "::1 is no IPv4 address of this computer"),
        (("--drc", "nfsd"), "'lateack serve nfs --help' shows what there is"),
        (("--port", "nfs"), "'lateack serve nfs --help' shows what there is"),
    ],
)
def test_options_that_mean_nothing_here_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    """Each with one sentence that says what to do."""
    assert said in refusal(capsys, "nfs", str(tmp_path), *words)


def test_serving_nothing_in_particular_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence leads to the list of doors."""
    assert "'lateack serve --help' shows what there is" in refusal(capsys)


def test_any_free_port_is_free_for_both_protocols() -> None:
    """Connections and datagrams have the same port, and it can be had again at once."""
    stream, datagrams = listen("127.0.0.1", 0)
    port = stream.getsockname()[1]
    taken = datagrams.getsockname()[1]
    with pytest.raises(DoorRefused, match="in use"):
        listen("127.0.0.1", port)
    stream.close()
    datagrams.close()
    again = listen("127.0.0.1", port)
    for each in again:
        each.close()

    assert taken == port
