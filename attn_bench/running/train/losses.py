"""The losses that a training can use instead of its task's own.

Predictions and targets of fields are (B, C, *grid), in physical units: tasks normalize inside the module that is
trained (:meth:`attn_bench.plugin.Task.adapt`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attn_bench.plugin import Problem, Task
from attn_bench.tasks.shared.field_metrics import relative_l2_loss, without_masked

Loss = Callable[[Tensor, Tensor], Tensor]
# The weight of the differences in the derivative loss.
DIFFERENCES = 0.1


def loss_of(task: Task, problem: Problem, name: str) -> Loss:
    """Return the loss called ``name``: the task's own (``task``), another that it offers, or one of fields.

    Raises:
        ValueError: there is none of this name for the problem.
    """
    known = {**(field_losses(problem.periodic) if problem.kind == "field" else {}), **task.losses(), "task": task.loss}
    if name not in known:
        raise ValueError(f"there is no loss {name} for {task.name} ({problem.kind}); there are: {', '.join(known)}")
    loss = known[name]
    return (lambda prediction, target: loss(*without_masked(prediction, target))) if task.masks else loss


def mean_squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean over the batch, channels and points of the squared error."""
    return F.mse_loss(prediction, target)


def relative_h1(prediction: Tensor, target: Tensor, periodic: tuple[bool, ...] = ()) -> Tensor:
    """Return the mean over the batch and channels of ||error||_H1 / ||target||_H1, by neuraloperator's ``H1Loss``.

    The H1 norm is the root of the summed squares of a field and of its derivatives on the unit square, which are
    central differences with a spacing of 1/N, one-sided ones of third order at the edges of axes that are not periodic.
    """
    return _h1_loss(periodic or (False,) * (target.dim() - 2))(prediction, target)


@cache
def _h1_loss(periodic: tuple[bool, ...]) -> Any:
    from neuralop.losses import H1Loss

    along = {f"periodic_in_{axis}": wraps for axis, wraps in zip("xyz", periodic)}
    # Without its eps, which fields in large units need not notice and those in small ones would.
    return H1Loss(len(periodic), reduction="mean", eps=0.0, **along)


def derivative_loss(prediction: Tensor, target: Tensor, periodic: tuple[bool, ...] = ()) -> Tensor:
    """Return the relative L2 error plus 0.1 times the sum of those of the central differences along each axis.

    As Neural-Solver-Library, Transolver, LaMO and HO-FNO train on Darcy flow: for the differences, the outermost points
    of the prediction are 0, and both fields go on with 0 outside the grid. So it is meant for fields that are 0 on
    the boundary, on a grid with both ends. Along periodic axes nothing is 0, and differences go on at the first point.
    """
    axes, wraps = range(2, target.dim()), periodic or (False,) * (target.dim() - 2)
    margin = [0 if wrap else 1 for wrap in reversed(wraps) for _ in "ab"]
    bounded = F.pad(F.pad(prediction, [-each for each in margin]), margin)
    pairs = [[_difference(field, *along) for field in (bounded, target)] for along in zip(axes, wraps)]
    differences = torch.stack([relative_l2_loss(*pair) for pair in pairs]).sum()
    return relative_l2_loss(prediction, target) + DIFFERENCES * differences


def _difference(field: Tensor, axis: int, wraps: bool) -> Tensor:
    """Return what follows a point along an axis less what precedes it: relative errors need no constant factor."""
    if wraps:
        return field.roll(-1, axis) - field.roll(1, axis)
    margin = [0] * (2 * (field.dim() - 1 - axis)) + [1, 1]
    padded = F.pad(field, margin)
    size = field.shape[axis]
    return padded.narrow(axis, 2, size) - padded.narrow(axis, 0, size)


def field_losses(periodic: tuple[bool, ...] = ()) -> dict[str, Loss]:
    """Return the losses of fields by name; ``periodic`` says which axes of the grid are, and is empty if none is."""
    return {
        "rel_l2": relative_l2_loss,
        "mse": mean_squared_error,
        "h1": partial(relative_h1, periodic=periodic),
        "derivative": partial(derivative_loss, periodic=periodic),
    }
