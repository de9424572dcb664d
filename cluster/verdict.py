"""The verdict on one run: its harms against those expected, and its counts, as people and other programs read it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from lateack.cluster.oracles import ORACLES
from lateack.cluster.trace import Trace
from lateack.cluster.wire_oracle import Harm, judge_wire, stale_on_wire
from lateack.nodes.facts import (
    CallTransmitted,
    CompletionDeferred,
    Counted,
    DuplicateDropped,
    FileAtRest,
    SegmentTransmitted,
    SessionRecovered,
    WriteCompleted,
    WriteExecuted,
    WriteIssued,
    WriteReissued,
)

AS_EXPECTED, NOT_AS_EXPECTED, NOTHING_TO_JUDGE = "as-expected", "not-as-expected", "nothing-to-judge"
EXIT_CODES = {AS_EXPECTED: 0, NOT_AS_EXPECTED: 1, NOTHING_TO_JUDGE: 2}
FINDINGS_SHOWN = 20  # in JSON; the trace has them all


class Required(Protocol):
    """A fact without which a run says nothing: the name of its type, who recorded it, and values of its fields."""

    @property
    def fact(self) -> str:
        """The name of the fact's type."""
        ...

    @property
    def node(self) -> str | None:
        """The machine that must have recorded it; None for any."""
        ...

    @property
    def where(self) -> Mapping[str, object] | Sequence[tuple[str, object]]:
        """The values that fields of it must have."""
        ...


class Verdict(msgspec.Struct, frozen=True):
    """What one run showed; latencies in ns, amounts in bytes, `expected` None where the story does not say.

    `retransmitted_segments` counts what the transports sent again, `retransmitted_calls` what their callers did, in any
    protocol; `unjudged` the pieces of frames that no transport vouched for; `missing` says why nothing can be judged.
    """

    story: str
    world: str
    guest: str
    backend: str
    seed: int
    expected: list[str] | None
    findings: tuple[Harm, ...]
    missing: tuple[str, ...]
    issued: int
    latencies: tuple[int, ...]
    bytes_copied_by: dict[str, int]
    payload_bytes: int
    drc_hits: int
    drc_misses: int
    duplicate_segments_dropped: int
    digest: str
    run_dir: str | None
    retransmitted_segments: int
    retransmitted_calls: int
    deferred: int
    unjudged: int

    @property
    def harms(self) -> list[str]:
        """The names of the harms, sorted and each once; empty is safe."""
        return sorted({finding.name for finding in self.findings})

    @property
    def status(self) -> str:
        """`as-expected`, `not-as-expected` or `nothing-to-judge`; a story that does not say expects no harm.

        A run that did not reach what it was about says nothing by being harmless; a harm that it shows counts.
        """
        if self.missing and not self.harms:
            return NOTHING_TO_JUDGE
        return AS_EXPECTED if self.harms == sorted(set(self.expected or ())) else NOT_AS_EXPECTED

    @property
    def exit_code(self) -> int:
        """The exit status of a run with this verdict: 0 as expected, 1 not, 2 nothing to judge."""
        return EXIT_CODES[self.status]

    @property
    def completion_ms(self) -> dict[str, float | None]:
        """The median (nearest rank) and the longest completion of a write in ms; None where none was completed."""
        if not self.latencies:
            return {"p50": None, "max": None}
        return {"p50": self.latencies[(len(self.latencies) - 1) // 2] / 1e6, "max": self.latencies[-1] / 1e6}

    def to_json(self) -> dict[str, object]:
        """Return the object that `--json` prints; other programs read it, so keys are only ever added, at the end."""
        by = dict(sorted(self.bytes_copied_by.items()))
        return {
            "story": self.story,
            "world": self.world,
            "guest": self.guest,
            "backend": self.backend,
            "seed": self.seed,
            "harms": self.harms,
            "expected": None if self.expected is None else sorted(set(self.expected)),
            "writes": {"issued": self.issued, "completed": len(self.latencies)},
            "completion_ms": self.completion_ms,
            "copies": {"bytes_copied": sum(by.values()), "payload_bytes": self.payload_bytes, "by": by},
            "server": {
                "drc_hits": self.drc_hits,
                "drc_misses": self.drc_misses,
                "duplicate_segments_dropped": self.duplicate_segments_dropped,
            },
            "digest": self.digest,
            "run_dir": self.run_dir,
            "status": self.status,
            "retransmissions": {"segments": self.retransmitted_segments, "calls": self.retransmitted_calls},
            "deferred": self.deferred,
            "unjudged": self.unjudged,
            "missing": list(self.missing),
            "findings": [finding._asdict() for finding in self.findings[:FINDINGS_SHOWN]],
        }


def judge(
    trace: Trace,
    *,
    story: str,
    world: str,
    guest: str,
    backend: str,
    seed: int,
    expected: list[str] | None,
    requires: Iterable[Required] = (),
    run_dir: object = None,
) -> Verdict:
    """Judge a finished run; `guest` and `backend` name strategies, `requires` facts without which it says nothing."""
    stale, unjudged = judge_wire(trace)
    counts = _counters(trace)
    servers = _servers(trace)
    dropped = trace.of_type(DuplicateDropped)
    return Verdict(
        story=story,
        world=world,
        guest=guest,
        backend=backend,
        seed=seed,
        expected=expected,
        findings=(*stale, *(harm for oracle in ORACLES if oracle is not stale_on_wire for harm in oracle(trace))),
        missing=tuple(_missing(trace, requires)),
        issued=len(trace.places_of(WriteIssued)),
        latencies=tuple(sorted(fact.latency for _, _, _, fact in trace.of_type(WriteCompleted))),
        bytes_copied_by=counts.get("copied_bytes", {}),
        payload_bytes=sum(counts.get("payload_bytes", {}).values()),
        drc_hits=sum(counts.get("drc_hits", {}).values()),
        drc_misses=sum(counts.get("drc_misses", {}).values()),
        duplicate_segments_dropped=sum(1 for _, _, node, fact in dropped if fact.length and node in servers),
        digest=trace.digest(),
        run_dir=None if run_dir is None else str(run_dir),
        retransmitted_segments=sum(fact.transmission > 1 for _, _, _, fact in trace.of_type(SegmentTransmitted)),
        retransmitted_calls=_sent_again(trace),
        deferred=len(trace.places_of(CompletionDeferred)),
        unjudged=unjudged,
    )


def _counters(trace: Trace) -> dict[str, dict[str, int]]:
    """Return each counter's amount by machine."""
    counts: dict[str, dict[str, int]] = {}
    for _, _, node, fact in trace.of_type(Counted):
        amounts = counts.setdefault(fact.name, {})
        amounts[node] = amounts.get(node, 0) + fact.amount
    return counts


def _sent_again(trace: Trace) -> int:
    """Count the calls that went out once more, under their own number or a new one, and the blocks of a DRBD resync."""
    calls = sum(fact.transmission > 1 for _, _, _, fact in trace.of_type(CallTransmitted))
    resynced = sum(fact.commands for _, _, _, fact in trace.of_type(SessionRecovered) if fact.protocol == "drbd")
    return calls + len(trace.places_of(WriteReissued)) + resynced


def _servers(trace: Trace) -> set[str]:
    """Return the machines that acted as a server: they executed writes, hold files, or count replayed requests."""
    executed = {node for _, _, node, _ in trace.of_type(WriteExecuted)}
    holding = {node for _, _, node, _ in trace.of_type(FileAtRest)}
    return executed | holding | {node for _, _, node, fact in trace.of_type(Counted) if fact.name.startswith("drc_")}


def _missing(trace: Trace, requires: Iterable[Required]) -> list[str]:
    """Return a sentence for everything without which there is nothing to judge."""
    missing = [] if trace.places_of(WriteIssued) else ["No write was issued."]
    for required in requires:
        where = dict(required.where)
        if not any(_fits(required.node, where, node, fact) for _, _, node, fact in trace.named(required.fact)):
            who = f" of {required.node}" if required.node else ""
            values = f" with {', '.join(f'{name}={value}' for name, value in where.items())}" if where else ""
            missing.append(f"The fact {required.fact}{who}{values} never occurred.")
    return missing


def _fits(wanted: str | None, where: Mapping[str, object], node: str, fact: object) -> bool:
    return wanted in (None, node) and all(getattr(fact, name) == value for name, value in where.items())
