"""Runs cells on this machine, one process and one cell at a time, so that nothing disturbs the measurements."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from attn_bench.errors import DiskError, UserError
from attn_bench.lease import hold
from attn_bench.plugins.fingerprint import digest
from attn_bench.results.environment import Environment
from attn_bench.results.merge import completed, renewed
from attn_bench.results.record import Record
from attn_bench.results.store import Store
from attn_bench.running.client import End, ForkServer
from attn_bench.running.messages import UNSENT
from attn_bench.running.processes import how_ended, last_words
from attn_bench.sweep import versions
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.groups import Retry

Listener = Callable[[Cell, dict[str, Any]], None]

# Statuses that running a cell again would not change.
FINAL = ("ok", "unsupported")
# After these, larger resolutions of the same model need not be tried.
_FRONTIER = {"oom": "out of memory", "timeout": "out of time"}


@dataclass(frozen=True)
class Limits:
    """Limits of a cell: seconds of wall-clock time and MiB of resident memory; None means no limit.

    Raises:
        UserError: a limit that is not positive.
    """

    timeout_s: float | None = None
    memory_limit_mib: float | None = None

    def __post_init__(self) -> None:
        for name, limit in (("--timeout", self.timeout_s), ("--memory-limit", self.memory_limit_mib)):
            if limit is not None and not limit > 0:
                raise UserError(f"{name} {limit:g}: must be > 0; omit it for no limit")


def execute(
    cells: Sequence[Cell],
    store: Store,
    *,
    limits: Limits = Limits(),
    retry: Retry = "none",
    skip_larger: bool = True,
    modules: Sequence[str] = (),
    listen: Listener = lambda cell, event: None,
) -> None:
    """Run every cell that has no record yet; at the end every cell has one.

    Another runner may use the same folder: a cell that it holds is left to it, and waited for at the end.

    Args:
        retry: ``failed`` reruns cells whose status is not in ``FINAL``; ``disturbed`` measures cells again whose
            latencies were disturbed by other processes or heat, without training them; ``all`` reruns every cell.
        skip_larger: after an out-of-memory or a timeout, larger resolutions of the same model are ``skipped``.
        modules: needed by the models; the fork server imports those of known libraries once.
        listen: called with events: ``start``, ``progress``, ``done`` with the record's status.

    Raises:
        DiskError: the folder can no longer be written.
    """
    waiting = [cell for cell in cells if due(store, cell, retry) is not None]
    with ForkServer(store.folder, modules) as server:
        for patient in (False, True):
            held = []
            for cell in waiting:
                # A server that briefly outlives its runner still has to end the cell's process.
                with hold(store.folder / "leases" / cell.id, wait=patient, processes=(server.pid(),)) as mine:
                    if not mine:
                        held.append(cell)
                    elif (part := due(store, cell, "none" if patient else retry)) is not None:
                        listen(cell, {"event": "start"})
                        record = _broken(part) or (_skip(store, cell, part) if skip_larger else None)
                        record = record or _run(server, cell, part, store, limits, listen)
                        kept = _keep(store, cell, part, record)
                        listen(cell, {"event": "done", "status": kept.status, "record": kept})
            waiting = held


def due(store: Store, cell: Cell, retry: Retry) -> Cell | None:
    """Return the part of a cell to run, or None.

    That is the whole cell if it has no record yet, or one that ``retry`` reruns; and a cell without training if only
    measurements are missing or ``retry`` asks for those.
    """
    record = store.read(cell.id)
    if record is None or retry == "all" or cell.broken is not None or _outdated(record, cell):
        return cell
    measuring = cell.only_measured() if cell.measuring.measure else None
    if record.status == "ok":
        measured = record.cell.measuring.measure and record.measured_version in (None, versions.MEASURING)
        return None if measured and not (retry == "disturbed" and record.disturbed) else measuring
    if retry != "failed" or record.status in FINAL:
        return None
    evaluated = {each.resolution: each.status for each in record.evaluations}
    done = evaluated.get(cell.resolution) == "ok" and evaluated.keys() >= set(cell.eval_resolutions)
    return measuring if measuring is not None and done else cell


def _outdated(record: Record, cell: Cell) -> bool:
    """Tell whether a record comes from other code than its cell's id says, which only running it revealed."""
    return any(digest(module, cell.sources.values()) != known for module, known in record.imported.items())


def _broken(cell: Cell) -> Record | None:
    """Return the record of a cell whose plugin cannot be used; None if the plugin can."""
    return None if cell.broken is None else Record(cell, "crashed", error=cell.broken)


def _skip(store: Store, cell: Cell, part: Cell) -> Record | None:
    """Return a ``skipped`` record if a smaller resolution of the same model ran out of memory or time."""
    for record in store.each():
        other = record.cell
        if record.status in _FRONTIER and other.resolution < cell.resolution:
            same = replace(other, resolution=cell.resolution, seed=cell.seed, eval_resolutions=cell.eval_resolutions)
            if cell.tuning is not None:  # what was chosen may differ between resolutions
                same = replace(same, training=cell.training)
            if same == cell:
                reason = f"{_FRONTIER[record.status]} at {other.resolution} already (--no-skip runs it)"
                return Record(part, "skipped", error=reason)
    return None


def _keep(store: Store, cell: Cell, part: Cell, record: Record) -> Record:
    """Store the record of the part of a cell that was run, and return the record of the whole cell."""
    before = store.read(cell.id)
    store.write(record if before is None else completed(before, record) if part != cell else renewed(before, record))
    if part == cell and record.weights is None:  # those of an earlier training are no longer this row's
        with contextlib.suppress(OSError):
            store.path("weights", cell.id).unlink()
    if record.environment is not None:  # the cell's process finished
        with contextlib.suppress(OSError):
            store.path("checkpoints", cell.id).unlink()
    written = store.read(cell.id)
    assert written is not None
    return written


def _run(server: ForkServer, cell: Cell, part: Cell, store: Store, limits: Limits, listen: Listener) -> Record:
    """Run the due part of a cell in a separate process and return its record."""
    end = server.run(
        {
            "cell": part.to_request(),
            "id": cell.id,
            "timeout_s": limits.timeout_s,
            "memory_limit_mib": limits.memory_limit_mib,
        },
        partial(listen, cell),
    )
    if end.result is None:
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


def _checked(result: Mapping[str, Any], cell: Cell) -> tuple[Record, Environment]:
    """Return the record of ``cell`` and its environment from what the cell's process sent; raises ValueError."""
    values, environment = result.get("record"), Environment.from_json(result.get("environment"))
    if not isinstance(values, dict):
        raise ValueError("it contains no record")
    own = {"cell": cell.to_json(), "id": cell.id, "environment": environment.id}
    return Record.from_json(values | own, cell), environment


def _failure(cell: Cell, log: Path, end: End, limits: Limits) -> Record:
    match end.ended_by:
        case "timeout":
            silent = f"; the worker process did not answer ({end.reason})" if end.reason else ""
            return Record(cell, "timeout", error=f"ended after {limits.timeout_s:g} s (--timeout){silent}")
        case "memory":
            return Record(cell, "oom", error=f"took more than {limits.memory_limit_mib:g} MiB (--memory-limit)")
        case "system":
            return Record(cell, "oom", error="killed by the operating system, which ran out of memory")
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
