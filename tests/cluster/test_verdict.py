"""A verdict compares the harms with those expected, and its JSON keeps the keys that other programs read."""

import json
from typing import Any, NamedTuple

import pytest

from lateack.cluster.trace import Trace
from lateack.cluster.verdict import FINDINGS_SHOWN, Verdict, judge
from lateack.nodes.facts import (
    AccessFault,
    CallTransmitted,
    CompletionDeferred,
    CopyFinished,
    Counted,
    DuplicateDropped,
    Fact,
    FrameSent,
    LeftOver,
    SegmentTransmitted,
    WriteCompleted,
    WriteExecuted,
    WriteIssued,
)
from lateack.nodes.rules import FactMatch

MS = 1_000_000


class Asked(NamedTuple):
    """What a scenario requires, with a mapping where a rule has pairs."""

    fact: str
    node: str | None
    where: dict[str, object]


CALM: list[tuple[str, Fact]] = [
    ("guest1", WriteIssued(1, "f", 0, 4096, 0xA, 0, (12,))),
    ("server", WriteExecuted(1, "guest1", "f", 0, 4096, 0xA)),
    ("guest1", WriteCompleted(1, "f", 0, 4096, 1_500_000)),
    ("guest1", CopyFinished("f", 4096)),
]


def judged(*more: tuple[str, Fact], start: list[tuple[str, Fact]] = CALM, **known: Any) -> Verdict:
    """The verdict on a calm run with some facts more."""
    trace = Trace([(at * MS, 0, node, fact) for at, (node, fact) in enumerate([*start, *more])])
    names: dict[str, Any] = {"story": "s", "world": "virtual", "guest": "on-reply", "backend": "dev-zerocopy"}
    return judge(trace, **(names | {"seed": 1, "expected": None} | known))


@pytest.mark.parametrize(
    ("expected", "leaks", "status", "code"),
    [
        (None, False, "as-expected", 0),
        ([], False, "as-expected", 0),
        (["leak"], False, "not-as-expected", 1),
        (["leak"], True, "as-expected", 0),
        (["leak", "fault"], True, "not-as-expected", 1),
        ([], True, "not-as-expected", 1),
        (None, True, "not-as-expected", 1),
    ],
)
def test_a_run_is_as_expected_iff_its_harms_are(
    expected: list[str] | None, leaks: bool, status: str, code: int
) -> None:
    """Too few harms is as wrong as too many, and a story that does not say expects none."""
    verdict = judged(*([("guest1", LeftOver("grants", 1))] if leaks else []), expected=expected)

    assert (verdict.status, verdict.exit_code) == (status, code)
    assert verdict.harms == (["leak"] if leaks else [])


def test_without_a_write_there_is_nothing_to_judge() -> None:
    """An empty run is neither good nor bad."""
    verdict = judged(start=[])

    assert verdict.exit_code == 2
    assert verdict.missing == ("No write was issued.",)
    assert verdict.to_json()["completion_ms"] == {"p50": None, "max": None}


@pytest.mark.parametrize(
    ("required", "missing"),
    [
        (FactMatch("WriteExecuted"), None),
        (FactMatch("WriteExecuted", "server", (("xid", 1), ("count", 4096))), None),
        (Asked("WriteExecuted", "server", {"xid": 1}), None),
        (FactMatch("Parked"), "The fact Parked never occurred."),
        (FactMatch("WriteExecuted", "guest1"), "The fact WriteExecuted of guest1 never occurred."),
        (Asked("WriteExecuted", None, {"xid": 2}), "The fact WriteExecuted with xid=2 never occurred."),
    ],
)
def test_without_a_required_fact_there_is_nothing_to_judge(required: Any, missing: str | None) -> None:
    """Type, machine and fields must fit, whether a rule or a scenario asks."""
    verdict = judged(requires=[required])

    assert verdict.missing == ((missing,) if missing else ())
    assert verdict.exit_code == (2 if missing else 0)


def test_the_object_has_exactly_the_promised_keys_in_their_order() -> None:
    """Other programs read it: what is added comes at the end."""
    told = judged(run_dir="runs/x", expected=["leak", "fault"]).to_json()

    assert list(told)[:13] == [
        "story", "world", "guest", "backend", "seed", "harms", "expected", "writes", "completion_ms", "copies",
        "server", "digest", "run_dir",
    ]  # fmt: skip
    assert told["expected"] == ["fault", "leak"]
    assert told["writes"] == {"issued": 1, "completed": 1}
    assert told["copies"] == {"bytes_copied": 0, "payload_bytes": 0, "by": {}}
    assert told["server"] == {"drc_hits": 0, "drc_misses": 0, "duplicate_segments_dropped": 0}
    assert told["run_dir"] == "runs/x"
    assert json.loads(json.dumps(told)) == told


def test_counters_are_summed_and_told_by_machine() -> None:
    """A machine that counted nothing copied is named with 0."""
    told = judged(
        ("server", Counted("copied_bytes", 0)), ("guest2", Counted("copied_bytes", 5)),
        ("guest1", Counted("copied_bytes", 7)), ("guest1", Counted("payload_bytes", 4096)),
        ("guest2", Counted("payload_bytes", 10)), ("server", Counted("drc_hits", 2)),
        ("server", Counted("drc_misses", 3)),
    ).to_json()  # fmt: skip

    assert told["copies"] == {"bytes_copied": 12, "payload_bytes": 4106, "by": {"guest1": 7, "guest2": 5, "server": 0}}
    assert told["server"] == {"drc_hits": 2, "drc_misses": 3, "duplicate_segments_dropped": 0}


def test_only_data_that_a_server_dropped_counts_as_duplicate_segments() -> None:
    """A keep-alive or a bare FIN has no length, and what a guest drops is not the server's."""
    dropped = [
        ("server", DuplicateDropped("a>b", 1, 100, 0)),
        ("server", DuplicateDropped("a>b", 1, 0, 0)),
        ("guest1", DuplicateDropped("b>a", 1, 100, 0)),
    ]

    assert judged(*dropped).duplicate_segments_dropped == 1


@pytest.mark.parametrize(
    ("latencies", "p50", "longest"), [([5], 5, 5), ([9, 1], 1, 9), ([3, 1, 2], 2, 3), ([4, 3, 2, 1], 2, 4)]
)
def test_the_median_is_by_nearest_rank(latencies: list[int], p50: int, longest: int) -> None:
    """The smallest latency that at least half of the writes did not exceed."""
    writes = [("guest1", WriteCompleted(n, "f", 0, 4096, ms * MS)) for n, ms in enumerate(latencies)]

    verdict = judged(*writes, start=CALM[:1])

    assert verdict.completion_ms == {"p50": p50, "max": longest}


def test_what_went_again_was_deferred_or_could_not_be_judged_is_counted() -> None:
    """Delay is no harm, but it is measured."""
    told = judged(
        ("guest1", SegmentTransmitted("a>b", 1, 4, 4, 1, (5,))),
        ("guest1", SegmentTransmitted("a>b", 1, 4, 4, 2, (5,))),
        ("guest1", CallTransmitted(1, 7, 1)), ("guest1", CallTransmitted(1, 7, 2)),
        ("guest1", CallTransmitted(1, 7, 3)),
        ("guest1", CompletionDeferred(1)), ("backend", FrameSent("n", "a>b", 9, 4, 4, (5,), False)),
    ).to_json()  # fmt: skip

    assert told["retransmissions"] == {"segments": 1, "calls": 2}
    assert told["deferred"] == 1
    assert told["unjudged"] == 1
    assert told["harms"] == []


def test_findings_are_told_in_sentences_and_bounded() -> None:
    """A run with thousands of faults is one name, and a bounded list."""
    verdict = judged(*[("backend", AccessFault("n", 1, frame)) for frame in range(100)])
    told: Any = verdict.to_json()

    assert told["harms"] == ["fault"]
    assert len(verdict.findings) == 100
    assert len(told["findings"]) == FINDINGS_SHOWN
    assert told["findings"][0]["name"] == "fault"
    assert told["findings"][0]["entries"] == (4,)
