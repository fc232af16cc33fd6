"""What a Slurm job runs: some cells, one after another."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from os import _exit as exit_now
from pathlib import Path
from typing import Any

from attn_bench.lease import STALE_S, this_job
from attn_bench.results.store import Store
from attn_bench.running.attempt import Attempt
from attn_bench.running.client import ForkServer
from attn_bench.running.executors.slurm.submissions import Submission
from attn_bench.running.machine_share import ALONE
from attn_bench.running.work import Frontier
from attn_bench.sweep.cell import Cell

SHARED_NODE = "shared node"


@dataclass(frozen=True)
class Task:
    """The function that submitit calls in a job; submitit keeps it in a file beside the job's script.

    Attributes:
        folder: of the results.
        submission: file that says which cells they are.
        index: number of the task in its array.
    """

    folder: str
    submission: str
    index: int

    def __call__(self) -> None:
        """Run the cells."""
        _end_with_the_job()
        submission, store = Submission.read(Path(self.submission)), Store(Path(self.folder))
        work = submission.work(store, submission.tasks[self.index])
        due = [cell for cell in work.cells if work.due(cell) is not None]
        frontier = Frontier(store, submission.frontier) if work.running.skip else None
        # An earlier run of this job has ended, or this one would not have been started.
        ended = {this_job()}
        with ForkServer(store.folder, work.modules) as server:
            attempt = Attempt(work, server, frontier, ended)
            later = [cell for cell in due if not attempt.run(cell, _conditions, wait=False)]
            # A runner elsewhere that was killed is known to be gone only after a while; one that lives goes on.
            for cell in later:
                attempt.run(cell, _conditions, wait=2 * STALE_S)

    def checkpoint(self) -> Any:
        """Return what a requeued job runs: the same, as training resumes from its own checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@contextlib.contextmanager
def _conditions(part: Cell) -> Iterator[str]:
    """Say whether other jobs may run on this node."""
    yield ALONE if int(os.environ.get("SLURM_CPUS_ON_NODE") or 0) >= (os.cpu_count() or 1) else SHARED_NODE


def _end_with_the_job() -> None:
    """Have this process end at once when Slurm ends the job, and leave it to the state of the job to say why.

    The lease of a cell stays behind, and says which one it was. At the time limit submitit requeues a job as often as
    ``max_num_timeout`` allows; then it trains until Slurm ends it.
    """
    from submitit.core.utils import UncompletedJobError

    def end(number: int, frame: object) -> None:
        exit_now(128 + number)

    requeue = signal.getsignal(signal.SIGUSR2)

    def at_limit(number: int, frame: Any) -> None:
        with contextlib.suppress(UncompletedJobError):
            if callable(requeue):
                requeue(number, frame)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGUSR2, at_limit)
