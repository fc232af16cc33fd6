"""Errors, loss and normalization of fields against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

from attn_bench.tasks.shared import normalise as normalisation
from attn_bench.tasks.shared.field_metrics import relative_errors, relative_l2_loss
from attn_bench.tasks.shared.normalise import Normalised, normalise


def test_errors_are_means_over_samples_not_over_batches():
    target = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2).repeat(3, 1, 1, 1)
    prediction = target + torch.tensor([0.0, 0.5, 5.0]).view(3, 1, 1, 1) * torch.tensor([1.0, 0.0])
    errors = relative_errors([(prediction[:1], target[:1]), (prediction[1:], target[1:])])
    assert errors["rel_l2"] == pytest.approx((0 + 0.1 + 1) / 3)
    assert errors["rel_mse"] == pytest.approx((0 + 0.01 + 1) / 3)
    assert float(relative_l2_loss(prediction, target)) == pytest.approx((0 + 0.1 + 1) / 3)


def test_a_target_of_zero_has_no_relative_error():
    assert relative_errors([(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))])["rel_l2"] == math.inf


def test_shapes_that_differ_are_refused_and_not_broadcast():
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 4\).*\(2, 1, 4, 1\)"):
        relative_errors([(torch.ones(2, 1, 4, 4), torch.ones(2, 1, 4, 1))])
    with pytest.raises(ValueError, match="no sample"):
        relative_errors([])


def test_a_model_sees_and_predicts_normalized_channels():
    torch.manual_seed(0)
    inputs = torch.randn(50, 2, 4, 4) * torch.tensor([3.0, 0.1]).view(2, 1, 1) + torch.tensor([7.0, -1.0]).view(2, 1, 1)
    targets = torch.randn(50, 1, 4, 4) * 1e-3 + 5
    wrapped = normalise(nn.Identity(), TensorDataset(inputs, targets))
    seen = (inputs - wrapped.input_mean) / wrapped.input_std
    assert seen.mean((0, 2, 3)).abs().max() < 1e-5
    assert (seen.std((0, 2, 3)) - 1).abs().max() < 1e-2
    wrapped.module = nn.Conv2d(2, 1, 1)
    with torch.no_grad():
        expected = wrapped.module(seen) * wrapped.target_std + wrapped.target_mean
        torch.testing.assert_close(wrapped(inputs), expected)
    assert wrapped.target_std.item() == pytest.approx(1e-3, rel=0.1)
    assert {name.partition(".")[0] for name, _ in wrapped.named_parameters()} == {"module"}


@pytest.mark.parametrize("grid", [(5,), (2, 3), (2, 3, 2)])
def test_statistics_are_those_of_all_points_of_all_samples_on_any_grid(grid, monkeypatch):
    monkeypatch.setattr(normalisation, "BLOCK", 20)  # several pieces
    inputs, targets = (torch.randn(7, channels, *grid) * 3 + 5 for channels in (3, 2))
    pairs = TensorDataset(inputs, targets)
    for train in (pairs, Subset(TensorDataset(*(t.flip(0) for t in pairs.tensors)), range(7)), [*pairs]):
        wrapped = normalise(nn.Identity(), train)
        for fields, name in ((inputs, "input"), (targets, "target")):
            std, mean = torch.std_mean(fields.double().movedim(1, 0).flatten(1), 1, correction=0)
            shape = (fields.shape[1], *[1] * len(grid))
            torch.testing.assert_close(getattr(wrapped, f"{name}_mean"), mean.float().view(shape))
            torch.testing.assert_close(getattr(wrapped, f"{name}_std"), std.float().view(shape))


def test_a_constant_channel_is_not_divided_by_zero():
    wrapped = normalise(nn.Identity(), TensorDataset(*[torch.full((3, 1, 5, 5), 0.1)] * 2))
    assert wrapped.input_mean.item() == pytest.approx(0.1)
    assert wrapped.input_std.item() == 1


def test_statistics_travel_with_the_weights():
    a = Normalised(nn.Identity(), *(torch.full((1,), float(value)) for value in (1, 2, 3, 4)))
    b = Normalised(nn.Identity(), *(torch.ones(1) for _ in range(4)))
    b.load_state_dict(a.state_dict())
    assert b(torch.full((1, 1, 1, 1), 5.0)).item() == (5 - 1) / 2 * 4 + 3
