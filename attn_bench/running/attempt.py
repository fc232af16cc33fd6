"""Runs one cell, or a part of it, in a separate process under its lease, and keeps its record."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from attn_bench.errors import DiskError
from attn_bench.lease import hold, this_job
from attn_bench.results.environment import Environment
from attn_bench.results.merge import completed, renewed
from attn_bench.results.record import Record
from attn_bench.results.store import Store
from attn_bench.running.client import End, ForkServer
from attn_bench.running.messages import UNSENT
from attn_bench.running.processes import how_ended, last_words, out_of_memory_reason
from attn_bench.running.room import Room, size_in
from attn_bench.running.work import Frontier, Work
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.execution import Running

# Slurm ends the processes of a job one after another.
JOB_ENDS_S = 2.0
# Which part of what is due of a cell is run now, if any; and under which conditions.
Choice = Callable[[Cell], Cell | None]
Conditions = Callable[[Cell], contextlib.AbstractContextManager[str]]


def lease_of(store: Store, id: str) -> Path:
    """Return the lease of a cell."""
    return store.folder / "leases" / id


def whole(part: Cell) -> Cell | None:
    """Choose all that is due of a cell."""
    return part


def trains(part: Cell) -> Cell | None:
    """Choose the training of a cell; its measuring comes later."""
    return None if part.training is None else replace(part, measuring=replace(part.measuring, measure=False))


class Attempt:
    """Runs cells of some work with one fork server."""

    def __init__(self, work: Work, server: ForkServer, frontier: Frontier | None, ended: Collection[str] = ()) -> None:
        self.work, self.server, self.frontier, self.ended = work, server, frontier, ended

    def run(self, cell: Cell, conditions: Conditions, *, wait: bool | float, choose: Choice = whole) -> bool:
        """Run what is due of a cell; return whether nobody else is at it.

        Args:
            conditions: gives the block in which a part of a cell is run, and which conditions those are.
            wait: for another runner that is at it.
            choose: which part is run of what is due.

        Raises:
            DiskError: the folder can no longer be written.
        """
        store = self.work.store
        # A server that briefly outlives its runner still has to end the cell's process.
        with hold(lease_of(store, cell.id), wait=wait, processes=(self.server.pid(),), ended=self.ended) as mine:
            if mine:
                store.refresh()
            if mine and (due := self.work.due(cell)) is not None and (part := choose(due)) is not None:
                with conditions(part) as under:
                    self.work.listen(cell, {"event": "start"})
                    record = _broken(part) or (self.frontier.skipped(cell, part) if self.frontier else None)
                    record = record or _under(under, part, self._run(cell, part))
                kept = keep(store, cell, part, record)
                self.work.listen(cell, {"event": "done", "status": kept.status, "record": kept})
        return mine

    def _run(self, cell: Cell, part: Cell) -> Record:
        """Run a part of a cell in a separate process and return its record."""
        store, limits = self.work.store, self.work.running
        end = self._end(cell, part)
        if end.result is None:
            _let_the_job_end(end)
            if end.disk is not None:
                raise DiskError(store.folder, end.disk)
            return _failure(part, store.path("logs", cell.id), end, limits)
        try:
            record, environment = _checked(end.result, part)
        except ValueError as why:
            return Record(part, "crashed", error=f"its process sent an invalid record: {why}")
        if record.environment is not None:
            store.write_environment(environment)
        return record

    def _end(self, cell: Cell, part: Cell) -> End:
        """Run a part of a cell in a separate process, again where it ended because of a batch size that it tried."""
        limits, before = self.work.running, self.work.store.read(cell.id)
        # What is only measured was trained with the batch size that its record has.
        known = before.batch_size if before is not None and part.training is None and cell.training else None
        room = Room(known, limit_mib=limits.memory_limit, share=self.server.share.memory)
        while True:
            watched = _Watched(partial(self.work.listen, cell))
            end = self.server.run(
                {
                    "cell": part.to_request(),
                    "id": cell.id,
                    "timeout_s": limits.timeout,
                    "memory_limit_mib": limits.memory_limit,
                    "room": asdict(room),
                },
                watched,
            )
            if end.result is not None or end.ended_by not in ("memory", "system") or (watched.size or 1) == 1:
                return end
            room = replace(room, below=watched.size)


class _Watched:
    """Hands on the progress of a cell.

    Attributes:
        size: the batch size that it tries, if that is what it does.
    """

    def __init__(self, listen: Callable[[dict[str, Any]], None]) -> None:
        self.listen = listen
        self.size: int | None = None

    def __call__(self, event: dict[str, Any]) -> None:
        self.size = size_in(event["stage"])
        self.listen(event)


def _let_the_job_end(end: End) -> None:
    """Give Slurm time to end this process too, if that is what ended the cell's: then the job's state says why."""
    if this_job() and (end.signal is not None or end.ended_by == "server"):
        time.sleep(JOB_ENDS_S)


def keep(store: Store, cell: Cell, part: Cell, record: Record) -> Record:
    """Store the record of the part of a cell that was run, and return the record of the whole cell."""
    before = store.read(cell.id)
    if part.training is not None and record.weights is None:  # those of an earlier training are no longer this row's
        with contextlib.suppress(OSError):
            store.path("weights", cell.id).unlink()
    if before is not None and part.training is None and cell.training is not None:
        record = completed(before, record)
    elif before is not None and not (cell.measuring.measure and not part.measuring.measure):
        record = renewed(before, record)
    store.write(record)
    if record.environment is not None:  # the cell's process finished
        with contextlib.suppress(OSError):
            store.path("checkpoints", cell.id).unlink()
    written = store.read(cell.id)
    assert written is not None
    return written


def _under(conditions: str, part: Cell, record: Record) -> Record:
    """Add to a record under which conditions a part of its cell was run."""
    return replace(
        record,
        trained_under=None if part.training is None else conditions,
        measured_under=conditions if part.measuring.measure else None,
    )


def _broken(cell: Cell) -> Record | None:
    """Return the record of a cell whose plugin cannot be used; None if the plugin can."""
    return None if cell.broken is None else Record(cell, "crashed", error=cell.broken)


def _checked(result: Mapping[str, Any], cell: Cell) -> tuple[Record, Environment]:
    """Return the record of ``cell`` and its environment from what the cell's process sent; raises ValueError."""
    values, environment = result.get("record"), Environment.from_json(result.get("environment"))
    if not isinstance(values, dict):
        raise ValueError("it contains no record")
    own = {"cell": cell.to_json(), "id": cell.id, "environment": environment.id}
    return Record.from_json(values | own, cell), environment


def _failure(cell: Cell, log: Path, end: End, limits: Running) -> Record:
    match end.ended_by:
        case "timeout":
            silent = f"; the worker process did not answer ({end.reason})" if end.reason else ""
            return Record(cell, "timeout", error=f"ended after {limits.timeout:g} s (--timeout){silent}")
        case "memory":
            return Record(cell, "oom", error=f"took more than {limits.memory_limit:g} MiB (--memory-limit)")
        case "system":
            return Record(cell, "oom", error=out_of_memory_reason())
        case "server":
            return Record(cell, "crashed", error=f"the worker process: {end.reason}")
    last = ""
    with contextlib.suppress(OSError), log.open("rb") as file:
        last = last_words(file)
    how = how_ended(-end.signal) if end.signal is not None else f"exit code {end.code} without a result"
    if end.code == UNSENT:
        how = "its result could not be sent: the model closed the pipe"
    if end.broken:
        how += ", and it wrote to the harness's pipe"
    return Record(cell, "crashed", error=f"{how}{': ' if last else ''}{last}")
