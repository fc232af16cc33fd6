"""Errors of predicted trajectories, (B, T, *grid), states of one channel at T times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attn_bench.plugin import Metric
from attn_bench.tasks.shared.field_metrics import without_masked

if TYPE_CHECKING:
    from torch import Tensor

# A prediction is useful as long as its correlation with the truth is above this (Kochkov et al., arXiv:2102.01010, use
# 0.95; 0.8 is that of PDE-Refiner, arXiv:2308.05732).
CORRELATED = 0.8

ROLLOUT_METRICS = {
    "rel_l2": Metric(
        "lower", "mean over samples of ||prediction - target|| / ||target||, Euclidean norms over all times and points"
    ),
    "rel_mse": Metric(
        "lower",
        "mean over samples of ||prediction - target||^2 / ||target||^2, Euclidean norms over all times and points",
    ),
    "correlated_steps": Metric(
        "higher",
        "mean over samples of the number of predicted states before the first whose correlation with the truth over "
        f"its points (Pearson's) is below {CORRELATED:g}",
        unit="steps",
    ),
    "rel_l2_first": Metric("lower", "rel_l2 of the first predicted state alone", detail=True),
    "rel_l2_last": Metric("lower", "rel_l2 of the last predicted state alone", detail=True),
    "spectrum_error": Metric(
        "lower",
        "mean over samples and whole wavenumbers, up to the highest along an axis, of |log10| of the ratio of the "
        "predicted to the true squares of the Fourier coefficients of the last state",
        detail=True,
    ),
}


def rollout_errors(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Return :data:`ROLLOUT_METRICS` of each trajectory, (B,) each.

    Raises:
        ValueError: shapes differ.
    """
    import torch

    if prediction.shape != target.shape:
        raise ValueError(f"the prediction has shape {tuple(prediction.shape)}, the target {tuple(target.shape)}")
    prediction, target = prediction.double(), target.double()
    whole = _norm(prediction - target, 1) / _norm(target, 1)
    correlation = torch.linalg.vecdot(*(_centred(states) for states in (prediction, target)))
    spectra = [spectrum(states[:, -1]) for states in (prediction, target)]
    # A state without fine structure has rounding there.
    least = 1e-12 * spectra[1].sum(1, keepdim=True)
    ratio = (spectra[0].clamp(min=least) / spectra[1].clamp(min=least)).log10()
    each = step_errors(prediction, target, target.shape[1])
    return {
        "rel_l2": whole,
        "rel_mse": whole.square(),
        "correlated_steps": (correlation >= CORRELATED).double().cumprod(1).sum(1),
        "rel_l2_first": each[:, 0],
        "rel_l2_last": each[:, -1],
        "spectrum_error": ratio.abs().mean(1),
    }


def step_errors(prediction: Tensor, target: Tensor, steps: int) -> Tensor:
    """Return the relative Euclidean error of each of ``steps`` states, (B, steps); they may have several channels.

    Points at which the target is NaN are masked: they do not count.
    """
    fields = without_masked(prediction.double(), target.double())
    prediction, target = (each.unflatten(1, (steps, -1)) for each in fields)
    return _norm(prediction - target, 2) / _norm(target, 2)


def spectrum(states: Tensor) -> Tensor:
    """Return the sum of squared Fourier coefficients of states by wavenumber, (B, *grid) -> (B, min(grid) // 2).

    Wavenumber k has the modes whose length is nearer to k than to k - 1 or k + 1; that of 0 is left out.
    """
    import torch

    grid = states.shape[1:]
    power = torch.fft.fftn(states, dim=tuple(range(1, states.ndim)), norm="forward").abs().square().flatten(1)
    waves = torch.meshgrid(*(torch.fft.fftfreq(n, 1 / n) for n in grid), indexing="ij")
    lengths = torch.linalg.vector_norm(torch.stack(waves), dim=0).flatten()
    shells, count = lengths.round().long().to(states.device), min(grid) // 2
    sums = power.new_zeros(len(states), int(shells.max()) + 1).index_add_(1, shells, power)
    return sums[:, 1 : count + 1]


def _norm(states: Tensor, axis: int) -> Tensor:
    import torch

    return torch.linalg.vector_norm(states.flatten(axis), dim=axis)


def _centred(states: Tensor) -> Tensor:
    """Return each state as a vector of mean 0 and length 1, (B, T, points); 0 where it is constant."""
    from torch.nn.functional import normalize

    vectors = states.flatten(2)
    return normalize(vectors - vectors.mean(2, keepdim=True), dim=2)
