"""Serves steps of one revision's models to :mod:`attn_bench.gate.ab.turns`, a short process per model.

``python -m attn_bench.gate.ab.worker`` reads one JSON request per line from standard input and answers each with one
line on standard output. ``open`` forks a process that builds a model and answers all requests until ``close``:
``warm`` and ``run`` time a step, ``exact`` returns parameters, FLOPs and memory.
"""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable
from json import loads
from os import _exit as exit_now
from os import read, write
from select import POLLIN, poll
from signal import SIGKILL
from typing import Any

from attn_bench.running.device.device import Device
from attn_bench.running.libraries import preload
from attn_bench.running.messages import chunks
from attn_bench.running.processes import adopt_orphans, die_with_parent, how_ended, kill_orphans

Reply = Callable[[dict[str, Any]], None]


def main(modules: list[str]) -> None:
    """Serve requests until standard input closes."""
    answers = os.dup(1)
    os.dup2(2, 1)
    adopt_orphans()

    def reply(values: dict[str, Any]) -> None:
        # On its own line, whatever the model has written there.
        line = memoryview(b"\n" + "".join(chunks(values, 0)).encode() + b"\n")
        while line:
            line = line[write(answers, line) :]

    import attn_bench.running.run_cell  # noqa: F401

    preload(modules)
    gc.freeze()
    reply({"ready": True})
    while (request := _request()) is not None:
        if "open" not in request:
            continue  # meant for a process that ended early
        child = os.fork()
        if child == 0:
            _serve(request["open"], reply)
        code = _wait(child)
        kill_orphans()
        reply({"closed": how_ended(code)})


def _wait(child: int) -> int:
    """Wait for a child to end, and end it if no more requests can come; return its exit code."""
    if hasattr(os, "pidfd_open"):
        ended, events = os.pidfd_open(child), poll()
        events.register(ended, POLLIN)
        events.register(0, 0)  # tells when the other end is closed
        if ended not in dict(events.poll()):
            events.unregister(0)
            if not events.poll(1000):  # it may be about to end by itself
                os.kill(child, SIGKILL)
        os.close(ended)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _request() -> dict[str, Any] | None:
    """Read one line and not a byte more, as the rest belongs to the process that is forked next."""
    line = b""
    while not line.endswith(b"\n"):
        if not (byte := read(0, 1)):
            return None
        line += byte
    return loads(line)


def _serve(spec: dict[str, Any], reply: Reply) -> None:
    try:
        die_with_parent()
        steps = _open(spec)
        reply({"steps": list(steps.names)})
        gc.disable()
        while (request := _request()) is not None and "close" not in request:
            reply(_answer(steps, request))
    except BaseException as error:
        with contextlib.suppress(OSError):
            reply({"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]})
    finally:
        exit_now(0)


def _open(spec: dict[str, Any]) -> Any:
    from attn_bench.running.prepare import open_steps
    from attn_bench.sweep.cell import Cell

    return open_steps(Cell.from_json(spec))


def _answer(steps: Any, request: dict[str, Any]) -> dict[str, Any]:
    from attn_bench.running.prepare import count_parameters

    if "exact" in request:
        memory = {name: steps.memory(name).peak_mib for name in steps.names}
        flops = steps.flops()
        return {
            "parameters": count_parameters(steps.module),
            "peak_memory": memory,
            "flops": flops.total,
            "uncounted": sorted(flops.unknown),
        }
    step = steps.step(request["step"])
    if "warm" in request:
        times: list[float] = []
        end = time.perf_counter() + request["warm"]
        while time.perf_counter() < end or len(times) < 3:
            times.append(_time(step, steps.device))
        return {"ms": statistics.median(times[len(times) // 2 :])}
    # Untimed: the other process has evicted the caches and its threads are still spinning.
    end = time.perf_counter() + request["lead"]
    step()
    while time.perf_counter() < end:
        step()
    return {"ms": statistics.median(_time(step, steps.device) for _ in range(request["calls"]))}


def _time(step: Callable[[], object], device: Device) -> float:
    """Return the milliseconds of one call."""
    device.synchronize()
    start = time.perf_counter_ns()
    step()
    device.synchronize()
    return (time.perf_counter_ns() - start) / 1e6


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # skips the tear-down of libraries that were only imported
