"""The 256 bytes that the request cache sums, in whole runs: one byte decides whether the file is corrupt."""

from __future__ import annotations

import pytest

import lateack
from lateack.nodes.facts import DuplicateCall
from lateack.nodes.nfs.drc import DuplicateRequestCache
from tests.nodes.nfs.test_drc import seen_places

STALE, CORRUPT = "stale-on-wire", "corrupt-at-rest"


def outcomes(result: lateack.Result) -> list[str]:
    """What the server did about calls that came again."""
    return [fact.outcome for *_, fact in result.trace.of_type(DuplicateCall)]


@pytest.mark.parametrize("handle_bytes", [28, 64])
def test_the_last_byte_that_is_summed_corrupts_the_file_and_the_next_does_not(handle_bytes: int) -> None:
    """Two writes that begin alike: as long as they differ within the window, the wrong bytes are executed.

    Where the window ends is found by trying every byte, and moves with the length of the file handle.
    """
    boundary = seen_places(DuplicateRequestCache("checksum"), bytes(512), handle_bytes).index(False)

    within, beyond = (
        lateack.run(
            "rpc-retransmit",
            world="virtual",
            settings=[f"server.handle_bytes={handle_bytes}", f"workload.common_prefix={prefix}"],
        )
        for prefix in (boundary - 1, boundary)
    )

    assert (within.harms, beyond.harms) == ([CORRUPT, STALE], [STALE])
    assert [outcomes(result) for result in (within, beyond)] == [["executed"], ["replied"]]


@pytest.mark.parametrize(("drc", "harms"), [("ganesha-like", [CORRUPT, STALE]), ("no-checksum", [STALE])])
def test_another_cache_another_end(drc: str, harms: list[str]) -> None:
    """NFS-Ganesha's sums the same bytes as Linux's, and so lets the same corruption through."""
    result = lateack.run("rpc-retransmit", world="virtual", settings=[f"server.drc={drc}"])

    assert result.harms == harms == result.scenario.expected()


def test_a_repetition_of_a_call_in_progress_is_dropped_in_a_whole_run() -> None:
    """A server that takes longer than the client's patience answers the call once, and executes it once.

    The repetition carries the bytes of the first transmission, for the write is not complete before the reply: so with
    a slow server there is no harm, where in the story itself the reply is merely held back.
    """
    settings = ["server.execute_us=150000", "rpc.timeo_ms=100", "faults={}", "requires=[]", "server.drc=no-checksum"]

    result = lateack.run("rpc-retransmit", world="virtual", settings=settings)

    assert result.harms == []
    assert outcomes(result) == ["dropped"] * 3
