"""Errors of fields against slow readings of their definitions, on square and other grids."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from attn_bench.tasks.shared.field_metrics import (
    FIELD_METRICS,
    INTERFACE_METRICS,
    LOW,
    MID,
    field_errors,
    interface_errors,
    near_jumps,
    relative_errors,
)

GRIDS = [(32, 32), (9, 26), (31, 8), (40,), (5, 6, 30)]


def fields(grid: tuple[int, ...], channels: int = 2, samples: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(samples, channels, *grid, generator=generator, dtype=torch.float64)
    return target + 0.1 * torch.randn(target.shape, generator=generator, dtype=torch.float64), target


@pytest.mark.parametrize("grid", GRIDS)
def test_bands_hold_the_error_of_their_wavenumbers_and_add_up_to_all_of_it(grid):
    prediction, target = fields(grid)
    found = field_errors(prediction, target)
    bands = [found[f"rel_mse_{band}_freq"] for band in ("low", "mid", "high")]
    torch.testing.assert_close(sum(band.nan_to_num() for band in bands), found["rel_mse"], rtol=1e-12, atol=0)
    for sample in range(len(target)):
        error = (prediction - target)[sample].numpy()
        expected = dict.fromkeys(("low", "mid", "high"), math.nan)
        for k in itertools.product(*(range(-(n // 2), (n + 1) // 2) for n in grid)):
            phases = [np.exp(-2j * np.pi * k_i * np.arange(n) / n) for k_i, n in zip(k, grid)]
            wave = phases[0]
            for phase in phases[1:]:
                wave = np.multiply.outer(wave, phase)
            squares = sum(abs((wave * channel).sum()) ** 2 for channel in error) / math.prod(grid)
            size = math.hypot(*k)
            name = "low" if size <= LOW else "mid" if size <= MID else "high"
            expected[name] = np.nan_to_num(expected[name]) + squares / float(target[sample].square().sum())
        for name, value in expected.items():
            assert float(found[f"rel_mse_{name}_freq"][sample]) == pytest.approx(value, rel=1e-9, nan_ok=True)
    assert math.isnan(found["rel_mse_high_freq"][0]) == (math.hypot(*(n // 2 for n in grid)) <= MID)


def test_a_wave_is_in_its_band():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(48.0), indexing="ij")
    target = torch.ones(1, 1, 64, 48)
    for waves, band in (((3, 2), "low"), ((3, 3), "mid"), ((0, 12), "mid"), ((9, 9), "high"), ((0, 24), "high")):
        error = torch.cos(2 * math.pi * (waves[0] * y / 64 + waves[1] * x / 48))[None, None]
        found = field_errors(target + error, target)
        for name in ("low", "mid", "high"):
            expected = float(found["rel_mse"]) if name == band else 0
            assert float(found[f"rel_mse_{name}_freq"]) == pytest.approx(expected, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("grid", GRIDS)
def test_h1_has_the_differences_of_numpy(grid):
    prediction, target = fields(grid)

    def squares(field: np.ndarray) -> float:
        parts = [field]
        for channel in field:
            slopes = np.gradient(channel, *(1 / n for n in grid), edge_order=2)
            parts += slopes if isinstance(slopes, list | tuple) else [slopes]
        return sum(float((part**2).sum()) for part in parts)

    expected = [math.sqrt(squares((p - t).numpy()) / squares(t.numpy())) for p, t in zip(prediction, target)]
    assert field_errors(prediction, target)["rel_h1"].tolist() == pytest.approx(expected, rel=1e-12)


def test_h1_of_a_sine_is_that_of_its_integrals():
    x = torch.arange(256, dtype=torch.float64) / 256
    target = torch.sin(2 * math.pi * x).expand(1, 1, 32, 256)
    error = 0.1 * torch.sin(8 * math.pi * x).expand_as(target)
    expected = 0.1 * math.sqrt((1 + (8 * math.pi) ** 2) / (1 + (2 * math.pi) ** 2))
    assert float(field_errors(target + error, target)["rel_h1"]) == pytest.approx(expected, rel=5e-3)


def test_h1_and_boundary_of_periodic_axes():
    """Along a periodic axis differences are exact ones of a wave, at its ends too, which are no boundary."""
    n = 16
    x = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    target = torch.sin(x).expand(1, 2, n, n)
    error = 0.1 * torch.sin(3 * x).expand_as(target)
    slopes = [n * math.sin(2 * math.pi * k / n) for k in (1, 3)]
    expected = 0.1 * math.sqrt((1 + slopes[1] ** 2) / (1 + slopes[0] ** 2))
    found = field_errors(target + error, target, (True, True))
    assert float(found["rel_h1"]) == pytest.approx(expected, rel=1e-12)
    assert math.isnan(found["rel_mse_boundary"])
    # Only the first axis has ends: the error is the same in all rows.
    half = field_errors(target + error, target, (False, True))
    assert float(half["rel_h1"]) == pytest.approx(expected, rel=1e-12)
    assert float(half["rel_mse_boundary"]) == pytest.approx(0.01, rel=1e-12)
    ends = field_errors(target + error, target, (True, False))
    assert float(ends["rel_h1"]) != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("grid", GRIDS)
def test_largest_and_boundary_errors_point_by_point(grid):
    prediction, target = fields(grid)
    found = field_errors(prediction, target)
    for sample in range(len(target)):
        errors, border = [], []
        for point in itertools.product(*map(range, grid)):
            for channel in range(target.shape[1]):
                error = float(prediction[(sample, channel, *point)] - target[(sample, channel, *point)])
                errors.append(abs(error))
                if any(i in (0, n - 1) for i, n in zip(point, grid)):
                    border.append(error**2)
        assert float(found["rel_max"][sample]) == pytest.approx(max(errors) / float(target[sample].abs().max()))
        expected = np.mean(border) / float(target[sample].square().mean())
        assert float(found["rel_mse_boundary"][sample]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
def test_errors_at_interfaces_and_elsewhere_add_up_by_points(grid):
    prediction, target = fields(grid)
    # Two values, jumps in some places only, another scale in each sample, and one sample without any.
    smooth = torch.cumsum(fields(grid, 1)[1][:, 0], -1)
    coefficient = torch.where(smooth > smooth.flatten(1).median(1).values.view(-1, *[1] * len(grid)), 12.0, 3.0)
    coefficient = coefficient * torch.tensor([1.0, 1e-3, 0.0]).view(-1, *[1] * len(grid))
    found = interface_errors(coefficient, prediction, target)
    rel_mse = field_errors(prediction, target)["rel_mse"]
    near = near_jumps(coefficient)
    assert bool(near[:2].any())
    for sample in range(len(target)):
        for point in itertools.product(*map(range, grid)):
            window = [
                float(coefficient[(sample, *other)])
                for other in itertools.product(*(range(max(i - 1, 0), min(i + 2, n)) for i, n in zip(point, grid)))
            ]
            assert bool(near[(sample, *point)]) == (len(set(window)) > 1)
    share = near.flatten(1).double().mean(1)
    total = share * found["rel_mse_interface"] + (1 - share) * found["rel_mse_elsewhere"]
    torch.testing.assert_close(total[:2], rel_mse[:2], rtol=1e-12, atol=0)
    assert math.isnan(found["rel_mse_interface"][2])
    assert float(found["rel_mse_elsewhere"][2]) == pytest.approx(float(rel_mse[2]), rel=1e-12)


def test_an_error_at_the_interface_is_not_elsewhere():
    coefficient = torch.full((1, 8, 12), 3.0)
    coefficient[:, :, 6:] = 12.0
    target, error = torch.ones(1, 1, 8, 12), torch.zeros(1, 1, 8, 12)
    error[..., 5:7] = 0.5
    found = interface_errors(coefficient, target + error, target)
    assert (found["rel_mse_interface"].item(), found["rel_mse_elsewhere"].item()) == (0.25, 0)


def test_a_slope_is_not_a_jump():
    assert not near_jumps(torch.linspace(0, 1, 16).expand(1, 16, 16)).any()


def test_every_error_is_defined_and_the_first_two_are_those_of_training():
    prediction, target = fields((16, 16))
    found = field_errors(prediction, target)
    assert list(found) == list(FIELD_METRICS)
    assert list(interface_errors(target[:, 0], prediction, target)) == list(INTERFACE_METRICS)
    for name, value in relative_errors([(prediction[:1], target[:1]), (prediction[1:], target[1:])]).items():
        assert float(found[name].mean()) == pytest.approx(value, rel=1e-12)
    assert all(value.shape == (3,) for value in found.values())


def test_single_precision_and_small_fields_keep_their_digits():
    prediction, target = fields((16, 16))
    small = field_errors((1e-15 * prediction).float(), (1e-15 * target).float())
    for name, value in field_errors(prediction, target).items():
        torch.testing.assert_close(small[name], value, rtol=1e-5, atol=0, equal_nan=True)


def test_a_target_of_zero_has_no_error_but_infinity():
    found = field_errors(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16))
    assert {float(value) for name, value in found.items() if name != "rel_mse_high_freq"} == {math.inf}


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 4\).*\(2, 1, 4, 1\)"):
        field_errors(torch.ones(2, 1, 4, 4), torch.ones(2, 1, 4, 1))
