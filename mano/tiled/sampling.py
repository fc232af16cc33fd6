"""D and U: convolutions whose kernel is their stride, on (B, H, W, C) in memory.

If the rate does not divide a grid, D pads it with zeros at the bottom and right, and U crops the result there.

Axes in names: B batch, H W grid, C and O channels, Q channels of the rate x rate cells that a coarse cell becomes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from attn_bench.nn.fast_linear import product
from mano.tiled.chunks import complete, cut

ROWS_CELLS = 8192


def down_sample(x_BHWC: Tensor, weight: Tensor) -> Tensor:
    """Return D x; ``weight`` is (C', C, rate, rate), as in ``nn.Conv2d``."""
    rate = weight.shape[-1]
    return F.conv2d(complete(x_BHWC, rate).permute(0, 3, 1, 2), weight, stride=rate).permute(0, 2, 3, 1)


def up_sample(x_BHWC: Tensor, weight: Tensor, grid: torch.Size) -> Tensor:
    """Return U x on ``grid``; ``weight`` is (C, C', rate, rate), as in ``nn.ConvTranspose2d``."""
    up_BCHW = F.conv_transpose2d(x_BHWC.permute(0, 3, 1, 2), weight, stride=weight.shape[-1])
    return up_BCHW.permute(0, 2, 3, 1)[:, : grid[0], : grid[1]]


def add_up_sampled(fine_BHWO: Tensor, x_BHWC: Tensor, weight: Tensor) -> None:
    """Add U x to ``fine_BHWO`` in place; both contiguous. ``weight`` is (C, O, rate, rate)."""
    b, h, w, c = x_BHWC.shape
    rate = weight.shape[-1]
    weight_QC = weight.permute(2, 3, 1, 0).flatten(0, 2)
    if fine_BHWO.shape[1:3] != (rate * h, rate * w):
        up = product(x_BHWC.view(-1, c), weight_QC).view(b, h, w, rate, rate, -1).transpose(2, 3)
        fine_BHWO += up.reshape(b, rate * h, rate * w, -1)[:, : fine_BHWO.shape[1], : fine_BHWO.shape[2]]
        return
    # Rows are independent: all samples form one tall grid, processed without a temporary tensor of its size.
    x, fine = x_BHWC.view(b * h, w, c), fine_BHWO.view(b * h, rate, w, rate, -1)
    for chunk in cut([b * h], [rate * rate * w], ROWS_CELLS):
        rows = chunk[0][1]
        up = product(x[rows].flatten(0, 1), weight_QC)
        fine[rows].add_(up.view(-1, w, rate, rate, fine.shape[-1]).transpose(1, 2))  # += would copy the rows as well


def weight_gradient(coarse_BHWO: Tensor, fine_BHWC: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient by ``weight`` of sum(coarse * D fine), which is sum(fine * U coarse) too."""
    rate = weight.shape[-1]
    arguments = weight, None, [rate] * 2, [0] * 2, [1] * 2, False, [0] * 2, 1, [False, True, False]
    images = coarse_BHWO.permute(0, 3, 1, 2), complete(fine_BHWC, rate).permute(0, 3, 1, 2)
    return torch.ops.aten.convolution_backward(*images, *arguments)[1]
