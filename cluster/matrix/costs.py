"""What a run cost: who copied, what the hypervisor was asked for, and for how long pages could not be used.

Counts, never seconds of this machine's processor: they are the same in every world and on every computer.
"""

from lateack.cluster.trace import Trace
from lateack.nodes.facts import Counted, WriteCompleted, WriteIssued

PAGE_SIZE = 4096
LONG_HELD_MS = 100
"""A request that the backend held for longer was delayed: on a quiet network an answer takes microseconds."""

GRANTS = ("grant_maps", "grant_unmaps", "grant_copies", "notifications")

Costs = dict[str, int | float]


def costs_of(trace: Trace) -> Costs:
    """Return the grant operations, the notifications, the longest held request (ms), and pages times seconds.

    `pinned_page_s` is for the guests' pages that the backend had mapped, `lent_page_s` for the applications' pages from
    the call to its completion, or to the end of the run.
    """
    counts = counters(trace)
    costs: Costs = {name: counts.get(name, 0) for name in GRANTS}
    costs["longest_held_ms"] = counts.get("longest_held_us", 0) / 1e3
    costs["pinned_page_s"] = counts.get("pinned_page_us", 0) / 1e6
    costs["lent_page_s"] = _lent_page_ns(trace) / 1e9
    return costs


def counters(trace: Trace) -> dict[str, int]:
    """Return what all machines have counted, by name: the longest for what is longest, else the sum."""
    counts: dict[str, int] = {}
    for _, _, _, fact in trace.of_type(Counted):
        before = counts.get(fact.name, 0)
        counts[fact.name] = max(before, fact.amount) if fact.name.startswith("longest") else before + fact.amount
    return counts


def _lent_page_ns(trace: Trace) -> int:
    latencies = {(node, fact.xid): fact.latency for _, _, node, fact in trace.of_type(WriteCompleted)}
    end = trace[len(trace) - 1][0] if len(trace) else 0
    return sum(
        -(-fact.count // PAGE_SIZE) * latencies.get((node, fact.xid), end - at)
        for at, _, node, fact in trace.of_type(WriteIssued)
    )
