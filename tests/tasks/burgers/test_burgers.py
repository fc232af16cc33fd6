"""The task as the harness uses it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_wave_flow import cole_hopf

from attn_bench.plugin import DataError, OptionError, PrepareContext, Problem
from attn_bench.tasks.burgers import wave_samples
from attn_bench.tasks.burgers.task import Burgers

TASK = Burgers()


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path))
    return tmp_path / "burgers"


def options(**changes):
    return Burgers.options(**({"n_train": 3, "n_test": 2, "steps": 64} | changes))


def distribution(**changes):
    shape = {"alpha": 2.0, "tau": 5.0, "sigma": 25.0, "mean": False}
    given = {"viscosity": 0.1, "time": 1.0, "fine": 256, "steps": 512, "seed": 0} | shape
    return wave_samples.Distribution(**(given | changes))


@pytest.mark.parametrize(("viscosity", "mean"), [(0.1, False), (0.01, False), (0.01, True)])
def test_samples_are_the_exact_solution(viscosity, mean):
    given = distribution(viscosity=viscosity, mean=mean)
    made = wave_samples.generate(given, "train", 4, [1024])[1024]
    start = torch.stack([wave_samples.initial(given, "train", i) for i in range(4)])
    exact = cole_hopf(start, viscosity, 1.0, 8192)[:, ::8]
    difference = np.linalg.norm(made["solution"] - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert difference.max() < 2e-7


def test_the_initial_condition_has_the_published_covariance():
    drawn = torch.stack([wave_samples.initial(distribution(), "train", i) for i in range(2000)])
    k = np.arange(1, 6)
    variance = drawn[:, 1:6].abs().square().mean(0).numpy()
    assert variance == pytest.approx(625 * (4 * np.pi**2 * k**2 + 25.0) ** -2, rel=0.1)
    assert (drawn[:, 0] == 0).all()
    means = torch.stack([wave_samples.initial(distribution(mean=True), "train", i)[0] for i in range(2000)])
    assert float(means.real.square().mean()) == pytest.approx(1, rel=0.1)
    assert (means.imag == 0).all()


def test_resolutions_show_the_same_functions(cache):
    coarse, fine = (TASK.splits(r, options()) for r in (50, 200))
    for a, b in zip(coarse.train.tensors + coarse.test.tensors, fine.train.tensors + fine.test.tensors):
        torch.testing.assert_close(a, b[..., ::4], rtol=0, atol=1e-6)
    assert TASK.problem(50, options()) == Problem("field", 1, 1, (50,), periodic=(True,))
    assert fine.train.tensors[0].shape == (3, 1, 200)
    assert fine.sizes == {"train": 3, "validation": 0, "test": 2}
    assert fine.identity["read"] == "5 samples of 200 points generated: 3 train, 2 test"


def test_a_sample_does_not_depend_on_how_many_there_are():
    given = distribution(fine=128, steps=32)
    two, many = (wave_samples.generate(given, "train", count, [16])[16]["solution"] for count in (2, 140))
    np.testing.assert_allclose(two, many[:2], rtol=1e-5, atol=1e-7)
    other = wave_samples.generate(given, "test", 1, [16])[16]["solution"]
    assert not np.allclose(other[0], two[0], atol=1e-3)


def test_data_are_made_once(cache, monkeypatch):
    progress = []
    made = TASK.prepare((16, 64), options(), PrepareContext(lambda done, total: progress.append((done, total))))
    assert [(file.split, file.resolution, file.state, file.samples) for file in made.files] == [
        ("train", 16, "made", 3),
        ("train", 64, "made", 3),
        ("test", 16, "made", 2),
        ("test", 64, "made", 2),
    ]
    assert made.read == ("5 samples of 16, 64 points generated: 3 train, 2 test",)
    assert (progress[0], progress[-1]) == ((0, 5), (5, 5))
    monkeypatch.setattr(wave_samples, "WaveFlow", None)
    assert {file.state for file in TASK.prepare((64,), options(), PrepareContext()).files} == {"cached"}


def test_the_solver_is_as_fine_as_the_viscosity_needs():
    assert [TASK.resolve((64,), options(viscosity=nu)).fine for nu in (1, 0.1, 1e-2, 1e-3)] == [256, 256, 256, 1024]
    assert TASK.resolve((8192,), options(fine=600, steps=None)).steps == 600


@pytest.mark.parametrize(
    ("changes", "resolution", "said"),
    [
        ({}, 4, r"needs a resolution from 8 to 131072 points \(given: 4\)"),
        ({"viscosity": 1e-6}, 64, r"viscosity=1e-06 needs 1048576 points, .* >= 1\.5e-05, or .* burgers\.fine"),
        ({"viscosity": 0}, 64, "viscosity"),
        ({"alpha": 0.5}, 64, "alpha"),
        ({"n_test": 0}, 64, "n_test"),
    ],
)
def test_wrong_options_are_refused_in_words(changes, resolution, said):
    with pytest.raises(OptionError, match=said):
        TASK.resolve((resolution,), options(**changes))


def test_a_flow_too_fast_for_the_steps_is_said(cache):
    with pytest.raises(DataError, match=r"with 1 steps .*set burgers\.steps to more"):
        TASK.prepare((16,), options(steps=1, sigma=1e5, viscosity=1e-3, time=50), PrepareContext())
