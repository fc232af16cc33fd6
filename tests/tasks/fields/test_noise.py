"""Noise on the states given in training."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from command import attn_bench
from data_files import save
from field_files import splits, tensors

from attn_bench.tasks.fields.task import Fields

SIZE = 16


@pytest.fixture
def given(tmp_path):
    random = np.random.default_rng(0)
    states, rate = 5 * random.standard_normal((20, 4, SIZE, SIZE)) + 100, random.random((20, SIZE, SIZE))
    inside = np.ones((SIZE, SIZE), np.uint8)
    inside[0] = 0
    path = save(tmp_path / "flow.npz", {"u": states.astype("f"), "rate": rate.astype("f"), "inside": inside})
    return {"data": path, "input": "u:nthw+rate:nhw", "target": "u:nthw", "mask": "inside", "history": 2}


@pytest.mark.parametrize("reading", ["memory", "pieces"])
def test_states_in_training_have_it_and_nothing_else(given, reading):
    exact, noisy = (splits(**given, reading=reading, pushforward=1, noise=noise) for noise in (0.0, 0.1))
    for name in ("train", "unrolled"):
        (inputs, targets), (wanted, same) = (tensors(getattr(each, name)) for each in (noisy, exact))
        np.testing.assert_array_equal(targets, same)
        np.testing.assert_array_equal(inputs[:, 2:], wanted[:, 2:])
        np.testing.assert_array_equal(np.isnan(inputs), np.isnan(wanted))
        noise = (inputs - wanted)[:, :2, 1:]
        assert np.std(noise) == pytest.approx(0.5, rel=0.03)
        assert abs(np.mean(noise)) < 0.02
    for found, wanted in ((noisy.test, exact.test), (noisy.plain, exact.train)):
        np.testing.assert_array_equal(*(tensors(each)[0] for each in (found, wanted)))
    again = noisy.train.batch(torch.arange(4))[0]
    assert not torch.equal(noisy.train.batch(torch.arange(4))[0][:, :, 1:], again[:, :, 1:])
    assert noisy.identity["noise"] == 0.1
    assert "noise" not in exact.identity


def test_validation_and_normalization_have_none(given):
    exact, noisy = (Fields().hold_out(splits(**given, noise=noise), 0.25) for noise in (0.0, 0.5))
    assert noisy.sizes == exact.sizes
    np.testing.assert_array_equal(*(tensors(each.validation)[0] for each in (noisy, exact)))
    np.testing.assert_array_equal(tensors(noisy.plain)[0], tensors(exact.train)[0])
    modules = [Fields().adapt(torch.nn.Identity(), each.train) for each in (noisy, exact)]
    assert torch.equal(modules[0].input_std, modules[1].input_std)


def test_it_needs_a_time_axis(tmp_path):
    path = save(tmp_path / "still.npz", {"x": np.ones((4, 8, 8), "f"), "y": np.ones((4, 8, 8), "f")})
    done = attn_bench("data", "fields", "--data", path, "--set", "fields.axes=nhw", "--set", "fields.noise=0.1")
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert re.search(r"fields.noise=0.1: .* has no time axis", line)
