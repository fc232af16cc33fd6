"""The Triton kernels, compiled for GPUs that are not here: what they take of a multiprocessor."""

import pytest
import torch

pytest.importorskip("triton")
from gpu_build import SHARED, Launches, fits, narrow_offsets

from baselines.fma import kernels


def launches(monkeypatch, size, head_dim, dtype, causal):
    recorded = [Launches(kernels._forward), Launches(kernels._backward)]
    monkeypatch.setattr(kernels, "_forward", recorded[0])
    monkeypatch.setattr(kernels, "_backward", recorded[1])
    groups, blocks, rows = 8, 32, 4096

    def empty(*shape, dtype=dtype):
        return torch.empty(shape, dtype=dtype, device="meta")

    q, k, v = empty(groups, blocks * size, head_dim), empty(groups, rows, head_dim), empty(groups, rows, head_dim)
    index, bias = empty(blocks, 3 * size, dtype=torch.int32), empty(rows, dtype=torch.float32)
    out, lse = kernels.forward(q, k, v, index, bias, size if causal else -1)
    kernels.backward(out, lse, [q, k, v, index, bias], size if causal else -1, lse)
    assert [len(launch.seen) for launch in recorded] == [1, 1]
    return recorded


def check(recorded, capability):
    fits(recorded, capability, registers=255, blocks=2)


def test_kernels_spill_nothing(monkeypatch):
    check(launches(monkeypatch, 64, 32, torch.bfloat16, causal=True), 90)


def test_places_are_computed_in_64_bits(monkeypatch):
    assert narrow_offsets(launches(monkeypatch, 64, 32, torch.bfloat16, causal=True)) == []


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize(
    ("size", "head_dim", "dtype"),
    [(16, 16, torch.bfloat16), (64, 32, torch.float16), (128, 64, torch.float32), (64, 128, torch.bfloat16)],
)
def test_kernels_spill_nothing_at_any_width(monkeypatch, size, head_dim, dtype, capability):
    check(launches(monkeypatch, size, head_dim, dtype, causal=True), capability)
