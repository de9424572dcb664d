"""tshark, asked about a capture: the judgement of somebody who has never seen our code."""

import subprocess
from pathlib import Path

from lateack.cluster.capture import once, seen_at, split, write_capture
from lateack.cluster.capture_comments import Captured, comments_of
from lateack.cluster.experiment import VirtualSession
from lateack.cluster.scenario import load
from lateack.cluster.trace import Trace

SUMS = ("tcp.check_checksum:TRUE", "udp.check_checksum:TRUE", "ip.check_checksum:TRUE")
SEPARATOR = "\x1f"


def tshark(path: Path, display: str, *fields: str, heuristic: str | None = None) -> list[list[str]]:
    """Return these fields of each frame that a display filter shows; all checksums are verified.

    A *heuristic* is one by which tshark knows protocols that have no port of their own.
    """
    options = [word for option in SUMS for word in ("-o", option)]
    if heuristic is not None:
        options += ["--enable-heuristic", heuristic]
    wanted = [word for field in fields for word in ("-e", field)]
    shown = ["-Y", display, "-T", "fields", "-E", f"separator={SEPARATOR}"]
    command = ["tshark", "-r", str(path), *options, *shown, *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [line.split(SEPARATOR) for line in done.stdout.splitlines()]


def captured(story: str, *overrides: str) -> tuple[Trace, list[Captured]]:
    """Run a story in virtual time with its links captured; return its trace, and the frames."""
    scenario = load(story, ["links.capture=true", *overrides])
    return split(VirtualSession().run(scenario, server_dir=None, progress=None))


def capture_of(path: Path, story: str, *overrides: str, end: str | None = None) -> Trace:
    """Write what was captured of a story, each frame once or as one end saw it, into a file; return its trace."""
    trace, frames = captured(story, *overrides)
    comments = comments_of(trace, frames)
    write_capture(path, once(frames, comments) if end is None else seen_at(end, frames, comments), story)
    return trace
