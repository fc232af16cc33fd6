"""How often the gate of ``attn-bench ab`` is wrong, without changes and with planted regressions of known size.

    python benchmarks/gate.py [--same 200] [--planted 100] [--lanes 2] [--out results/gate]

A comparison is one model at one grid, forward pass and training step, judged as ``attn-bench ab`` does with its
default thresholds: live processes of two sides that run the same code, one of which may be made worse
(``benchmarks/planted``). A comparison says WORSE if either step does. The two sides of a comparison are measured in
turn, so each lane makes one comparison at a time, on its own cores. ``--out`` holds a line for each comparison; an
interrupted benchmark resumes from there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from attn_bench.files import atomic_write
from attn_bench.gate.ab.revisions import Plan, compare_sides
from attn_bench.gate.ab.turns import Side
from attn_bench.gate.compare import Comparison
from attn_bench.gate.thresholds import Thresholds
from attn_bench.results.quantities import quantities
from attn_bench.running.measure.machine import environment
from attn_bench.sweep.cell import Cell
from attn_bench.sweep.expansion import imported
from attn_bench.sweep.settings import Sweep

SLOWER, LARGER = 0.10, 0.01
LOCK = threading.Lock()
PLANTED = str(Path(__file__).parent / "planted")
KINDS = {
    "nothing": {},
    "latency + 10 %": {"PLANTED_LATENCY": str(SLOWER)},
    "memory + 1 %": {"PLANTED_MEMORY": str(LARGER)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--same", type=int, default=200, help="comparisons with nothing planted")
    parser.add_argument("--planted", type=int, default=100, help="comparisons with a planted slow-down")
    parser.add_argument("--memory", type=int, default=20, help="comparisons with a planted allocation")
    parser.add_argument("--models", default="mano,fno,swinv2,vit")
    parser.add_argument("--resolution", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=0.4, help="measuring time for each step and pair of processes")
    parser.add_argument("--lanes", type=int, default=2, help="comparisons made at a time, each on its own cores")
    parser.add_argument("--out", type=Path, default=Path("results/gate"))
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= options.lanes <= len(cores):
        parser.error(f"--lanes: there are {len(cores)} cores")
    lanes = [set(cores[i :: options.lanes]) for i in range(options.lanes)]
    threads = min(map(len, lanes))
    sweep = Sweep.from_settings(
        {
            "models": options.models.split(","),
            "task": "darcy",
            "resolutions": [options.resolution],
            "train": False,
            "device": "cpu",
            "threads": threads,
        }
    )
    plan = dataclasses.replace(Plan.of(sweep, Thresholds()), seconds=options.seconds)
    path = options.out / "comparisons.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    asked = dict(zip(KINDS, (options.same, options.planted, options.memory)))
    for kind, number in asked.items():
        waiting = iter(range(sum(line["planted"] == kind for line in lines), number))

        def serve(lane: set[int], kind: str = kind, waiting: Iterator[int] = waiting) -> None:
            os.sched_setaffinity(0, lane)  # of this thread, and of the processes that it starts
            with sides(kind, plan) as (base, new):
                while (i := _next(waiting)) is not None:
                    line = one(kind, plan.cells[i % len(plan.cells)], base, new, plan)
                    with LOCK:
                        lines.append(line)
                        with atomic_write(path) as file:
                            file.write("".join(f"{json.dumps(each)}\n" for each in lines).encode())
                    print(f"{kind} {i + 1} {line}", file=sys.stderr, flush=True)

        with ThreadPoolExecutor(len(lanes)) as pool:
            list(pool.map(serve, lanes))
    text = summary(lines, f"{len(lanes)} comparisons at a time, {threads} thread{'s' if threads > 1 else ''} each")
    with atomic_write(options.out / "table.md") as file:
        file.write(text.encode())
    print(text)


def _next(waiting: Iterator[int]) -> int | None:
    with LOCK:
        return next(waiting, None)


@contextmanager
def sides(kind: str, plan: Plan) -> Iterator[tuple[Side, Side]]:
    """Start base and new; the environment and the import path of new hold the planted regression."""
    modules = imported(plan.cells)
    with LOCK:
        base = Side("base", (), modules)
        os.environ |= KINDS[kind]
        new = Side("new", [PLANTED] if KINDS[kind] else [], modules)
        for name in KINDS[kind]:
            del os.environ[name]
    with base, new:
        yield base, new


def one(kind: str, cell: Cell, base: Side, new: Side, plan: Plan) -> dict[str, Any]:
    """Make one comparison and return its verdicts."""
    processes = []
    start = time.perf_counter()
    comparison: Comparison = compare_sides(
        base, new, dataclasses.replace(plan, cells=[cell]), lambda stage: processes.append(stage)
    )
    assert not comparison.obstacles, comparison.obstacles
    found = {finding.metric: finding for finding in comparison.findings}
    # Darcy flow has no token to generate.
    timed = [quantity.name for quantity in quantities(None, "timed") if quantity.name in found]
    return {
        "planted": kind,
        "model": cell.model,
        "latency": {metric: found[metric].verdict for metric in timed},
        "ratio": {metric: round(found[metric].ratio.value, 4) for metric in timed if found[metric].ratio},
        "memory": found["peak_memory_train"].verdict,
        "memory_fails": found["peak_memory_train"].fails,
        "pairs": len(processes),
        "seconds": round(time.perf_counter() - start, 1),
    }


def summary(lines: list[dict[str, Any]], how: str) -> str:
    """Return the table of how often each verdict was given; the line below it says ``how`` they were made."""
    rows = []
    for kind in KINDS:
        of_kind = [line for line in lines if line["planted"] == kind]
        if not of_kind:
            continue
        said = Counter(
            next((v for v in ("worse", "unclear", "better") if v in line["latency"].values()), "same")
            for line in of_kind
        )
        memory = sum(line["memory_fails"] for line in of_kind)
        pairs = sum(line["pairs"] for line in of_kind) / len(of_kind)
        seconds = sorted(line["seconds"] for line in of_kind)[len(of_kind) // 2]
        counts = " | ".join(str(said[name]) for name in ("worse", "unclear", "better", "same"))
        rows.append(f"| {kind} | {len(of_kind)} | {counts} | {memory} | {pairs:.1f} | {seconds:g} |")
    where = environment("cpu")
    return (
        "# How often the gate is wrong\n\n"
        f"    python {' '.join(sys.argv)}\n\n"
        "| planted | comparisons | latency WORSE | UNCLEAR | BETTER | SAME | memory WORSE | pairs | s each |\n"
        "| :-- | --: | --: | --: | --: | --: | --: | --: | --: |\n" + "\n".join(rows) + "\n\n"
        f"Models in turn: {', '.join(dict.fromkeys(line['model'] for line in lines))}. "
        f"{where.device_name}, {how}, torch {torch.__version__}.\n"
    )


if __name__ == "__main__":
    main()
