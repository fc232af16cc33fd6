"""What the kernels of :mod:`mano.overlapping.kernels` read, write and compute, from their definition."""

from __future__ import annotations

import math

from attn_bench.nn.kernel_work import KernelWork
from mano.levels import Grid, window_counts
from mano.overlapping.layout import Windows

_FLOAT = 4


def works(windows: Windows, features: int, itemsize: int) -> list[KernelWork]:
    """Return the work of the forward kernel and of both backward kernels.

    Args:
        windows: of all levels.
        features: channels F of all heads.
        itemsize: bytes of a number in queries, keys, values and outputs; statistics are float32.
    """
    side, stride = windows.window_size, windows.stride
    tokens = windows.batch * sum(map(math.prod, windows.grids))
    # A query in a window reads its cells: windows of n cells have n^2 pairs.
    held = windows.batch * sum(_over_windows(grid, side, stride, 1) for grid in windows.grids)
    pairs = windows.batch * sum(_over_windows(grid, side, stride, 2) for grid in windows.grids)
    row, statistics = tokens * features * itemsize, held * windows.heads * _FLOAT
    # Every token goes through all slots and all cells, whether there is such a window or not.
    steps = tokens * windows.slots**2 * side**2
    loaded = (steps * 2 + tokens) * features * itemsize

    def work(
        name: str, read: int, written: int, products: int, executed: int, exponentials: int, more: int = 0
    ) -> KernelWork:
        return KernelWork(
            name=name,
            read=read,
            written=written,
            flops=2 * products * pairs * features,
            executed=executed * steps * features,
            unit="vector units",
            exponentials=exponentials * steps * windows.heads,
            l1_loaded=loaded + more,
        )

    return [
        # q k, and p v onto what was rescaled; the factor of that is an exponential too.
        work("window attention", 3 * row, row + statistics, 2, 5, 2),
        # q k, do v, dp k, p k.
        work("window attention, dq", 4 * row + statistics, row + statistics, 4, 8, 1, row + statistics),
        # q k, do / windows, do v, p do, ds q; and two statistics of each query.
        work(
            "window attention, dk dv",
            4 * row + 2 * statistics,
            2 * row,
            4,
            9,
            1,
            row + 2 * steps * windows.heads * _FLOAT,
        ),
    ]


def _over_windows(grid: Grid, side: int, stride: int, power: int) -> int:
    """Return the sum over windows of the number of their cells on the grid, to a power."""
    along = (
        sum((min(n, stride * i + side) - stride * i) ** power for i in range(count))
        for n, count in zip(grid, window_counts(grid, side, stride), strict=True)
    )
    return math.prod(along)
