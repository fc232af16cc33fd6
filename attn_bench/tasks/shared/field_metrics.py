"""Relative errors of fields: norms are over channels and points of a sample, means over samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from attn_bench.plugin import Metric

if TYPE_CHECKING:
    from torch import Tensor

FIELD_METRICS = {
    "rel_l2": Metric("lower", "mean over samples of ||prediction - target|| / ||target||, Euclidean norms"),
    "rel_mse": Metric("lower", "mean over samples of ||prediction - target||^2 / ||target||^2, Euclidean norms"),
}


def relative_l2_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of the relative Euclidean error; shapes (B, ...), both the same."""
    import torch

    error = torch.linalg.vector_norm((prediction - target).flatten(1), dim=1)
    norm = torch.linalg.vector_norm(target.flatten(1), dim=1)
    return (error / norm).mean()


def relative_errors(batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return ``rel_l2`` and ``rel_mse`` over (prediction, target) batches, computed in double precision.

    A target that is zero everywhere has no relative error: both are then infinite, not NaN, even if the prediction is
    zero too. Tasks refuse such data when they load them.

    Raises:
        ValueError: there are no samples, or shapes differ.
    """
    import torch

    ratios = []
    for prediction, target in batches:
        if prediction.shape != target.shape:
            raise ValueError(f"the prediction has shape {tuple(prediction.shape)}, the target {tuple(target.shape)}")
        target = target.double().flatten(1)
        error = torch.linalg.vector_norm(prediction.double().flatten(1) - target, dim=1)
        norm = torch.linalg.vector_norm(target, dim=1)
        ratios.append(torch.where(norm > 0, error / norm, torch.inf).cpu())
    if not ratios:
        raise ValueError("no samples to evaluate")
    ratio = torch.cat(ratios)
    return {"rel_l2": float(ratio.mean()), "rel_mse": float(ratio.square().mean())}
