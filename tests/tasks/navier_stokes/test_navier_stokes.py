"""The task as the harness uses it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attn_bench.plugin import DataError, OptionError, PrepareContext, Problem
from attn_bench.tasks.navier_stokes import simulated
from attn_bench.tasks.navier_stokes.task import NavierStokes
from attn_bench.tasks.navier_stokes.trajectories import Pairs

TASK = NavierStokes()
SMALL = {"n_train": 3, "n_test": 2, "horizon": 5, "history": 2, "fine": 16}


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTN_BENCH_CACHE", str(tmp_path))
    return tmp_path / "navier-stokes"


def options(**changes):
    return NavierStokes.options(**(SMALL | changes))


def test_resolutions_of_one_sweep_show_the_same_trajectories(cache):
    resolved = TASK.resolve((8, 16), options())
    coarse, fine = (TASK.splits(r, resolved) for r in (8, 16))
    for a, b in ((coarse.train[3], fine.train[3]), (coarse.test[1], fine.test[1])):
        for one, other in zip(a, b):
            assert (one == other[:, ::2, ::2]).all()
    assert TASK.problem(16, resolved) == Problem("field", 2, 1, (16, 16), periodic=(True, True))
    assert TASK.rollout(resolved) == 3
    assert [tuple(tensor.shape) for tensor in fine.test[0]] == [(2, 16, 16), (3, 16, 16)]
    assert fine.sizes == {"train": 9, "validation": 0, "test": 2}


def test_a_trajectory_does_not_depend_on_how_many_there_are(cache):
    distribution = simulated.Distribution(1e-3, 2, 16, 16, 0)
    two, three = (simulated.generate(distribution, "train", count, [16])[16]["vorticity"] for count in (2, 3))
    assert (two == three[:2]).all()
    assert not (simulated.generate(distribution, "test", 1, [16])[16]["vorticity"][0] == two[0]).any()


def test_the_initial_vorticity_has_the_variance_of_the_published_generator():
    drawn = torch.stack([simulated.initial(0, "train", i, 96) for i in range(100)])
    k = np.fft.fftfreq(65, 1 / 65)
    squared = 4 * np.pi**2 * (k[:, None] ** 2 + k**2)
    variance = 2 * 7**3 * (squared + 49) ** -2.5
    variance[0, 0] = 0
    assert float(drawn.square().mean()) == pytest.approx(variance.sum(), rel=0.05)
    # Of one mode, from its coefficient: a real field has half of it in each of the two conjugate waves.
    mode = torch.fft.fft2(drawn, norm="forward")[:, 1, 2]
    assert float(mode.abs().square().mean()) == pytest.approx(variance[1, 2], rel=0.2)
    assert float(drawn.mean((1, 2)).abs().max()) < 1e-12


def test_pairs_are_every_run_of_states_and_the_next_one():
    trajectories = torch.arange(2 * 5).float().view(2, 5, 1, 1).expand(2, 5, 4, 4)
    pairs = Pairs(trajectories, 2)
    said = [(inputs[:, 0, 0].tolist(), target[:, 0, 0].tolist()) for inputs, target in map(pairs.__getitem__, range(6))]
    assert said == [([a, a + 1], [a + 2]) for a in (0, 1, 2, 5, 6, 7)]
    inputs, targets = pairs.batch(torch.tensor([4, 0]))
    assert inputs[:, :, 0, 0].tolist() == [[6, 7], [0, 1]]
    assert targets.shape == (2, 1, 4, 4)


def test_validation_holds_out_whole_trajectories(cache):
    splits = TASK.splits(8, options(n_train=10))
    held = TASK.hold_out(splits, 0.2)
    assert held.sizes == {"train": 24, "validation": 6, "test": 2}
    everything = {t.numpy().tobytes() for t in splits.train.trajectories}
    parts = [{t.numpy().tobytes() for t in part.trajectories} for part in (held.train, held.validation)]
    assert parts[0] | parts[1] == everything
    assert not parts[0] & parts[1]


def test_noise_is_in_the_states_given_in_training_only(cache):
    plain, noisy = (TASK.splits(8, options(n_train=10, noise=noise)) for noise in (0.0, 0.5))
    std = float(plain.train.trajectories.std(correction=0))
    indices = torch.arange(len(plain.train))
    (known, following), (seen, target) = plain.train.batch(indices), noisy.train.batch(indices)
    assert torch.equal(target, following)
    assert float((seen - known).std()) == pytest.approx(0.5 * std, rel=0.1)
    assert not torch.equal(noisy.train.batch(indices)[0], seen)
    held = TASK.hold_out(noisy, 0.2)
    assert held.train.noise == noisy.train.noise
    assert held.validation.noise == held.plain.noise == noisy.plain.noise == 0
    for name in ("test", "plain"):
        assert all(torch.equal(a, b) for a, b in zip(getattr(noisy, name)[0], getattr(plain, name)[0]))


def test_a_module_sees_every_state_alike_normalized(cache):
    splits = TASK.splits(8, options())
    seen = []

    class Last(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return x[:, -1:]

    module = TASK.adapt(Last(), splits.train)
    inputs = splits.train.trajectories[:, :2]
    torch.testing.assert_close(module(inputs), inputs[:, -1:])
    whole = splits.train.trajectories
    torch.testing.assert_close(seen[0], (inputs - whole.mean()) / whole.std(correction=0), rtol=1e-4, atol=1e-5)


def test_data_are_made_once(cache, monkeypatch):
    progress = []
    context = PrepareContext(lambda done, total: progress.append((done, total)))
    made = TASK.prepare((8,), options(), context)
    assert [(file.split, file.state, file.samples) for file in made.files] == [
        ("train", "made", 3),
        ("test", "made", 2),
    ]
    assert progress[-1] == (5, 5)
    assert made.read == ("5 trajectories of 8 x 8 generated: 3 train (9 steps), 2 test, over 3 steps",)
    monkeypatch.setattr(simulated, "generate", lambda *args, **kwargs: pytest.fail("made again"))
    assert {file.state for file in TASK.prepare((8,), options(), PrepareContext()).files} == {"cached"}
    TASK.splits(8, options(history=1))  # the same trajectories


@pytest.mark.parametrize(
    ("changes", "resolution", "said"),
    [
        ({"history": 5}, 16, "history=5 leaves nothing to predict until navier-stokes.horizon=5"),
        ({"fine": 24}, 16, "the points of a 16 x 16 grid must be among those of the one .* 24 x 24"),
        ({}, 15, r"needs an even resolution from 8 to 2048 \(given: 15\)"),
        ({"viscosity": 0}, 16, "viscosity"),
        ({"n_test": 0}, 16, "n_test"),
    ],
)
def test_wrong_options_are_refused_in_words(changes, resolution, said):
    with pytest.raises(OptionError, match=said):
        TASK.resolve((resolution,), options(**changes))


def test_a_flow_too_fast_for_the_steps_is_said(cache):
    with pytest.raises(DataError, match=r"set navier-stokes\.steps to more"):
        TASK.prepare((16,), options(steps=1, horizon=60, viscosity=1e-5), PrepareContext())
