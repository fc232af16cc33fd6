"""Runs cells on this machine, one process and one cell at a time, so that nothing disturbs what is measured."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from attn_bench import versions
from attn_bench.errors import DiskError, UserError
from attn_bench.execute.client import End, ForkServer
from attn_bench.execute.processes import how_ended, last_words
from attn_bench.files import write_json
from attn_bench.fingerprint import digest
from attn_bench.lease import hold
from attn_bench.measure.environment import environment_id
from attn_bench.record import Record, checked_environment
from attn_bench.results import Store
from attn_bench.sweep import Cell

Listener = Callable[[Cell, dict[str, Any]], None]

# What running a cell again would not change.
FINAL = ("ok", "unsupported")
# Beyond these, larger resolutions of the same model need not be tried.
_FRONTIER = {"oom": "out of memory", "timeout": "out of time"}


@dataclass(frozen=True)
class Limits:
    """What a cell may take: seconds of wall-clock time and MiB of resident memory; None is no limit.

    Raises:
        UserError: a limit under which no cell can run.
    """

    timeout_s: float | None = None
    memory_limit_mib: float | None = None

    def __post_init__(self) -> None:
        for name, limit in (("--timeout", self.timeout_s), ("--memory-limit", self.memory_limit_mib)):
            if limit is not None and not limit > 0:
                raise UserError(f"{name} {limit:g}: must be positive; leave it out for no limit")


def execute(
    cells: Sequence[Cell],
    store: Store,
    *,
    limits: Limits = Limits(),
    retry: Literal["none", "failed", "all"] = "none",
    skip_larger: bool = True,
    modules: Sequence[str] = (),
    listen: Listener = lambda cell, event: None,
) -> None:
    """Run every cell that has no record yet, and see to it that every cell has one at the end.

    Another runner may work on the same folder: a cell that it holds is left to it, and waited for at the end.

    Args:
        retry: ``failed`` runs cells again whose status is none of ``FINAL``; ``all`` runs all again.
        skip_larger: after an out-of-memory or a timeout, larger resolutions of the same model are ``skipped``.
        modules: those of known libraries are imported once, by the fork server.
        listen: told what happens: ``start``, ``progress``, ``done`` with the record's status.

    Raises:
        DiskError: the folder cannot be written any more.
    """
    waiting = [cell for cell in cells if is_due(store, cell, retry)]
    with ForkServer(store.folder, modules) as server:
        for patient in (False, True):
            held = []
            for cell in waiting:
                # A server that outlives its runner for a moment still has the cell's process to end.
                with hold(store.folder / "leases" / cell.id, wait=patient, processes=(server.pid(),)) as mine:
                    if not mine:
                        held.append(cell)
                    elif is_due(store, cell, "none" if patient else retry):
                        listen(cell, {"event": "start"})
                        record = _broken(store, cell) or (_skip(store, cell) if skip_larger else None)
                        record = record or _run(server, cell, store, limits, listen)
                        listen(cell, {"event": "done", "status": record["status"], "record": record})
            waiting = held


def is_due(store: Store, cell: Cell, retry: str) -> bool:
    """Tell whether a cell is to be run: it has no record yet, or one that ``retry`` runs again."""
    record = store.read(cell.id)
    if record is None or retry == "all" or cell.broken is not None or _outdated(record, cell):
        return True
    return retry == "failed" and record["status"] not in FINAL


def _outdated(record: Mapping[str, Any], cell: Cell) -> bool:
    """Tell whether a record is of other code than its cell's id says: what measures, or what only ran showed."""
    measured_version = record.get("measured_version")
    return (cell.measure and measured_version not in (None, versions.MEASURING)) or any(
        digest(module, cell.sources.values()) != known for module, known in record.get("imported", {}).items()
    )


def _broken(store: Store, cell: Cell) -> dict[str, Any] | None:
    """Write and return the record of a cell whose plugin cannot be used; None if it can."""
    if cell.broken is None:
        return None
    store.write(Record.of(cell, "crashed", error=cell.broken))
    return store.read(cell.id)


def _skip(store: Store, cell: Cell) -> dict[str, Any] | None:
    """Write and return a ``skipped`` record if a smaller resolution of the same model ran out of memory or time."""
    for record in store.records():
        other = record["cell"]
        if record["status"] in _FRONTIER and other["resolution"] < cell.resolution:
            same = {
                **other,
                "resolution": cell.resolution,
                "seed": cell.seed,
                "eval_resolutions": list(cell.eval_resolutions),
            }
            if same == cell.to_json():
                reason = f"{_FRONTIER[record['status']]} at {other['resolution']} already (--no-skip runs it)"
                store.write(Record.of(cell, "skipped", error=reason))
                return store.read(cell.id)
    return None


def _run(server: ForkServer, cell: Cell, store: Store, limits: Limits, listen: Listener) -> dict[str, Any]:
    """Run a cell in a process of its own, keep the record of what came of it, and return that."""
    end = server.run(cell.to_request(), limits.timeout_s, limits.memory_limit_mib, partial(listen, cell))
    if end.result is None:
        if end.disk is not None:
            raise DiskError(store.folder, end.disk)
        store.write(_failure(cell, store, end, limits))
    else:
        try:
            record, environment = _checked(end.result, cell)
        except ValueError as why:
            store.write(Record.of(cell, "crashed", error=f"its process handed over a broken record: {why}"))
        else:
            if record.environment is not None:
                write_json(store.path("environments", record.environment), environment)
            store.write(record)
        store.path("checkpoints", cell.id).unlink(missing_ok=True)
    written = store.read(cell.id)
    assert written is not None
    return written


def _checked(result: Mapping[str, Any], cell: Cell) -> tuple[Record, Mapping[str, Any]]:
    """Return the record of ``cell`` and its environment from what the cell's process sent; raises ValueError."""
    values, environment = result.get("record"), checked_environment(result.get("environment"))
    if not isinstance(values, dict):
        raise ValueError("it has no record")
    own = {"cell": cell.to_json(), "id": cell.id, "environment": environment_id(environment)}
    return Record.checked(values | own, cell), environment


def _failure(cell: Cell, store: Store, end: End, limits: Limits) -> Record:
    match end.ended_by:
        case "timeout":
            silent = f"; the process that runs cells did not answer ({end.reason})" if end.reason else ""
            return Record.of(cell, "timeout", error=f"ended after {limits.timeout_s:g} s (--timeout){silent}")
        case "memory":
            return Record.of(cell, "oom", error=f"took more than {limits.memory_limit_mib:g} MiB (--memory-limit)")
        case "system":
            return Record.of(cell, "oom", error="ended by the system, which ran out of memory")
        case "server":
            return Record.of(cell, "crashed", error=f"the process that runs cells ended: {end.reason}")
    last = ""
    with contextlib.suppress(OSError), store.path("logs", cell.id).open("rb") as log:
        last = last_words(log)
    how = how_ended(-end.signal) if end.signal is not None else f"exit code {end.code} without a result"
    if end.broken:
        how += ", and it wrote to a pipe that is not its own"
    return Record.of(cell, "crashed", error=f"{how}{': ' if last else ''}{last}")
