"""Errors of trajectories against direct computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attn_bench.tasks.shared.rollout_metrics import ROLLOUT_METRICS, rollout_errors, spectrum, step_errors


@pytest.mark.parametrize("grid", [(8, 6), (48,)])
def test_each_metric_equals_its_definition(grid):
    random = np.random.default_rng(0)
    target = random.standard_normal((3, 4, *grid))
    shift = random.standard_normal((3, 4, *[1] * len(grid)))
    prediction = target + shift + 0.7 * random.standard_normal((3, 4, *grid)).cumsum(1)
    found = rollout_errors(torch.from_numpy(prediction), torch.from_numpy(target))
    assert set(found) == set(ROLLOUT_METRICS)
    for i in range(3):
        p, t = prediction[i], target[i]
        rel_l2 = np.linalg.norm(p - t) / np.linalg.norm(t)
        assert found["rel_l2"][i] == pytest.approx(rel_l2)
        assert found["rel_mse"][i] == pytest.approx(rel_l2**2)
        for name, state in (("rel_l2_first", 0), ("rel_l2_last", -1)):
            assert found[name][i] == pytest.approx(np.linalg.norm(p[state] - t[state]) / np.linalg.norm(t[state]))
        alike = [np.corrcoef(a.ravel(), b.ravel())[0, 1] >= 0.8 for a, b in zip(p, t)]
        assert found["correlated_steps"][i] == (alike.index(False) if False in alike else 4)
    assert len(set(found["correlated_steps"].tolist())) > 1


def test_correlated_states_after_an_uncorrelated_one_do_not_count():
    target = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    prediction = target.clone()
    prediction[:, 1] *= -1
    assert rollout_errors(prediction, target)["correlated_steps"].tolist() == [1]
    constant = torch.zeros_like(target)
    assert rollout_errors(constant, target)["correlated_steps"].tolist() == [0]


def test_the_spectrum_has_a_wave_at_its_wavenumber():
    y = torch.arange(16) / 16
    waves = torch.stack([torch.sin(2 * np.pi * k * y)[:, None].expand(16, 16) for k in (1, 3, 8)])
    waves[2] = torch.cos(2 * np.pi * 8 * y)[:, None]
    found = spectrum(waves)
    assert found.shape == (3, 8)
    assert found.argmax(1).tolist() == [0, 2, 7]
    # Parseval: half the square of the amplitude; all of it at the highest wavenumber.
    assert found.amax(1).tolist() == pytest.approx([0.5, 0.5, 1.0], abs=1e-6)
    torch.testing.assert_close(spectrum(waves[:, :, 0]), found)


def test_a_damped_spectrum_is_an_error_of_its_logarithm():
    target = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = rollout_errors(target / 10, target)
    torch.testing.assert_close(found["spectrum_error"], torch.full((2,), 2.0, dtype=torch.float64))


def test_states_of_several_channels_have_one_error_each():
    target = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    prediction = target.clone()
    prediction[:, 2:4] = 0
    assert step_errors(prediction, target, 3).tolist() == [[0, 1, 0], [0, 1, 0]]


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"the prediction has shape \(1, 2, 4, 4\), the target \(1, 3, 4, 4\)"):
        rollout_errors(torch.ones(1, 2, 4, 4), torch.ones(1, 3, 4, 4))
