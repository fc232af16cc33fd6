"""In which precision sums are accumulated."""

from __future__ import annotations

import torch


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to add up numbers of ``dtype`` in: float32 at least."""
    return torch.promote_types(dtype, torch.float32)
