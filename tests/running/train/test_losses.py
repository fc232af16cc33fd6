"""Losses of fields against slow readings of their definitions, and against the libraries whose they are."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_plugins import ToyTask

from attn_bench.plugin import Problem
from attn_bench.running.train.losses import field_losses, loss_of

FIELD_LOSSES = field_losses()

grids = st.one_of(st.tuples(st.integers(4, 9)), st.tuples(st.integers(4, 9), st.integers(4, 9)))


def fields(grid, channels=1, samples=3):
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(samples, channels, *grid, generator=generator, dtype=torch.float64)
    return target + 0.3 * torch.randn(target.shape, generator=generator, dtype=torch.float64), target


def points(grid):
    return itertools.product(*map(range, grid))


def norm(values):
    return math.sqrt(sum(float(value) ** 2 for value in values))


def relative(prediction, target):
    """The relative L2 error of one sample, as dictionaries of values by channel and point."""
    return norm(prediction[key] - target[key] for key in target) / norm(target.values())


def by_point(sample):
    return {(c, *p): sample[(c, *p)] for c in range(len(sample)) for p in points(sample.shape[1:])}


def moved(key, axis, by):
    return tuple(at + (by if place == axis + 1 else 0) for place, at in enumerate(key))


def derivative_by_hand(prediction, target):
    """Relative L2 plus a tenth of those of the central differences, of one sample."""
    grid = target.shape[1:]
    values, wanted = by_point(prediction), by_point(target)
    inside = {
        key: value if all(0 < at < size - 1 for at, size in zip(key[1:], grid)) else 0.0
        for key, value in values.items()
    }

    def differences(field, axis):
        h = 1 / grid[axis]
        return {
            key: (field.get(moved(key, axis, 1), 0) - field.get(moved(key, axis, -1), 0)) / (2 * h) for key in field
        }

    sums = sum(relative(differences(inside, axis), differences(wanted, axis)) for axis in range(len(grid)))
    return relative(values, wanted) + 0.1 * sums


def h1_by_hand(prediction, target):
    """The relative H1 error of one channel of one sample."""
    grid = target.shape

    def slope(field, at, axis):
        n = grid[axis]
        if 0 < at[axis] < n - 1:
            weights = {1: 1 / 2, -1: -1 / 2}
        else:  # one-sided, exact for cubics
            side = 1 if at[axis] == 0 else -1
            weights = {0: -11 / 6, 1: 3, 2: -3 / 2, 3: 1 / 3}
            weights = {side * k: side * weight for k, weight in weights.items()}
        around = {k: tuple(i + (k if a == axis else 0) for a, i in enumerate(at)) for k in weights}
        return n * sum(weight * field[around[k]] for k, weight in weights.items())

    def norm_of(field):
        slopes = [slope(field, at, axis) for at in points(grid) for axis in range(len(grid))]
        return norm([*field.flatten(), *slopes])

    return norm_of(prediction - target) / norm_of(target)


@given(grid=grids, channels=st.integers(1, 2))
def test_the_derivative_loss_is_that_of_its_definition(grid, channels):
    prediction, target = fields(grid, channels)
    expected = [derivative_by_hand(*pair) for pair in zip(prediction, target)]
    assert float(FIELD_LOSSES["derivative"](prediction, target)) == pytest.approx(sum(expected) / len(expected))


def test_the_outermost_points_of_the_prediction_count_only_in_its_own_error():
    prediction, target = fields((6, 6))
    prediction.requires_grad_(True)
    FIELD_LOSSES["derivative"](prediction, target).backward()
    of_differences = prediction.grad.clone()
    prediction.grad = None
    FIELD_LOSSES["rel_l2"](prediction, target).backward()
    of_differences -= prediction.grad
    inner = of_differences[..., 1:-1, 1:-1].clone()
    of_differences[..., 1:-1, 1:-1] = 0
    assert of_differences.abs().max() < 1e-12
    assert inner.abs().min() > 0


@given(grid=grids, channels=st.integers(1, 2))
def test_h1_is_that_of_its_definition(grid, channels):
    prediction, target = fields(grid, channels)
    each = [h1_by_hand(p[c], t[c]) for p, t in zip(prediction, target) for c in range(channels)]
    assert float(FIELD_LOSSES["h1"](prediction, target)) == pytest.approx(sum(each) / len(each))


def circles(periodic, n=64):
    """A wave along each axis of a grid, and an error that is a shorter one along the last, without a jump."""
    x = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    shape = (1, 1, *[n] * len(periodic))
    target = sum(
        torch.sin(x).view([-1 if a == axis else 1 for a in range(len(periodic))]) for axis in range(len(periodic))
    )
    error = 0.1 * torch.cos(4 * x)
    return (target + error).expand(shape).contiguous(), target.expand(shape).contiguous()


@pytest.mark.parametrize("periodic", [(True,), (True, True), (False, True), (True, False), (False, False)])
def test_differences_go_on_at_the_first_point_of_periodic_axes(periodic):
    """Rolled along its periodic axes, a pair of fields has the same loss; along the others it has a jump."""
    prediction, target = circles(periodic)
    task, problem = ToyTask(), Problem("field", 1, 1, target.shape[2:], periodic=periodic)
    for name in ("h1", "derivative"):
        loss = loss_of(task, problem, name)
        found = float(loss(prediction, target))
        for axis, wraps in enumerate(periodic, 2):
            rolled = float(loss(prediction.roll(5, axis), target.roll(5, axis)))
            assert (rolled == pytest.approx(found, rel=1e-9)) == wraps, (name, axis)
    if all(periodic):
        # Of central differences the wave number k is sin(2 pi k / n) n: the sums of squares are those of the waves.
        first, fourth = (64 * math.sin(2 * math.pi * k / 64) for k in (1, 4))
        expected = 0.1 * math.sqrt((1 + fourth**2) / (len(periodic) * (1 + first**2)))
        assert float(loss_of(task, problem, "h1")(prediction, target)) == pytest.approx(expected, rel=1e-9)


@given(grid=grids)
def test_rel_l2_is_neuraloperators_and_mse_is_the_mean(grid):
    from neuralop.losses import LpLoss

    prediction, target = fields(grid, channels=2)
    theirs = LpLoss(d=len(grid) + 1, p=2, reduction="mean", eps=0.0)(prediction, target)
    assert float(FIELD_LOSSES["rel_l2"](prediction, target)) == pytest.approx(float(theirs))
    squares = [float(value) ** 2 for value in (prediction - target).flatten()]
    assert float(FIELD_LOSSES["mse"](prediction, target)) == pytest.approx(sum(squares) / len(squares))


@pytest.mark.parametrize("name", FIELD_LOSSES)
def test_a_loss_is_zero_where_nothing_is_wrong_and_has_a_gradient_elsewhere(name):
    prediction, target = fields((8, 6))
    target[..., (0, -1), :] = target[..., :, (0, -1)] = 0
    assert float(FIELD_LOSSES[name](target.clone(), target)) == 0
    prediction = prediction.float().requires_grad_(True)
    FIELD_LOSSES[name](prediction, target.float()).backward()
    assert torch.isfinite(prediction.grad).all()
    # In other units the relative ones are the same.
    scale = 1 if name != "mse" else 1e-12
    scaled = FIELD_LOSSES[name](prediction.double() * 1e-6, target * 1e-6)
    assert float(scaled) == pytest.approx(scale * float(FIELD_LOSSES[name](prediction.double(), target)), rel=1e-6)


def test_a_task_has_its_own_losses_and_those_of_its_kind():
    class Own(ToyTask):
        def losses(self):
            return {"largest": lambda prediction, target: (prediction - target).abs().max()}

    task, field = Own(), Problem("field", 1, 1, (4, 4))
    prediction, target = fields((4, 4))
    assert loss_of(task, field, "largest")(prediction, target) == (prediction - target).abs().max()
    assert loss_of(task, field, "task") == task.loss
    assert loss_of(task, field, "h1")(prediction, target) == FIELD_LOSSES["h1"](prediction, target)
    with pytest.raises(ValueError, match=r"no loss h1 for toy-task \(image\); there are: largest, task"):
        loss_of(task, Problem("image", 1, 2, (4, 4)), "h1")
