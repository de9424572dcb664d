"""Many runs at once, in virtual time and in several processes of this machine, of which none is left behind."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from pathlib import Path

from lateack.cluster.matrix.cell import Measured, run_virtually
from lateack.cluster.matrix.plan import Job
from lateack.nodes.errors import LateackError

WORTH_A_PROCESS = 16
"""Runs below which another process is not worth the half second that it takes to start."""

Done = tuple[int, Measured]


class WorkerDied(LateackError):
    """One of the processes of a matrix was killed."""


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def carry_out(jobs: Sequence[Job], processes: int, out: Path | None = None) -> Iterator[Done]:
    """Yield the place of each job with what came of it, as they are done; raises WorkerDied."""
    processes = min(processes, -(-len(jobs) // WORTH_A_PROCESS))
    if processes <= 1:
        yield from ((place, run_virtually(job, out)) for place, job in enumerate(jobs))
        return
    # Spawned, not forked: this process has threads (the progress bar's), and a fork would take their locks along.
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin)
    try:
        yield from _gathered({pool.submit(run_virtually, job, out): place for place, job in enumerate(jobs)})
    except BrokenProcessPool as error:
        raise WorkerDied("a process of the matrix was killed, perhaps for want of memory: try --jobs 1") from error
    except BaseException:  # Ctrl-C, say: a strategy of a user's may never come back
        for worker in set(multiprocessing.active_children()) - set(others):
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _gathered(waiting: dict[Future[Measured], int]) -> Iterator[Done]:
    while waiting:
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            yield waiting.pop(future), future.result()


def _begin() -> None:
    """Leave Ctrl-C to the command, which ends its workers; and end with it, if it is killed before it can."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)
