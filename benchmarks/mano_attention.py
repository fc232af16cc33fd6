"""Time and memory of multipole attention beside a slow reading of its equations and other attention of the same width.

    python benchmarks/mano_attention.py [--device cuda] [--grids 16 32 64] [--compile] [--out mano.csv]

Implementations take turns, so that a machine that slows down or speeds up does so for all. Time is the median over the
rounds; memory is the peak of one step above weights and inputs. The batch is what fits 32768 points, 20 at most. Blocks
(mano block, swinv2 block) hold a feed-forward network four times as wide, the others attention alone.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from attn_bench.measure.memory import measure_memory
from mano import MultipoleAttention
from mano.operator import Block

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "mano"))
import multipole_reference

COLUMNS = ("grid", "batch", "pass", "implementation", "median_ms", "peak_memory_mib", "times_reference")


class Unfolded(nn.Module):
    """The equations with unfold and fold, with the weights of ``attention``."""

    def __init__(self, attention: MultipoleAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x_BHWC: Tensor) -> Tensor:
        levels = len(self.attention.grids(tuple(x_BHWC.shape[1:3])))
        return multipole_reference.multipole(self.attention, x_BHWC, levels)


class Exact(nn.Module):
    """Every point attends to every point, through ``scaled_dot_product_attention``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out, self.heads = (
            nn.LayerNorm(dim),
            nn.Linear(dim, 3 * dim),
            nn.Linear(dim, dim),
            heads,
        )

    def forward(self, x_BHWC: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x_BHWC)).flatten(1, 2).unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x_BHWC.shape))


def implementations(grid: int, dim: int, heads: int, compile: bool) -> dict[str, nn.Module]:
    """What is compared, on (B, grid, grid, dim); the first is the reference of the ratios."""
    from timm.models.swin_transformer_v2 import SwinTransformerV2Block

    attention = MultipoleAttention(dim, heads=heads)
    found = {
        "mano unfold": Unfolded(attention),
        "mano": attention,
        "mano block": Block(attention, dim, 4 * dim, 0.0),
        "swinv2 block": SwinTransformerV2Block(
            dim, (grid, grid), heads, window_size=min(8, grid), shift_size=min(4, grid // 4)
        ),
        "exact": Exact(dim, heads),
    }
    if compile:
        found["mano compiled"] = torch.compile(attention, dynamic=False)
    return found


def steps(module: nn.Module, x: Tensor) -> dict[str, Callable[[], object]]:
    """A forward pass without gradients, and a forward and backward pass."""
    leaf = x.clone().requires_grad_()
    seed = torch.randn_like(x)

    def forward() -> None:
        with torch.no_grad():
            module(x)

    def forward_backward() -> None:
        leaf.grad = None
        module.zero_grad()
        module(leaf).backward(seed)

    return {"forward": forward, "forward+backward": forward_backward}


def seconds(step: Callable[[], object], device: str) -> float:
    """Time one call."""
    began = time.perf_counter()
    step()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--grids", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--limit", type=float, default=2.0, help="leave out what takes longer than this, in seconds")
    parser.add_argument("--threads", type=int, help="threads on the CPU")
    parser.add_argument("--compile", action="store_true", help="compile multipole attention too")
    parser.add_argument("--out", type=Path, help="write the table here as CSV")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)

    torch.manual_seed(0)
    rows: list[dict[str, object]] = []
    slow: set[tuple[str, str]] = set()
    for grid in options.grids:
        batch = max(1, min(20, 32768 // grid**2))
        x = torch.randn(batch, grid, grid, options.dim, device=options.device)
        modules = implementations(grid, options.dim, options.heads, options.compile)
        work = {name: steps(module.to(options.device), x) for name, module in modules.items()}
        for kind in ("forward", "forward+backward"):
            times: dict[str, list[float]] = {name: [] for name in work if (name, kind) not in slow}
            for name in list(times):
                # Costs grow with the grid: what is too slow here is not tried on larger ones either.
                if min(seconds(work[name][kind], options.device) for _ in range(2)) > options.limit:
                    slow.add((name, kind))
                    del times[name]
            for _ in range(options.rounds):
                for name, taken_ms in times.items():
                    taken_ms.append(1e3 * seconds(work[name][kind], options.device))
            reference = times.get("mano unfold", [math.nan] * options.rounds)
            for name, taken_ms in times.items():
                memory = measure_memory(work[name][kind], options.device)
                median = statistics.median(taken_ms)
                ratio = statistics.median(t / r for t, r in zip(taken_ms, reference, strict=True))
                values = (grid, batch, kind, name, round(median, 3), round(memory.peak_mib, 2), round(ratio, 3))
                rows.append(dict(zip(COLUMNS, values, strict=True)))

    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)
    if options.out:
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
