"""Matrix products on the CPU at the rate of the machine."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def product(a_MK: Tensor, b_NK: Tensor) -> Tensor:
    """Return a b^T, (M, N); not differentiable. Either factor may be a transposed view.

    In float32 torch multiplies with MKL, which keeps its AVX-512 code for Intel's processors: on an AMD EPYC (Zen 5)
    it reaches 200 GFLOP/s on two cores where oneDNN, which is part of torch too, reaches 450.
    """
    if _ONEDNN is not None and a_MK.dtype == torch.float32 and a_MK.device.type == "cpu":
        return _ONEDNN(a_MK, b_NK, None, "none", [], "")
    return a_MK @ b_NK.t()


class Linear(nn.Linear):
    """``nn.Linear`` on (B, H, W, C); in float32 on the CPU as a convolution, which oneDNN computes, backward too."""

    def forward(self, x_BHWC: Tensor) -> Tensor:
        if x_BHWC.device.type != "cpu" or x_BHWC.dtype != torch.float32 or x_BHWC.dim() != 4:
            return super().forward(x_BHWC)
        y_BCHW = F.conv2d(x_BHWC.permute(0, 3, 1, 2), self.weight[:, :, None, None], self.bias)
        return y_BCHW.permute(0, 2, 3, 1)
