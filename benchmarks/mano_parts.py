"""Where the time of multipole attention in C++ goes, forward and backward, and at what rate its parts multiply.

    python benchmarks/mano_parts.py [--grids 32 64 128] [--out results/mano-attention/parts.md]

A part is one of the compiled functions, over all levels: attention, with LayerNorm and the maps to and from heads; its
backward pass, which computes queries, keys, values and probabilities again; down- and up-sampling, each in both passes;
and the gradients by their weights. The rest is torch's: layouts of weights, sums over threads, autograd. Times are
medians over the rounds. ``of matrix rate`` is the rate of the multiply-adds that the part executes over that of the
largest matrix product, ``share of limit`` that of ``benchmarks/mano_attention.py``: the products of one forward pass,
three times, over the time taken.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from turns import BOTH, batch_of, machine, machine_rates, steps, table, use_allocator_of_cells

from attn_bench.files import atomic_write
from mano import MultipoleAttention
from mano.levels import level_grids
from mano.tiled.cpp import Library

PARTS = {
    "attention": "attention",
    "attention_backward": "attention, backward",
    "down_sample": "down-sampling",
    "add_up_sampled": "up-sampling",
    "weight_gradient": "gradients by its weights",
}


def timed(function: Callable[..., Any], name: str, spent: Counter[str]) -> Callable[..., Any]:
    """Return a function that adds the seconds it takes to ``spent``."""

    def call(*args: Any) -> Any:
        began = time.perf_counter()
        result = function(*args)
        spent[name] += time.perf_counter() - began
        return result

    return call


def multiply_adds(batch: int, grid: int, dim: int) -> Counter[str]:
    """Return what each part multiplies and adds in both passes, for windows of 2 x 2."""
    grids = level_grids((grid, grid), 2, 2)
    cells = [batch * h * w for h, w in grids]
    products, pairs, scales = sum(cells) * dim**2, 4 * sum(cells) * dim, sum(cells[:-1]) * dim**2
    return Counter(
        attention=4 * products + 2 * pairs,
        attention_backward=(3 + 1 + 4 + 3) * products + 6 * pairs,
        **dict.fromkeys(("down_sample", "add_up_sampled", "weight_gradient"), 2 * scales),
    )


def rows(grid: int, dim: int, heads: int, rounds: int, rate: float, spent: Counter[str]) -> list[list[object]]:
    """Return a row for each part, the rest and the sum; ``rate`` is in operations per second."""
    torch.manual_seed(0)
    batch = batch_of(grid)
    step = steps(MultipoleAttention(dim, heads=heads), torch.randn(batch, grid, grid, dim))[BOTH]
    taken: dict[str, list[float]] = {name: [] for name in (*PARTS, "all")}
    for n in range(rounds + 2):
        spent.clear()
        began = time.perf_counter()
        step()
        spent["all"] = time.perf_counter() - began
        if n >= 2:  # the first steps allocate
            for name, times in taken.items():
                times.append(spent[name])
    times = {name: statistics.median(values) for name, values in taken.items()}
    work = multiply_adds(batch, grid, dim)
    lines = [(label, times[name], 2 * work[name]) for name, label in PARTS.items()]
    lines.append(("the rest", times["all"] - sum(times[name] for name in PARTS), 0))
    lines.append(("all", times["all"], 2 * work.total()))
    least_s = 3 * 2 * (work["attention"] + work["down_sample"] / 2 + work["add_up_sampled"] / 2) / rate
    return [
        [grid, label, 1e3 * s, s / times["all"], flops / 1e9, flops / s / rate, least_s / s if label == "all" else ""]
        for label, s, flops in lines
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grids", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="write the table into this file")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    bandwidth, rate = machine_rates("cpu")
    spent: Counter[str] = Counter()
    for name in PARTS:
        setattr(Library, name, timed(getattr(Library, name), name, spent))
    found = [row for n in options.grids for row in rows(n, options.dim, options.heads, options.rounds, rate, spent)]
    heads = ["grid", "part", "ms", "of the time", "GFLOP", "of matrix rate", "share of limit"]
    command = " ".join(["python", "benchmarks/mano_parts.py", *sys.argv[1:]])
    lines = ["# Multipole attention: its parts", "", f"`{command}`", "", machine("cpu", bandwidth, rate), ""]
    text = "\n".join([*lines, *table(heads, found)]) + "\n"
    print(text)
    if options.out:
        with atomic_write(options.out) as file:
            file.write(text.encode())


if __name__ == "__main__":
    use_allocator_of_cells()
    main()
