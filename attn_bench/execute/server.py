"""The fork server: a process with torch imported that forks one child per cell, so that a cell costs no start-up.

``python -m attn_bench.execute.server FOLDER [MODULE ...]`` imports the modules, then reads one JSON request a line
from standard input (``{"cell": ..., "timeout_s": ..., "memory_limit_mib": ...}``) and writes JSON events to standard
output: ``ready``, the child's own events (``progress``; ``disk`` where the folder cannot be written), and ``exit`` with
how the child ended. It never starts a thread or touches a GPU itself, both of which would not survive a fork. When
standard input closes it ends, and its child with it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from attn_bench.execute.processes import (
    adopt_orphans,
    be_killed_first,
    die_with_parent,
    kill_group,
    kill_orphans,
    out_of_memory_kills,
    takes_more,
)

# What torch imports late: for an optimiser, which takes a second.
PRELOADED = ("torch._dynamo",)
POLL_S = 0.05
LOG_LIMIT_BYTES, LOG_KEPT_BYTES = 16 << 20, 64 << 10


def main(folder: Path, modules: list[str]) -> None:
    """Serve requests until standard input closes."""
    # Events go to a copy of standard output; whatever else prints goes to standard error.
    events = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    adopt_orphans()
    import attn_bench.cell  # noqa: F401

    for module in (*PRELOADED, *modules):
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    gc.freeze()
    _send(events, {"event": "ready"})
    requests = _Lines(0)
    while (line := requests.wait()) is not None:
        _serve(json.loads(line), folder, events, requests)


def _serve(request: dict[str, Any], folder: Path, events: BinaryIO, requests: _Lines) -> None:
    from attn_bench.execute.locks import hold, process_lock
    from attn_bench.results import Store
    from attn_bench.sweep import Cell

    cell, store = Cell.from_json(request["cell"]), Store(folder)
    log = store.path("logs", cell.id)
    with hold(process_lock(folder, cell.id), wait=True) as held:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            events.close()
            if held is not None:
                held.close()  # what a cell leaves behind must not keep the lock
            _run_child(cell, store, log, write)
        os.close(write)
        try:
            end = _watch(child, read, request, log, events, requests)
        finally:
            os.close(read)
    _send(events, {"event": "exit", "cell": cell.id, **end})


def _run_child(cell: Any, store: Any, log: Path, events: int) -> NoReturn:
    from attn_bench.cell import run_cell
    from attn_bench.errors import DiskError

    code = 1
    try:
        os.setsid()
        die_with_parent()
        be_killed_first()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        pipe = os.fdopen(events, "wb", buffering=0)
        try:
            _redirect(log)
            run_cell(cell, store, report=lambda event: _send(pipe, {"event": "progress", **event}))
            code = 0
        except DiskError as error:
            _send(pipe, {"event": "disk", "error": error.reason})
    except BaseException:
        import traceback

        with contextlib.suppress(Exception):
            traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _redirect(log: Path) -> None:
    """Send output to ``log``, and read nothing."""
    from attn_bench.files import disk_errors

    with disk_errors(log):
        log.parent.mkdir(exist_ok=True)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)


def _watch(
    child: int, read: int, request: dict[str, Any], log: Path, events: BinaryIO, requests: _Lines
) -> dict[str, Any]:
    """Forward the child's events until it ends or has to be ended; return how it ended."""
    began, ended_by, progress = time.monotonic(), None, _Lines(read)
    timeout, memory_limit = request.get("timeout_s"), request.get("memory_limit_mib")
    killed_before = out_of_memory_kills()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        for line in progress.available(0 if done else POLL_S):
            with contextlib.suppress(ValueError):
                _send(events, json.loads(line))
        if done:
            break
        if ended_by is None:
            if requests.closed():
                ended_by = "stopped"
            elif timeout is not None and time.monotonic() - began > timeout:
                ended_by = "timeout"
            elif memory_limit is not None and takes_more(child, memory_limit * 2**20):
                ended_by = "memory"
            if ended_by is not None:
                kill_group(child)
        _shorten(log)
    kill_group(child)
    kill_orphans()
    _shorten(log)
    code = os.waitstatus_to_exitcode(status)
    if ended_by is None and code == -signal.SIGKILL and out_of_memory_kills() > killed_before:
        ended_by = "system"
    return {"code": max(code, 0), "signal": -code if code < 0 else None, "ended_by": ended_by}


def _shorten(log: Path) -> None:
    """Leave only the end of a log that has grown beyond the limit."""
    with contextlib.suppress(OSError):
        if (size := log.stat().st_size) > LOG_LIMIT_BYTES:
            with log.open("rb+") as file:
                file.seek(size - LOG_KEPT_BYTES)
                end = file.read(LOG_KEPT_BYTES)
                file.truncate(0)
                file.seek(0)
                file.write(end)


class _Lines:
    """Lines from a file descriptor, without blocking."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.buffer, self.ended = descriptor, b"", False

    def available(self, timeout_s: float) -> list[bytes]:
        """Return the complete lines there are, waiting up to ``timeout_s`` for the first."""
        if not self.ended and select.select([self.descriptor], [], [], timeout_s)[0]:
            chunk = os.read(self.descriptor, 1 << 16)
            self.ended = not chunk
            self.buffer += chunk
        elif self.ended:
            time.sleep(timeout_s)
        *lines, self.buffer = self.buffer.split(b"\n")
        return lines

    def wait(self) -> bytes | None:
        """Return the next line, or None at the end."""
        while not self.ended:
            if lines := self.available(3600):
                return lines[0]
        return None

    def closed(self) -> bool:
        """Tell whether the other end has closed."""
        if not self.ended and select.select([self.descriptor], [], [], 0)[0]:
            self.available(0)
        return self.ended


def _send(pipe: BinaryIO, event: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        pipe.write(json.dumps(event).encode() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
    os._exit(0)  # without the tear-down of libraries that were only imported
