"""The task as the harness uses it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from attn_bench.plugin import DataError, OptionError, PrepareContext, Problem
from attn_bench.tasks.helmholtz import cavity_samples
from attn_bench.tasks.helmholtz.task import Helmholtz

TASK = Helmholtz()


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path))
    return tmp_path / "helmholtz"


def options(**changes):
    return Helmholtz.options(**({"n_train": 3, "n_test": 2, "frequency": 300.0, "modes": 24} | changes))


def distribution(**changes):
    given = {"frequency": 300.0, "speed": 20.0, "contrast": 1.0, "alpha": 2.0, "tau": 3.0}
    return cavity_samples.Distribution(**(given | {"modes": 24, "low": 8, "seed": 0} | changes))


def test_the_published_cavity_is_solved_to_four_digits():
    given = {"frequency": 1000.0, "low": 24}
    coarse, fine = (
        cavity_samples.generate(distribution(**given, modes=modes), "train", 1, [33])[33]["solution"][0].astype(float)
        for modes in (72, 112)
    )
    assert np.linalg.norm(coarse - fine) < 1e-4 * np.linalg.norm(fine)


def test_speeds_have_the_published_distribution():
    waves = cavity_samples.longest(100).tolist()
    assert waves[:5] == [[0, 1], [1, 0], [1, 1], [0, 2], [2, 0]]
    lengths = [k * k + l * l for k, l in waves]
    assert lengths == sorted(lengths)
    assert sum(1 for k in range(20) for l in range(20) if 0 < k * k + l * l < lengths[-1]) < 100
    drawn = torch.stack([cavity_samples.field(distribution(), "train", i) for i in range(1000)])
    assert float(drawn[:, 1, 2].var()) == pytest.approx((math.pi**2 * 5 + 9) ** -2, rel=0.15)
    speeds = cavity_samples.generate(distribution(modes=16), "train", 2, [17])[17]["speed"]
    x = torch.linspace(0, 1, 17, dtype=torch.float64)
    np.testing.assert_allclose(speeds, 20 + torch.tanh(cavity_samples.at_points(drawn[:2], x)), rtol=1e-6)


def test_the_driven_edge_has_its_derivative():
    x = torch.tensor([0.1, 0.3, 0.4, 0.5, 0.6, 0.9], dtype=torch.float64)
    found = cavity_samples.cosines(x, 8192) @ cavity_samples.bump(8192)
    assert found.tolist() == pytest.approx([0, 0, 1, 1, 1, 0], abs=2e-3)


def test_resolutions_show_the_same_functions(cache):
    coarse, fine = (TASK.splits(r, options()) for r in (9, 17))
    for a, b in zip(coarse.train.tensors + coarse.test.tensors, fine.train.tensors + fine.test.tensors):
        torch.testing.assert_close(a, b[..., ::2, ::2], rtol=1e-6, atol=1e-8)
    assert TASK.problem(9, options()) == Problem("field", 1, 1, (9, 9))
    assert fine.sizes == {"train": 3, "validation": 0, "test": 2}
    assert fine.identity["read"] == "5 samples of 17 x 17 generated: 3 train, 2 test"
    assert {file.state for file in TASK.prepare((9, 17), options(), PrepareContext()).files} == {"cached"}


def test_a_sample_does_not_depend_on_how_many_there_are():
    two, nine = (cavity_samples.generate(distribution(), "test", count, [9])[9]["solution"] for count in (2, 9))
    np.testing.assert_allclose(two, nine[:2], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "resolution", "said"),
    [
        ({}, 4, r"needs a resolution from 8 to 2048 \(given: 4\)"),
        ({"contrast": 20.0}, 32, r"contrast=20 must be below helmholtz\.speed=20"),
        ({"frequency": 1e5}, 32, r"frequency=100000 has 1675 half waves along a side, more than 46"),
        ({"frequency": 1000.0, "modes": 20}, 32, r"modes=20 is too small for the frequency; it must be >= 24"),
        ({"alpha": 1.0}, 32, "alpha"),
    ],
)
def test_wrong_options_are_refused_in_words(changes, resolution, said):
    with pytest.raises(OptionError, match=said):
        TASK.resolve((resolution,), options(**changes))


def test_a_medium_that_cannot_be_solved_is_said():
    hard = distribution(frequency=1000.0, contrast=15.0, low=4)
    with pytest.raises(DataError, match=r"choose a smaller helmholtz\.contrast"):
        cavity_samples.generate(hard, "train", 1, [9])
