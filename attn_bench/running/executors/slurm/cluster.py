"""The executor that submits cells to Slurm and follows their jobs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from attn_bench.format import count
from attn_bench.lease import hold, is_held
from attn_bench.results.record import Record
from attn_bench.running.attempt import keep, lease_of
from attn_bench.running.executors.slurm.follow import Followed, follow
from attn_bench.running.executors.slurm.states import states
from attn_bench.running.executors.slurm.submissions import Submission
from attn_bench.running.executors.slurm.submit import submit
from attn_bench.running.work import Work
from attn_bench.sweep.cell import Cell

# Between two looks at first, and after a while: each is a question to Slurm's controller.
FIRST_POLL_S, LAST_POLL_S = 1.0, 20.0
# How often a cell is submitted whose job ended before it began it.
TRIES = 3


def run(work: Work) -> str | None:
    """Submit what is due of some work and follow it until every cell has a record.

    Cells that a job of an earlier submission has are waited for and not submitted again.

    Returns:
        what to say where cells are left, because nobody waits for them or their jobs were cancelled.
    """
    due = [cell for cell in work.cells if work.due(cell) is not None]
    if not due:
        return None
    following = _Following(work, due)
    following.submit()
    if work.running.detach:
        return following.told()
    pause = FIRST_POLL_S
    while following.look():
        time.sleep(pause)
        pause = min(1.1 * pause, LAST_POLL_S)
    cancelled = following.cancelled
    many = "1 cell has" if cancelled == 1 else f"{cancelled} cells have"
    return f"{many} no record, as jobs were cancelled; rerun the same command to run them" if cancelled else None


class _Following:
    """Cells that are waited for.

    Attributes:
        cancelled: how many are no longer, because their jobs were cancelled.
    """

    def __init__(self, work: Work, due: Sequence[Cell]) -> None:
        self.work, self.pending = work, {cell.id: cell for cell in due}
        self.started: set[str] = set()
        self.tries: Counter[str] = Counter()
        # By cell: what was submitted from here, and which task of it has the cell.
        self.jobs: dict[str, tuple[Submission, int]] = {}
        self.cancelled = 0

    def submit(self) -> None:
        """Submit the cells that no job has."""
        store = self.work.store
        # Of two runs that begin at once, one submits, and the other finds the jobs.
        with hold(store.folder / "submitting" / "lease", wait=True):
            covered = {cell.id for task in follow(store) if task.live for cell in task.cells}
            due = [cell for id, cell in self.pending.items() if id not in covered]
            for cell in due:
                self.tries[cell.id] += 1
            for submission in submit(self.work, due) if due else ():
                self.jobs |= {id: (submission, i) for i, ids in enumerate(submission.tasks) for id in ids}

    def look(self) -> bool:
        """Look at the jobs once; return whether cells are left."""
        store, followed = self.work.store, follow(self.work.store)
        written = {cell.id: record for task in followed for cell, record in task.written}
        live = {cell.id for task in followed if task.live for cell in task.cells}
        cancelled = {cell.id for task in followed if _cancelled(task) for cell in task.left}
        there = set(store.ids())
        leased = {path.name.partition(".")[0] for path in (store.folder / "leases").glob("*")}
        lost = []
        for id, cell in list(self.pending.items()):
            if id in written or (id in there and self.work.due(cell) is None):
                self._done(cell, written.get(id) or store.read(id))
            elif id in leased and is_held(lease_of(store, id)):
                self._start(cell)
            elif id in cancelled:
                del self.pending[id]
                self.cancelled += 1
            elif id not in live:
                lost.append(cell)
        self._submit_again([cell for cell in lost if not self._was_cancelled(cell)])
        return bool(self.pending)

    def _was_cancelled(self, cell: Cell) -> bool:
        """Tell whether the job of a cell was cancelled, and somebody else has seen that and forgotten the job."""
        submission, index = self.jobs.get(cell.id, (None, 0))
        if submission is None or submission.job is None:
            return False
        state = (states([submission.name], [submission.job]) or {}).get(submission.task_id(index))
        if state is None or state.name != "CANCELLED":
            return False
        del self.pending[cell.id]
        self.cancelled += 1
        return True

    def _submit_again(self, lost: Sequence[Cell]) -> None:
        """Submit cells whose job ended, or was settled by another, before it began them."""
        for cell in lost:
            if self.tries[cell.id] >= TRIES and (part := self.work.due(cell)) is not None:
                error = f"{TRIES} Slurm jobs ended before they began this cell"
                self._done(cell, keep(self.work.store, cell, part, Record(part, "crashed", error=error)))
        if any(cell.id in self.pending for cell in lost):
            self.submit()

    def _start(self, cell: Cell) -> None:
        if cell.id not in self.started:
            self.started.add(cell.id)
            self.work.listen(cell, {"event": "start"})

    def _done(self, cell: Cell, record: Record | None) -> None:
        del self.pending[cell.id]
        if record is not None:
            self.work.listen(cell, {"event": "done", "status": record.status, "record": record})

    def told(self) -> str:
        """Say what was submitted."""
        jobs = count(sum(task.live for task in follow(self.work.store)), "Slurm job")
        trials, folder = all(cell.is_trial for cell in self.pending.values()), self.work.store.folder
        if not trials:
            return f"{jobs} for {count(len(self.pending), 'cell')}; {_commands(folder)}"
        return (
            f"{jobs} for {count(len(self.pending), 'trial')} of tuning; {_commands(folder.parent)}; "
            "rerun the same command when they have ended: it submits what comes next"
        )


def _commands(folder: Path) -> str:
    return f"'attn-bench status {folder}' shows them, 'attn-bench cancel {folder}' ends them"


def _cancelled(task: Followed) -> bool:
    return task.state is not None and task.state.name == "CANCELLED"
