"""Figures of rollouts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from attn_bench.report.panels import _read
from attn_bench.report.rollouts import spectrum, strips
from attn_bench.tasks.shared import rollout_metrics


def saved(path, **changes):
    random = np.random.default_rng(0)
    shape = {"input": (2, 4, 6, 8), "target": (2, 6, 6, 8), "prediction": (2, 6, 6, 8), "step_errors": (3,)}
    np.savez(path, **({name: random.standard_normal(size) for name, size in shape.items()} | changes))
    return path


def test_of_a_state_of_two_channels_the_first_is_shown(tmp_path):
    path = saved(tmp_path / "cell.npz")
    sample = _read(path, "")
    with np.load(path) as arrays:
        assert (sample.rollout.target == arrays["target"][0, ::2]).all()
        assert (sample.rollout.prediction == arrays["prediction"][0, ::2]).all()
        assert (sample.rollout.errors == arrays["step_errors"]).all()
        assert (sample.target == arrays["target"][0, 0]).all()
    assert sample.rollout.channels == 2
    figure = strips({"a": sample.rollout, "b": sample.rollout}, {"a": "a", "b": "b"})
    FigureCanvasAgg(figure).draw()
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 3 * 3
    assert [axes.get_title() for axes in shown[:3]] == ["state 1", "state 2", "state 3"]
    assert [axes.get_ylabel() for axes in shown[::3]] == ["truth", "a", "b"]
    assert len({axes.images[0].get_clim() for axes in shown}) == 1


def test_nothing_is_drawn_at_masked_points(tmp_path):
    target = np.ones((2, 6, 6, 8))
    target[..., 2, 3] = np.nan
    rollout = _read(saved(tmp_path / "cell.npz", target=target), "").rollout
    assert np.argwhere(np.isnan(rollout.prediction[0])).tolist() == [[2, 3]]


@pytest.mark.parametrize("grid", [(16, 16), (12, 20), (7, 9)])
def test_the_spectrum_drawn_is_that_of_the_metric(grid):
    state = np.random.default_rng(0).standard_normal(grid)
    (expected,) = rollout_metrics.spectrum(torch.from_numpy(state)[None])
    np.testing.assert_allclose(spectrum(state), expected.numpy(), rtol=1e-12)
    wave = 3 * np.cos(2 * np.pi * 2 * np.arange(16) / 16)
    np.testing.assert_allclose(spectrum(np.tile(wave, (16, 1))), [0, 4.5, *[0] * 6], atol=1e-12)


@pytest.mark.parametrize("errors", [np.zeros(4), np.zeros((3, 1))])
def test_what_is_no_rollout_is_refused(tmp_path, errors):
    with pytest.raises(ValueError, match="not trajectories of one shape"):
        _read(saved(tmp_path / "cell.npz", step_errors=errors), "")
