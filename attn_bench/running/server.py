"""The fork server: a process with torch imported that forks one child per cell, so that a cell costs little start-up.

``python -P -m attn_bench.running.server [--cores=0,1] TEMPORARY [LIBRARY ...]`` keeps to these CPUs, imports the
libraries, then reads requests from standard input (``CELL``: the cell, the results ``folder``, the ``current`` folder,
``id`` that names the log, ``timeout_s``, ``memory_limit_mib``, and the ``room`` for its batches) and writes messages to
standard output (:mod:`attn_bench.running.messages`): ``READY``, what its child sends (``PROGRESS``; ``RESULT`` once,
``DISK`` if the folder cannot be written), and ``EXIT`` with how the child ended. When standard input closes, the server
and its child end.

A child runs as if nothing had run before it. So the server imports no plugin, has one thread and uses no GPU: threads
and CUDA would not survive a fork, and side effects of an import would reach every model.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NoReturn

from attn_bench.running.libraries import preload, threads
from attn_bench.running.messages import CELL, DISK, EXIT, PROGRESS, READY, RESULT, UNSENT, Receiver, Sender, decode
from attn_bench.running.processes import (
    adopt_orphans,
    be_killed_first,
    die_with_parent,
    kill,
    kill_group,
    kill_orphans,
    out_of_memory_kills,
    takes_more,
)

POLL_S = 0.05
# Time that a cell may still take after it has sent its result.
LINGER_S = 2.0
LOG_LIMIT_BYTES, LOG_KEPT_BYTES = 16 << 20, 64 << 10


def main(temporary: Path, libraries: list[str]) -> None:
    """Serve requests until standard input closes."""
    # Messages go to a copy of standard output; everything else that is printed goes to standard error.
    output = os.dup(1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Slurm warns every process of a job before its time limit; what the job does then is its first process's to decide.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    adopt_orphans()
    _use_temporary(temporary)
    import attn_bench.running.run_cell  # noqa: F401

    preload(libraries)
    if libraries and threads() > 1:
        # An unknown release starts a thread; then each cell imports the library itself.
        os.dup2(output, 1)
        os.execv(sys.executable, sys.orig_argv[: -len(libraries)])
    gc.freeze()
    answers, requests = Sender(output), Receiver(0, CELL)
    answers.send(READY, {})
    while not requests.ended:
        for _, content in requests.available(3600):
            request = decode(content)
            assert request is not None
            _serve(request, temporary, output, answers, requests)
    shutil.rmtree(temporary, ignore_errors=True)


def _serve(request: dict[str, Any], temporary: Path, output: int, answers: Sender, requests: Receiver) -> None:
    from attn_bench.results.store import Store
    from attn_bench.running.room import Room
    from attn_bench.running.run_cell import Files
    from attn_bench.sweep.cell import Cell

    cell, store = Cell.from_json(request["cell"]), Store(Path(request["folder"]))
    log, files = store.path("logs", request["id"]), Files.of(cell, store)
    own = Path(tempfile.mkdtemp(dir=temporary))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.close(output)
        _run_child(cell, files, Room(**request["room"]), log, own, request["current"], write)
    os.close(write)
    try:
        end = _watch(child, read, request, log, answers, requests)
    finally:
        os.close(read)
    shutil.rmtree(own, ignore_errors=True)
    answers.send(EXIT, end)


def _run_child(
    cell: Any, files: Any, room: Any, log: Path, temporary: Path, current: str | None, write: int
) -> NoReturn:
    from attn_bench.errors import DiskError
    from attn_bench.running.run_cell import run_cell

    code, exit_now = 1, os._exit  # before a plugin can replace it; coverage has replaced it just now, after the fork
    try:
        os.setsid()
        die_with_parent()
        be_killed_first()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _use_temporary(temporary)
        if current is not None:
            with contextlib.suppress(OSError):
                os.chdir(current)
        parent = Sender(write)

        def report(event: dict[str, Any]) -> None:
            parent.send(PROGRESS, event)

        try:
            _redirect(log)
            _silence_what_is_known()
            record, environment = run_cell(cell, files, report, room)
            sent = parent.send(RESULT, {"record": record.to_json(), "environment": environment.to_json()})
            code = 0 if sent else UNSENT
        except DiskError as error:
            parent.send(DISK, {"error": error.reason})
    except BaseException:
        import traceback

        with contextlib.suppress(BaseException):
            traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            exit_now(code)


def _use_temporary(folder: Path) -> None:
    """Have this process and its children keep temporary files in ``folder``."""
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)


def _redirect(log: Path) -> None:
    """Send output to ``log``, and leave standard input empty."""
    from attn_bench.files import disk_errors

    with disk_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    for source in (null, output):
        os.close(source)


def _silence_what_is_known() -> None:
    """Keep out of the log that torch.compile uses no caches, as it was told, and that there is no GPU."""
    warnings.filterwarnings("ignore", "dynamo_pgo force disabled")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def _watch(
    child: int, read: int, request: dict[str, Any], log: Path, answers: Sender, requests: Receiver
) -> dict[str, Any]:
    """Forward what the child sends until it ends or has to be ended; return how it ended."""
    began, ended_by, pipe = time.monotonic(), None, _Pipe(read, answers)
    timeout, memory_limit = request.get("timeout_s"), request.get("memory_limit_mib")
    killed_before = out_of_memory_kills()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        pipe.hand_on(POLL_S)
        if ended_by is not None:
            kill(child)  # again: the first time may have been before it had its own group
        elif requests.closed():
            ended_by = "stopped"
        elif pipe.result_at is not None and time.monotonic() - pipe.result_at > LINGER_S:
            ended_by = "result"
        elif timeout is not None and time.monotonic() - began > timeout:
            ended_by = "timeout"
        elif memory_limit is not None and takes_more(child, memory_limit * 2**20):
            ended_by = "memory"
        _shorten(log)
    kill_group(child)
    kill_orphans()
    pipe.hand_on_the_rest()
    _shorten(log)
    code = os.waitstatus_to_exitcode(status)
    if ended_by is None and code == -signal.SIGKILL and out_of_memory_kills() > killed_before:
        ended_by = "system"
    return {"code": max(code, 0), "signal": -code if code < 0 else None, "ended_by": ended_by, "broken": pipe.broken}


class _Pipe(Receiver):
    """Forwards what a child sends: its result once, and the latest of the progress messages that arrive together.

    Attributes:
        result_at: when its result arrived.
    """

    def __init__(self, descriptor: int, answers: Sender) -> None:
        super().__init__(descriptor, PROGRESS + RESULT + DISK)
        self.answers = answers
        self.result_at: float | None = None

    def hand_on(self, timeout_s: float) -> None:
        """Forward what has arrived, waiting up to ``timeout_s`` for something."""
        latest = None
        for kind, content in self.available(timeout_s):
            if kind == PROGRESS:
                latest = content
            elif self.result_at is None:
                self.answers.forward(kind, content)
                self.result_at = time.monotonic()
        if latest is not None and self.result_at is None:
            self.answers.forward(PROGRESS, latest)

    def hand_on_the_rest(self, within_s: float = 5.0) -> None:
        """Forward what ended processes left in the pipe."""
        end = time.monotonic() + within_s
        while self.ready() and time.monotonic() < end:
            self.hand_on(0)


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


def _keep_to_cores(arguments: list[str]) -> list[str]:
    """Have this process and its children run on the CPUs that a first argument names; return the other arguments."""
    if not arguments[0].startswith("--cores="):
        return arguments
    os.sched_setaffinity(0, map(int, arguments[0].partition("=")[2].split(",")))
    return arguments[1:]


if __name__ == "__main__":
    _temporary, *_libraries = _keep_to_cores(sys.argv[1:])
    main(Path(_temporary), _libraries)
    os._exit(0)  # skips the tear-down of libraries that were only imported
