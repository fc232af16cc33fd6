"""D and U: convolutions whose kernel is their stride, on (B, H, W, C) in memory.

A grid that is no multiple of the rate is completed with zeros below and at the right by D; U is cut there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS_TOKENS = 16384


def down_sample(x_BHWC: Tensor, weight: Tensor) -> Tensor:
    """Return D x; ``weight`` is (C', C, rate, rate), as in ``nn.Conv2d``."""
    return F.conv2d(_complete(x_BHWC, weight.shape[-1]), weight, stride=weight.shape[-1]).permute(0, 2, 3, 1)


def up_sample(x_BHWC: Tensor, weight: Tensor, grid: torch.Size) -> Tensor:
    """Return U x on ``grid``; ``weight`` is (C, C', rate, rate), as in ``nn.ConvTranspose2d``."""
    up_BCHW = F.conv_transpose2d(x_BHWC.permute(0, 3, 1, 2), weight, stride=weight.shape[-1])
    return up_BCHW.permute(0, 2, 3, 1)[:, : grid[0], : grid[1]]


def add_up_sampled(fine_BHWC: Tensor, x_BHWC: Tensor, weight: Tensor) -> None:
    """Add U x to ``fine_BHWC`` in place; both contiguous."""
    rate, (b, h, w, c) = weight.shape[-1], x_BHWC.shape
    if fine_BHWC.shape[1:3] != (rate * h, rate * w):
        fine_BHWC += up_sample(x_BHWC, weight, fine_BHWC.shape[1:3])
        return
    # Every row becomes rows of its own: all samples are one high grid, worked through without a tensor of its size.
    rows_NWC, fine_NWC = x_BHWC.reshape(b * h, w, c), fine_BHWC.view(b * h * rate, w * rate, c)
    step = max(1, ROWS_TOKENS // (w * rate**2))
    for n in range(0, b * h, step):
        part = up_sample(rows_NWC[None, n : n + step], weight, (rate * step, rate * w))
        fine_NWC[rate * n : rate * (n + step)] += part[0]


def weight_gradient(coarse_BHWC: Tensor, fine_BHWC: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient by ``weight`` of sum(coarse * D fine), which is sum(fine * U coarse) too."""
    rate = weight.shape[-1]
    arguments = weight, None, [rate] * 2, [0] * 2, [1] * 2, False, [0] * 2, 1, [False, True, False]
    gradient = torch.ops.aten.convolution_backward(
        coarse_BHWC.permute(0, 3, 1, 2), _complete(fine_BHWC, rate), *arguments
    )
    return gradient[1]


def _complete(x_BHWC: Tensor, rate: int) -> Tensor:
    """Return (B, C, H, W) in sides that ``rate`` divides."""
    below, right = (-n % rate for n in x_BHWC.shape[1:3])
    padded = F.pad(x_BHWC, (0, 0, 0, right, 0, below)) if below or right else x_BHWC
    return padded.permute(0, 3, 1, 2)
