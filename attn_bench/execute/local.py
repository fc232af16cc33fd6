"""Runs cells on this machine, one process and one cell at a time, so that nothing disturbs what is measured."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from attn_bench.errors import DiskError, UserError
from attn_bench.execute.locks import hold, process_lock, runner_lock
from attn_bench.execute.processes import end
from attn_bench.results import Record, Store
from attn_bench.sweep import Cell

Listener = Callable[[Cell, dict[str, Any]], None]

# glibc trims and remaps the heap in every large training step; with higher thresholds it keeps the memory.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
# Looking for a GPU must not start CUDA in the server, whose children could not use it then.
FORKABLE = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}

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
        modules: imported once by the fork server.
        listen: told what happens: ``start``, ``progress``, ``done`` with the record's status.

    Raises:
        DiskError: the folder cannot be written any more.
    """
    waiting = [cell for cell in cells if is_due(store, cell, retry)]
    with _Server(store.folder, modules) as server:
        for patient in (False, True):
            held = []
            for cell in waiting:
                with _claim(store, cell, patient) as mine:
                    if not mine:
                        held.append(cell)
                    elif is_due(store, cell, "none" if patient else retry):
                        listen(cell, {"event": "start"})
                        record = _broken(store, cell) or (_skip(store, cell) if skip_larger else None)
                        record = record or server.run(cell, store, limits, listen)
                        listen(cell, {"event": "done", "status": record["status"], "record": record})
            waiting = held


def is_due(store: Store, cell: Cell, retry: str) -> bool:
    """Tell whether a cell is to be run: it has no record yet, or one that ``retry`` runs again."""
    record = store.read(cell.id)
    if record is None or retry == "all" or cell.broken is not None:
        return True
    return retry == "failed" and record["status"] not in FINAL


@contextlib.contextmanager
def _claim(store: Store, cell: Cell, patient: bool) -> Iterator[bool]:
    """Hold a cell against other runners, and wait until the process of one that died has ended too."""
    with hold(runner_lock(store.folder, cell.id), wait=patient) as mine:
        if mine is not None:
            with hold(process_lock(store.folder, cell.id), wait=True):
                pass
        yield mine is not None


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


class _Server:
    """The fork server's other end; starts it when first needed, and again should it die."""

    def __init__(self, folder: Path, modules: Sequence[str]) -> None:
        self.command = [sys.executable, "-m", "attn_bench.execute.server", str(folder.resolve()), *modules]
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is None:
            return
        assert self.process.stdin is not None
        self.process.stdin.close()
        end(self.process)

    def _start(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**ALLOCATOR, **FORKABLE, **os.environ},
                start_new_session=True,
            )
        return self.process

    def run(self, cell: Cell, store: Store, limits: Limits, listen: Listener) -> dict[str, Any]:
        """Run one cell in a process of its own and return its record."""
        process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        before, disk = store.read(cell.id), None
        request = {"cell": cell.to_json(), "timeout_s": limits.timeout_s, "memory_limit_mib": limits.memory_limit_mib}
        end: dict[str, Any] = {"code": 1, "signal": None, "ended_by": "server"}
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "exit":
                    end = event
                    break
                if event["event"] == "disk":
                    disk = event["error"]
                else:
                    listen(cell, event)
        record = store.read(cell.id)
        if record is None or record == before:
            if disk is not None:
                raise DiskError(store.folder, disk)
            store.write(_failure(cell, store, end, limits))
            record = store.read(cell.id)
        assert record is not None
        return record


def _failure(cell: Cell, store: Store, end: dict[str, Any], limits: Limits) -> Record:
    match end["ended_by"]:
        case "timeout":
            return Record.of(cell, "timeout", error=f"ended after {limits.timeout_s:g} s (--timeout)")
        case "memory":
            return Record.of(cell, "oom", error=f"took more than {limits.memory_limit_mib:g} MiB (--memory-limit)")
        case "system":
            return Record.of(cell, "oom", error="ended by the system, which ran out of memory")
        case "server":
            return Record.of(cell, "crashed", error="the process that runs cells died; was the machine out of memory?")
    last = _last_lines(store.path("logs", cell.id))
    if end["signal"] is not None:
        with contextlib.suppress(ValueError):
            end["signal"] = signal.Signals(end["signal"]).name
        how = f"ended by {end['signal']}"
    else:
        how = f"exit code {end['code']} without a result"
    return Record.of(cell, "crashed", error=f"{how}{': ' if last else ''}{last}")


def _last_lines(log: Path, characters: int = 300) -> str:
    with contextlib.suppress(OSError):
        return " ".join(log.read_text(errors="replace")[-4 * characters :].split())[-characters:]
    return ""
