"""Prints how long each Triton kernel takes at least on a GPU, by :mod:`attn_bench.analysis.roofline`.

    python benchmarks/roofline.py [--gpu h100] [--dtype bf16] [--batch 8]

MANO's windows of several sizes and strides at 256 x 256 to 1024 x 1024 with 128 channels in 4 heads, and Fast Multipole
Attention on 4k to a million tokens and on the same grids. Nothing is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from rich.console import Console
from rich.table import Table

from attn_bench.analysis.roofline import GPUS, roofline
from attn_bench.nn.kernel_work import KernelWork
from baselines.fma import kernel_costs as fma
from baselines.fma.attention_plan import attention_plan
from baselines.fma.tree import Tree
from mano.levels import level_grids
from mano.overlapping import kernel_costs as mano
from mano.overlapping.layout import Windows

FEATURES, HEADS = 128, 4
ITEMSIZES = {"bf16": 2, "fp32": 4}
# Below this share of the limit, a row is marked.
FAR = 0.5


def multipole(batch: int, itemsize: int) -> Iterator[tuple[str, KernelWork]]:
    """Yield the work of MANO's kernels: window x stride at a grid."""
    for size in (256, 512, 1024):
        for window, stride in ((2, 2), (2, 1), (4, 4), (8, 8), (8, 4)):
            levels = len(level_grids((size, size), window, 2))
            windows = Windows(batch, size, size, levels, 2, HEADS, window, stride)
            for work in mano.works(windows, FEATURES, itemsize):
                yield f"{size} x {size}, window {window}, stride {stride}", work


def fast_multipole(batch: int, itemsize: int) -> Iterator[tuple[str, KernelWork]]:
    """Yield the work of the kernels of Fast Multipole Attention on sequences, causal, and on grids."""
    for grid, side, causal in (
        *(((n,), 64, True) for n in (4096, 65536, 1 << 20)),
        *(((n, n), 8, False) for n in (256, 512, 1024)),
    ):
        tree = Tree(grid, side)
        levels = tuple((tree.width(level), 4) for level in range(1, tree.levels + 1))
        reads = attention_plan(tree, levels, causal, False, False, torch.device("cpu")).near
        size, rows = tree.width(1), len(reads.bias_T)
        for work in fma.works(
            batch * HEADS, FEATURES // HEADS, size, reads.index_MS, rows, itemsize, causal=causal
        ):  # fmt: skip
            yield " x ".join(map(str, grid)), work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", choices=GPUS, default="h100")
    parser.add_argument("--dtype", choices=ITEMSIZES, default="bf16")
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    gpu, itemsize = GPUS[given.gpu], ITEMSIZES[given.dtype]
    console = Console(width=160)
    console.print(f"{gpu.name} ({gpu.source}), {given.dtype}, batch {given.batch}, {FEATURES} channels, {HEADS} heads")
    table = Table("size", "kernel")
    for column in ("read MiB", "written MiB", "GFLOP", "limit ms", "predicted ms", "share"):
        table.add_column(column, justify="right")
    table.add_column("bound by")
    for name, work in (*multipole(given.batch, itemsize), *fast_multipole(given.batch, itemsize)):
        line = roofline(work, gpu, itemsize)
        table.add_row(
            name,
            work.name,
            f"{work.read / 2**20:.0f}",
            f"{work.written / 2**20:.0f}",
            f"{work.flops / 1e9:.1f}",
            f"{line.limit_ms:.3f}",
            f"{line.predicted_ms:.3f}",
            f"{line.share:.2f}",
            line.bound_by,
            style="bold" if line.share < FAR else None,
        )
    console.print(table)


if __name__ == "__main__":
    main()
