"""Fast matrix products on the CPU."""

from __future__ import annotations

import platform

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def product(a_MK: Tensor, b_NK: Tensor) -> Tensor:
    """Return a b^T, (M, N); not differentiable. Either factor may be a transposed view.

    In float32 torch uses MKL, which reserves its AVX-512 code for Intel processors: on two cores of an AMD EPYC (Zen 5)
    it reaches 200 GFLOP/s, while oneDNN, which is also part of torch, reaches 450.
    """
    if _ONEDNN is not None and a_MK.dtype == torch.float32 and a_MK.device.type == "cpu":
        return _ONEDNN(a_MK, b_NK, None, "none", [], "")
    return a_MK @ b_NK.t()


def has_bf16() -> bool:
    """Tell whether the processor has instructions for bf16; without, torch takes 3 times as long as in float32."""
    if platform.machine() in ("x86_64", "AMD64"):  # there oneDNN also counts AVX-512 without instructions for bf16
        return torch.cpu._is_avx512_bf16_supported()
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


HAS_BF16 = has_bf16()

# On one thread torch gives a 1 x 1 convolution to oneDNN only from this batch size on; the other is slower than MKL.
_ONEDNN_BATCH = 16


class Linear(nn.Linear):
    """``nn.Linear`` that in float32 on the CPU runs as a convolution, forward and backward, which oneDNN computes.

    All mixers and transformers of this project use it, so that their times compare mixers and not libraries. It takes
    (B, N, C) and (B, H, W, C); for anything else, other devices and dtypes, and small batches on one thread, it is
    ``nn.Linear``. Under autocast to bf16, on processors without such instructions, it computes in float32 and rounds
    the results.

    Args:
        in_features, out_features, bias: as in ``nn.Linear``.
        inner: whether the results go through an activation to another linear map, so that on such processors they need
            not be rounded: converting them would take a tenth of a training step.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, inner: bool = False) -> None:
        super().__init__(in_features, out_features, bias)
        self.inner = inner

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type == "cpu" and not HAS_BF16 and torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            if dtype == torch.bfloat16 and self.weight.dtype == torch.float32:
                with torch.autocast("cpu", enabled=False):
                    y = self.forward(input.float())
                return y if self.inner else y.to(dtype)
        if input.device.type != "cpu" or input.dtype != torch.float32 or input.dim() not in (3, 4):
            return super().forward(input)
        # Asked for the number of threads, torch.compile would break its graph.
        if input.shape[0] < _ONEDNN_BATCH and not torch.compiler.is_compiling() and torch.get_num_threads() == 1:
            return super().forward(input)
        x_BHWC = input.unsqueeze(2) if input.dim() == 3 else input
        y_BCHW = F.conv2d(x_BHWC.permute(0, 3, 1, 2), self.weight[:, :, None, None], self.bias)
        y_BHWC = y_BCHW.permute(0, 2, 3, 1)
        return y_BHWC.squeeze(2) if input.dim() == 3 else y_BHWC
