"""The Triton kernels, compiled for GPUs that are not here: what they take of a multiprocessor."""

import pytest
import torch

pytest.importorskip("triton")
from gpu_build import SHARED, Launches, fits, narrow_offsets

from mano.overlapping import kernels
from mano.overlapping.layout import Windows


def launches(monkeypatch, window, stride, head_dim, dtype):
    recorded = [Launches(getattr(kernels, name)) for name in ("_forward", "_query_gradient", "_key_gradient")]
    for launch in recorded:
        monkeypatch.setattr(kernels, launch.kernel.fn.__name__, launch)
    windows = Windows(8, 32, 32, 4, 2, 4, window, stride)
    tokens = 8 * sum(h * w for h, w in windows.grids)
    qkv = torch.empty(tokens, 3 * 4 * head_dim, dtype=dtype, device="meta")
    out, lse = kernels.forward(qkv, windows)
    kernels.backward(out, qkv, lse, windows)
    assert [len(launch.seen) for launch in recorded] == [1, 1, 1]
    return recorded


def check(recorded, capability):
    # Registers beyond these leave a multiprocessor (65,536) fewer than three blocks of 128 threads.
    fits(recorded, capability, registers=168, blocks=3)


def test_kernels_spill_nothing(monkeypatch):
    check(launches(monkeypatch, 2, 1, 32, torch.bfloat16), 90)


def test_places_are_computed_in_64_bits(monkeypatch):
    assert narrow_offsets(launches(monkeypatch, 2, 1, 32, torch.bfloat16)) == []


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize(
    ("window", "stride", "head_dim", "dtype"),
    [
        (2, 1, 8, torch.float16),
        (2, 2, 32, torch.float32),
        (4, 2, 16, torch.bfloat16),
        (8, 8, 64, torch.float16),
        (4, 4, 128, torch.float32),
    ],
)
def test_kernels_spill_nothing_at_any_width(monkeypatch, window, stride, head_dim, dtype, capability):
    check(launches(monkeypatch, window, stride, head_dim, dtype), capability)
