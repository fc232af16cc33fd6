"""Follows jobs: which are at work, and what became of the cells of those that ended."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from attn_bench.lease import hold, holding_job
from attn_bench.results.record import Record
from attn_bench.results.store import Store
from attn_bench.running.attempt import keep, lease_of
from attn_bench.running.executors.slurm.states import State, ask, states
from attn_bench.running.executors.slurm.submissions import Submission, submissions
from attn_bench.sweep.cell import Cell

# A job that Slurm does not know: it may not know it yet, or its controller may be starting.
VANISHED_S = 60.0
Stage = Literal["done", "pending", "running", "ended"]


@dataclass(frozen=True)
class Followed:
    """A task of a job array.

    Attributes:
        job: its id.
        state: None if Slurm does not say, for now.
        cells: those that still have no record of theirs.
        written: records that were written now, of cells that it left behind.
        left: cells that it never began, and those of a job that was cancelled.
    """

    job: str
    state: State | None
    cells: Sequence[Cell]
    written: Sequence[tuple[Cell, Record]] = ()
    left: Sequence[Cell] = ()

    @property
    def live(self) -> bool:
        """Whether its cells are still waited for."""
        return bool(self.cells) and not (self.state is not None and self.state.ended)


def follow(store: Store) -> list[Followed]:
    """Look at every job of a folder; give each cell that one left behind its record, and forget what is settled."""
    known = [_with_job(submission) for submission in submissions(store)]
    found = states([each.name for each in known], [each.job for each in known if each.job]) if known else {}
    store.refresh()
    result, there = [], set(store.ids())
    for submission in known:
        tasks = [_task(store, submission, index, found, there) for index in range(len(submission.tasks))]
        if not any(task.live for task in tasks):
            submission.discard(store)
        result += tasks
    return result


def _with_job(submission: Submission) -> Submission:
    """Return a submission with the id of its job, where whoever submitted it had no time to write that down."""
    if submission.job is None:
        lines = (ask("squeue", "-h", "-a", f"--name={submission.name}", "-o", "%A") or "").split()
        return replace(submission, job=lines[0] if lines else None)
    return submission


def _task(
    store: Store, submission: Submission, index: int, found: dict[str, State] | None, there: Collection[str]
) -> Followed:
    job, before = submission.task_id(index), submission.before
    # A file is read only where there was one before.
    missing = [
        id
        for id in submission.tasks[index]
        if id not in there or (before.get(id) is not None and store.stamp(id) == before[id])
    ]
    if not missing:
        return Followed(job, None, [])
    cells = [submission.cell(id) for id in missing]
    state = None if found is None else found.get(job)
    if state is None and found is not None and time.time() - submission.submitted > VANISHED_S:
        if submission.job is None:  # whoever was submitting it was killed before Slurm had it
            return Followed(job, State("CANCELLED"), [], left=[])
        state = State("VANISHED")
    if state is None or not state.ended:
        return Followed(job, state, cells)
    return _left_behind(store, submission, job, state, cells)


def _left_behind(store: Store, submission: Submission, job: str, state: State, cells: Sequence[Cell]) -> Followed:
    """Give the cell that an ended job was at its record; all of its cells where it was at none."""
    reason = state.failure(job)
    if reason is None:
        return Followed(job, state, [], left=cells)
    work = submission.work(store, [])
    begun = [cell for cell in cells if holding_job(lease_of(store, cell.id)) == job]
    written = []
    for cell in begun or cells:
        with hold(lease_of(store, cell.id), wait=False, ended={job}) as mine:
            store.refresh()
            if mine and (part := work.due(cell)) is not None:
                status, error = reason
                written.append((cell, keep(store, cell, part, Record(part, status, error=error))))
    there = {cell.id for cell, _ in written}
    return Followed(job, state, [], written, [cell for cell in cells if cell.id not in there])


def live_names(store: Store, followed: Collection[Followed]) -> list[str]:
    """Return the names of the submissions that have jobs which are not over."""
    live = {task.job.partition("_")[0] for task in followed if task.live}
    return [each.name for each in map(_with_job, submissions(store)) if str(each.job) in live]
