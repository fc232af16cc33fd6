"""A field that does not depend on the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from attn_bench.plugin import Unsupported


class MeanField(nn.Module):
    """Map any input (B, C, H, W) to one field (out_channels, H, W), the same for every sample: zero until fitted."""

    mean: Tensor

    def __init__(self, out_channels: int, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(out_channels, *grid))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        grid = tuple(self.mean.shape[1:])
        if tuple(x_BCHW.shape[2:]) != grid:
            given, own = (" x ".join(map(str, sizes)) for sizes in (x_BCHW.shape[2:], grid))
            raise Unsupported(f"the training mean is known on {own}, not on {given}")
        return self.mean.expand(len(x_BCHW), *self.mean.shape)

    def fit(self, train: Dataset[tuple[Tensor, Tensor]]) -> None:
        """Set the field to the mean of the targets of ``train``, summed in float64, without those that are NaN."""
        total, count = torch.zeros((), dtype=torch.float64), torch.zeros(())
        for _, targets in DataLoader(train, batch_size=64):
            masked = targets.isnan()
            total = total + targets.masked_fill(masked, 0.0).sum(0, dtype=torch.float64).cpu()
            count = count + (~masked).sum(0).cpu()
        self.mean.copy_(total / count.clamp(min=1))
