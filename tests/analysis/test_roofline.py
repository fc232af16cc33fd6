"""What kernels move and compute, against counting by hand and by running their definition."""

from __future__ import annotations

import itertools

import pytest
import torch

from attn_bench.analysis.roofline import GPUS, Gpu, roofline
from attn_bench.nn.kernel_work import KernelWork
from baselines.fma import kernel_costs as fma
from mano.overlapping import kernel_costs as mano
from mano.overlapping.layout import Windows


def test_one_window_of_four_cells_counted_by_hand():
    """2 x 2 cells, one window, one head of 3 channels, float32: 12 numbers a tensor, 4 x 4 pairs."""
    forward, by_queries, by_keys = mano.works(Windows(1, 2, 2, 1, 2, 1, 2, 2), 3, 4)
    assert (forward.read, forward.written) == (3 * 12 * 4, 12 * 4 + 4 * 4)
    assert (by_queries.read, by_queries.written) == (4 * 12 * 4 + 4 * 4, 12 * 4 + 4 * 4)
    assert (by_keys.read, by_keys.written) == (4 * 12 * 4 + 2 * 4 * 4, 2 * 12 * 4)
    # A product of 3 channels is 6 operations: q k and p v; q k, do v, dp k, p k; q k, do v, p do, ds q.
    assert [work.flops for work in (forward, by_queries, by_keys)] == [16 * 12, 16 * 24, 16 * 24]
    # Of 4 tokens, each loads its query and 4 keys and values.
    assert forward.l1_loaded == 4 * (1 + 4 * 2) * 3 * 4
    assert (forward.executed, forward.exponentials) == (16 * 3 * 5, 16 * 2)


@pytest.mark.parametrize(("grid", "side", "stride"), [((5, 4), 2, 1), ((7, 6), 4, 3), ((6, 6), 3, 3)])
def test_pairs_are_those_of_windows_cut_at_the_edge(grid, side, stride):
    batch, features = 2, 6
    windows = Windows(batch, *grid, 2, 2, 2, side, stride)
    pairs = held = 0
    for h, w in windows.grids:
        rows, columns = (range(0, max(n - side, 0) + stride, stride) for n in (h, w))
        for top, left in itertools.product(rows, columns):
            cells = min(h - top, side) * min(w - left, side)
            held, pairs = held + batch * cells, pairs + batch * cells**2
    forward, *_ = mano.works(windows, features, 2)
    tokens = batch * sum(h * w for h, w in windows.grids)
    assert forward.flops == 2 * 2 * features * pairs
    assert forward.written == tokens * features * 2 + held * 2 * 4


def test_two_blocks_of_two_queries_counted_by_hand():
    """Each reads 3 of 4 rows of 5 channels, of which the last two are the block itself; causal, one group, bf16."""
    index = torch.tensor([[-1, 0, 1], [0, 2, 3]], dtype=torch.int32)
    forward, backward = fma.works(1, 5, 2, index, 4, 2)
    assert (forward.read, forward.written) == ((4 + 2 * 4) * 5 * 2 + 2 * 3 * 4 + 4 * 4, 4 * 5 * 2 + 4 * 4)
    assert (forward.flops, backward.flops) == (5 * 2 * 10 * 2, 5 * 2 * 10 * 5)
    causal, _ = fma.works(1, 5, 2, index, 4, 2, causal=True)
    assert causal.flops == (5 * 2 - 2) * 10 * 2
    # A tile is at least 16 queries by 32 slots by 16 channels.
    assert forward.executed == 2 * (2 * 16 * 32 * 16) * 2
    assert (forward.unit, fma.works(1, 5, 2, index, 4, 4)[0].unit) == ("tensor cores", "vector units")
    # Gradients by keys and values, in float32, of each row a block reads: added where they are.
    assert backward.l2_moved - forward.l2_moved == (4 * 5 * 2 + 4 * 4) + 2 * 2 * 5 * 5 * 4


def test_tiles_are_those_of_the_kernels():
    pytest.importorskip("triton")
    from baselines.fma import kernels

    assert (fma.tiles, fma.SLOTS) == (kernels.tiles, kernels.SLOTS)


GPU = Gpu("test", 1e9, {("vector units", 2): 1e9, ("tensor cores", 2): 1e10}, 1, 1e9, 100, "by hand")


@pytest.mark.parametrize(
    ("changed", "bound_by", "predicted_ms", "share"),
    [
        ({}, "memory", 3.0, 1.0),
        ({"executed": 6_000_000}, "vector units", 6.0, 0.5),
        ({"flops": 60_000_000, "executed": 60_000_000}, "vector units", 60.0, 0.1),
        ({"l1_loaded": 12 * 128 * 10**6}, "level-1 caches", 12.0, 0.25),
        ({"l2_moved": 10**9}, "level-2 cache", 10.0, 0.3),
        ({"exponentials": 160 * 10**6}, "exponentials", 10.0, 0.3),
    ],
)
def test_the_slowest_resource_is_the_time(changed, bound_by, predicted_ms, share):
    usual = {"flops": 1000, "executed": 1000, "exponentials": 0, "l1_loaded": 0}
    work = KernelWork("k", 2_000_000, 1_000_000, unit="vector units", **{**usual, **changed})
    found = roofline(work, GPU, 2)
    assert (found.bound_by, found.predicted_ms, found.share) == (bound_by, pytest.approx(predicted_ms), share)


def test_gpus_are_ordered_as_published():
    a100, h100, h200 = (GPUS[name] for name in ("a100", "h100", "h200"))
    assert a100.bytes_per_s < h100.bytes_per_s < h200.bytes_per_s == 4.8e12
    assert h100.flops_per_s == h200.flops_per_s
    assert h100.l1_bytes_per_s == pytest.approx(30.9e12, rel=0.01)
    assert a100.flops_per_s["tensor cores", 4] == 156e12
