"""Compares the Darcy solver with scipy's direct sparse solver: time per sample, and the difference of the solutions.

    python benchmarks/darcy_solver.py [--nodes 65 129 257 421] [--rounds 5] [--out results/darcy-solver]

Both solve the same systems: coefficients of the recipe ``fno``, second-order finite differences, double precision. Ours
solves a batch as the task does when it generates data, one sample per thread; the direct solver takes one sample at a
time, with its matrix already assembled. They are timed alternately, and ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
import scipy.sparse.linalg
import torch

from attn_bench.files import atomic_write
from attn_bench.running.measure.machine import environment
from attn_bench.tasks.darcy.gaussian_field import GaussianField
from attn_bench.tasks.darcy.generate import CPU_NODES
from attn_bench.tasks.darcy.recipes import RECIPES
from attn_bench.tasks.darcy.solver import solve
from attn_bench.tasks.darcy.sparse_matrix import assemble
from attn_bench.tasks.shared.streams import on_threads


def ours(a: torch.Tensor) -> torch.Tensor:
    """Solve all of ``a`` as :func:`attn_bench.tasks.darcy.generate.generate` does."""
    size = max(1, CPU_NODES // a.shape[1] ** 2)
    chunks = [range(first, min(first + size, len(a))) for first in range(0, len(a), size)]
    u = torch.empty_like(a)

    def make(chunk: range) -> range:
        u[chunk.start : chunk.stop] = solve(a[chunk.start : chunk.stop]).u
        return chunk

    for _ in on_threads(make, chunks, torch.get_num_threads()):
        pass
    return u


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[65, 129, 257, 421])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/darcy-solver"))
    options = parser.parse_args()
    recipe = RECIPES["fno"]
    rows = []
    for n in options.nodes:
        count = max(2 * torch.get_num_threads(), min(64, 4 * CPU_NODES // n**2))
        high = GaussianField(recipe.alpha, recipe.tau, n).sample(0, "train", range(count)) >= 0
        a = torch.where(high, recipe.a_high, recipe.a_low).double()
        ours(a)
        taken, taken_directly, iterations = [], [], int(solve(a[:1]).iterations.max())
        for round_ in range(options.rounds):
            began = time.perf_counter()
            u = ours(a)
            taken.append((time.perf_counter() - began) / count)
            k = round_ % count
            matrix, right, inner = assemble(a[k].numpy(), recipe.forcing)
            began = time.perf_counter()
            exact = scipy.sparse.linalg.spsolve(matrix, right)
            taken_directly.append(time.perf_counter() - began)
        difference = np.abs(u[k].numpy()[inner] - exact).max() / np.abs(exact).max()
        rows.append(
            {
                "nodes": n,
                "samples at once": count,
                "iterations": iterations,
                "ours, ms per sample": round(1e3 * statistics.median(taken), 2),
                "spsolve, ms per sample": round(1e3 * statistics.median(taken_directly), 2),
                "times faster": round(statistics.median(b / a for a, b in zip(taken, taken_directly, strict=True)), 1),
                "relative difference": f"{difference:.1e}",
            }
        )
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    where = environment("cpu")
    header = "| " + " | ".join(table.columns) + " |\n|" + " --: |" * len(table.columns)
    body = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False))
    text = (
        "# The Darcy solver compared with a direct one\n\n"
        f"    python {' '.join(sys.argv)}\n\n{header}\n{body}\n\n"
        f"{where.device_name}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"scipy {scipy.__version__}. Medians of {options.rounds} rounds, in turn; the direct solver's time does not "
        "include assembling the matrix. Relative difference: largest difference over largest value.\n"
    )
    with atomic_write(options.out / "table.md") as file:
        file.write(text.encode())
    with atomic_write(options.out / "table.csv") as file:
        table.to_csv(file, index=False)


if __name__ == "__main__":
    main()
