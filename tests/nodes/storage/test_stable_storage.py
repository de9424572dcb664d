"""What a directory store promises to be on the disk has been synchronised: seen from outside, by strace."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
from lateack.nodes.nfs import nfs
from lateack.nodes.storage.directory_store import DirectoryStore

store = DirectoryStore(sys.argv[1])
root = store.root
file = store.create(root, b"file", 0o644, 0)
steps = {
    "create": lambda: store.create(root, b"made", 0o644, 0),
    "mkdir": lambda: store.mkdir(root, b"inner", 0o755, 0),
    "symlink": lambda: store.symlink(root, b"symlink", b"target", 0),
    "link": lambda: store.link(file, store.lookup(root, b"inner"), b"link", 0),
    "write": lambda: store.write(file, 0, memoryview(b"data"), 0),
    "commit": lambda: store.commit(file),
    "setattr": lambda: store.setattr(file, nfs.SetAttributes(size=2), 0),
    "rename": lambda: store.rename(root, b"made", store.lookup(root, b"inner"), b"moved", 0),
    "remove": lambda: store.remove(store.lookup(root, b"inner"), b"link", 0),
    "rmdir": lambda: (store.remove(store.lookup(root, b"inner"), b"moved", 0), store.rmdir(root, b"inner", 0)),
}
for name, step in steps.items():
    try:
        os.rmdir("/there-is-no-such-directory/" + name)  # a mark in the log
    except OSError:
        pass
    step()
"""
MARK = re.compile(r'rmdir\("/there-is-no-such-directory/(\w+)"')
SYNCED = re.compile(r"fsync\(\d+<([^>]*)>")


def synchronised(root: Path, top: Path) -> dict[str, set[str]]:
    """Run the program under strace and return, for each of its steps, the files that were synchronised in it."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace (Debian package strace) is missing")
    log = top / "log"
    command = [strace, "-qq", "-y", "-e", "trace=fsync,rmdir", "-o", str(log), sys.executable, "-c", PROGRAM, str(root)]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, env=environment())
    if ran.returncode and "ptrace" in ran.stderr:
        pytest.skip("strace may trace nothing here")
    assert ran.returncode == 0, ran.stderr
    steps: dict[str, set[str]] = {}
    step: set[str] = set()
    for line in log.read_text().splitlines():
        if mark := MARK.search(line):
            step = steps.setdefault(mark[1], set())
        elif synced := SYNCED.search(line):
            step.add(Path(synced[1]).name)
    return steps


def environment() -> dict[str, str]:
    """The environment in which a fresh interpreter finds this checkout."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "src")}


def test_everything_but_a_write_is_synchronised_before_it_returns(tmp_path: Path) -> None:
    """RFC 1813 section 4.8: all that modifies is synchronous but an UNSTABLE WRITE, which COMMIT is for.

    A file made or changed, and the directory in which a name has come or gone; a rename touches two.
    """
    root = tmp_path / "root"
    root.mkdir()

    steps = synchronised(root, tmp_path)

    assert steps == {
        "create": {"made", "root"},
        "mkdir": {"inner", "root"},
        "symlink": {"root"},
        "link": {"inner"},
        "write": set(),
        "commit": {"file"},
        "setattr": {"file"},
        "rename": {"inner", "root"},
        "remove": {"inner"},
        "rmdir": {"inner", "root"},
    }
