"""The client of the fork server: starts it, sends it cells, and checks whatever comes back.

A server takes seconds to start, so within :func:`warm` one that is no longer used serves the next that needs the same.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from attn_bench.format import clean
from attn_bench.running.libraries import known
from attn_bench.running.messages import CELL, DISK, EXIT, PROGRESS, READY, RESULT, Receiver, Sender, decode
from attn_bench.running.processes import end, how_ended, kill_tree, last_words, out_of_memory_kills, surroundings

SERVER = "attn_bench.running.server"
# Time to import torch on a busy machine with a slow disk.
START_S = 600.0
# Time the server gets beyond a cell's timeout, which it enforces itself unless it was stopped or hangs.
GRACE_S = 3.0
# Idle servers of warm(): each takes some 300 MiB.
IDLE_AT_MOST = 8
# How long a thread that is to stop may still wait for a cell.
STOP_S = 1.0
# Numbers in a progress message of training.
NUMBERS = ("fraction", "epoch", "loss", "seconds")
EndedBy = Literal["timeout", "memory", "system", "server", "result", "stopped"]


@dataclass(frozen=True)
class End:
    """How a cell's process ended.

    Attributes:
        result: what it sent, unchecked; None if nothing.
        disk: why the results folder could not be written.
        ended_by: who ended it; None if it ended by itself.
        code, signal: how its process ended.
        reason: how the server ended, if it did.
        broken: whether it wrote anything else to the pipe for its result.
    """

    result: dict[str, Any] | None = None
    disk: str | None = None
    ended_by: EndedBy | None = None
    code: int = 0
    signal: int | None = None
    reason: str = ""
    broken: bool = False


@dataclass(frozen=True)
class Share:
    """What of the machine the cells of a server may use.

    Attributes:
        cores: CPUs that they run on; all where empty.
        variables: environment variables, such as those that name GPUs.
        memory: share of the memory that is free.
    """

    cores: tuple[int, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    memory: float = 1.0

    def flags(self) -> list[str]:
        """Return the arguments that tell the server."""
        return [f"--cores={','.join(map(str, self.cores))}"] if self.cores else []


class ForkServer:
    """Starts the fork server when first needed, and again if it ends."""

    def __init__(
        self, folder: Path, modules: Sequence[str], share: Share = Share(), stop: threading.Event | None = None
    ) -> None:
        self.folder, self.libraries, self.share = folder.resolve(), known(modules), share
        # Interrupts the thread that waits for a cell; the main thread is interrupted by its signals.
        self.stop = stop or threading.Event()
        self._running: _Running | None = None

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._running is None:
            return
        if error is None and _idle is not None and self._running.process.poll() is None:
            _idle.append(self._running)
            while len(_idle) > IDLE_AT_MOST:
                _idle.pop(0).close()
        else:
            self._running.close()
        self._running = None

    def pid(self) -> int:
        """Return the process id of the server, started if it is not running; it may not be ready yet."""
        return self._started().process.pid

    def _started(self) -> _Running:
        if self._running is not None and self._running.process.poll() is not None:
            self._abandon("")
        if self._running is None:
            self._running = _started_before(self.libraries, self.share) or _Running(self.libraries, self.share)
            self._running.stop = self.stop
        return self._running

    def _abandon(self, reason: str) -> str:
        """End the server and return why, with its last words."""
        assert self._running is not None
        try:
            return self._running.abandon(reason)
        finally:
            self._running = None

    def run(self, request: dict[str, Any], listen: Listen) -> End:
        """Run one cell in a separate process; tell ``listen`` of its progress.

        Args:
            request: JSON: ``cell``, ``id`` that names its files, ``timeout_s``, ``memory_limit_mib`` and ``room``.
        """
        request = {**request, "folder": str(self.folder), "current": _current_folder()}
        killed_before = out_of_memory_kills()
        running = self._started()
        try:
            running.wait_until_ready()
            return running.run(request, request["timeout_s"], listen)
        except _Gone as gone:
            reason = self._abandon(gone.reason)
            if gone.ended_by == "server" and out_of_memory_kills() > killed_before:
                return End(gone.result, gone.disk, "system")
            return End(gone.result, gone.disk, gone.ended_by, reason=reason)


Listen = Callable[[dict[str, Any]], None]


class _Gone(Exception):
    """The server ended, or has to be ended."""

    def __init__(self, ended_by: EndedBy, reason: str = "", end: End = End()) -> None:
        self.ended_by, self.reason, self.result, self.disk = ended_by, reason, end.result, end.disk


class _Running:
    """A running fork server, and its folder for temporary files, which also holds what models leave behind."""

    def __init__(self, libraries: Sequence[str], share: Share) -> None:
        self.kind, self.stop = _kind(libraries, share), threading.Event()
        self.temporary = Path(tempfile.mkdtemp(prefix="attn-bench-"))
        self.log, self.ready = tempfile.TemporaryFile(), False  # noqa: SIM115
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                SERVER,
                *share.flags(),
                str(self.temporary),
                *libraries,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            bufsize=0,
            env=_variables(share),
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests = Sender(self.process.stdin.fileno())
        self.answers = Receiver(self.process.stdout.fileno(), READY + PROGRESS + RESULT + DISK + EXIT)

    def wait_until_ready(self) -> None:
        """Wait until the server accepts requests; raises _Gone."""
        deadline = time.monotonic() + START_S
        while not self.ready:
            self.ready = bool(self._receive(deadline, _Gone("server", f"not ready within {START_S:g} s")))

    def run(self, request: dict[str, Any], timeout_s: float | None, listen: Listen) -> End:
        """Send a cell and return how its process ended; raises _Gone."""
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s + GRACE_S
        self.requests.send(CELL, request)
        found: dict[str, Any] = {}
        while True:
            try:
                messages = self._receive(deadline, _Gone("timeout"))
            except _Gone as gone:
                raise _Gone(gone.ended_by, gone.reason, End(**found)) from None
            for kind, content in messages:
                values = decode(content)
                if kind == EXIT and values is not None:
                    return End(**found, **values)
                if kind == PROGRESS and values is not None and (event := _progress(values)) is not None:
                    listen(event)
                elif kind == RESULT:
                    found["result"] = values or {}
                elif kind == DISK and values is not None:
                    found["disk"] = clean(str(values.get("error")))

    def _receive(self, deadline: float, late: _Gone) -> list[tuple[bytes, bytes]]:
        while True:
            # Not zero: after Ctrl-Z and fg the deadline has passed, but the answer may have arrived.
            messages = self.answers.available(min(max(deadline - time.monotonic(), 0.1), STOP_S))
            if self.stop.is_set():
                raise KeyboardInterrupt
            if not messages and self.answers.ended:
                raise _Gone("server")
            if not messages and self.answers.broken:
                raise _Gone("server", "it sent something that is not a message")
            if not messages and time.monotonic() > deadline:
                raise late
            if messages:
                return messages

    def abandon(self, reason: str) -> str:
        """End the server and everything it started; return how it ended, with its last words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.5 if self.answers.ended else 0)
        reason = reason or (how_ended(self.process.returncode) if self.process.poll() is not None else "no answer")
        kill_tree(self.process)
        last = last_words(self.log)
        self.close()
        return f"{reason}: {last}" if last else reason

    def close(self) -> None:
        """Tell the server to end and make sure that it does; remove what it left behind."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        end(self.process)
        self.log.close()
        shutil.rmtree(self.temporary, ignore_errors=True)


# Servers that are not in use, the one used last at the end; None outside of warm().
_idle: list[_Running] | None = None


@contextlib.contextmanager
def warm() -> Iterator[None]:
    """Keep servers that are no longer used for others that need the same, until the outermost such block ends."""
    global _idle
    if _idle is not None:
        yield
        return
    _idle = []
    try:
        yield
    finally:
        idle, _idle = _idle, None
        for running in idle:
            running.close()


def _started_before(libraries: Sequence[str], share: Share) -> _Running | None:
    """Take a server of a kind that is not in use."""
    idle = [] if _idle is None else _idle
    for running in reversed(idle):
        if running.kind == _kind(libraries, share):
            with contextlib.suppress(ValueError):  # another thread has just taken it
                idle.remove(running)
                if running.process.poll() is None:
                    return running
                running.close()
    return None


def _kind(libraries: Sequence[str], share: Share) -> tuple[object, ...]:
    """Return all that two servers started alike have in common."""
    return sys.executable, SERVER, *libraries, *share.flags(), tuple(sorted(_variables(share).items()))


def _current_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _variables(share: Share) -> dict[str, str]:
    return surroundings() | dict(share.variables)


def _progress(values: dict[str, Any]) -> dict[str, Any] | None:
    """Return the event for listeners, or None if the message is not one."""
    stage = values.get("stage")
    try:
        numbers: dict[str, Any] = {name: float(values[name]) for name in NUMBERS if name in values}
    except (TypeError, ValueError, OverflowError):
        return None
    if not isinstance(stage, str) or (stage == "training" and len(numbers) < len(NUMBERS)):
        return None
    if not 0 <= numbers.get("fraction", 0) <= 1:
        return None
    return {"event": "progress", "stage": clean(stage, 40)} | numbers
