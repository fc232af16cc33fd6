"""A pretrained network that receives images normalized as in its training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_bench.plugin import Normalisation


class Renormalised(nn.Module):
    """Change the normalization of images (B, C, H, W) from ``given`` to ``wanted``, and call ``model``.

    Args:
        model: the network; kept as ``model``.
        given, wanted: mean and deviation of each channel of images in [0, 1]; ``wanted`` is kept.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, given: Normalisation, wanted: Normalisation) -> None:
        super().__init__()
        self.model, self.wanted = model, wanted
        mean, deviation, to_mean, to_deviation = (
            torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (*given, *wanted)
        )
        self.register_buffer("scale", deviation / to_deviation)
        self.register_buffer("shift", (mean - to_mean) / to_deviation)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.model(x_BCHW * self.scale + self.shift)
