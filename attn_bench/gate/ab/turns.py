"""Times two revisions of a model against each other: two short processes take turns every few milliseconds.

Whatever slows the machine down then slows both down equally. What remains are the differences between any two processes
of the same code, such as memory placement: on two shared cores 1 to 2 %, and 10 to 20 % for one process in twenty. So
one pair of processes proves nothing, and several are compared.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attn_bench.errors import UserError
from attn_bench.format import clean
from attn_bench.running.libraries import known
from attn_bench.running.messages import decode
from attn_bench.running.processes import end, how_ended, kill_tree, last_words, surroundings
from attn_bench.sweep.cell import Cell

WARM_S = 0.15
TURN_MS = 6.0
LEAD_S = 0.002
SECONDS = 1.0
FEWEST_ROUNDS = 6
# A model that takes longer to build or to run a step counts as hanging.
LONGEST_S = 600
# Bytes of an answer, and of one read.
LONGEST_LINE, CHUNK = 1 << 20, 1 << 16


@dataclass(frozen=True)
class Outcome:
    """The measurements of one pair of processes.

    Attributes:
        logs: per step, log of the time of new over that of base, one per turn in the order taken.
        medians_ms: per step, of base and of new.
        exact: parameters, FLOPs and peak memory in MiB by step, of base and of new; None if not requested.
        errors: why base or new could not be run.
    """

    logs: Mapping[str, Sequence[float]] = field(default_factory=dict)
    medians_ms: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    exact: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None
    errors: tuple[str | None, str | None] = (None, None)


class Side:
    """A process that serves the models of one revision.

    Args:
        name: of the revision, for errors.
        paths: the first entries of the import path.
        modules: needed by the models; those of known libraries are imported once.
    """

    def __init__(self, name: str, paths: Sequence[str] = (), modules: Sequence[str] = ()) -> None:
        self.name, self.running = name, False
        self.log, self.buffer = tempfile.TemporaryFile(), b""  # noqa: SIM115
        self.temporary = tempfile.mkdtemp(prefix="attn-bench-")
        variables = surroundings()
        inherited = filter(None, (variables.get("PYTHONPATH"),))
        own = {"PYTHONPATH": os.pathsep.join((*paths, *inherited)), "TMPDIR": self.temporary}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "attn_bench.gate.ab.worker", *known(modules)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            bufsize=0,
            env=variables | own,
            start_new_session=True,
        )

    def __enter__(self) -> Side:
        try:
            self._read()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        end(self.process)
        self.log.close()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def open(self, cell: Cell) -> list[str]:
        """Build the model of a cell in a separate process and return the names of its steps; raises ModelFailed."""
        return self.ask(open=cell.to_json())["steps"]

    def close(self) -> None:
        """End the process of the model, if one is running."""
        if self.running:
            self._send({"close": True})
            while "closed" not in self._read():
                pass
            self.running = False

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return the answer; raises ModelFailed."""
        self._send(request)
        answer = self._read()
        self.running = "closed" not in answer
        if not self.running:
            how = answer["closed"]
            raise ModelFailed(self, clean(how) if isinstance(how, str) else "its process ended")
        if "error" in answer:
            raise ModelFailed(self, answer["error"])
        return answer

    def time(self, **request: Any) -> float:
        """Ask for milliseconds; raises ModelFailed."""
        ms = self.ask(**request).get("ms")
        if not isinstance(ms, float | int) or not 0 < ms < math.inf:
            raise ModelFailed(self, "its step took no measurable time")
        return ms

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request).encode() + b"\n")

    def _read(self) -> dict[str, Any]:
        """Return the next answer; other lines, which a model may have written, are skipped."""
        deadline = time.monotonic() + LONGEST_S
        while (answer := decode(self._line(deadline))) is None:
            continue
        return answer

    def _line(self, deadline: float) -> bytes:
        assert self.process.stdout is not None
        while b"\n" not in self.buffer:
            if not select.select([self.process.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
                kill_tree(self.process)
                raise UserError(f"{self.name}: its worker process did not answer within {LONGEST_S} s")
            chunk = os.read(self.process.stdout.fileno(), CHUNK)
            self.buffer = self.buffer[-LONGEST_LINE:] + chunk
            if not chunk:
                end(self.process)
                how = how_ended(self.process.returncode)
                last = last_words(self.log)
                raise UserError(f"{self.name}: its worker process ended ({how}){f': {last}' if last else ''}")
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line


class ModelFailed(Exception):
    """A model could not be built or run; ``side`` says whose."""

    def __init__(self, side: Side, reason: str) -> None:
        super().__init__(reason)
        self.side = side


def alternate(
    base: Side, new: Side, cells: tuple[Cell, Cell], *, first: int = 0, seconds: float = SECONDS, exact: bool = False
) -> Outcome:
    """Let a model of base and one of new take turns at every step that both have.

    Args:
        cells: the cells of base and new.
        first: 0 if base has the first turn, 1 if new has.
        seconds: how long at each step; at least six rounds.
        exact: whether to measure parameters, FLOPs and memory, too.
    """
    sides = (base, new)
    logs: dict[str, list[float]] = {}
    medians: dict[str, tuple[float, float]] = {}
    measured: list[dict[str, Any]] = []
    errors: list[str | None] = [None, None]
    try:
        steps = []
        for i, (side, cell) in enumerate(zip(sides, cells)):
            try:
                steps.append(side.open(cell))
            except ModelFailed as failure:
                errors[i] = str(failure)
        if not any(errors):
            for step in (name for name in steps[0] if name in steps[1]):
                logs[step], medians[step] = _take_turns(sides, step, first, seconds)
            measured = [side.ask(exact=True) for side in sides] if exact else []
    except ModelFailed as failure:
        errors[sides.index(failure.side)] = str(failure)
    finally:
        for side in sides:
            side.close()
    return Outcome(logs, medians, (measured[0], measured[1]) if measured else None, (errors[0], errors[1]))


def _take_turns(
    sides: tuple[Side, Side], step: str, first: int, seconds: float
) -> tuple[list[float], tuple[float, float]]:
    """Return log ratios of new over base: each turn against the mean of the other's turns before and after it.

    So a linear drift over three turns cancels, and both are always timed in the same state, just after the other used
    the cores. Also returns the medians of base and new in milliseconds.
    """
    for side in sides:
        warm_ms = side.time(step=step, warm=WARM_S)
    calls = max(1, round(TURN_MS / max(warm_ms, 1e-3)))
    turns: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(turns) < 2 * FEWEST_ROUNDS:
        turns.append(math.log(sides[(first + len(turns)) % 2].time(step=step, calls=calls, lead=LEAD_S)))
    logs = [turns[i] - (turns[i - 1] + turns[i + 1]) / 2 for i in range(1, len(turns) - 1)]
    base, new = (math.exp(statistics.median(turns[(first + side) % 2 :: 2])) for side in (0, 1))
    # Turn i is new's where first + i is odd.
    return [log if (first + i) % 2 else -log for i, log in enumerate(logs, start=1)], (base, new)
