"""Which check notices that a page has changed: every cell of the README's table is a run that shows it.

Three things can happen to a page that is still to be read. TCP repeats it after its write was done, with the next
write's bytes; a whole message goes out with such bytes, which the receiver has not had and executes; or its own program
rewrites it before the write is done. A check helps only if it was made before the change, is looked at after it, and
is not simply made anew when somebody repeats what it refused.
"""

from pathlib import Path
from typing import NamedTuple

import pytest

from lateack.cluster.experiment import run_experiment
from lateack.cluster.matrix.costs import counters
from lateack.cluster.scenario import load
from lateack.cluster.trace import Trace
from lateack.nodes.facts import DigestFailed, FrameDropped

README = Path(__file__).parents[2] / "README.md"
INTACT, CORRUPT = ["stale-on-wire"], ["corrupt-at-rest", "stale-on-wire"]
REPEATED, EXECUTED, REWRITTEN = "repeated by TCP", "executed", "rewritten early"
QUEUE = ("kind=metal", "faults.egress.gate=guest1.queue", "host.checksum=software-2011")
# A WRITE is one packet: else the gate would close in the middle of one.
RING = ("kind=metal", "faults.egress.gate=guest1.nic", "links.mtu=9000")
BEHIND = (*RING, "host.checksum=software-2011")
# A session is lost, and nothing else happens: who takes what TCP frees for the end gives the command anew from a page
# that holds the next write's bytes.
CUT = (
    "faults={cut: {reset: {from: guest1, rpc: SCSI-WRITE}, nth: [1]}}",
    "requires=[{fact: ConnectionCut, node: network}]",
)


class Run(NamedTuple):
    """What a check makes of a situation in the table's words, the run that shows it, and what is then to be found."""

    says: str
    story: str
    settings: tuple[str, ...]
    noticed: str
    harms: list[str]


TABLE: dict[str, dict[str, list[Run]]] = {
    "TCP's checksum, by the card": {
        REPEATED: [Run("no", "late-ack-metal", (), "", INTACT)],
        EXECUTED: [
            Run("no", "rpc-retransmit", (*RING, "server.drc=none"), "", CORRUPT),
            Run("no (UDP)", "udp-retransmit", (*RING, "server.drc=none"), "", CORRUPT),
        ],
        REWRITTEN: [Run("no", "iscsi-digest", ("iscsi.data_digest=false",), "", CORRUPT)],
    },
    "TCP's checksum, by the CPU": {
        REPEATED: [
            Run("**yes**, and nothing is missing", "late-ack-metal", ("host.checksum=software-2011",), "sum", INTACT)
        ],
        EXECUTED: [
            Run("changed before the sum: no", "rpc-retransmit", (*QUEUE, "server.drc=none"), "", CORRUPT),
            Run("behind it: **yes**, until TCP sums it anew", "rpc-retransmit", BEHIND, "sum", CORRUPT),
            Run("behind it, UDP: **yes**, and for good", "udp-retransmit", BEHIND, "sum", INTACT),
        ],
        REWRITTEN: [
            Run(
                "**yes**, until TCP sums it anew",
                "iscsi-digest",
                ("iscsi.data_digest=false", "host.checksum=software-2011"),
                "sum",
                CORRUPT,
            )
        ],
    },
    "a digest of the data (iSCSI, DRBD, Ceph)": {
        REPEATED: [Run("never looked at: TCP drops it", "iscsi-late-ack", ("iscsi.data_digest=true",), "", INTACT)],
        EXECUTED: [
            Run("made before: **yes**, and for good", "drbd-protocol-a", (), "digest", INTACT),
            Run(
                "made anew with the command: no", "iscsi-digest", ("strategies.guest=skb-destructor", *CUT), "", CORRUPT
            ),
        ],
        REWRITTEN: [
            Run("**yes**, until the command is given anew", "iscsi-digest", (), "digest", CORRUPT),
            Run("**yes**, each time that it changes (Ceph)", "ceph-bad-crc", (), "digest", CORRUPT),
        ],
    },
    "the request cache's checksum": {
        REPEATED: [Run("there is no second call", "late-ack-metal", (), "", INTACT)],
        EXECUTED: [
            Run("first 256 bytes: **yes**, and therefore executes it", "rpc-retransmit", RING, "cache", CORRUPT),
            Run("beyond: no, and answers it", "rpc-retransmit", (*RING, "workload.common_prefix=1024"), "", INTACT),
        ],
        REWRITTEN: [Run("there is no second call", "rewrite-in-flight", (), "", CORRUPT)],
    },
}
RUNS = [
    pytest.param(run, id=f"{check}, {situation}, {run.says}")
    for check, row in TABLE.items()
    for situation, runs in row.items()
    for run in runs
]


def noticed(trace: Trace) -> str:
    """Return which check found something wrong with what it was given; the first of them, none is empty."""
    if any("checksum" in fact.reason for *_, fact in trace.of_type(FrameDropped)):
        return "sum"
    if any(True for _ in trace.of_type(DigestFailed)):
        return "digest"
    return "cache" if counters(trace).get("payload_misses") else ""


@pytest.mark.parametrize("run", RUNS)
def test_a_check_notices_what_the_table_says_and_no_more(run: Run) -> None:
    """To notice is not to prevent: the same run shows what the file holds in the end."""
    result = run_experiment(load(run.story, run.settings), "virtual")

    assert result.verdict.missing == ()
    assert (noticed(result.trace), result.harms) == (run.noticed, run.harms)


def test_the_readme_has_this_table() -> None:
    """What people read is what runs here; a cell that has changed is to be copied from the message."""
    lines = [["", *TABLE["the request cache's checksum"]]]
    lines += [[check, *("; ".join(run.says for run in runs) for runs in row.values())] for check, row in TABLE.items()]
    lines.insert(1, ["---"] * len(lines[0]))

    table = "".join(f"| {' | '.join(line)} |\n".replace("|  |", "| |") for line in lines)

    assert table in README.read_text(encoding="utf-8"), table
