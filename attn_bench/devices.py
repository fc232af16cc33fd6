"""Which device is used."""

from __future__ import annotations

from typing import Literal

from attn_bench.errors import UserError


def resolve_device(device: str) -> Literal["cpu", "cuda"]:
    """Return the device to use; ``auto`` takes CUDA where torch can. Raises UserError if it was asked for in vain."""
    if device == "cpu":
        return "cpu"
    if cuda_available():
        return "cuda"
    if device == "cuda":
        raise UserError(
            "--device cuda: torch finds no CUDA device; use --device cpu, or install a driver and a CUDA build of torch"
        )
    return "cpu"


def cuda_available() -> bool:
    """Ask torch in a way that leaves this process without a CUDA context."""
    import os

    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    return torch.cuda.is_available()
