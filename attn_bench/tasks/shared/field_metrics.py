"""Errors of fields: norms are over channels and points of a sample, metrics are means over samples.

Fields have the shape (B, C, *grid), on any number of axes, which need not be of one length. Points at which a target
is NaN are masked: they do not count. Differences and Fourier coefficients see an error of zero there, and no derivative
is taken across them. After the last point of a periodic axis follows the first, and no end of it is a boundary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from attn_bench.plugin import Metric

if TYPE_CHECKING:
    from torch import Tensor

# Wavenumbers up to which an error is of low and of mid frequency (PDEBench, arXiv:2210.07182, appendix B).
LOW, MID = 4, 12
# The coefficient jumps where it changes by more than this share of its range in the sample.
JUMP = 0.5

FIELD_METRICS = {
    "rel_l2": Metric("lower", "mean over samples of ||prediction - target|| / ||target||, Euclidean norms"),
    "rel_mse": Metric("lower", "mean over samples of ||prediction - target||^2 / ||target||^2, Euclidean norms"),
    "rel_h1": Metric(
        "lower",
        "mean over samples of the relative error in the norm (||u||^2 + ||grad u||^2)^(1/2); differences are central, "
        "one-sided at the ends of axes that are not periodic, on a domain of side 1",
        detail=True,
    ),
    "rel_max": Metric("lower", "mean over samples of max |prediction - target| / max |target|", detail=True),
    "rel_mse_low_freq": Metric(
        "lower",
        f"part of rel_mse in wavenumbers up to {LOW} (length of the wave vector, in cycles per side, by discrete "
        "Fourier transform of the error); low, mid and high add up to rel_mse",
        detail=True,
    ),
    "rel_mse_mid_freq": Metric("lower", f"part of rel_mse in wavenumbers above {LOW} and up to {MID}", detail=True),
    "rel_mse_high_freq": Metric(
        "lower", f"part of rel_mse in wavenumbers above {MID}, where the grid has any", detail=True
    ),
    "rel_mse_boundary": Metric(
        "lower",
        "mean over samples of the mean squared error of the outermost points of the grid, over the mean square of the "
        "target at all points; periodic axes have none",
        detail=True,
    ),
}
INTERFACE_METRICS = {
    "rel_mse_interface": Metric(
        "lower",
        "mean over samples of the mean squared error of the points within one cell of a jump of the coefficient, over "
        "the mean square of the target at all points; a jump is a change by more than half its range in the sample",
        detail=True,
    ),
    "rel_mse_elsewhere": Metric(
        "lower",
        "the same at all other points; in each sample both, weighted by their numbers of points, add up to rel_mse",
        detail=True,
    ),
}


def relative_l2_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of the relative Euclidean error; shapes (B, ...), both the same."""
    import torch

    error = torch.linalg.vector_norm((prediction - target).flatten(1), dim=1)
    norm = torch.linalg.vector_norm(target.flatten(1), dim=1)
    return (error / norm).mean()


def without_masked(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return both with zeros where the target is NaN: masked points then add nothing to an error or its gradient."""
    masked = target.isnan()
    return prediction.masked_fill(masked, 0.0), target.masked_fill(masked, 0.0)


def relative_errors(batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return ``rel_l2`` and ``rel_mse`` over (prediction, target) batches, computed in double precision.

    A target that is zero everywhere has no relative error: both are then infinite, not NaN, even if the prediction is
    zero too. Tasks refuse such data when they load them.

    Raises:
        ValueError: there are no samples, or shapes differ.
    """
    import torch

    ratios = [_relative(*_difference(prediction, target)).cpu() for prediction, target in batches]
    if not ratios:
        raise ValueError("no samples to evaluate")
    ratio = torch.cat(ratios)
    return {"rel_l2": float(ratio.mean()), "rel_mse": float(ratio.square().mean())}


def field_errors(prediction: Tensor, target: Tensor, periodic: Sequence[bool] = ()) -> dict[str, Tensor]:
    """Return :data:`FIELD_METRICS` of each sample of a batch, (B,) each; NaN where there is no such error.

    Args:
        periodic: which axes of the grid are; empty if none is.

    Raises:
        ValueError: shapes differ.
    """
    masked = target.isnan()
    error, target = _difference(prediction, target)
    rel_l2 = _relative(error, target)
    wraps = tuple(periodic) or (False,) * (error.ndim - 2)
    slopes = (_gradient_squares(field, masked, wraps) for field in (error, target))
    h1 = _ratio(*(_squares(field) + each for field, each in zip((error, target), slopes))).sqrt()
    largest = _ratio(error.abs().flatten(1).amax(1), target.abs().flatten(1).amax(1))
    low, middle, high = (_ratio(part, _squares(target)) for part in _bands(error))
    return {
        "rel_l2": rel_l2,
        "rel_mse": rel_l2.square(),
        "rel_h1": h1,
        "rel_max": largest,
        "rel_mse_low_freq": low,
        "rel_mse_mid_freq": middle,
        "rel_mse_high_freq": high,
        "rel_mse_boundary": _at(_outermost(error, wraps) & ~masked, error, target, masked),
    }


def interface_errors(coefficient: Tensor, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Return :data:`INTERFACE_METRICS` of each sample of a batch, (B,) each; NaN where there is no such point.

    Args:
        coefficient: (B, *grid).

    Raises:
        ValueError: shapes differ.
    """
    error, target = _difference(prediction, target)
    near = near_jumps(coefficient)[:, None]
    return {"rel_mse_interface": _at(near, error, target), "rel_mse_elsewhere": _at(~near, error, target)}


def near_jumps(coefficient: Tensor) -> Tensor:
    """Return which points of fields (B, *grid) are within one cell, diagonals included, of a jump.

    A jump is a change by more than :data:`JUMP` of the range of the sample.
    """
    from torch.nn import functional as F

    field, axes = coefficient.double()[:, None], coefficient.ndim - 1
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[axes]
    change = pool(field, 3, stride=1, padding=1) + pool(-field, 3, stride=1, padding=1)
    values = field.flatten(1)
    whole = (values.amax(1) - values.amin(1)).view(-1, *[1] * axes)
    return change[:, 0] > JUMP * whole


def _difference(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return error and target in double precision, zero at masked points."""
    if prediction.shape != target.shape:
        raise ValueError(f"the prediction has shape {tuple(prediction.shape)}, the target {tuple(target.shape)}")
    prediction, target = without_masked(prediction.double(), target.double())
    return prediction - target, target


def _relative(error: Tensor, target: Tensor) -> Tensor:
    import torch

    return _ratio(*(torch.linalg.vector_norm(field.flatten(1), dim=1) for field in (error, target)))


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    import torch

    return torch.where(whole > 0, part / whole, torch.inf)


def _squares(field: Tensor) -> Tensor:
    return field.flatten(1).square().sum(1)


def _gradient_squares(field: Tensor, masked: Tensor, wraps: Sequence[bool]) -> Tensor:
    """Return the sum of the squares of all first derivatives, (B,); of an axis of two points there is none.

    Derivatives at masked points, and those that such a point takes part in, are left out.
    """
    import torch

    total = field.new_zeros(len(field))
    field = field.masked_fill(masked, torch.nan)
    for axis, wrap in enumerate(wraps, 2):
        if (n := field.shape[axis]) > 2:
            if wrap:
                slope = (field.roll(-1, axis) - field.roll(1, axis)) * (n / 2)
            else:
                (slope,) = torch.gradient(field, spacing=1 / n, dim=[axis], edge_order=2)
            total = total + _squares(slope.masked_fill(slope.isnan() | masked, 0.0))
    return total


def _bands(error: Tensor) -> list[Tensor]:
    """Return the squares of the error in low, middle and high wavenumbers, (B,) each, which add up to all of them.

    NaN for a band that the grid has no wavenumber in.
    """
    import torch

    axes = range(2, error.ndim)
    power = torch.fft.fftn(error, dim=tuple(axes), norm="ortho").abs().square().sum(1)
    squared = error.new_zeros(error.shape[2:])
    for i, axis in enumerate(axes):
        n = error.shape[axis]
        waves = torch.fft.fftfreq(n, d=1 / n, dtype=error.dtype, device=error.device)
        squared = squared + waves.square().view(-1, *[1] * (len(axes) - 1 - i))
    masks = (squared <= LOW**2, (squared > LOW**2) & (squared <= MID**2), squared > MID**2)
    return [power[:, mask].sum(1) if mask.any() else power.new_full((len(power),), torch.nan) for mask in masks]


def _outermost(field: Tensor, wraps: Sequence[bool]) -> Tensor:
    """Return which points of the grid are its outermost, (*grid): the ends of axes that are not periodic."""
    import torch

    outer = torch.zeros(field.shape[2:], dtype=torch.bool, device=field.device)
    for axis, wrap in enumerate(wraps):
        if not wrap:
            outer.transpose(0, axis)[[0, -1]] = True
    return outer


def _at(points: Tensor, error: Tensor, target: Tensor, masked: Tensor | None = None) -> Tensor:
    """Return the mean squared error at ``points`` over the mean square of the target everywhere, (B,).

    Args:
        points: whether a point counts; broadcasts to the shape of ``error``.
        masked: points that are left out of the mean of the target.
    """
    import torch

    chosen, squares = points.expand_as(error), target.flatten(1).square()
    whole = squares.mean(1) if masked is None else squares.sum(1) / (~masked).flatten(1).sum(1)
    count = chosen.flatten(1).sum(1)
    return torch.where(count > 0, _ratio(_squares(error * chosen) / count, whole), torch.nan)
