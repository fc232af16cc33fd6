"""What the kernels of :mod:`baselines.fma.kernels` read, write and compute, from their definition."""

from __future__ import annotations

from torch import Tensor

from attn_bench.nn.kernel_work import KernelWork, Unit
from baselines.fma.tiles import SLOTS, tiles

_FLOAT = _INT = 4


def works(
    groups: int, head_dim: int, size: int, index_MS: Tensor, rows: int, itemsize: int, *, causal: bool = False
) -> list[KernelWork]:
    """Return the work of the forward and of the backward kernel.

    Args:
        groups: samples times heads.
        head_dim: channels E of a head.
        size: queries of a block.
        index_MS: the rows that a block reads; -1 for none.
        rows: of keys.
        itemsize: bytes of a number in queries, keys, values and outputs.
        causal: whether a query reads nothing of its block after itself.
    """
    blocks, slots = index_MS.shape
    there = int((index_MS >= 0).sum())
    pairs = groups * (there * size - (blocks * size * (size - 1) // 2 if causal else 0))
    queries, keys = groups * blocks * size * head_dim * itemsize, groups * rows * head_dim * itemsize
    statistics, lists = groups * blocks * size * _FLOAT, blocks * slots * _INT + rows * _FLOAT
    channels, at_once, parts, _ = tiles(size, head_dim, itemsize)
    programs, steps = groups * blocks * parts, -(-slots // SLOTS)
    # Of one product, with whole tiles of queries, slots and channels.
    product = 2 * programs * at_once * steps * SLOTS * channels
    # Rows that several blocks read come from the level-2 cache after the first time.
    gathered = groups * parts * there * head_dim * itemsize
    indices = programs * slots * _INT
    added = 2 * groups * parts * there * head_dim * _FLOAT
    gradients = 2 * groups * rows * head_dim * _FLOAT
    unit: Unit = "tensor cores" if itemsize < _FLOAT else "vector units"

    def work(name: str, read: int, written: int, products: int, moved: int) -> KernelWork:
        return KernelWork(
            name=name,
            read=read,
            written=written,
            flops=2 * products * pairs * head_dim,
            executed=products * product,
            unit=unit,
            exponentials=programs * at_once * steps * SLOTS,
            l1_loaded=queries + 2 * gathered + indices,
            l2_moved=moved,
        )

    return [
        work(
            "block attention",
            queries + 2 * keys + lists,
            queries + statistics,
            2,
            2 * queries + statistics + 2 * gathered + indices,
        ),
        # Gradients by keys and values are added atomically in float32: set to zero, read and written.
        work(
            "block attention, backward",
            2 * queries + 2 * statistics + 2 * keys + lists + gradients,
            queries + 2 * gradients,
            5,
            3 * queries + 2 * statistics + 2 * gathered + indices + 2 * added,
        ),
    ]
